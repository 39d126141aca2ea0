"""Files and columns to prompts x responses: ``files`` opens, ``columns`` decides the meaning, ``samples`` converts,
``checkpoints`` arranges and checks.
"""
