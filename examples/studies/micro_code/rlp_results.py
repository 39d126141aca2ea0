"""What runs of ``rlp.py`` say: reward models on pairs, policies on held-out tasks, over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.micro_code.sampling import rewards_of
from examples.micro_code.tasks import Task

from .study import paired_interval

METHODS = {
    "spg": "RLP-SPG",
    "uml": "RLP-UML",
    "uml_ramp": "RLP-UML, ramp",
    "ocrm": "OCRM",
    "again": "the pairs again",
    "longer": "the pairs again, as long as SPG",
}
DEFAULT_METHODS = ("spg", "uml", "ocrm", "again")
FLAT = 0.8  # of the first reward model's spread within a prompt: a filter by rank needs what is left
TRIVIAL = 0.05  # nats of information between views, of about log of the prompts in a batch that there can be
MEASURES = {"fresh": "pairs of the policy", "original": "original pairs", "spread": "spread", "passed": "pass@1"}


def scorer(
    model: Path, pairs: Sequence[dict[str, str]], tasks: Sequence[Task], answers: Sequence[Sequence[str]]
) -> dict[str, float]:
    """The reward of every text in pairs and answers, by prompt and answer in one."""
    texts = {row["prompt"] + row[side] for row in pairs for side in ("chosen", "rejected")}
    texts |= {task.prompt + text for task, some in zip(tasks, answers) for text in some}
    ordered = sorted(texts)
    return dict(zip(ordered, rewards_of(model, ordered).tolist()))


def ranked_right(pairs: Sequence[dict[str, str]], tasks: Sequence[Task], reward: dict[str, float]) -> np.ndarray:
    """(tasks,) share of each prompt's pairs whose chosen answer has the higher reward, half for equal ones; NaN where
    it has no pair.
    """
    found: dict[str, list[float]] = {task.prompt: [] for task in tasks}
    for row in pairs:
        ahead = reward[row["prompt"] + row["chosen"]] - reward[row["prompt"] + row["rejected"]]
        found[row["prompt"]].append(0.5 * (1 + np.sign(ahead)))
    return np.array([np.mean(shares) if shares else np.nan for shares in found.values()])


def results(directories: Sequence[Path], against: str = "first") -> dict[str, Any]:
    """Finished runs, one a seed, in numbers: each stage's mean of every measure, and its difference to the stage
    ``against`` with a 95% interval, paired over seeds and prompts.

    Raises:
        ValueError: a directory has no result, they are of different policies or sizes, or one lacks that stage.
    """
    runs = []
    for directory in directories:
        if not (directory / "measures.npz").exists():
            raise ValueError(f"{directory} holds no finished run: name the --output of one.")
        settings = json.loads((directory / "rlp.json").read_text())
        records = {file.stem: json.loads(file.read_text()) for file in (directory / "phases").glob("preferences-*")}
        pairs = {name.removeprefix("preferences-"): record["result"] for name, record in records.items()}
        trained = {f.stem: json.loads(f.read_text())["result"] for f in (directory / "phases").glob("*-reward.json")}
        nats = {name.removesuffix("-reward"): found.get("information") for name, found in trained.items()}
        measures = dict(np.load(directory / "measures.npz"))
        runs.append({**settings, "pairs": pairs, "information": nats, "measures": measures})
    first = runs[0]["measures"]
    if any(run["policy"] != runs[0]["policy"] for run in runs):
        raise ValueError("these are runs from different policies: make a table of those that begin with the same.")
    if any(len(array) != len(first[name]) for run in runs for name, array in run["measures"].items() if name in first):
        raise ValueError("these runs have different numbers of held-out tasks: compare runs of one preset.")
    names = [name for name in first if all(name in run["measures"] for run in runs)]
    if f"passed_{against}" not in names or against == "sft":
        raise ValueError(f"not each of these runs has a stage {against!r} with a reward model: compare with another.")
    stages: dict[str, dict[str, Any]] = {}
    for measure in MEASURES:
        base = np.array([run["measures"][f"{measure}_{against}"] for run in runs])
        for stage in [name.partition("_")[2] for name in names if name.startswith(f"{measure}_")]:
            mine = np.array([run["measures"][f"{measure}_{stage}"] for run in runs])
            entry = {"mean": np.nanmean(mine), "by_seed": np.nanmean(mine, axis=1).tolist()}
            if stage != against:
                entry |= {"difference": np.nanmean(mine - base), "interval": list(paired_interval(mine - base))}
            stages.setdefault(stage, {})[measure] = entry
    for stage, entry in stages.items():
        known = [run["information"].get(stage) for run in runs]
        if None not in known:
            entry["information"] = {"mean": float(np.mean(known)), "by_seed": known}
    seeds = [run["seed"] for run in runs]
    pairs = [run["pairs"] for run in runs]
    return {"policy": runs[0]["policy"], "seeds": seeds, "against": against, "pairs": pairs, "stages": stages}


def cautions(found: dict[str, Any]) -> list[str]:
    """What a reader should know of ``results``, a sentence each."""
    notes = []
    for name, entry in found["stages"].items():
        if "spread" in entry and (share := spread_kept(found, name)) < FLAT:
            notes.append(
                f"{name}: rewards within a prompt spread {share:.0%} as far as the first reward model's, and it is"
                " these differences that a filter ranks by."
            )
        if "information" in entry and (nats := entry["information"]["mean"]) < TRIVIAL:
            notes.append(
                f"{name}: two answers to a prompt share {nats:.3f} nats at the end of training: the loss on views has"
                " come to its trivial optimum, where all are represented alike, and teaches nothing there."
            )
    for seed, pairs in zip(found["seeds"], found["pairs"]):
        for stage, report in pairs.items():
            said = list(report["warnings"])
            if found["policy"] == "overoptimised" and stage == "first" and not said:
                said.append("Their report warns of nothing: the majority is right, and this is no negative control.")
            notes += [f"seed {seed}, pairs of the {stage} policy: {sentence}" for sentence in said]
    return notes


def spread_kept(found: dict[str, Any], stage: str) -> float:
    """The spread of rewards within a prompt, as a share of the first reward model's."""
    return found["stages"][stage]["spread"]["mean"] / found["stages"]["first"]["spread"]["mean"]


