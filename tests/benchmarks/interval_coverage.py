"""Do the intervals hold what they claim? Planted worlds on a grid of shapes, and how often the truth lies inside.

    python tests/benchmarks/interval_coverage.py [--sets 1000] [--workers 2] [--all]

For every shape (prompts, responses, share of correct ones, rewards), so many data sets are drawn and analysed; the
truth is the same figure on very many prompts. Without --all, pairs of factors are covered; with it, every combination.
"""

import argparse
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from openrlhf_pf.reliability.bootstrap import Bootstrap
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.evaluate import evaluate, summary
from openrlhf_pf.reliability.planted import plant
from openrlhf_pf.reliability.strategies import strategies_for

METRICS = ("gain", "pairwise_accuracy", "within_r2", "signal_to_noise")
NAMES = ("none", "best_worst", "best_of_n")
FACTORS = {
    "prompts": (50, 300, 1000, 5000),
    "samples": (2, 5, 16, 64),
    "rate": (0.05, 0.2, 0.5, 0.8, 0.95),
    "rewards": ("normal", "heavy tails", "dominating prompts", "useless"),
}
TRUTH_SAMPLES = 3_000_000
Shape = tuple[int, int, float, str]


def draw(shape: Shape, seed: int, prompts: int | None = None) -> Checkpoint:
    """A data set of this shape; "dominating prompts" have rewards twenty times as far apart, one in twenty."""
    given, samples, rate, rewards = shape
    world = "useless" if rewards == "useless" else "noise in the middle"
    found = plant(world, prompts or given, samples, seed, rate)
    rng = np.random.default_rng([seed, 7])
    if rewards == "heavy tails":
        found.reward = np.sinh(2 * found.reward) + 0.3 * rng.standard_t(2, found.reward.shape)
    elif rewards == "dominating prompts":
        found.reward = found.reward * np.where(rng.random((len(found.reward), 1)) < 0.05, 20.0, 1.0)
    return found


def figures(checkpoint: Checkpoint, repetitions: int, seed: int) -> dict[tuple[str, str], dict]:
    """``{estimate, low, high}`` by strategy and metric."""
    bootstrap = Bootstrap(checkpoint.n_prompts, repetitions, seed)
    results = evaluate(checkpoint, strategies_for(checkpoint, NAMES), bootstrap, only=METRICS)
    return {
        (r.strategy.name, name): values
        for r in results
        for name, values in summary(r, bootstrap, 0.95).items()
        if name in METRICS
    }


def covered(shape: Shape, sets: int) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Data sets whose interval is below, around and above the truth; those without an interval are none of these."""
    many = max(TRUTH_SAMPLES // shape[1], 20 * shape[0])
    truth = {key: values["estimate"] for key, values in figures(draw(shape, 10**6, many), 10, 0).items()}
    counts = {key: [0, 0, 0] for key in truth}
    for seed in range(sets):
        for key, values in figures(draw(shape, seed), 400, seed).items():
            if values["low"] is not None and truth[key] is not None:
                counts[key][1 + (values["low"] > truth[key]) - (values["high"] < truth[key])] += 1
    return {key: tuple(value) for key, value in counts.items()}


def shapes(everything: bool) -> Iterator[Shape]:
    """Every combination, or as many as bring every pair of two factors' values together, greedily."""
    combinations = list(itertools.product(*FACTORS.values()))
    if everything:
        yield from combinations
        return
    pairs = {(i, c[i], j, c[j]) for c in combinations for i, j in itertools.combinations(range(4), 2)}
    while pairs:
        best = max(
            combinations, key=lambda c: sum((i, c[i], j, c[j]) in pairs for i in range(4) for j in range(i + 1, 4))
        )
        pairs -= {(i, best[i], j, best[j]) for i, j in itertools.combinations(range(4), 2)}
        yield best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    chosen = list(shapes(options.all))
    within = total = 0
    print("covered in % (too low, too high) of the data sets that have an interval, if that is not all: their number")
    with ProcessPoolExecutor(options.workers) as pool:
        for shape, counts in zip(chosen, pool.map(covered, chosen, itertools.repeat(options.sets))):
            print("{} prompts x {}, rate {}, {}".format(*shape), flush=True)
            for (strategy, metric), (below, inside, above) in counts.items():
                known = below + inside + above
                if not known:
                    continue
                share = 100 * inside / known
                within, total = within + (93 <= share <= 97), total + 1
                few = f" of {known}" if known < options.sets else ""
                print(f"    {strategy:>12} {metric:<18} {share:5.1f} ({below}, {above}){few}", flush=True)
    print(f"{within} of {total} cells are covered in 93 to 97%")


if __name__ == "__main__":
    main()
