"""Why does training end the other way round than the gain says? One change at a time, and all of them together.

python -m examples.studies.beyond_language.reversal --seeds 40 --output runs/reversal

The world is ``blind_top``: of five draws, sorted by reward, .72 .69 .52 .29 .09 pass, as on the small real task
(examples/micro_code), where the gain puts best_worst before no filter and PPO ended the other way. The way of training
is that task's, as far as a world without language has it.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .arms import ARMS
from .measures import Floats, mean_interval, measure, show
from .training import Luck, Policy, Settings, train
from .worlds import Worlds, stack, world

LEARNING_RATES = {
    ("tabular", "sgd"): 2.0,
    ("tabular", "adam"): 0.2,
    ("tabular", "normed"): 6.0,
    ("shared", "sgd"): 0.02,
    ("shared", "adam"): 0.02,
    ("shared", "normed"): 0.25,
}
#: What the small real task has.
BASE: dict[str, Any] = {
    "error": "blind_top",
    "start": "peaked",
    "policy": "shared",
    "optimizer": "adam",
    "whiten": True,
    "baseline": "critic",
    "split": 2,
    "kl": 0.1,
    "speed": 1.0,
    "prompts": 64,
}
#: What else each may be; the first of them in the study of all combinations.
OTHER: dict[str, tuple] = {
    "error": ("flat", "middle"),
    "start": ("skilled", "uniform"),
    "policy": ("tabular",),
    "optimizer": ("sgd", "normed"),
    "whiten": (False,),
    "baseline": ("group", "kept", "batch"),
    "split": (None,),
    "kl": (0.0,),
    "speed": (3.0, 0.3),
    "prompts": (16, 200),
}
#: Varied together, baselines all four; the others stay.
TOGETHER = ("start", "policy", "optimizer", "whiten", "split", "speed")
#: Pairs of factors that are looked at together.
PAIRS = (("optimizer", "split"), ("optimizer", "policy"))
AT = (10, 30, 100)
COMPARED = ("none", "random", "best_worst", "best_of_n")


def settings_of(way: Mapping[str, Any]) -> Settings:
    """How to train in this way: N = 5, learning rate times ``speed``."""
    rate = LEARNING_RATES[way["policy"], way["optimizer"]] * way["speed"]
    if way["optimizer"] == "sgd" and way["policy"] == "shared":
        rate *= 32 / way["prompts"]  # a step is a sum over prompts
    names = ("policy", "optimizer", "whiten", "baseline", "split", "kl", "prompts")
    return Settings(learning_rate=rate, samples=5, steps=AT[-1], **{name: way[name] for name in names})


def worlds_of(way: Mapping[str, Any], seeds: Sequence[int]) -> Worlds:
    """Its worlds."""
    return stack([world(way["error"], seed, start=way["start"]) for seed in seeds])


def compare(way: Mapping[str, Any], seeds: Sequence[int], at: Sequence[int], arms: Sequence[str]) -> Floats:
    """(arms, T, B) true values."""
    settings, worlds = settings_of(way), worlds_of(way, seeds)
    luck = Luck.of(worlds, settings)
    runs = [train(Policy(worlds, settings), [ARMS[arm]], luck, at)["value"] for arm in arms]
    return torch.stack(runs).double().numpy()


def differences(values: Floats) -> dict[str, list[list[float]]]:
    """``best_worst - none`` and ``best_worst - random`` (T of ``[mean, low, high]``) from (arms, T, B)."""
    return {f"best_worst - {COMPARED[i]}": [mean_interval(row) for row in values[2] - values[i]] for i in (0, 1)}


def one_change(seeds: Sequence[int], at: Sequence[int] = AT) -> dict[str, Any]:
    """The base, and every way that differs from it in one thing."""
    worlds, settings = worlds_of(BASE, seeds), settings_of(BASE)
    probe = Luck.of(worlds, replace(settings, steps=8), stream=1)
    arms = {name: ARMS[name] for name in COMPARED}
    names = ("gain", "signal_to_noise", "gain_root_k", "cosine")
    before = measure(Policy(worlds, settings), probe, arms, names)
    found: dict[str, Any] = {
        "criteria": {n: {arm: mean_interval(before[n][:, i]) for i, arm in enumerate(arms)} for n in names}
    }
    ways = {"as it is": BASE} | {f"{k}: {v}": BASE | {k: v} for k, others in OTHER.items() for v in others}
    for name, way in ways.items():
        values = compare(way, seeds, at, COMPARED)
        found[name] = differences(values) | {
            arm: [mean_interval(row) for row in runs] for arm, runs in zip(COMPARED, values)
        }
    return found


def together(seeds: Sequence[int], at: Sequence[int]) -> dict[str, Any]:
    """All combinations; ``[mean, low, high]`` for each level of each factor, over seeds, at each moment.

    ``turned`` is the share of combinations whose mean difference is below 0.
    """
    levels = {name: (BASE[name], OTHER[name][0]) for name in TOGETHER} | {
        "baseline": (BASE["baseline"], *OTHER["baseline"])
    }
    ways = [dict(zip(levels, values)) for values in itertools.product(*levels.values())]
    runs = np.stack([compare(BASE | way, seeds, at, COMPARED[:3]) for way in ways])  # (ways, 3, T, B)
    found: dict[str, Any] = {"combinations": len(ways), "at": list(at), "levels": {}}
    for name in levels:
        for level in levels[name]:
            some = runs[[way[name] == level for way in ways]]
            found["levels"][f"{name}: {level}"] = _of_cells(some)
    found["all"] = _of_cells(runs)
    for pair in PAIRS:
        for first, second in itertools.product(*(levels[name] for name in pair)):
            mine = [way[pair[0]] == first and way[pair[1]] == second for way in ways]
            found["levels"][f"{pair[0]}: {first}, {pair[1]}: {second}"] = _of_cells(runs[mine])
    return found


def _of_cells(runs: Floats) -> dict[str, Any]:
    means = runs.mean(axis=0)  # (3, T, B)
    turned = {
        f"turned against {arm}": [round(float((cell < 0).mean()), 3) for cell in (runs[:, 2] - runs[:, i]).mean(-1).T]
        for i, arm in enumerate(COMPARED[:2])
    }
    return differences(means) | turned


def tables(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| criterion before training | " + " | ".join(COMPARED) + " |", "|" + "---|" * (len(COMPARED) + 1)]
    for name, cells in results["one change"]["criteria"].items():
        lines.append(f"| {name} | " + " | ".join(show(cells[arm]) for arm in COMPARED) + " |")
    head = [f"best_worst - {arm}, {step} steps" for arm in COMPARED[:2] for step in AT[:2]]
    lines += ["", "| one change | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    for name, row in results["one change"].items():
        if name != "criteria":
            cells = [show(row[f"best_worst - {arm}"][i]) for arm in COMPARED[:2] for i in (0, 1)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    both = results["together"]
    head = [f"{what} {arm}, {step} steps" for arm in COMPARED[:2] for step in both["at"] for what in ("-", "turned:")]
    lines += [
        "",
        f"| of {both['combinations']} combinations | " + " | ".join(head) + " |",
        "|" + "---|" * (len(head) + 1),
    ]
    for name, row in ({"all": both["all"]} | both["levels"]).items():
        cells = []
        for arm in COMPARED[:2]:
            for i in range(len(both["at"])):
                cells += [show(row[f"best_worst - {arm}"][i]), f"{row[f'turned against {arm}'][i]:.0%}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run, write reversal.json and reversal.md."""
    parser = argparse.ArgumentParser(prog="python -m examples.studies.beyond_language.reversal", description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="worlds of each way with one change")
    parser.add_argument("--seeds-together", type=int, default=8, help="worlds of each of the 256 combinations")
    parser.add_argument("--output", type=Path, required=True, help="folder for reversal.json and reversal.md")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors are small
    results = {
        "one change": one_change(range(args.seeds)),
        "together": together(range(args.seeds_together), (10, 30)),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "reversal.json").write_text(json.dumps(results))
    (args.output / "reversal.md").write_text(tables(results) + "\n")
    print(tables(results))


if __name__ == "__main__":
    main()
