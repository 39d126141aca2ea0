"""Filters on a contextual bandit whose reward errs: evenly, in the middle, or where the policy can exploit it.

python -m examples.studies.beyond_language.bandit --seeds 20 --output runs/bandit

A context is a patient, a market, a robot's state; an action is a treatment, a trade, a move. Errors are frozen, one a
(context, action), as a reward model errs, or fresh, drawn at every look, as a sensor errs. A seed fixes the world and
the random numbers of all arms, so that differences are paired.

Notation used for shapes: B seeds, T moments.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openrlhf_pf.reliability import svg

from .arms import ARMS
from .measures import Floats, mean_interval, show
from .training import Luck, Policy, Settings, train
from .worlds import stack, world

WORLDS = ("flat", "middle", "hacked")
EVERY = 10
#: What every arm is compared with: as many samples as k = 2, chosen without regard to rewards.
PARTNER = "random"
DRAWN = ("none", "random", "best_of_n", "best_random", "best_worst", "ranks_2_and_last")


def curves(error: str, frozen: bool, seeds: Sequence[int], settings: Settings) -> dict[str, dict[str, Floats]]:
    """Arm to ``value`` and ``reward``, (T, B) each, every ``EVERY`` steps."""
    worlds = stack([world(error, seed, frozen) for seed in seeds])
    luck, at = Luck.of(worlds, settings), range(0, settings.steps + 1, EVERY)
    runs = {name: train(Policy(worlds, settings), [arm], luck, at) for name, arm in ARMS.items()}
    return {name: {key: values.double().numpy() for key, values in run.items()} for name, run in runs.items()}


def at_reward(run: dict[str, Floats], level: Floats) -> Floats:
    """(B,) true value when the mean reward first reaches ``level`` (B,); between two moments, on a line."""
    reward, value = np.maximum.accumulate(run["reward"], axis=0), run["value"]
    return np.array([np.interp(level[b], reward[:, b], value[:, b]) for b in range(len(level))])


def summary(found: dict[str, dict[str, Floats]]) -> dict[str, Any]:
    """For each arm: true value at the end, its peak, and at the reward that all arms reach in that seed; each as
    ``[mean, low, high]``, and less that of ``PARTNER``.
    """
    level = np.min([run["reward"].max(axis=0) for run in found.values()], axis=0)
    measures = {
        arm: {"end": run["value"][-1], "peak": run["value"].max(axis=0), "at equal reward": at_reward(run, level)}
        for arm, run in found.items()
    }
    return {
        arm: {
            name: {"value": mean_interval(values), "difference": mean_interval(values - measures[PARTNER][name])}
            for name, values in mine.items()
        }
        | {"peak step": float(found[arm]["value"].mean(axis=1).argmax() * EVERY)}
        for arm, mine in measures.items()
    }


def tables(results: dict[str, Any]) -> str:
    """Markdown, a table a world."""
    lines: list[str] = []
    for name, arms in results.items():
        lines += [
            f"| {name} | end | end - {PARTNER} | peak - {PARTNER} | at equal reward - {PARTNER} |",
            "|---" * 5 + "|",
        ]
        for arm, mine in arms.items():
            cells = [f"{mine['end']['value'][0]:.3f}"]
            cells += [show(mine[measure]["difference"]) for measure in ("end", "peak", "at equal reward")]
            lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def figure(found: dict[str, dict[str, dict[str, Floats]]]) -> str:
    """SVG: true value over reward, a panel a world, means over seeds; a marker every 50 steps."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(svg.STYLE):
        drawn = Figure(figsize=(svg.WIDTH, 1.9 * len(found) + 0.6), layout="constrained")
        for axes, (name, runs) in zip(np.atleast_1d(drawn.subplots(len(found))), found.items()):
            for arm, colour, marker in zip(DRAWN, svg.SERIES, svg.MARKERS):
                reward, value = (runs[arm][key].mean(axis=1) for key in ("reward", "value"))
                places = range(0, len(reward), 5)
                axes.plot(reward, value, color=colour, marker=marker, markevery=places, ms=4, lw=1.3, label=arm)
            axes.set_title(name, loc="left")
            axes.set_ylabel("true value")
        axes.set_xlabel("mean reward reached")
        svg.legend(drawn)
        box, inside = svg.drawing(drawn, "bandit")
    alt = (
        "True value over the mean reward reached. Flat errors: all arms are near one line, best_worst gets furthest. "
    )
    alt += "Hacked: arms that keep the top rank gain reward and little value; leaving the top rank out gains both."
    return svg.alone(box, inside, "True value over reward on a bandit", alt)


def run(seeds: Sequence[int], settings: Settings | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summaries, and the curves of frozen errors, by world."""
    results, frozen_curves = {}, {}
    for error in WORLDS:
        for frozen in (True, False):
            name = f"{error}, {'frozen' if frozen else 'fresh'}"
            found = curves(error, frozen, seeds, settings or Settings())
            results[name] = summary(found)
            if frozen:
                frozen_curves[name] = found
            print(name, flush=True)
    return results, frozen_curves


def main(argv: list[str] | None = None) -> None:
    """Run, write bandit.json, bandit.md and bandit.svg."""
    parser = argparse.ArgumentParser(prog="python -m examples.studies.beyond_language.bandit", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="worlds of each kind")
    parser.add_argument("--output", type=Path, required=True, help="folder for bandit.json, bandit.md and bandit.svg")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors are small
    results, found = run(range(args.seeds))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "bandit.json").write_text(json.dumps(results))
    (args.output / "bandit.md").write_text(tables(results))
    (args.output / "bandit.svg").write_text(figure(found))
    print(tables(results))


if __name__ == "__main__":
    main()
