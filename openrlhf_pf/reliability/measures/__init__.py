"""One table of sums per prompt to every number and its interval: ``strategies`` weighs samples by the filters,
``evaluate`` computes all metrics (``metrics`` over all samples and pairs, ``within`` within prompts),
``bootstrap`` their intervals; ``contrasts`` are further views.

Their functions take a ``checkpoint``, the ``bootstrap`` of its prompts, and the ``level`` of intervals.
"""
