"""From weights to training samples.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import torch
from torch import Tensor


def select(
    weights: Tensor, keep: int, order: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw exactly k samples a prompt by systematic (low-variance) resampling.

    One uniform u in [0, 1/k) a prompt; the points u + j/k, j < k, are walked along the cumulative weights in the given
    order. Sample i is drawn floor(k w_i) or ceil(k w_i) times, and k w_i times in expectation, for any weights.

    Args:
        weights: (G, N) rows that sum to 1, or to 0 for a prompt to be dropped.
        keep: k.
        order: (G, N) the sample at each rank, the order of the walk. Default: the columns as they stand.
        generator: source of the uniforms.

    Returns:
        (G, N) int64, how often each sample is drawn; rows sum to k, or to 0 for a dropped prompt.

    Raises:
        ValueError: a weight is negative or not finite, or a row sums to neither 1 nor 0.
    """
    weights = weights.double()
    total = weights.sum(dim=1, keepdim=True)
    if not weights.isfinite().all() or (weights < 0).any() or ((total - 1).abs().minimum(total) > 1e-6).any():
        raise ValueError("each row of weights must be finite, not negative, and sum to 1 (or be all 0).")
    ranked = weights if order is None else weights.gather(1, order)
    # Rounding puts a boundary that is meant to be whole exactly on the whole number; otherwise k equal weights could,
    # by the last bit of a float, draw one sample twice and its neighbour not at all.
    edges = (ranked.cumsum(dim=1) * (keep / total.clamp(min=0.5))).round(decimals=9)
    offset = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64)
    points_below = (edges - offset).ceil().clamp(min=0)
    counts = points_below.diff(dim=1, prepend=points_below.new_zeros(len(weights), 1)).long()
    return counts if order is None else torch.zeros_like(counts).scatter_(1, order, counts)
