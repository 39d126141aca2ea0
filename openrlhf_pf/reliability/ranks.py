"""Which ranks of a prompt should train, by these samples: the offline twin of the filter ``learned_weights``.

What is found from samples looks better on them than it is. So prompts are cut into ``FOLDS``, ranks are found without
one of them at a time and judged on that one (cross-fitting): an estimate of what they are worth on other prompts.
Three rules are looked at:

* **weights**: w in proportion to max(0, c / v), c = E[d s] and v = E[d²] at each rank, the best J where advantages are
  scaled by weights (``--sample_filter_mode reweight``);
* **subset**: the k ranks of largest J, sum c / sqrt(sum v), what ``learned_weights`` takes with whole samples;
* **ranks**: the k ranks of largest gain, which is J by the root of k where advantages are whitened, as PPO does: the
  mean of the kept advantages is taken off. It matters: the two worst ranks may have the best J of a reward model that
  is hacked at the top, and have next to no gain, for without their mean nothing is left. These compete with the
  filters and can be recommended.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most, J blocks, R repetitions, C
subsets of ranks, F folds.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.filters import FilterBatch, make_generator
from openrlhf_pf.filters.gain import best_subset, by_rank, closed_form
from openrlhf_pf.reliability import within
from openrlhf_pf.reliability.bootstrap import Bootstrap, interval
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.strategies import Strategy, expected_weights

Floats = NDArray[np.float64]

FOLDS = 5
#: Random halves of the prompts on which ranks are looked for again.
HALVES = 200
#: Subsets that are all compared; of more, the best is looked for by exchanging one rank at a time.
MOST_SUBSETS = 20_000
#: Numbers that are computed together.
_NEAR = 2_000_000
#: Rows of sums by rank: how many samples, sums of d, s, d², d s.
_N, _D, _S, _DD, _DS = range(5)


@dataclass
class Rule:
    """Weights that one rule finds, and their J: on the prompts that they were found on, and on others.

    Attributes:
        weights: (N,) with sum 1, best rank first, from all prompts; all 0 where no rank has a signal.
        in_sample: J of these on the same prompts.
        held_out: J of the folds' own weights on prompts that these were not found on, ``{estimate, low, high}``.
    """

    weights: Floats
    in_sample: float
    held_out: dict[str, float]


@dataclass
class Ranks:
    """What is found.

    Attributes:
        keep: k.
        rules: "weights", "subset" and "ranks", see above.
        c, v: (N,) E[d s] and E[d²] of each rank.
        gain: of the ranks that were found, on the prompts that they were found on.
        again: share of random halves of the prompts that find the same ranks.
        table: (G, N) weights of the samples by the ranks that were found without their prompt.
    """

    keep: int
    rules: dict[str, Rule]
    c: Floats
    v: Floats
    gain: float
    again: float
    table: Floats

    @property
    def chosen(self) -> list[int]:
        """The ranks of largest gain, 1 for the highest reward."""
        return (np.flatnonzero(self.rules["ranks"].weights) + 1).tolist()

    def strategy(self, cross_fitted: bool = True) -> Strategy:
        """What competes with the filters; not ``cross_fitted`` for other samples than those that ranks are from."""
        weights = (self.rules["ranks"].weights > 0).astype(float).tolist()
        return Strategy("rank_weights", self.keep, {"weights": weights}, True, self.table if cross_fitted else None)

    def words(self, name: str, gain: float) -> str:
        """In plain words, with the ``gain`` of the chosen ranks on prompts that they were not chosen from."""
        ranks, n = self.chosen, len(self.c)
        text = (
            f"{name}: of {n} ranks by reward, {listed(ranks)} would gain most with k = {self.keep}: {self.gain:.3f} on"
            f" the prompts that they were chosen from, {gain:.3f} on others; {self.again:.0%} of random halves of the"
            " prompts choose the same."
        )
        weights, subset = self.rules["weights"], self.rules["subset"]
        if not subset.weights.any():
            return (
                text + " At no rank do higher rewards go with higher scores, so learned_weights would learn nothing."
            )
        by_rank = " ".join(f"{w:.2f}" for w in weights.weights)
        best = listed((np.flatnonzero(subset.weights) + 1).tolist())
        return (
            f"{text} By signal to noise (J), what learned_weights maximises, the best ranks are {best} (J"
            f" {_in_and_out(subset)}), and with scaled advantages the best weights, by rank, {by_rank} (J"
            f" {_in_and_out(weights)})."
        )

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        rules = {
            name: {"weights": rule.weights.tolist(), "in_sample": rule.in_sample, "held_out": _or_none(rule.held_out)}
            for name, rule in self.rules.items()
        }
        found = {"keep": self.keep, "ranks": self.chosen, "gain_in_sample": self.gain, "chosen_again": self.again}
        return {**found, "folds": FOLDS, "c": self.c.tolist(), "v": self.v.tolist(), "signal_to_noise": rules}


def listed(ranks: list[int]) -> str:
    """Ranks as text."""
    return ", ".join(map(str, ranks[:-1])) + (" and " if len(ranks) > 1 else "") + str(ranks[-1])


def _in_and_out(rule: Rule) -> str:
    return f"{rule.in_sample:.3f}, on other prompts {rule.held_out['estimate']:.3f}"


def _or_none(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if np.isfinite(value) else None for key, value in values.items()}


def ranks_of(
    checkpoint: Checkpoint, bootstrap: Bootstrap, keep: int | None = None, level: float = 0.95, seed: int = 0
) -> Ranks | None:
    """Find ranks; None where there is nothing to choose: fewer than 3 samples, k not below N, or too few prompts.

    Args:
        checkpoint: the samples.
        bootstrap: the repetitions, for this checkpoint's prompts; its blocks make the folds.
        keep: k; None for 2.
        level: of the intervals.
        seed: decides ties in reward.
    """
    keep, n_samples = keep or 2, checkpoint.reward.shape[1]
    if not can_choose(checkpoint, keep) or bootstrap.n_blocks < FOLDS:
        return None
    block = bootstrap.block[checkpoint.prompt]
    sums, groups = _sums_by_rank(checkpoint, block, bootstrap.n_blocks, seed)
    fold = np.arange(bootstrap.n_blocks) % FOLDS
    whole = sums.sum(axis=0)
    without = np.stack([sums[fold != f].sum(axis=0) for f in range(FOLDS)])
    finders = {"weights": _closed_form, "subset": _best_by_j, "ranks": _best_by_gain}
    found = {name: find(np.concatenate([whole[None], without]), keep) for name, find in finders.items()}
    rules = {
        name: Rule(
            _unit(w[0]),
            _j(w[:1], np.zeros_like(fold), sums, groups),
            _judged(w[1:], fold, sums, groups, bootstrap, level),
        )
        for name, w in found.items()
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        c, v = np.nan_to_num(whole[_DS] / whole[_N]), np.nan_to_num(whole[_DD] / whole[_N])
    ranks = found["ranks"]
    # Half of the prompts vary as much around all of them as these around all that there could be.
    halves = (bootstrap.halves(HALVES, seed) @ sums.reshape(bootstrap.n_blocks, -1)).reshape(-1, 5, n_samples)
    again = float((_best_by_gain(halves, keep) == ranks[0]).all(axis=1).mean())
    gain = float(_gains(whole[None], ranks[:1])[0, 0])
    return Ranks(keep, rules, c, v, gain, again, _held_out_weights(checkpoint, ranks[1:], fold[block], keep))


def can_choose(checkpoint: Checkpoint, keep: int | None) -> bool:
    """Whether k of N ranks are a choice beyond best and worst."""
    return checkpoint.reward.shape[1] >= 3 and (keep or 2) < checkpoint.reward.shape[1]


def _sums_by_rank(checkpoint: Checkpoint, block: NDArray[np.int64], n_blocks: int, seed: int) -> tuple[Floats, Floats]:
    """(J, 5, N) sums by rank of each block, and (J,) how many groups say anything."""
    away = within.deviations_of(checkpoint)
    d, s = away.reward, away.score
    batch = FilterBatch(checkpoint.reward, make_generator(seed))
    values = [by_rank(x, batch) for x in (away.known.astype(float), d, s, d * d, d * s)]
    sums = np.zeros((n_blocks, 5, checkpoint.reward.shape[1]))
    np.add.at(sums, block, np.stack(values, axis=1))
    return sums, np.bincount(block, away.known.any(axis=1), n_blocks)


def _held_out_weights(checkpoint: Checkpoint, ranks: Floats, fold: NDArray[np.int64], keep: int) -> Floats:
    """(G, N) weights by the ranks (F, N) of each group's fold (G,)."""
    table = np.zeros(checkpoint.reward.shape)
    for f, weights in enumerate(ranks):
        rows = fold == f
        part = Checkpoint("", checkpoint.reward[rows], checkpoint.score[rows], checkpoint.prompt[rows])
        (table[rows],) = expected_weights([Strategy("rank_weights", keep, {"weights": weights.tolist()})], part)
    return table


