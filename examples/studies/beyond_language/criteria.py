"""Which criterion, computed before training, predicts the order of filters after it?

python -m examples.studies.beyond_language.criteria --worlds 256 --output runs/criteria

Worlds are random: shape and size of the reward's error, frozen or fresh, offsets of prompts, start policy, N; and so
is how the policy trains. Every arm trains on every world with the same random numbers; criteria are computed on other
rollouts of the start policy, with true values, as `openrlhf_pf.cli.analyze` would have them.

Notation used for shapes: B worlds of one way of training, F arms, T moments.
"""

import argparse
import itertools
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openrlhf_pf.reliability import svg

from .arms import ARMS
from .measures import CRITERIA, mean_interval, measure, rank_correlation, regret, show
from .training import Luck, Policy, Settings, train
from .worlds import ERRORS, Worlds, stack, world

Floats = NDArray[np.float64]

#: Ways of training, and the learning rates that bring each to most of its best within 100 steps.
N_SAMPLES = (5, 8)
WAYS = {
    "tabular, sgd": Settings("tabular", "sgd", 2.0, whiten=False),
    "tabular, adam": Settings("tabular", "adam", 0.2, whiten=True),
    "shared, sgd": Settings("shared", "sgd", 0.02, whiten=False),
    "shared, adam": Settings("shared", "adam", 0.02, whiten=True),
}
BASELINES = ("group", "critic")
OPTIMIZERS = ("sgd", "adam")
#: Arms that keep as many samples, so that they differ in nothing but which.
EQUAL_K = [number for number, arm in enumerate(ARMS.values()) if arm.keep(max(N_SAMPLES)) == 2]
#: Rules that the others' regret is compared with, in pairs.
AGAINST = ("always best_worst", "binned_r2")
#: Criteria of the figure.
SHOWN = ("binned_r2", "within_r2", "gain", "gain_root_k", "cosine")
#: Steps after which policies are compared; the ones from which every arm goes on for ``AHEAD`` steps.
AT, BRANCHES, AHEAD = (25, 75, 200), (50, 150), 25
#: Followed anew every so many steps.
FOLLOWED, EVERY = ("binned_r2", "gain", "gain_root_k", "cosine"), 25
#: Rollouts of a probe: 8 x 32 prompts.
PROBE = 8


def random_world(seed: int) -> Worlds:
    """Everything about it from its seed."""
    rng = np.random.default_rng(seed)
    return world(
        rng.choice([error for error in ERRORS if error != "none"]),
        seed,
        frozen=bool(rng.random() < 0.5),
        size=float(rng.uniform(0.3, 1.5)),
        offset=float(rng.choice([0.0, 0.5, 1.0])),
        start=str(rng.choice(["uniform", "peaked", "skilled"])),
        n_contexts=100,
    )


def study(settings: Settings, seeds: Sequence[int], at: Sequence[int] = AT) -> dict[str, Any]:
    """All arms on worlds that train in one way.

    Returns:
        ``start`` (B,); ``final`` (B, T, F) true values at ``at``; ``before`` criterion to (B, F); ``followed``
        criterion to (B, T), re-estimated while training; ``branches`` step to ``{"criteria": criterion to (B, F),
        "ahead": (B, F)}``, the criteria of the unfiltered policy at that step, and what each arm makes of it.
    """
    worlds = stack([random_world(seed) for seed in seeds])
    luck = Luck.of(worlds, settings)
    probe = Luck.of(worlds, replace(settings, steps=PROBE), stream=1)
    arms = list(ARMS.values())
    runs = [train(Policy(worlds, settings), [arm], luck, [0, *at])["value"].double().numpy() for arm in arms]
    found: dict[str, Any] = {
        "start": runs[0][0],
        "final": np.stack([run[1:].T for run in runs], axis=-1),
        "before": measure(Policy(worlds, settings), probe, ARMS),
        "followed": {},
        "branches": {},
    }
    for name in FOLLOWED:

        def choose(step: int, policy: Policy, name: str = name) -> torch.Tensor | None:
            if step % EVERY:
                return None
            return torch.from_numpy(measure(policy, probe, ARMS, [name])[name].argmax(1))

        run = train(Policy(worlds, settings), arms, luck, at, choose)["value"]
        found["followed"][name] = run.double().numpy().T
    policy, last = Policy(worlds, settings), 0
    for branch in [step for step in BRANCHES if step < max(at)]:
        train(policy, [ARMS["none"]], luck, [branch], first=last)
        last = branch
        ahead = [train(policy.copy(), [arm], luck, [branch + AHEAD], first=branch)["value"][0] for arm in arms]
        found["branches"][branch] = {
            "criteria": measure(policy, probe, ARMS),
            "ahead": torch.stack(ahead, -1).double().numpy(),
        }
    return found


