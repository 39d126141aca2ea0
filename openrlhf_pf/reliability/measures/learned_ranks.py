"""Which ranks of a prompt should train, found from the samples and judged on other prompts.

Ranks look better on the samples they were found from. So prompts are cut into ``FOLDS``; ranks are found without one
fold at a time and judged on it (cross-fitting): an estimate of their gain on other prompts. The k ranks of largest
gain compete with the filters and can be recommended as ``rank_weights``.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most, J blocks, R rows, C subsets
of ranks, F folds.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.filters.gain import closed_form, gain
from openrlhf_pf.filters.rank import spread_ranks
from openrlhf_pf.reliability.measures import within
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.strategies import Strategy, average_ties, expected_weights
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]

FOLDS = 5
#: Random halves of the prompts in which the search for ranks is repeated.
HALVES = 200
#: Subsets that are all compared; of more, the best is searched by exchanging one rank at a time.
MOST_SUBSETS = 20_000
#: Numbers that are computed together.
_CHUNK = 2_000_000
#: Rows of sums by rank: number of samples, sums of d, s, d², d s.
_N, _D, _S, _DD, _DS = range(5)


@dataclass
class LearnedRanks:
    """The k ranks of largest gain.

    Attributes:
        keep: k.
        weights: (N,) 1 for each chosen rank, best first, by all prompts.
        c, v: (N,) E[d s] and E[d²] of each rank.
        gain: of the chosen ranks, on the prompts that they were found from.
        stability: share of random halves of the prompts that find the same ranks.
        table: (G, N) weights of the samples by the ranks found without their prompt.
    """

    keep: int
    weights: Floats
    c: Floats
    v: Floats
    gain: float
    stability: float
    table: Floats

    @property
    def chosen(self) -> list[int]:
        """The ranks, 1 for the highest reward."""
        return (np.flatnonzero(self.weights) + 1).tolist()

    def strategy(self, cross_fitted: bool = True) -> Strategy:
        """Return the competitor of the filters; not ``cross_fitted`` on samples other than those it was found from."""
        options = {"weights": self.weights.tolist()}
        return Strategy("rank_weights", self.keep, options, True, self.table if cross_fitted else None)

    @property
    def scaled_weights(self) -> Floats:
        """(N,) w ~ max(0, c / v) with sum 1: the best weights where they scale advantages (``reweight``)."""
        return closed_form(self.c, self.v)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of report.json."""
        found = {"keep": self.keep, "ranks": self.chosen, "gain_in_sample": self.gain, "chosen_again": self.stability}
        found |= {"folds": FOLDS, "scaled_weights": self.scaled_weights.tolist()}
        return {**found, "c": self.c.tolist(), "v": self.v.tolist()}


def can_learn_ranks(checkpoint: Checkpoint, keep: int | None) -> bool:
    """Return whether k of N ranks are a choice beyond best and worst, on enough prompts."""
    n_samples = checkpoint.reward.shape[1]
    return n_samples >= 3 and (keep or 2) < n_samples and checkpoint.n_prompts >= FOLDS


def learn_ranks(
    checkpoint: Checkpoint, bootstrap: Bootstrap, keep: int | None = None, seed: int = 0
) -> LearnedRanks | None:
    """Find the k ranks of largest gain; None where there is nothing to choose. ``seed`` is for random halves."""
    if not can_learn_ranks(checkpoint, keep):
        return None
    keep, block = keep or 2, bootstrap.block[checkpoint.prompt]
    sums = _sum_by_rank(checkpoint, block, bootstrap.n_blocks)
    fold = np.arange(bootstrap.n_blocks) % FOLDS
    whole = sums.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        c, v = np.nan_to_num(whole[_DS] / whole[_N]), np.nan_to_num(whole[_DD] / whole[_N])
    # Gains do not depend on the scale of rewards; their rounding tolerance does.
    scale = np.sqrt(max(v.mean(), np.finfo(float).tiny))
    sums = sums / np.array([1, scale, 1, scale**2, scale])[:, None]
    whole = sums.sum(axis=0)
    without = np.stack([sums[fold != f].sum(axis=0) for f in range(FOLDS)])
    ranks = find_best_ranks(np.concatenate([whole[None], without]), keep)
    # Half of the prompts vary around all of them as much as these around the population.
    halves = bootstrap.resample(sums, bootstrap.halves(HALVES, seed))
    stability = float((find_best_ranks(halves, keep) == ranks[0]).all(axis=1).mean())
    gain = float(_gains(whole[None], ranks[:1])[0, 0])
    table = np.zeros(checkpoint.reward.shape)
    for f, weights in enumerate(ranks[1:]):
        rows = fold[block] == f
        strategy = Strategy("rank_weights", keep, {"weights": weights.tolist()})
        (table[rows],) = expected_weights([strategy], checkpoint.select(rows))
    return LearnedRanks(keep, ranks[0], c, v, gain, stability, table)


