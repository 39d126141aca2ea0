"""Signal to noise of rank weights: which weights raise the true score most for the noise that they train on.

With d a reward and s a true score, each less its prompt's mean, rank j has c_j = E[s d], v_j = E[d²]. A step that
takes the sample of rank j n_j times moves the mean true score by sum n_j c_j, with noise sqrt(sum n_j² v_j): the
gradients of different samples are taken as orthogonal and equally long. So J = sum E[n] c / sqrt(sum E[n²] v), which
does not change when all n do alike. docs/gain.md derives it; this project's own.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, L
multipliers.
"""

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, scaled
from openrlhf_pf.filters.learning import deviations
from openrlhf_pf.filters.rank import spread_ranks


def rank_sums(batch: FilterBatch, known: Tensor) -> Tensor:
    """(3, N) float64: by rank, how many samples, sum of s d, sum of d²; c and v are the latter by the first.

    A prompt with n < N usable rewards adds to n ranks, evenly spaced, as ``rank_weights`` does; one with a single
    ``known`` (G, N) sample adds nothing.
    """
    known = known & (known.sum(dim=1, keepdim=True) > 1)
    d, s = deviations(batch.rewards, known), deviations(batch.scores, known)
    return torch.stack([by_rank(values * known, batch).sum(dim=0) for values in (torch.ones_like(d), s * d, d * d)])


def by_rank(values: Tensor, batch: FilterBatch) -> Tensor:
    """(G, N) the value of the sample at each rank, of values (G, N) of the samples as they stand.

    A prompt with n < N usable rewards has values at n ranks, evenly spaced, as ``rank_weights`` does, and 0 elsewhere.
    """
    ranked, n = values.gather(1, batch.order), values.shape[1]
    for n_usable in batch.n_usable[batch.n_usable < n].unique().tolist():
        rows = batch.n_usable == n_usable
        spread = torch.zeros(int(rows.sum()), n, dtype=ranked.dtype)
        spread[:, spread_ranks(n_usable, n)] = ranked[rows, :n_usable]
        ranked[rows] = spread
    return ranked


def expected_counts(weights: Tensor, keep: int, mode: str) -> tuple[Tensor, Tensor]:
    """E[n] and E[n²] (..., N) of how often each rank trains, of weights (..., N) with sum 1 under a draw.

    ``select`` takes a rank floor(k w) or ceil(k w) times, ``resample`` as often as a binomial of k draws, ``reweight``
    w times.
    """
    if mode == "reweight":
        return weights, weights**2
    mean = keep * weights
    if mode == "resample":
        return mean, mean * (1 - weights) + mean**2
    whole = (mean + 1e-9).floor()
    rest = (mean - whole).clamp(min=0.0)
    return mean, whole**2 + rest * (2 * whole + 1)


def signal_to_noise(weights: Tensor, c: Tensor, v: Tensor, keep: int, mode: str) -> Tensor:
    """(...,) J of weights (..., N) under a draw; 0 where there is no noise, hence no reward that differs."""
    mean, square = expected_counts(weights, keep, mode)
    signal, noise = (mean * c).sum(dim=-1), (square * v).sum(dim=-1)
    return torch.where(noise > 0, signal / noise.clamp(min=1e-300).sqrt(), 0.0)


def closed_form(c: Tensor, v: Tensor) -> Tensor:
    """(N,) the weights of largest J when advantages are scaled: in proportion to max(0, c / v), 0 where v is 0."""
    weights = torch.where(v > 0, c / v.clamp(min=1e-300), 0.0).clamp(min=0.0)
    return scaled(weights, weights.sum())


def best_subset(c: Tensor, v: Tensor, keep: int) -> Tensor:
    """(N,) 1/k on each of the k ranks whose sum of c by the root of their sum of v is largest, where that is above 0.

    Exact, without listing the subsets: sum c / sqrt(sum v) rises with sum c, falls with sum v, and is quasi-convex
    where sum c > 0, so that its largest value lies at a corner of the convex hull of (sum v, sum c): k ranks with the
    largest c - m v for a multiplier m >= 0. These change only where two ranks change places, at one of N (N - 1) / 2
    values of m. Ranks with v = 0, where no reward ever differs, are left out; so fewer than k may be left.
    """
    some = v > 0
    size = min(keep, int(some.sum()))
    i, j = torch.triu_indices(len(c), len(c), 1).unbind()
    crossings = ((c[i] - c[j]) / (v[i] - v[j]))[some[i] & some[j] & (v[i] != v[j])]
    crossings = crossings[crossings > 0].sort().values
    ends = torch.cat([crossings.new_zeros(1), crossings, crossings[-1:] * 2 + 1])
    multipliers = torch.cat([ends[:1], (ends[1:] + ends[:-1]) / 2])
    keys = torch.where(some, c - multipliers.unsqueeze(1) * v, -torch.inf)  # (L, N)
    ranks = keys.topk(size, dim=1).indices
    value = c[ranks].sum(dim=1) / v[ranks].sum(dim=1).sqrt()
    return torch.zeros_like(c).index_fill_(0, ranks[value.argmax()], 1.0 / size)
