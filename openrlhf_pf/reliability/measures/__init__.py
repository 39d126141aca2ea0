"""One table of sums per prompt to every number and its interval: ``strategies`` weighs samples by the filters,
``evaluate`` computes all metrics (``metrics`` over all samples, ``within`` and ``pairs`` within prompts),
``bootstrap`` their intervals; ``learned_ranks``, ``extreme_ranks``, ``calibration`` and ``drift`` are further views.
"""
