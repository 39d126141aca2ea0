"""Do the intervals hold what they claim? Planted worlds on a grid of shapes, and how often the truth lies inside.

    python tests/benchmarks/interval_coverage.py [--sets 1000] [--workers 2] [--all] [--prompts 50 300] [--rate 0.05]

For every shape (prompts, responses, share of correct ones, rewards), so many data sets are drawn and analysed. Two
truths are asked for: the mean estimate of all data sets of the shape, which is what an interval speaks of, and the
figure of very many prompts. They differ where rewards have heavy tails: the spread that a gain is divided by grows
with the number of prompts then. Without --all, pairs of factors are covered; with it, every combination.
"""

import argparse
import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import special

from openrlhf_pf.reliability import metrics
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.read.checkpoints import Checkpoint
from openrlhf_pf.reliability.measures.evaluate import evaluate, summarize
from openrlhf_pf.reliability.planted import plant
from openrlhf_pf.reliability.measures.strategies import strategies_for

METRICS = ("gain", "signal_to_noise", "within_r2", "within_spearman", "pairwise_accuracy")
NAMES = ("none", "best_worst", "best_of_n")
FACTORS = {
    "prompts": (50, 300, 1000, 5000),
    "samples": (2, 5, 16, 64),
    "rate": (0.05, 0.2, 0.5, 0.8, 0.95),
    "rewards": ("normal", "heavy tails", "extreme tails", "dominating prompts", "useless"),
}
TRUTH_SAMPLES = 1_000_000
#: Samples of all data sets of a shape together, and data sets at least: large shapes get fewer of them.
MOST_SAMPLES, FEWEST_SETS = 5_000_000, 200
#: Bootstraps of a shape that take turns: drawing them costs more than using them.
BOOTSTRAPS = 20
Shape = tuple[int, int, float, str]


class Coverage(NamedTuple):
    """Of the data sets that have an interval: shares in % whose interval holds the mean of all data sets and the
    figure of very many prompts, shares that lie below and above the latter, and how many there are of how many."""

    mean: float
    many: float
    below: float
    above: float
    known: int
    sets: int


def draw(shape: Shape, seed: int, prompts: int | None = None) -> Checkpoint:
    """A data set of this shape.

    Heavy tails are Student's with 3 degrees of freedom: their spread has no finite variance. With extreme tails, half
    of the spread of very many rewards is owed to one in 16,000. Dominating prompts have rewards twenty times as far
    apart, one in twenty.
    """
    given, samples, rate, rewards = shape
    world = "useless" if rewards == "useless" else "noise in the middle"
    found = plant(world, prompts or given, samples, seed, rate)
    if rewards == "heavy tails":
        found.reward = special.stdtrit(3, special.ndtr(found.reward))
    elif rewards == "extreme tails":
        found.reward = np.sinh(2 * found.reward)
    elif rewards == "dominating prompts":
        rng = np.random.default_rng([seed, 7])
        found.reward = found.reward * np.where(rng.random((len(found.reward), 1)) < 0.05, 20.0, 1.0)
    return found


@functools.lru_cache(BOOTSTRAPS)
def repeated(n_prompts: int, repetitions: int, seed: int) -> Bootstrap:
    """A bootstrap that is kept."""
    return Bootstrap(n_prompts, repetitions, seed)


