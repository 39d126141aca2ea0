"""True score against distance from the first policy, arm by arm: does filtering delay over-optimisation?

python -m examples.studies.micro_code.overoptimisation --base runs/s1 --output runs/study --reward given exploit \
    --json overoptimisation.json --figure overoptimisation.svg

Trains nothing: looks at the saved policies of cells of study.py. The distance is the Kullback-Leibler
divergence of a whole response, in nats, from the SFT policy, of all responses alike; what training logs (train/kl) is
of the kept ones alone, which a filter has chosen.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.micro_code.sampling import Draw, divergence
from openrlhf_pf.reliability import svg

from .rewards import DIALS
from .study import Cells, command_line, written


def course(cells: Cells, arm: str, seed: int) -> list[dict[str, float]] | None:
    """``step``, ``kl`` and ``pass_at_1`` of a cell's saved policies, kept beside it; None if it is not there."""
    directory = cells.path(arm, seed)
    if cells.scores(arm, seed) is None:
        return None
    file = directory / "kl.json"
    if file.exists():
        return json.loads(file.read_text())
    scores = cells.steps(arm, seed)
    prompts = [task.prompt for task in cells.source.tasks("heldout")]
    tokens = cells.study.evaluation.max_new_tokens
    draws = {step: Draw(cells.policy(arm, seed, step), prompts, 2, tokens, seed) for step in scores}
    distances = divergence(list(draws.values()), cells.source.path("models", "sft"))
    found = [
        {"step": step, "kl": float(away.mean()), "pass_at_1": scores[step]} for step, away in zip(draws, distances)
    ]
    file.write_text(json.dumps(found))
    return found


def course_over_bases(bases: Sequence[Cells], arm: str, seed: int) -> dict[str, Any] | None:
    """The course of an arm over bases, and by base: mean pass@1, median distance, for one policy may go very far."""
    known = [(cells.study.seed, course(cells, arm, seed)) for cells in bases]
    known = [(base, sorted(found, key=lambda point: point["step"])) for base, found in known if found]
    if not known:
        return None
    values = {name: np.array([[point[name] for point in found] for _, found in known]) for name in known[0][1][0]}
    best = [max(found, key=lambda point: point["pass_at_1"]) for _, found in known]
    return {
        "bases": [base for base, _ in known],
        "step": values["step"][0].astype(int).tolist(),
        "kl": np.median(values["kl"], axis=0).round(3).tolist(),
        "pass_at_1": values["pass_at_1"].mean(axis=0).round(4).tolist(),
        "best_step": [int(point["step"]) for point in best],
        "by_base": {"kl": values["kl"].round(3).tolist(), "pass_at_1": values["pass_at_1"].round(4).tolist()},
    }


def figure(found: dict[str, dict[str, Any]]) -> str:
    """SVG: a panel a reward model, a line an arm, a mark a saved policy."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(svg.STYLE):
        drawn = Figure(figsize=(svg.WIDTH, 2.1 * len(found) + 0.6), layout="constrained")
        for axes, (reward, arms) in zip(np.atleast_1d(drawn.subplots(len(found))), found.items()):
            for (arm, line), colour, marker in zip(arms.items(), svg.SERIES, svg.MARKERS):
                name = arm.partition("+")[0]
                axes.plot(line["kl"], line["pass_at_1"], color=colour, marker=marker, ms=4, lw=1.2, label=name)
            axes.set_title(f"reward model: {reward}", loc="left")
            axes.set_ylabel("pass@1")
        axes.set_xlabel("KL divergence from SFT, nats a response")
        svg.legend(drawn)
        box, inside = svg.drawing(drawn, "overoptimisation")
    said = [
        f"{reward}, {arm}: " + ", ".join(f"{s:.3f} at {k:.1f}" for k, s in zip(line["kl"], line["pass_at_1"]))
        for reward, arms in found.items()
        for arm, line in arms.items()
    ]
    return svg.alone(box, inside, "pass@1 against KL divergence, by reward model and arm", "; ".join(said) + ".")


def main(argv: Sequence[str] | None = None) -> int:
    """Look and compare; 0 where there was something to look at."""
    parser = command_line("overoptimisation", __doc__, ["none", "random+updates", "best_worst+updates"])
    add = parser.add_argument
    add("--reward", nargs="+", choices=DIALS, default=["given"], help="reward models, a panel each")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="as for the study")
    add("--seed", type=int, default=1, help="of PPO")
    options = parser.parse_args(argv)
    found: dict[str, dict[str, Any]] = {}
    try:
        for reward, arm in itertools.product(options.reward, options.arms):
            bases = [Cells(base, options.output, options.set, reward) for base in options.base]
            if line := course_over_bases(bases, arm, options.seed):
                found.setdefault(reward, {})[arm] = line
                points = ", ".join(f"{s:.3f} at {k:.2f}" for k, s in zip(line["kl"], line["pass_at_1"]))
                print(f"{reward}, {arm} ({len(line['bases'])} bases): pass@1 {points}", flush=True)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not found:
        print(f"{options.output} has no cell of these.", file=sys.stderr)
        return 1
    written(options, found, lambda: figure(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