# ── Rules: sums by rank (R, 5, N) to weights (R, N) ──


def _closed_form(sums: Floats, keep: int) -> Floats:
    return np.stack([closed_form(s[_DS], s[_DD]) for s in sums])


def _best_by_j(sums: Floats, keep: int) -> Floats:
    found = np.zeros((len(sums), sums.shape[2]))
    for row, s in zip(found, sums):
        c, v = s[_DS], s[_DD]
        if (c > 0).any() and (v > 0).any():
            row[:] = best_subset(c, v, keep) > 0
    return found


def _best_by_gain(sums: Floats, keep: int) -> Floats:
    n = sums.shape[2]
    if math.comb(n, keep) > MOST_SUBSETS:
        return np.stack([_exchanged(s[None], start) for s, start in zip(sums, _best_by_j(sums, keep))])
    subsets = np.zeros((math.comb(n, keep), n))
    np.put_along_axis(subsets, np.array(list(combinations(range(n), keep))), 1.0, axis=1)
    size = max(_NEAR // len(subsets), 1)
    best = [_gains(sums[i : i + size], subsets).argmax(axis=1) for i in range(0, len(sums), size)]
    return subsets[np.concatenate(best)]


def _exchanged(sums: Floats, start: Floats) -> Floats:
    """(N,) ranks from which no exchange of one rank for another raises the gain."""
    n, keep = len(start), int(start.sum())
    if not keep:
        return start
    chosen, value = start, -np.inf
    while True:
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(chosen == 0)
        others = np.repeat(chosen[None], keep * (n - keep), axis=0)
        rows = np.arange(len(others))
        others[rows, np.repeat(inside, n - keep)], others[rows, np.tile(outside, keep)] = 0.0, 1.0
        gains = _gains(sums, others)[0]
        if not gains.max() > value + 1e-12:
            return chosen
        chosen, value = others[gains.argmax()], gains.max()


def _gains(sums: Floats, subsets: Floats) -> Floats:
    """(R, C) the gain of each subset of ranks (C, N) by sums (R, 5, N); 0 where no reward differs."""
    n, d, s, dd, ds = np.moveaxis(sums @ subsets.T, 1, 0)
    n = np.maximum(n, np.finfo(float).tiny)
    spread = dd / n - (d / n) ** 2
    some = spread > 1e-12 * np.maximum(dd / n, np.finfo(float).tiny)
    return np.where(some, (ds / n - d * s / n**2) / np.sqrt(np.where(some, spread, 1.0)), 0.0)


# ── Signal to noise ──


def _unit(weights: Floats) -> Floats:
    return weights / max(weights.sum(), np.finfo(float).tiny)


def _parts(weights: Floats, fold: NDArray[np.int64], sums: Floats, groups: Floats) -> Floats:
    """(J, 3) signal, noise and number of groups of each block, by the weights (F, N) of its fold."""
    w = weights[fold]
    return np.stack([(w * sums[:, _DS]).sum(axis=1), (w**2 * sums[:, _DD]).sum(axis=1), groups], axis=1)


def _ratio(parts: Floats) -> Floats:
    signal, noise, count = np.moveaxis(parts, -1, 0)
    some = noise * count > 0
    return np.where(some, signal / np.sqrt(np.where(some, noise * count, 1.0)), 0.0)


def _j(weights: Floats, fold: NDArray[np.int64], sums: Floats, groups: Floats) -> float:
    return float(_ratio(_parts(weights, fold, sums, groups).sum(axis=0)))


def _judged(
    weights: Floats, fold: NDArray[np.int64], sums: Floats, groups: Floats, bootstrap: Bootstrap, level: float
) -> dict[str, float]:
    """J of each fold's weights (F, N) on the blocks of that fold."""
    parts = _parts(weights, fold, sums, groups)
    estimate, draws = float(_ratio(parts.sum(axis=0))), _ratio(bootstrap.counts @ parts)
    low, high = interval(estimate, draws, "plain", bootstrap.n_blocks, level, within.effective(parts[:, 1]))
    return {"estimate": estimate, "low": low, "high": high}