def figures(checkpoint: Checkpoint, repetitions: int, seed: int) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Estimate, low and high by strategy and metric; NaN for what there is not."""
    bootstrap = repeated(checkpoint.n_prompts, repetitions, seed % BOOTSTRAPS)
    results = evaluate(checkpoint, strategies_for(checkpoint, NAMES), bootstrap, whole=False)
    found = {}
    for result in results:
        values = summarize(result, bootstrap, 0.95)
        for name in METRICS:
            found[result.strategy.name, name] = tuple(
                np.nan if values[name][key] is None else values[name][key] for key in ("estimate", "low", "high")
            )
    return found


def covered(shape: Shape, sets: int) -> dict[tuple[str, str], Coverage]:
    """Coverage by strategy and metric, of those that have intervals."""
    sets = int(np.clip(MOST_SAMPLES // (shape[0] * shape[1]), min(sets, FEWEST_SETS), sets))
    many = figures(draw(shape, 10**6, max(TRUTH_SAMPLES // shape[1], 20 * shape[0])), 10, 0)
    drawn = [figures(draw(shape, seed), 400, seed) for seed in range(sets)]
    found = {}
    for key, (truth, _, _) in many.items():
        estimate, low, high = np.array([d[key] for d in drawn]).T
        known = np.isfinite(low)
        if not known.any() or not np.isfinite(truth):
            continue
        # The mean of squares is above the square of the mean.
        root = np.sign(estimate) * np.sqrt(np.abs(estimate))
        mean = (
            np.nanmean(root) * abs(np.nanmean(root)) if metrics.METRICS[key[1]].kind == "r2" else np.nanmean(estimate)
        )
        low, high = low[known], high[known]
        shares = [(low <= mean) & (mean <= high), (low <= truth) & (truth <= high), high < truth, low > truth]
        found[key] = Coverage(*(100 * float(share.mean()) for share in shares), int(known.sum()), sets)
    return found


def shapes(allowed: dict[str, list], everything: bool) -> Iterator[Shape]:
    """Every combination, or as many as bring every pair of two factors' values together, greedily."""
    combinations = list(itertools.product(*allowed.values()))
    if everything:
        yield from combinations
        return
    # Of equally good combinations not always the first, or all small ones would come first.
    combinations = [combinations[i] for i in np.random.default_rng(0).permutation(len(combinations))]
    pairs = {(i, c[i], j, c[j]) for c in combinations for i, j in itertools.combinations(range(4), 2)}
    while pairs:
        best = max(
            combinations, key=lambda c: sum((i, c[i], j, c[j]) in pairs for i in range(4) for j in range(i + 1, 4))
        )
        pairs -= {(i, best[i], j, best[j]) for i, j in itertools.combinations(range(4), 2)}
        yield best


def table(found: dict[Shape, dict[tuple[str, str], Coverage]], of: str) -> Iterator[str]:
    """Rows of a table: mean coverage of the cells with each value of a factor, and the lowest and highest of them.

    Heavy and extreme tails are in their own rows only, or they would be all that the others show.
    """
    yield "| | " + " | ".join(METRICS) + " |"
    yield "|---" * (1 + len(METRICS)) + "|"
    for number, (factor, values) in enumerate(FACTORS.items()):
        for value in values:
            row = []
            for metric in METRICS:
                cells = [
                    getattr(coverage, of)
                    for shape, cells in found.items()
                    for (_, name), coverage in cells.items()
                    if shape[number] == value and name == metric and coverage.known >= FEWEST_SETS / 2
                    if factor == "rewards" or "tails" not in shape[3]
                ]
                row.append(f"{np.mean(cells):.1f} ({min(cells):.0f}–{max(cells):.0f})" if cells else "")
            if any(row):
                yield f"| {factor} {value} | " + " | ".join(row) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--all", action="store_true")
    for factor, values in FACTORS.items():
        parser.add_argument(f"--{factor}", type=type(values[0]), nargs="+", choices=values, default=values)
    options = parser.parse_args()
    chosen = list(shapes({factor: getattr(options, factor) for factor in FACTORS}, options.all))
    found = {}
    print("% of the data sets that have an interval: mean of all data sets | very many prompts (too low, too high)")
    with ProcessPoolExecutor(options.workers) as pool:
        for shape, cells in zip(chosen, pool.map(covered, chosen, itertools.repeat(options.sets))):
            found[shape] = cells
            sets = max((c.sets for c in cells.values()), default=0)
            print("{} prompts x {}, rate {}, {}".format(*shape) + f": {sets} data sets", flush=True)
            for (strategy, metric), c in cells.items():
                few = f" of {c.known}" if c.known < c.sets else ""
                line = f"{c.mean:5.1f} | {c.many:5.1f} ({c.below:.1f}, {c.above:.1f}){few}"
                print(f"    {strategy:>12} {metric:<18} {line}", flush=True)
    for of, title in (("mean", "the mean of all data sets"), ("many", "the figure of very many prompts")):
        print(f"\ncoverage of {title}: mean of the cells (lowest–highest)\n")
        print("\n".join(table(found, of)))
        shares = np.array([getattr(c, of) for cells in found.values() for c in cells.values()])
        inside = int(((shares >= 93) & (shares <= 97)).sum())
        print(f"\n{inside} of {len(shares)} cells in 93 to 97%, {int((shares < 93).sum())} below")


if __name__ == "__main__":
    main()
