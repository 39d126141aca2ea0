"""Time of filter and draw on one core, beside a plain torch.sort of the same rewards.

    python tests/benchmarks/filter_overhead.py [--repeats 9]

Prints, for each size and filter, the median and the spread over interleaved repeats, and the ratio to torch.sort.
"""

import argparse
import statistics
import time
from functools import partial

import torch

from openrlhf_pf.filters import FILTERS, FilterBatch, build_filter, select

SIZES = [(1024, 8), (65_536, 16), (1_000_000, 8)]


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def filter_and_draw(sample_filter, rewards):
    generator = torch.Generator().manual_seed(0)
    batch = FilterBatch(rewards, generator)
    select(sample_filter(batch), sample_filter.keep, batch.order, generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"{'prompts x samples':>20} {'filter':>14} {'median ms':>10} {'min ms':>8} {'max ms':>8} {'/ sort':>7}")
    for prompts, samples in SIZES:
        rewards = torch.randn(prompts, samples, generator=torch.Generator().manual_seed(0))
        tied = torch.randint(0, 2, (prompts, samples), generator=torch.Generator().manual_seed(0)).float()
        cases = {"torch.sort": partial(torch.sort, rewards, dim=1)}
        for name in FILTERS:
            weights = [1.0 / samples] * samples if name == "rank_weights" else None
            sample_filter = build_filter(name, samples, weights=weights, keep=None if name == "none" else 2)
            cases[name] = partial(filter_and_draw, sample_filter, rewards)
        cases["ties, bw"] = partial(filter_and_draw, build_filter("best_worst", samples), tied)
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(repeats):
            for name, case in cases.items():
                times[name].append(seconds(case))
        for name, taken in times.items():
            ratio = statistics.median(t / s for t, s in zip(taken, times["torch.sort"]))
            print(
                f"{f'{prompts:,} x {samples}':>20} {name:>14} {1e3 * statistics.median(taken):>10.2f} "
                f"{1e3 * min(taken):>8.2f} {1e3 * max(taken):>8.2f} {ratio:>7.1f}"
            )


if __name__ == "__main__":
    main()
