"""From weights to training samples: three ways to draw.

``DRAWS`` lists them. On average, all use each sample as often as its weight says: a sample of weight w trains k w
times, or, with ``reweight``, once with its advantage scaled in proportion to w. In group scope each row of the weights
is a distribution and k samples of each prompt train; in batch scope all G N weights are one, of which G k train.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.batch import as_array

DRAWS = ("select", "resample", "reweight")


class Draw(NamedTuple):
    """Which samples train, how often, and with what weight."""

    #: (G, N) int64: how often each sample trains.
    counts: ndarray
    #: (G, N) float64: what its advantage is multiplied with, mean 1 over the kept samples; None for 1 throughout.
    scale: ndarray | None = None


def draw(
    mode: str,
    weights: ndarray,
    keep: int,
    scope: str = "group",
    order: ndarray | None = None,
    generator: np.random.Generator | None = None,
    budget: int | None = None,
) -> Draw:
    """Draw the samples that train.

    Args:
        mode: a member of ``DRAWS``.
        weights: (G, N) what a filter returned.
        keep: k.
        scope: the filter's scope.
        order: (G, N) the sample at each rank, for ``select`` in group scope.
        generator: source of randomness, see :class:`FilterBatch`.
        budget: in batch scope, how many samples are drawn (default: G k).

    Raises:
        ValueError: an unknown mode, or weights that are no distribution.
    """
    if mode not in DRAWS:
        raise ValueError(f"there is no draw '{mode}'; there are {', '.join(DRAWS)}: choose one of them.")
    if mode == "reweight":
        return reweight(weights, scope)
    if scope == "batch":
        weights = as_array(weights)
        function = select_from_batch if mode == "select" else resample
        budget = keep * len(weights) if budget is None else budget
        return Draw(function(weights.reshape(1, -1), budget, generator=generator).reshape(weights.shape))
    if mode == "select":
        return Draw(select(weights, keep, order, generator))
    return Draw(resample(weights, keep, generator))


def select(
    weights: Any, keep: int, order: ndarray | None = None, generator: np.random.Generator | None = None
) -> ndarray:
    """Draw exactly k samples a prompt by systematic (low-variance) resampling.

    One uniform u in [0, 1/k) a prompt; the points u + j/k, j < k, are walked along the cumulative weights in the given
    order. Sample i is drawn floor(k w_i) or ceil(k w_i) times, and k w_i times in expectation, for any weights.

    Args:
        weights: (G, N) rows that sum to 1, or to 0 for a prompt to be dropped.
        keep: k.
        order: (G, N) the sample at each rank, the order of the walk. Default: the order of the columns.
        generator: source of the uniforms.

    Returns:
        (G, N) int64, how often each sample is drawn; rows sum to k, or to 0 for a dropped prompt.

    Raises:
        ValueError: a weight is negative or not finite, or a row sums to neither 1 nor 0.
    """
    weights, total = _checked(weights)
    expected = weights * (keep / total.clip(min=0.5))
    whole = np.rint(expected)
    if np.abs(expected - whole).max(initial=0.0) < 1e-9:  # true of many filters: nothing is left to draw
        return whole.astype(np.int64)
    if order is None:
        return _draw_systematically(expected, generator)
    counts = np.empty(weights.shape, dtype=np.int64)
    walked = _draw_systematically(np.take_along_axis(expected, order, axis=1), generator)
    np.put_along_axis(counts, order, walked, axis=1)
    return counts


def select_from_batch(weights: Any, keep: int, generator: np.random.Generator | None = None) -> ndarray:
    """Draw k samples a row, none twice, by systematic sampling in proportion to the weights as far as possible.

    A sample whose share k w_i exceeds 1 is always taken, and the rest of its share goes to the others in proportion.
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
    return _draw_systematically(chances(weights, keep), generator)


def chances(weights: Any, keep: int) -> ndarray:
    """Return (B, S) how probably :func:`select_from_batch` takes each sample; rows sum to k at most."""
    weights, _ = _checked(weights)
    target = (weights > 0).sum(axis=1, keepdims=True).clip(max=keep)
    chance = weights * target
    while (chance > 1 + 1e-9).any():
        taken = chance >= 1
        rest = np.where(taken, 0.0, weights)
        left = target - taken.sum(axis=1, keepdims=True)
        share = left / rest.sum(axis=1, keepdims=True).clip(min=np.finfo(np.float64).tiny)
        chance = np.where(taken, 1.0, rest * share)
    return chance


def resample(weights: Any, keep: int, generator: np.random.Generator | None = None) -> ndarray:
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
    edges = weights.cumsum(axis=1)
    points = _uniform((len(weights), keep), generator) * edges[:, -1:]
    # The first edge above the point, never one of a weight of 0, which is no further than the edge before it.
    points = np.minimum(points, np.nextafter(edges[:, -1:], 0.0))
    if len(edges) == 1:
        samples = np.searchsorted(edges[0], points[0], side="right")[None]
    else:
        samples = (edges[:, None, :] <= points[:, :, None]).sum(axis=2)
    counts = np.zeros(weights.shape, dtype=np.int64)
    np.add.at(counts, (np.arange(len(counts))[:, None], samples.clip(max=weights.shape[1] - 1)), total > 0)
    return counts


def reweight(weights: Any, scope: str = "group") -> Draw:
    """Keep every sample with weight, once, and scale its advantage by its weight, with mean 1 over the kept samples.

    PPO's clipped objective is positively homogeneous in the advantage, so the policy's gradient is in expectation that
    of :func:`resample`. The critic's loss has no advantage in it and stays unweighted.

    Args:
        weights: (G, N) as for :func:`draw`.
        scope: the filter's scope.

    Raises:
        ValueError: as for :func:`select`.
    """
    weights = as_array(weights).astype(np.float64)
    _checked(weights if scope == "group" else weights.reshape(1, -1))
    kept = weights > 0
    return Draw(kept.astype(np.int64), weights * (kept.sum() / max(weights.sum(), np.finfo(np.float64).tiny)))


def _uniform(shape: tuple[int, ...], generator: np.random.Generator | None) -> ndarray:
    return (np.random.default_rng() if generator is None else generator).random(shape)


def _draw_systematically(expected: ndarray, generator: np.random.Generator | None) -> ndarray:
    """(B, S) expected counts to (B, S) int64 counts: one uniform a row, walked along the columns."""
    # Rounding puts a boundary that is meant to be whole exactly on the whole number; otherwise k equal weights could,
    # by the last bit of a float, draw one sample twice and its neighbour not at all.
    edges = expected.cumsum(axis=1).round(9)
    points_below = np.ceil(edges - _uniform((len(expected), 1), generator)).clip(min=0)
    return np.diff(points_below, axis=1, prepend=0.0).astype(np.int64)


def _checked(weights: Any) -> tuple[ndarray, ndarray]:
    """The weights as float64, and the rows' sums (B, 1)."""
    weights = as_array(weights).astype(np.float64)
    total = weights.sum(axis=1, keepdims=True)
    no_distribution = not np.isfinite(total).all() or (weights < 0).any()
    if no_distribution or (np.minimum(np.abs(total - 1), total) > 1e-6).any():
        raise ValueError("each row of weights must be finite, not negative, and sum to 1 (or be all 0).")
    return weights, total
