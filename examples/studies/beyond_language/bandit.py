"""Which filter pays for which error? A contextual bandit whose reward errs evenly, in the middle, or can be exploited.

python -m examples.studies.beyond_language.bandit --seeds 20 --output bandit.json

Errors are deterministic, one a (context, action), as a reward model errs, or independent in each scoring, as a sensor
errs. A seed fixes the problem and the random numbers of all arms, so that differences are paired.

Notation used for shapes: B seeds, T moments, N actions drawn in a context.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from examples.studies.statistics import Floats, mean_interval
from examples.studies.tables import tables_of
from openrlhf_pf.filters import SampleFilter, build_filter

from .training import ERRORS, Luck, Settings, make_problem, stack, train

EVERY = 10
#: What every arm is compared with: k = 2 samples, chosen without regard to rewards.
PARTNER = "random"


def keep_ranks(n_samples: int, *places: int) -> SampleFilter:
    """Return the filter that keeps two ranks of N; 1 is the best, -1 the worst."""
    at = {place - 1 if place > 0 else n_samples + place for place in places}
    return build_filter("rank_weights", n_samples, 2, weights=[float(rank in at) for rank in range(n_samples)])


#: The filters that are compared, for N samples; a line adds one.
ARMS: dict[str, Callable[[int], SampleFilter]] = {
    "none": lambda n: build_filter("none", n),
    "random": lambda n: build_filter("rank_weights", n, 2, weights=[1.0] * n),
    "best_of_n": lambda n: build_filter("best_of_n", n, 2),
    "best_random": lambda n: build_filter("best_random", n, 2),
    "best_worst": lambda n: build_filter("best_worst", n, 2),
    "max_variance": lambda n: build_filter("max_variance", n, n // 2),
    "ranks_2_and_last": lambda n: keep_ranks(n, 2, -1),
    "ranks_2_and_last_but_1": lambda n: keep_ranks(n, 2, -2),
}


def curves(error: str, frozen: bool, seeds: Sequence[int], settings: Settings) -> dict[str, dict[str, Floats]]:
    """Return each arm's ``value`` and ``reward``, (T, B) each, every ``EVERY`` steps."""
    problems = stack([make_problem(error, seed, frozen) for seed in seeds])
    luck, at = Luck.of(problems, settings), range(0, settings.steps + 1, EVERY)
    runs = {name: train(problems, settings, arm(settings.samples), luck, at) for name, arm in ARMS.items()}
    return {name: {key: values.double().numpy() for key, values in run.items()} for name, run in runs.items()}


def at_reward(run: dict[str, Floats], level: Floats) -> Floats:
    """Return (B,) the true value when the mean reward first reaches ``level`` (B,), interpolated between moments."""
    reward, value = np.maximum.accumulate(run["reward"], axis=0), run["value"]
    return np.array([np.interp(level[b], reward[:, b], value[:, b]) for b in range(len(level))])


def summarise(found: dict[str, dict[str, Floats]]) -> dict[str, dict[str, list[float]]]:
    """Return true values by arm at the end, at their peak, and at the reward that all arms reach in that seed.

    Each is ``[mean, low, high]``, alone and minus that of ``PARTNER``.
    """
    level = np.min([run["reward"].max(axis=0) for run in found.values()], axis=0)
    values = {
        "end": {arm: run["value"][-1] for arm, run in found.items()},
        "peak": {arm: run["value"].max(axis=0) for arm, run in found.items()},
        "at equal reward": {arm: at_reward(run, level) for arm, run in found.items()},
    }
    summary = {}
    for name, by_arm in values.items():
        summary[name] = {arm: mean_interval(mine) for arm, mine in by_arm.items()}
        summary[f"{name}, minus {PARTNER}"] = {arm: mean_interval(m - by_arm[PARTNER]) for arm, m in by_arm.items()}
    return summary


def main(argv: list[str] | None = None) -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser("python -m examples.studies.beyond_language.bandit", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="problems of each kind")
    parser.add_argument("--steps", type=int, default=150, help="steps of training")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors are small
    results = {
        f"{error}, {'frozen' if frozen else 'fresh'}": summarise(
            curves(error, frozen, range(args.seeds), Settings(steps=args.steps))
        )
        for error in ERRORS
        for frozen in (True, False)
    }
    args.output.write_text(json.dumps(results))
    print(tables_of(results))


if __name__ == "__main__":
    main()
