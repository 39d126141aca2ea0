"""The record of rollouts that all rooms share: what a scored sample is, how it is written and read.

``record`` holds the schema, the writer and the reader. Nothing here imports torch, ray, vllm or openrlhf.
"""

from openrlhf_pf.rollouts.record import (
    FORMAT,
    SCHEMA,
    RolloutLog,
    check_directory,
    prompt_id,
    read,
    table_of,
    write_table,
)

__all__ = ["FORMAT", "SCHEMA", "RolloutLog", "check_directory", "prompt_id", "read", "table_of", "write_table"]