def _sum_by_rank(checkpoint: Checkpoint, block: NDArray[np.int64], n_blocks: int) -> Floats:
    """Return (J, 5, N) sums by rank of each block; a prompt with n < N rewards has evenly spaced ranks."""
    away = within.deviations_of(checkpoint)
    usable = np.isfinite(checkpoint.reward)
    reward = np.where(usable, checkpoint.reward, np.nan)
    order = np.argsort(-reward, axis=1, kind="stable")
    d, s, n_samples = away.reward, away.score, reward.shape[1]
    sums = np.zeros((n_blocks, 5, n_samples))
    for row, values in enumerate((away.known.astype(float), d, s, d * d, d * s)):
        ranked = np.take_along_axis(average_ties(values, reward), order, axis=1)
        for n in np.unique(usable.sum(axis=1)):
            groups = usable.sum(axis=1) == n
            places = np.arange(n) if n == n_samples else np.asarray(spread_ranks(int(n), n_samples), int)
            np.add.at(sums[:, row], (block[groups][:, None], places[None]), ranked[groups, :n])
    return sums


def find_best_ranks(sums: Floats, keep: int) -> Floats:
    """Return (R, N) 1 for each of the k ranks of largest gain, by sums by rank (R, 5, N)."""
    n = sums.shape[2]
    if math.comb(n, keep) > MOST_SUBSETS:
        return np.stack([_exchange_ranks(s[None], keep) for s in sums])
    subsets = np.zeros((math.comb(n, keep), n))
    np.put_along_axis(subsets, np.array(list(combinations(range(n), keep))), 1.0, axis=1)
    size = max(_CHUNK // len(subsets), 1)
    best = [_gains(sums[i : i + size], subsets).argmax(axis=1) for i in range(0, len(sums), size)]
    return subsets[np.concatenate(best)]


def _exchange_ranks(sums: Floats, keep: int) -> Floats:
    """Return (N,) ranks from which no exchange of one rank for another raises the gain; the best of several starts."""
    n = sums.shape[2]
    # Starts: the ranks of largest E[d s], and i best with keep - i worst ones.
    starts = np.zeros((keep + 2, n))
    starts[0, np.argsort(-sums[0, _DS], kind="stable")[:keep]] = 1.0
    for i in range(keep + 1):
        starts[i + 1, :i] = starts[i + 1, n - keep + i :] = 1.0
    found = np.stack([_climb(sums, start) for start in starts])
    return found[_gains(sums, found)[0].argmax()]


def _climb(sums: Floats, chosen: Floats) -> Floats:
    value, keep = -np.inf, int(chosen.sum())
    while True:
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(chosen == 0)
        others = np.repeat(chosen[None], len(inside) * len(outside) + 1, axis=0)
        rows = np.arange(1, len(others))
        others[rows, np.repeat(inside, len(outside))], others[rows, np.tile(outside, keep)] = 0.0, 1.0
        gains = _gains(sums, others)[0]
        if not gains.max() > value + 1e-12:
            return chosen
        chosen, value = others[gains.argmax()], gains.max()


def _gains(sums: Floats, subsets: Floats) -> Floats:
    """Return (R, C) the gain of each subset of ranks (C, N) by sums (R, 5, N)."""
    return gain(np.moveaxis(sums @ subsets.T, 1, -1))
