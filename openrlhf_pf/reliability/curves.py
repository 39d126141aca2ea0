"""What keeping more or fewer responses, or drawing more or fewer, would gain: curves of the gain over cost.

Drawing a response costs generation, training on it costs a forward and a backward pass; the curves have the one or the
other on their axis. Both come from the samples that are there:

* **k**: each filter with every subset size k, of all N responses. With k = N, every filter is no filter.
* **N**: each filter with its own k, of N' = 2 .. N responses that are taken at random from the N. Responses of a
  prompt are exchangeable, so any N' of them are what drawing N' would have given. Advantages and scores are taken
  from the mean of the N', as they would be in such a file: a point is what a report on that file says.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most, S rows of N' samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability import within
from openrlhf_pf.reliability.bootstrap import Bootstrap, interval
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.strategies import Strategy, expected_weights

#: Filters that are defined by ranks or spread alone, for any k, and the smallest k at which each is itself.
FEWEST_KEPT = {"best_of_n": 1, "best_random": 2, "best_worst": 2, "max_variance": 2}
#: Values of k, or of N, on a curve at most; a filter's own k comes on top.
MOST_POINTS = 8
#: Samples that are looked at for one point: groups beyond it are left out at random, and fewer are drawn repeatedly.
MOST_SAMPLES = 40_000
MOST_REPEATS = 8


@dataclass
class Point:
    """One setting of one filter.

    Attributes:
        drawn: N, responses drawn a prompt.
        trained: k, responses that train a prompt.
        gain: see docs/gain.md.
        low, high: its interval; NaN where there is none.
    """

    drawn: int
    trained: int
    gain: float
    low: float
    high: float

    def values(self) -> dict[str, float | None]:
        """``{estimate, low, high}`` of the gain; None for what is not defined."""
        found = {"estimate": self.gain, "low": self.low, "high": self.high}
        return {key: value if np.isfinite(value) else None for key, value in found.items()}


@dataclass
class Curves:
    """Gain over cost.

    Attributes:
        keep: filter to its points over k, all of N drawn.
        samples: filter, and ``none``, to its points over N, with its own k.
        n_samples: N.
        n_groups, of_groups: how many groups were looked at, of how many.
    """

    keep: dict[str, list[Point]]
    samples: dict[str, list[Point]]
    n_samples: int
    n_groups: int
    of_groups: int


def curves_of(
    checkpoint: Checkpoint, strategies: Sequence[Strategy], bootstrap: Bootstrap, level: float, seed: int = 0
) -> Curves | None:
    """Compute both curves; None where no strategy has a k to choose or no prompt has responses to choose from.

    Args:
        checkpoint: the samples; where groups differ in size, N is the most common size.
        strategies: what is compared; those of ``FEWEST_KEPT`` and ``none`` get a curve.
        bootstrap: the repetitions, for this checkpoint's prompts.
        level: of the intervals.
        seed: of what is left out and of the order in which responses are taken.
    """
    sizes = checkpoint.known.sum(axis=1)
    n_samples = int(np.bincount(sizes[sizes > 1], minlength=1).argmax())
    filters = [s for s in strategies if s.name in FEWEST_KEPT and s.keep <= n_samples]
    if n_samples < 2 or not filters:
        return None
    rng = np.random.default_rng(seed)
    some = _sample(checkpoint, rng)
    repeats = int(np.clip(MOST_SAMPLES // some.reward.size, 1, MOST_REPEATS))
    values = _values(2, n_samples)
    keep: dict[str, list[Point]] = {s.name: [] for s in filters}
    samples: dict[str, list[Point]] = {s.name: [] for s in strategies if s.name == "none" or s in filters}
    orders = [_order(some, rng) for _ in range(repeats)]
    for n in sorted({*values, *(max(s.keep, 2) for s in filters)}):
        drawn = _drawn(some, n, orders)
        own = [Strategy(name, n if name == "none" else _of(filters, name).keep) for name in samples]
        own = [s for s in own if s.keep <= n]
        for strategy, point in zip(own, _points(drawn, own, bootstrap, level)):
            samples[strategy.name].append(point)
    every = [
        Strategy(s.name, k)
        for s in filters
        for k in sorted({*_values(FEWEST_KEPT[s.name], n_samples), max(s.keep, FEWEST_KEPT[s.name])})
    ]
    for strategy, point in zip(every, _points(_drawn(some, n_samples, orders), every, bootstrap, level)):
        keep[strategy.name].append(point)
    return Curves(keep, samples, n_samples, len(some.reward), len(checkpoint.reward))


def _of(filters: Sequence[Strategy], name: str) -> Strategy:
    return next(s for s in filters if s.name == name)


def _values(first: int, last: int) -> list[int]:
    """All whole numbers from first to last if they are few; else evenly spaced in ratio, as costs are compared."""
    if last - first < MOST_POINTS:
        return list(range(first, last + 1))
    return sorted({round(float(x)) for x in np.geomspace(first, last, MOST_POINTS)})


def _sample(checkpoint: Checkpoint, rng: np.random.Generator) -> Checkpoint:
    """Groups of at most ``MOST_SAMPLES`` samples in all, without the columns that no curve needs."""
    rows = np.arange(len(checkpoint.reward))
    most = max(MOST_SAMPLES // checkpoint.reward.shape[1], 1)
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    return Checkpoint(checkpoint.name, checkpoint.reward[rows], checkpoint.score[rows], checkpoint.prompt[rows])


def _order(checkpoint: Checkpoint, rng: np.random.Generator) -> NDArray[np.int64]:
    """(G, N) places of the samples in random order, those without reward or score last."""
    return np.argsort(rng.random(checkpoint.reward.shape) + ~checkpoint.known, axis=1)


def _drawn(checkpoint: Checkpoint, n: int, orders: Sequence[NDArray[np.int64]]) -> Checkpoint:
    """Groups of n samples each, none missing: every group is cut into as many as it has, once in each order."""
    n_sets = checkpoint.reward.shape[1] // n
    # One order is as good as another where the whole group is taken.
    orders = orders[:1] if n == checkpoint.reward.shape[1] else orders
    parts = []
    for order in orders:
        take = order[:, : n_sets * n]
        parts.append([np.take_along_axis(x, take, 1).reshape(-1, n) for x in (checkpoint.reward, checkpoint.score)])
    reward, score = (np.concatenate(x) for x in zip(*parts))
    prompt = np.tile(np.repeat(checkpoint.prompt, n_sets), len(orders))
    whole = np.isfinite(reward).all(axis=1) & np.isfinite(score).all(axis=1)
    return Checkpoint(checkpoint.name, reward[whole], score[whole], prompt[whole])


def _points(drawn: Checkpoint, strategies: Sequence[Strategy], bootstrap: Bootstrap, level: float) -> list[Point]:
    """The gain of each strategy on groups of equal size; sets of one prompt are resampled together."""
    away = within.deviations_of(drawn)
    block = bootstrap.block[drawn.prompt]
    sums = [within.sums_of(weights, away) for weights in expected_weights(strategies, drawn)]
    draws = bootstrap.sums(block, [column for s in sums for column in s])[:, 0]
    points = []
    for number, (strategy, s) in enumerate(zip(strategies, sums)):
        width = len(s)
        estimate = float(within.metrics_of(s.sum(axis=1)[None], strategy.keep)["gain"][0])
        repeated = within.metrics_of(draws[:, number * width : (number + 1) * width], strategy.keep)["gain"]
        units = within.units_of(s, block, bootstrap.n_blocks)["gain"]
        low, high = interval(estimate, repeated, "plain", bootstrap.n_blocks, level, units)
        points.append(Point(drawn.reward.shape[1], strategy.keep, estimate, low, high))
    return points
