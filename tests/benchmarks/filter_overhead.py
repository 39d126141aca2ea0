"""Time of every filter with every draw on one core, next to a plain numpy sort of the same rewards.

    python tests/benchmarks/filter_overhead.py [--repeats 9] [--sizes 65536x16 ...]

Prints, for each size, filter and draw, the median and the spread over interleaved repeats, and the median ratio to the
sort of the same repeat.
"""

import argparse
import statistics
import time
import warnings
from functools import partial

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters import DRAWS, FILTERS, FilterBatch, SampleFilter, build_filter, draw, make_generator

SIZES = ["1024x8", "65536x16"]
#: Tokens of each response that diversity compares.
TOKENS = 64
OPTIONS = {
    "top": {"high": 0.5},
    "top_random": {"high": 0.5},
    "top_bottom": {"low": -0.5, "high": 0.5},
    "reward_power": {"power": 2.0},
}


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def filter_and_draw(sample_filter: SampleFilter, mode: str, rewards: ndarray, columns: dict[str, ndarray]) -> None:
    generator = make_generator(0)
    batch = FilterBatch(rewards, generator, **columns)
    order = batch.order if sample_filter.scope == "group" and mode == "select" else None
    draw(mode, sample_filter(batch), sample_filter.keep, sample_filter.scope, order, generator)


def cases_of(prompts: int, samples: int) -> dict[str, partial]:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(prompts, samples)).astype(np.float32)
    tied = rng.integers(0, 2, (prompts, samples)).astype(np.float32)
    columns = {
        "response_tokens": list(rng.integers(0, 1000, (prompts, samples, TOKENS), dtype=np.int32)),
        "response_lengths": rng.integers(1, 4096, (prompts, samples)),
        "model_rewards": np.stack([rewards, *rng.normal(size=(2, prompts, samples))]),
    }
    cases = {"sort": partial(np.sort, rewards, axis=1)}
    for name in FILTERS:
        options = {"weights": [1.0 / samples] * samples} if name == "rank_weights" else OPTIONS.get(name, {})
        sample_filter = build_filter(name, samples, None if name == "none" else 2, **options)
        for mode in DRAWS:
            cases[f"{name}, {mode}"] = partial(filter_and_draw, sample_filter, mode, rewards, columns)
    objectives = ["reward", "length", "diversity"]
    cases["pareto, select, with diversity"] = partial(
        filter_and_draw, build_filter("pareto", samples, objectives=objectives), "select", rewards, columns
    )
    cases["best_worst, select, all tied"] = partial(
        filter_and_draw, build_filter("best_worst", samples), "select", tied, columns
    )
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="PROMPTSxSAMPLES")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # reward_power's, about rewards beyond 1
    for size in options.sizes:
        cases = cases_of(*map(int, size.split("x")))
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.repeats):
            for name, case in cases.items():
                times[name].append(seconds(case))
        print(f"\n{size:<30} {'median ms':>10} {'min ms':>9} {'max ms':>9} {'/ sort':>7}")
        for name, taken in times.items():
            ratio = statistics.median(t / s for t, s in zip(taken, times["sort"]))
            figures = (1e3 * statistics.median(taken), 1e3 * min(taken), 1e3 * max(taken))
            print(f"{name:<30} {figures[0]:>10.2f} {figures[1]:>9.2f} {figures[2]:>9.2f} {ratio:>7.1f}")


if __name__ == "__main__":
    main()
