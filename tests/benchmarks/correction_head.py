"""How long does ``--sample_filter_correct head`` take in a rollout? It fits and cross-validates on made-up states.

python tests/benchmarks/correction_head.py --repeats 5
"""

import argparse
import statistics
import time
from types import SimpleNamespace

import numpy as np

from openrlhf_pf.training.correction.correction import WINDOW, Correction, Labelled
from openrlhf_pf.training.correction.head import pairs_of

#: Dimensions of a state, labelled prompts, responses to each.
SIZES = ((96, 60, 5), (96, WINDOW, 5), (1024, WINDOW, 8), (4096, WINDOW, 8))


def correction_of(size: int, prompts: int, responses: int) -> Correction:
    """Return a correction with labelled prompts whose true scores a reward and a state tell in part."""
    generator = np.random.default_rng(0)
    states = generator.normal(size=(prompts, responses, size)).astype(np.float32)
    rewards = generator.normal(size=(prompts, responses)).astype(np.float32)
    scores = (states[..., 0] + rewards + generator.normal(size=rewards.shape) > 0).astype(float)
    args = SimpleNamespace(sample_filter_true_share=None, sample_filter_probe_score=__file__)
    found = Correction(args, seed=0)
    rows = [row for row in zip(range(prompts), rewards, states, scores) if pairs_of(row[3][None]).any()]
    found.labelled.extend(Labelled(*row) for row in rows)
    return found


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
    """Stand where a user's true score is; it is never called."""
    raise NotImplementedError


def main() -> None:
    """Print the median and the range of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for sizes in SIZES:
        correction, seconds = correction_of(*sizes), []
        for _ in range(repeats):
            start = time.perf_counter()
            correction._fit()
            seconds.append(time.perf_counter() - start)
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(
            "{} dimensions, {} prompts x {}:".format(*sizes), f"{middle:.3f} s ({low:.3f} to {high:.3f})", flush=True
        )


if __name__ == "__main__":
    main()