def table(found: dict[str, Any]) -> str:
    """``results`` in Markdown: the pairs, a row a seed, and the stages."""
    lines = ["| seed | pairs of | prompts used | these right | no threshold | ranked by reward |", "|---" * 6 + "|"]
    for seed, pairs in zip(found["seeds"], found["pairs"]):
        for stage, report in pairs.items():
            known = [report["accuracy"].get(kind) for kind in ("spg", "select_all", "ranked")]
            shares = ["-" if share is None else f"{share:.3f}" for share in known]
            lines.append(f"| {seed} | {stage} | {report['used'] / report['prompts']:.0%} | {' | '.join(shares)} |")
    lines += [
        "",
        "| stage | "
        + " | ".join(f"{MEASURES[m]} | to {found['against']} [95%]" for m in ("fresh", "original", "passed")),
    ]
    lines[-1] += " | spread |"
    lines.append("|---" * 8 + "|")
    for name, entry in found["stages"].items():
        cells = [METHODS.get(name, name)]
        for measure in ("fresh", "original", "passed"):
            cells += _cells(entry.get(measure))
        cells.append(f"{spread_kept(found, name):.0%}" if "spread" in entry else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(entry: dict[str, Any] | None) -> list[str]:
    if entry is None:
        return ["-", "-"]
    if "interval" not in entry:
        return [f"{entry['mean']:.3f}", "-"]
    low, high = entry["interval"]
    return [f"{entry['mean']:.3f}", f"{entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"]
