"""Which filter pays for which error? A contextual bandit whose reward errs evenly, in the middle, or can be exploited.

python -m examples.studies.beyond_language.bandit --seeds 20 --output bandit.json

Errors are deterministic, one a (context, action), as a reward model errs, or independent in each scoring, as a sensor
errs. A seed fixes the problem and the random numbers of all arms, so that differences are paired.

Notation used for shapes: B seeds, T moments.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from examples.studies.statistics import Floats, mean_interval
from examples.studies.tables import tables_of

from .arms import ARMS
from .problems import make_problem, stack
from .training import Luck, Policy, Settings, train

ERRORS = ("flat", "middle", "hacked")
EVERY = 10
#: What every arm is compared with: k = 2 samples, chosen without regard to rewards.
PARTNER = "random"


def curves(error: str, frozen: bool, seeds: Sequence[int], settings: Settings) -> dict[str, dict[str, Floats]]:
    """Return each arm's ``value`` and ``reward``, (T, B) each, every ``EVERY`` steps."""
    problems = stack([make_problem(error, seed, frozen) for seed in seeds])
    luck, at = Luck.of(problems, settings), range(0, settings.steps + 1, EVERY)
    runs = {name: train(Policy(problems, settings), arm, luck, at) for name, arm in ARMS.items()}
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
