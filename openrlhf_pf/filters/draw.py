"""From weights to training samples: three ways to draw.

``DRAWS`` names them. All reproduce the weights: a sample of weight w trains k w times in expectation, or, with
``reweight``, once with its advantage scaled in proportion to w. In group scope each row of the weights is a
distribution and k samples of each prompt train; in batch scope all G N weights are one, of which G k train.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = ("select", "resample", "reweight")


class Draw(NamedTuple):
    """Which samples train, how often, and with what weight."""

    #: (G, N) int64: how often each sample trains.
    counts: Tensor
    #: (G, N) float64: what its advantage is multiplied with, mean 1 over the kept samples; None for 1 throughout.
    scale: Tensor | None = None


def draw(
    mode: str,
    weights: Tensor,
    keep: int,
    scope: str = "group",
    order: Tensor | None = None,
    generator: torch.Generator | None = None,
    budget: int | None = None,
) -> Draw:
    """Draw the samples that train.

    Args:
        mode: a member of ``DRAWS``.
        weights: (G, N) what a filter returned.
        keep: k.
        scope: the filter's scope.
        order: (G, N) the sample at each rank, for ``select`` in group scope.
        generator: source of randomness.
        budget: in batch scope, how many samples are drawn (default: G k).

    Raises:
        ValueError: an unknown mode, or weights that are no distribution.
    """
    if mode not in DRAWS:
        raise ValueError(f"there is no draw '{mode}'; there are {', '.join(DRAWS)}: choose one of them.")
    if mode == "reweight":
        return reweight(weights, scope)
    if scope == "batch":
        function = select_from_batch if mode == "select" else resample
        budget = keep * len(weights) if budget is None else budget
        counts = function(weights.reshape(1, -1), budget, generator=generator)
        return Draw(counts.reshape(weights.shape))
    if mode == "select":
        return Draw(select(weights, keep, order, generator))
    return Draw(resample(weights, keep, generator))


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
    weights, total = _checked(weights)
    expected = weights * (keep / total.clamp(min=0.5))
    whole = expected.round()
    if (expected - whole).abs_().max() < 1e-9:  # as many filters have it: there is nothing left to draw
        return whole.long()
    counts = _systematic(expected if order is None else expected.gather(1, order), generator)
    return counts if order is None else torch.zeros_like(counts).scatter_(1, order, counts)


def select_from_batch(weights: Tensor, keep: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw k samples a row, none twice, by systematic sampling in proportion to the weights as far as that goes.

    A sample whose share k w_i exceeds 1 is taken for certain, and what it cannot use goes to the others in proportion.
    If fewer than k samples have weight, all of those are taken.

    Args:
        weights: (B, S) rows that sum to 1, or to 0 for nothing to be drawn.
        keep: k.
        generator: source of the uniforms.

    Returns:
        (B, S) int64, 0 or 1; rows sum to k, or to the number of samples with weight where that is smaller.

    Raises:
        ValueError: as for :func:`select`.
    """
    return _systematic(chances(weights, keep), generator)


def chances(weights: Tensor, keep: int) -> Tensor:
    """(B, S) the chance that :func:`select_from_batch` takes each sample, of weights (B, S); rows sum to k at most."""
    weights, _ = _checked(weights)
    target = (weights > 0).sum(dim=1, keepdim=True).clamp(max=keep)
    chance = weights * target
    while (chance > 1 + 1e-9).any():
        certain = chance >= 1
        rest = torch.where(certain, 0.0, weights)
        left = target - certain.sum(dim=1, keepdim=True)
        share = left / rest.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        chance = torch.where(certain, 1.0, rest * share)
    return chance


def resample(weights: Tensor, keep: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw k samples a row independently, in proportion to the weights: the filtered policy of PF-PPO, Section 3.

    Args:
        weights: (G, N) rows that sum to 1, or to 0 for nothing to be drawn.
        keep: k.
        generator: source of randomness.

    Returns:
        (G, N) int64, how often each sample is drawn; rows sum to k, or to 0.

    Raises:
        ValueError: as for :func:`select`.
    """
    weights, total = _checked(weights)
    edges = weights.cumsum(dim=1)
    points = torch.rand(len(weights), keep, generator=generator, dtype=torch.float64) * edges[:, -1:]
    # The first edge beyond the point, never one of a weight of 0, which is no further than the edge before it.
    points = torch.minimum(points, edges[:, -1:].nextafter(torch.zeros(1, dtype=torch.float64)))
    samples = torch.searchsorted(edges, points, right=True).clamp(max=weights.shape[1] - 1)
    ones = (total > 0).long().expand(-1, keep)
    return torch.zeros(weights.shape, dtype=torch.long).scatter_add_(1, samples, ones)


def reweight(weights: Tensor, scope: str = "group") -> Draw:
    """Keep every sample with weight, once, and scale its advantage by its weight, with mean 1 over the kept samples.

    PPO's clipped objective is positively homogeneous in the advantage, so the policy's gradient is in expectation that
    of :func:`resample`. The critic's loss has no advantage in it and stays unweighted.

    Args:
        weights: (G, N) as for :func:`draw`.
        scope: the filter's scope.

    Raises:
        ValueError: as for :func:`select`.
    """
    _checked(weights if scope == "group" else weights.reshape(1, -1))
    kept = weights > 0
    return Draw(
        kept.long(), weights.double() * (kept.sum() / weights.sum().clamp(min=torch.finfo(torch.float64).tiny))
    )


def _systematic(expected: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, S) expected counts to (B, S) int64 counts: one uniform a row, walked along the columns."""
    # Rounding puts a boundary that is meant to be whole exactly on the whole number; otherwise k equal weights could,
    # by the last bit of a float, draw one sample twice and its neighbour not at all.
    edges = expected.cumsum(dim=1).round(decimals=9)
    offset = torch.rand(len(expected), 1, generator=generator, dtype=torch.float64)
    points_below = (edges - offset).ceil_().clamp_(min=0)
    return points_below.diff(dim=1, prepend=points_below.new_zeros(len(expected), 1)).long()


def _checked(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weights as float64, and the rows' sums (B, 1)."""
    weights = weights.double()
    total = weights.sum(dim=1, keepdim=True)
    if not total.isfinite().all() or (weights < 0).any() or ((total - 1).abs().minimum(total) > 1e-6).any():
        raise ValueError("each row of weights must be finite, not negative, and sum to 1 (or be all 0).")
    return weights, total
