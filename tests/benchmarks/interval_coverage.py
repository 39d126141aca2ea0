"""How often do intervals hold the truth? Simulated samples of many shapes.

    PYTHONPATH=.:tests python tests/benchmarks/interval_coverage.py [--sets 1000] [--workers 2] [--prompts 50]

For every shape (prompts, responses, share of correct ones, rewards), data sets are drawn and analysed. The truth is
the mean estimate of all data sets of the shape, which an interval is about. Prints the coverage in %.
"""

import argparse
import itertools
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from planted import plant
from scipy import special

from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.evaluate import evaluate, summarize_metric
from openrlhf_pf.reliability.measures.strategies import strategies_for
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

METRICS = ("gain", "signal_to_noise", "within_r2", "within_spearman", "pairwise_accuracy")
NAMES = ("none", "best_worst", "best_of_n")
FACTORS = {
    "prompts": (50, 300, 1000),
    "samples": (2, 5, 16),
    "rate": (0.05, 0.5, 0.8),
    "rewards": ("normal", "heavy tails", "dominating prompts", "useless"),
}
#: Bootstraps that data sets share in turn: drawing them costs more than using them.
BOOTSTRAPS = 20
Shape = tuple[int, int, float, str]


def draw(shape: Shape, seed: int) -> Checkpoint:
    """Return a data set. Heavy tails are Student's with 3 degrees of freedom; one dominating prompt in twenty has
    rewards twenty times as far apart."""
    prompts, samples, rate, rewards = shape
    setting = "useless" if rewards == "useless" else "noise in the middle"
    found = plant(setting, prompts, samples, seed, rate)
    if rewards == "heavy tails":
        found.reward = special.stdtrit(3, special.ndtr(found.reward))
    elif rewards == "dominating prompts":
        rng = np.random.default_rng([seed, 7])
        found.reward = found.reward * np.where(rng.random((prompts, 1)) < 0.05, 20.0, 1.0)
    return found


def measure_coverage(shape: Shape, sets: int) -> dict[tuple[str, str], float]:
    """Return the coverage in % by strategy and metric, of the data sets that have an interval."""
    bootstraps = [Bootstrap(shape[0], 400, seed) for seed in range(BOOTSTRAPS)]
    drawn: dict[tuple[str, str], list[dict]] = {}
    for seed in range(sets):
        checkpoint, bootstrap = draw(shape, seed), bootstraps[seed % BOOTSTRAPS]
        for result in evaluate(checkpoint, strategies_for(checkpoint, NAMES), bootstrap, whole=False):
            for name in METRICS:
                values = summarize_metric(result, name, bootstrap, 0.95)
                drawn.setdefault((result.strategy.name, name), []).append(values)
    found = {}
    for key, values in drawn.items():
        known = [v for v in values if v["low"] is not None]
        if known:
            truth = np.mean([v["estimate"] for v in values if v["estimate"] is not None])
            found[key] = 100 * float(np.mean([v["low"] <= truth <= v["high"] for v in known]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    for factor, values in FACTORS.items():
        parser.add_argument(f"--{factor}", type=type(values[0]), nargs="+", choices=values, default=values)
    options = parser.parse_args()
    shapes = list(itertools.product(*(getattr(options, factor) for factor in FACTORS)))
    shares = []
    with ProcessPoolExecutor(options.workers) as pool:
        for shape, found in zip(shapes, pool.map(measure_coverage, shapes, itertools.repeat(options.sets))):
            print("{} prompts x {}, rate {}, {}".format(*shape), flush=True)
            for (strategy, metric), share in found.items():
                print(f"    {strategy:>12} {metric:<18} {share:5.1f}", flush=True)
            shares += found.values()
    inside = sum(93 <= share <= 97 for share in shares)
    print(f"\n{inside} of {len(shares)} in 93 to 97%, {sum(share < 93 for share in shares)} below")


if __name__ == "__main__":
    main()
