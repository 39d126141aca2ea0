"""How what a filter gives depends on N and k, and on how kept samples are drawn and centred.

python -m examples.studies.beyond_language.sizes --seeds 20 --output runs/sizes

The bandit of bandit.py with frozen errors. Every arm of a world sees the same prompts, and N responses to each; a seed
fixes the world and the random numbers, so that differences are paired.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openrlhf_pf.filters.draw import DRAWS

from .arms import Arm
from .measures import Floats, mean_interval, show
from .training import Luck, Policy, Settings, train
from .worlds import Worlds, stack, world

ERRORS = ("flat", "middle", "hacked")
WAYS = {"sgd": Settings(), "adam": Settings(optimizer="adam", learning_rate=0.2, whiten=True)}
#: N, each with 2 kept, and k of 16.
SAMPLES, KEPT = (3, 5, 8, 16), (2, 4, 8)
#: Steps after which policies are compared.
AT = (30, 150)
Differences = dict[str, list[list[float]]]


def none(n: int) -> Arm:
    """All N of them."""
    return Arm("none", lambda _: n)


def some(k: int) -> Arm:
    """k of them, without regard to rewards."""
    return Arm("rank_weights", lambda _: k, lambda n: {"weights": [1.0] * n})


def ends(k: int) -> Arm:
    """The best and the worst k / 2."""
    return Arm("best_worst", lambda _: k)


def values(worlds: Worlds, arms: dict[str, Arm], settings: Settings) -> dict[str, Floats]:
    """(T, B) true values of each arm at ``AT``."""
    luck = Luck.of(worlds, settings)
    runs = {name: train(Policy(worlds, settings), [arm], luck, AT)["value"] for name, arm in arms.items()}
    return {name: value.double().numpy() for name, value in runs.items()}


def less(found: dict[str, Floats], arm: str, rival: str) -> list[list[float]]:
    """An arm's value less a rival's at each of ``AT``: mean and 95% interval."""
    return [mean_interval(row) for row in found[arm] - found[rival]]


def by_samples(worlds: Worlds, settings: Settings) -> dict[str, Differences]:
    """best_worst 2 of N less its rivals, by N."""
    table = {}
    for n in SAMPLES:
        found = values(worlds, {"none": none(n), "random": some(2), "ends": ends(2)}, replace(settings, samples=n))
        table[f"2 of {n}"] = {
            "to none": less(found, "ends", "none"),
            "to random": less(found, "ends", "random"),
            "none": [mean_interval(row) for row in found["none"]],
        }
    return table


def by_kept(worlds: Worlds, settings: Settings) -> dict[str, Differences]:
    """The best and worst k of 16 less their rivals, by k."""
    settings, n = replace(settings, samples=max(SAMPLES)), max(SAMPLES)
    arms = {"none": none(n)} | {f"random {k}": some(k) for k in KEPT} | {f"ends {k}": ends(k) for k in KEPT}
    found = values(worlds, arms, settings)
    return {
        f"{k} of {n}": {
            "to none": less(found, f"ends {k}", "none"),
            "to random": less(found, f"ends {k}", f"random {k}"),
        }
        for k in KEPT
    }


def by_draw(worlds: Worlds, settings: Settings) -> dict[str, Differences]:
    """Other ways to draw 2 of 8 for best_random, less ``select``; and best_worst with the baseline of the kept, less
    that of the whole group. ``reweight`` trains on all 8.
    """
    settings = replace(settings, samples=8)
    draws = {mode: Arm("best_random", lambda _: 2, mode=mode) for mode in DRAWS}
    found = values(worlds, draws | {"group": ends(2)}, settings)
    found |= values(worlds, {"kept": ends(2)}, replace(settings, baseline="kept"))
    plain = {"best_random, resample": ("resample", "select"), "best_random, reweight": ("reweight", "select")}
    plain["best_worst, kept baseline"] = ("kept", "group")
    return {name: {"to select, group": less(found, *pair)} for name, pair in plain.items()}


def run(seeds: Sequence[int]) -> dict[str, Any]:
    """All tables, by error and optimizer."""
    results: dict[str, Any] = {}
    for error in ERRORS:
        worlds = stack([world(error, seed) for seed in seeds])
        for way, settings in WAYS.items():
            tables = (by_samples, by_kept, by_draw)
            results[f"{error}, {way}"] = {table.__name__: table(worlds, settings) for table in tables}
            print(f"{error}, {way}", flush=True)
    return results


def markdown(results: dict[str, Any]) -> str:
    """A table an error and optimizer: a row a setting, a column a rival and moment."""
    lines: list[str] = []
    for name, tables in results.items():
        for rows in tables.values():
            columns = [key for key in next(iter(rows.values())) if key.startswith("to ")]
            head = [f"{column}, {step} steps" for column in columns for step in AT]
            lines += [f"| {name} | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
            for row, cells in rows.items():
                shown = [show(cell) for column in columns for cell in cells[column]]
                lines.append(f"| {row} | " + " | ".join(shown) + " |")
            lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run, write sizes.json and sizes.md."""
    parser = argparse.ArgumentParser(prog="python -m examples.studies.beyond_language.sizes", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="worlds of each kind")
    parser.add_argument("--output", type=Path, required=True, help="folder for sizes.json and sizes.md")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors are small
    results = run(range(args.seeds))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "sizes.json").write_text(json.dumps(results))
    (args.output / "sizes.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