def joined(parts: list[Any]) -> Any:
    """Results of several studies as one, along their worlds."""
    if isinstance(parts[0], dict):
        return {key: joined([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def summary(found: dict[str, Any], at: Sequence[int] = AT) -> dict[str, Any]:
    """Spearman, regret and fading, each ``[mean, low, high]`` over worlds."""
    final, before = found["final"].transpose(1, 0, 2), found["before"]
    names = [name for name in CRITERIA if name in before]
    spearman = {name: [rank_correlation(before[name], result) for result in final] for name in names}
    always = {f"always {arm}": np.eye(len(ARMS))[[i] * len(found["start"])] for i, arm in enumerate(ARMS)}
    rules = {name: before[name] for name in names} | always
    regrets = {name: [regret(rule, result) for result in final] for name, rule in rules.items()}
    for name, values in found["followed"].items():
        regrets[f"{name}, anew every {EVERY} steps"] = [r.max(1) - v for r, v in zip(final, values.T)]

    def table(columns: dict[str, list[Floats]]) -> dict[str, list[list[float]]]:
        return {name: [mean_interval(column) for column in each] for name, each in columns.items()}

    return {
        "worlds": len(found["start"]),
        "at": list(at),
        "gain over start": {
            arm: [mean_interval(r[:, i] - found["start"]) for r in final] for i, arm in enumerate(ARMS)
        },
        "spearman": table(spearman),
        "spearman, arms of equal k": table(
            {name: [rank_correlation(before[name][:, EQUAL_K], r[:, EQUAL_K]) for r in final] for name in names}
        ),
        "spearman less that of gain": table(
            {name: [a - b for a, b in zip(spearman[name], spearman["gain"])] for name in names if name != "gain"}
        ),
        "regret": table(regrets),
        **{
            f"regret less that of {rule}": table(
                {name: [a - b for a, b in zip(regrets[name], regrets[rule])] for name in regrets}
            )
            for rule in AGAINST
        },
        "branches": {
            str(branch): {
                "at the start": {n: mean_interval(rank_correlation(before[n], b["ahead"])) for n in names},
                "anew": {n: mean_interval(rank_correlation(b["criteria"][n], b["ahead"])) for n in names},
            }
            for branch, b in found["branches"].items()
        },
    }


def run(n_worlds: int, at: Sequence[int] = AT, first_seed: int = 0, kept: Path | None = None) -> dict[str, Any]:
    """The whole study: ``all`` and each way of training; parts that lie in the folder ``kept`` are not run again."""
    by_way: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    plans = list(itertools.product(WAYS, N_SAMPLES, BASELINES))
    each = max(2, round(n_worlds / len(plans)))
    for number, (way, n_samples, baseline) in enumerate(plans):
        settings = replace(WAYS[way], samples=n_samples, baseline=baseline, steps=max(at))
        seeds = range(first_seed + number * each, first_seed + (number + 1) * each)
        name = f"{number}_seeds_{seeds.start}_{seeds.stop}_at_{'_'.join(map(str, at))}.pickle"
        file = kept / name if kept else None
        found = pickle.loads(file.read_bytes()) if file and file.exists() else study(settings, seeds, at)
        if file:
            file.write_bytes(pickle.dumps(found))
        by_way[way].append(found)
        print(f"{number + 1}/{len(plans)} {way}, N = {n_samples}, baseline {baseline}", flush=True)
    pools = {"all": list(WAYS)} | {name: [way for way in WAYS if way.endswith(name)] for name in OPTIMIZERS}
    pools |= {way: [way] for way in WAYS}
    return {
        name: summary(joined([part for way in ways for part in by_way[way]]), at)
        for name, ways in pools.items()
        if ways
    }


def tables(results: dict[str, Any]) -> str:
    """Markdown: Spearman and regret for each optimizer, and how re-estimating changes what is foreseen."""
    lines: list[str] = []
    for pool in [name for name in ("all", *OPTIMIZERS) if name in results]:
        found = results[pool]
        title = f"{pool} ({found['worlds']} worlds)"
        lines += _table(f"{title}: Spearman", found["at"], found["spearman"], 2)
        lines += _table(f"{title}: Spearman, arms of k = 2", found["at"], found["spearman, arms of equal k"], 2)
        lines += _table(f"{title}: regret", found["at"], found["regret"], 3)
        for branch, both in found["branches"].items():
            rows = {name: [both["at the start"][name], both["anew"][name]] for name in both["anew"]}
            head = f"{title}: order over {AHEAD} steps from step {branch}"
            lines += _table(head, ["estimated at the start", "anew"], rows, 2)
    ways = [way for way in results if way in WAYS]
    lines += ["| Spearman, first and last moment | " + " | ".join(ways) + " |", "|" + "---|" * (len(ways) + 1)]
    for name in results["all"]["spearman"]:
        cells = [" to ".join(f"{results[way]['spearman'][name][i][0]:+.2f}" for i in (0, -1)) for way in ways]
        lines.append(f"| {CRITERIA[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _table(title: str, columns: Sequence[Any], rows: dict[str, list[list[float]]], places: int) -> list[str]:
    head = [f"{column} steps" if isinstance(column, int) else column for column in columns]
    lines = [f"| {title} | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    for name, cells in rows.items():
        lines.append(f"| {CRITERIA.get(name, name)} | " + " | ".join(show(cell, places) for cell in cells) + " |")
    return [*lines, ""]


def figure(results: dict[str, Any]) -> str:
    """SVG: Spearman over steps, a panel an optimizer, with 95% intervals."""
    import matplotlib
    from matplotlib.figure import Figure

    pools = [name for name in OPTIMIZERS if name in results]
    with matplotlib.rc_context(svg.STYLE):
        drawn = Figure(figsize=(svg.WIDTH, 2.0 * len(pools) + 0.6), layout="constrained")
        for axes, pool in zip(np.atleast_1d(drawn.subplots(len(pools), sharex=True)), pools):
            at = np.array(results[pool]["at"], float)
            for number, (name, colour, marker) in enumerate(zip(SHOWN, svg.SERIES, svg.MARKERS)):
                mean, low, high = np.array(results[pool]["spearman"][name]).T
                shifted = at * 1.04 ** (number - 2)
                error = [mean - low, high - mean]
                axes.errorbar(shifted, mean, error, color=colour, marker=marker, ms=4, lw=1.2, label=CRITERIA[name])
            axes.set_title(f"{pool}, {results[pool]['worlds']} worlds", loc="left")
            axes.set_ylabel("Spearman")
            axes.set_ylim(-0.1, 1.0)
            axes.set_xscale("log")
            axes.set_xticks(at, [f"{step:g}" for step in at], minor=False)
            axes.minorticks_off()
        axes.set_xlabel("steps of training")
        svg.legend(drawn)
        box, inside = svg.drawing(drawn, "criteria")
    alt = "Spearman between criteria before training and the order of filters after it, over steps of training: with "
    alt += (
        "plain gradient steps the gain is ahead and fades; with Adam the cosine and the gain times the root of k are."
    )
    return svg.alone(box, inside, "Which criterion predicts the order of filters", alt)


def main(argv: list[str] | None = None) -> None:
    """Run, write criteria.json, criteria.md and criteria.svg."""
    parser = argparse.ArgumentParser(prog="python -m examples.studies.beyond_language.criteria", description=__doc__)
    parser.add_argument("--worlds", type=int, default=256, help="how many, in 16 ways of training")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first world")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of criteria.json, .md; a second run goes on"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors are small
    parts = args.output / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    results = run(args.worlds, first_seed=args.first_seed, kept=parts)
    (args.output / "criteria.json").write_text(json.dumps(results))
    (args.output / "criteria.md").write_text(tables(results) + "\n")
    (args.output / "criteria.svg").write_text(figure(results))
    print(tables(results))


if __name__ == "__main__":
    main()
