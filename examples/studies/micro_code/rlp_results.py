"""Results of rlp.py over seeds: accuracy of reward models on pairs, pass@1 of policies on held-out tasks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.micro_code.sampling import rewards_of
from examples.micro_code.tasks import Task
from examples.studies.tables import paired_interval

MEASURES = {"fresh": "policy's pairs", "original": "original pairs", "passed": "pass@1"}


def measure_reward_model(
    model: Path, pairs: Mapping[str, tuple[Sequence[Task], Sequence[dict[str, str]]]]
) -> dict[str, np.ndarray]:
    """Return, for each named set of tasks and pairs, the (tasks,) share of a prompt's pairs ranked right.

    Ties count half; NaN without pairs.
    """
    rows = [row for _, some in pairs.values() for row in some]
    texts = sorted({row["prompt"] + row[side] for row in rows for side in ("chosen", "rejected")})
    reward = dict(zip(texts, rewards_of(model, texts).tolist()))
    return {name: rank_pairs(some, tasks, reward) for name, (tasks, some) in pairs.items()}


def rank_pairs(pairs: Sequence[dict[str, str]], tasks: Sequence[Task], reward: dict[str, float]) -> np.ndarray:
    """Return the (tasks,) share of each prompt's pairs ranked right, half for ties; NaN without pairs."""
    found: dict[str, list[float]] = {task.prompt: [] for task in tasks}
    for row in pairs:
        ahead = reward[row["prompt"] + row["chosen"]] - reward[row["prompt"] + row["rejected"]]
        found[row["prompt"]].append(0.5 * (1 + np.sign(ahead)))
    return np.array([np.mean(shares) if shares else np.nan for shares in found.values()])


def results(directories: Sequence[Path], against: str = "first") -> dict[str, Any]:
    """Return measures of finished runs, one a seed: means, and ``minus`` the stage ``against``, [mean, low, high].

    Differences have 95% intervals, paired over seeds and prompts.

    Raises:
        ValueError: a directory has no result, they are of different policies or sizes, or one lacks that stage.
    """
    for directory in directories:
        if not (directory / "measures.npz").exists():
            raise ValueError(f"{directory} holds no finished run: name the --output of one.")
    settings = [json.loads((directory / "rlp.json").read_text()) for directory in directories]
    runs = [dict(np.load(directory / "measures.npz")) for directory in directories]
    if len({one["policy"] for one in settings}) > 1:
        raise ValueError("these are runs from different policies: make a table of those that begin with the same.")
    if any(len(array) != len(runs[0][name]) for run in runs for name, array in run.items() if name in runs[0]):
        raise ValueError("these runs have different numbers of held-out tasks: compare runs of one preset.")
    names = [name for name in runs[0] if all(name in run for run in runs)]
    if f"passed_{against}" not in names or against == "sft":
        raise ValueError(f"not each of these runs has a stage {against!r} with a reward model: compare with another.")
    seeds = [str(one["seed"]) for one in settings]
    stages: dict[str, dict[str, Any]] = {}
    for measure, title in MEASURES.items():
        base = np.array([run[f"{measure}_{against}"] for run in runs])
        for stage in [name.partition("_")[2] for name in names if name.startswith(f"{measure}_")]:
            mine = np.array([run[f"{measure}_{stage}"] for run in runs])
            entry = stages.setdefault(stage, {})
            entry[f"{title} by seed"] = dict(zip(seeds, np.nanmean(mine, axis=1).tolist()))
            entry[f"{title}, minus {against}"] = [float(np.nanmean(mine - base)), *paired_interval(mine - base)]
    return {"policy": settings[0]["policy"], "seeds": seeds, "stages": stages}
