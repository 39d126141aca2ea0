"""Which criterion, computed before training, predicts the order of filters after it?

python -m examples.studies.beyond_language.criteria --problems 256 --output criteria.json

Simulation settings are random: shape and size of the reward's error, repeated or independent errors, offsets of
prompts, start policy, N, and how the policy trains. Every arm trains on every problem with the same random numbers;
criteria are computed on other rollouts of the start policy, with true values.

Notation used for shapes: B problems, F arms, T moments.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.studies.statistics import mean_interval, rank_correlation, regret
from examples.studies.tables import tables_of

from .arms import ARMS
from .measures import measure
from .problems import ERRORS, Problems, make_problem, stack
from .training import Luck, Policy, Settings, train

N_SAMPLES = (5, 8)
#: Ways of training, with learning rates that bring each to most of its best within 100 steps.
WAYS = {
    "tabular, sgd": Settings("tabular", "sgd", 2.0, whiten=False),
    "tabular, adam": Settings("tabular", "adam", 0.2, whiten=True),
    "shared, sgd": Settings("shared", "sgd", 0.02, whiten=False),
    "shared, adam": Settings("shared", "adam", 0.02, whiten=True),
}
BASELINES = ("group", "critic")
OPTIMIZERS = ("sgd", "adam")
#: Arms that keep 2 samples: they differ only in which.
EQUAL_K = [number for number, arm in enumerate(ARMS.values()) if arm.keep(max(N_SAMPLES)) == 2]
#: Steps after which policies are compared.
AT = (25, 75, 200)
#: Rollouts of a probe: 8 x 32 prompts.
PROBE = 8


def draw_problem(seed: int) -> Problems:
    """Return a random problem; everything about it follows from its seed."""
    rng = np.random.default_rng(seed)
    return make_problem(
        rng.choice([error for error in ERRORS if error != "none"]),
        seed,
        frozen=bool(rng.random() < 0.5),
        size=float(rng.uniform(0.3, 1.5)),
        offset=float(rng.choice([0.0, 0.5, 1.0])),
        start=str(rng.choice(["uniform", "peaked", "skilled"])),
        n_contexts=100,
    )


def train_all(settings: Settings, seeds: Sequence[int], at: Sequence[int] = AT) -> dict[str, Any]:
    """Train all arms on problems in one way.

    Returns:
        ``start`` (B,); ``final`` (B, T, F) true values at ``at``; ``before`` criterion to (B, F).
    """
    problems = stack([draw_problem(seed) for seed in seeds])
    luck = Luck.of(problems, settings)
    probe = Luck.of(problems, replace(settings, steps=PROBE), stream=1)
    runs = [train(Policy(problems, settings), arm, luck, [0, *at])["value"].double().numpy() for arm in ARMS.values()]
    return {
        "start": runs[0][0],
        "final": np.stack([run[1:].T for run in runs], axis=-1),
        "before": measure(Policy(problems, settings), probe, ARMS),
    }


def join(parts: list[Any]) -> Any:
    """Return results of several ways of training as one, along their problems."""
    if isinstance(parts[0], dict):
        return {key: join([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def summarise(found: dict[str, Any], at: Sequence[int] = AT) -> dict[str, Any]:
    """Return Spearman correlations and regrets, each ``[mean, low, high]`` over problems."""
    final, before = found["final"].transpose(1, 0, 2), found["before"]
    spearman = {name: [rank_correlation(values, result) for result in final] for name, values in before.items()}
    always = {f"always {arm}": np.eye(len(ARMS))[[i] * len(found["start"])] for i, arm in enumerate(ARMS)}
    regrets = {name: [regret(rule, result) for result in final] for name, rule in (before | always).items()}

    equal_k = {n: [rank_correlation(v[:, EQUAL_K], r[:, EQUAL_K]) for r in final] for n, v in before.items()}
    tables = {"spearman": spearman, "spearman, arms of equal k": equal_k, "regret": regrets}
    tables["gain over start"] = {arm: [r[:, i] - found["start"] for r in final] for i, arm in enumerate(ARMS)}
    return {"problems": len(found["start"]), "at": list(at)} | {
        title: {name: [mean_interval(column) for column in columns] for name, columns in rows.items()}
        for title, rows in tables.items()
    }


def run(n_problems: int, at: Sequence[int] = AT, first_seed: int = 0) -> dict[str, Any]:
    """Return the summaries of ``all``, each optimizer and each way of training."""
    by_way: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    plans = list(itertools.product(WAYS, N_SAMPLES, BASELINES))
    each = max(2, round(n_problems / len(plans)))
    for number, (way, n_samples, baseline) in enumerate(plans):
        settings = replace(WAYS[way], samples=n_samples, baseline=baseline, steps=max(at))
        seeds = range(first_seed + number * each, first_seed + (number + 1) * each)
        by_way[way].append(train_all(settings, seeds, at))
        print(f"{number + 1}/{len(plans)} {way}, N = {n_samples}, baseline {baseline}", flush=True)
    pools = {"all": list(WAYS)} | {name: [way for way in WAYS if way.endswith(name)] for name in OPTIMIZERS}
    pools |= {way: [way] for way in WAYS}
    return {
        name: summarise(join([part for way in ways for part in by_way[way]]), at)
        for name, ways in pools.items()
        if ways
    }


def main(argv: list[str] | None = None) -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser("python -m examples.studies.beyond_language.criteria", description=__doc__)
    parser.add_argument("--problems", type=int, default=256, help="how many, in 16 ways of training")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first problem")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors are small
    results = run(args.problems, first_seed=args.first_seed)
    args.output.write_text(json.dumps(results))
    print(tables_of(results))


if __name__ == "__main__":
    main()
