"""Filters on a robot whose sensor errs: CartPole, where the true return is known and the reported one is not.

python -m examples.beyond_language.cartpole --seeds 20 --output runs/cartpole

Needs gymnasium (`pip install "openrlhf-pf[examples]"`). Errors are drawn at every look, as a sensor's are: none
(``clean``, the control), in the middle of the scale (``middle``), or now and then any number at all (``dropout``).
A seed fixes the first policy, the starts and the random numbers of all arms, so that differences are paired.

Notation used for shapes: F arms, B seeds, M moments at which policies are evaluated, U updates.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openrlhf_pf.reliability import svg, within
from openrlhf_pf.reliability.data import Checkpoint

from .arms import ARMS, Arm
from .carts import SENSORS, Record, Settings, train
from .measures import Floats, mean_interval, rank_correlation, regret, show

#: Each keeps 2 of 8, but ``none`` (8) and ``max_variance`` (4); ``learned_weights`` is shown the true returns.
COMPARED: dict[str, Arm] = {
    name: ARMS[name]
    for name in ("none", "random", "best_of_n", "best_random", "best_worst", "max_variance", "ranks_2_and_last")
} | {"learned_weights": Arm("learned_weights", learns=True)}
#: What every arm is compared with: as many samples as k = 2, chosen without regard to rewards; and no filter.
PARTNER, UNFILTERED = "random", "none"
DRAWN = ("none", "random", "best_of_n", "best_random", "best_worst", "ranks_2_and_last")
#: A true return that counts as balancing.
SKILLED = 450
CRITERIA = ("gain", "gain_root_k", "signal_to_noise", "within_r2")
#: Rollouts of ``PARTNER`` that the criteria are computed from: the first so many updates, and all.
FIRST = 5


def updates_until(returns: Floats, at: Sequence[int], level: float = SKILLED) -> Floats:
    """(B,) updates until returns (M, B) first reach ``level``, on a line between moments; the last if they do not."""
    found = np.full(returns.shape[1], float(at[-1]))
    for seed, column in enumerate(returns.T):
        above = np.flatnonzero(column >= level)
        if len(above):
            first = max(above[0], 1)
            found[seed] = np.interp(level, column[first - 1 : first + 1], at[first - 1 : first + 1])
    return found


def measures_of(returns: Floats, at: Sequence[int]) -> dict[str, Floats]:
    """(B,) each, from (M, B) mean true returns of one arm."""
    return {
        "area": ((returns[:-1] + returns[1:]) / 2).mean(axis=0),
        "end": returns[-1],
        "peak": returns.max(axis=0),
        "updates": updates_until(returns, at),
        "reached": (returns.max(axis=0) >= SKILLED).astype(float),
    }


def summary(record: Record, settings: Settings) -> dict[str, Any]:
    """Each arm's measures as ``[mean, low, high]``, less those of ``PARTNER``, and what criteria foretell."""
    at, n = list(settings.at), settings.samples
    curves = record.returns.double().numpy()
    found = {arm: measures_of(curves[number], at) for number, arm in enumerate(COMPARED)}
    arms = {
        arm: {
            name: {"value": mean_interval(values), "difference": mean_interval(values - found[PARTNER][name])}
            for name, values in mine.items()
        }
        | {
            "rollouts": mean_interval(mine["updates"] * settings.starts * (COMPARED[arm].keep(n) or n)),
            "area less none's": mean_interval(mine["area"] - found[UNFILTERED]["area"]),
            "areas": [round(float(area), 1) for area in mine["area"]],
            "curve": [round(float(value), 1) for value in curves[number].mean(axis=1)],
            "left its start": round(float(record.learned[number].float().mean()), 3),
        }
        for number, (arm, mine) in enumerate(found.items())
    }
    return {"at": at, "arms": arms, "criteria": foresight(record, found)}


def foresight(record: Record, found: dict[str, dict[str, Floats]]) -> dict[str, Any]:
    """How well criteria of ``PARTNER``'s rollouts tell the order of the fixed arms' areas, per seed.

    Returns:
        ``first updates`` and ``all updates``, each criterion to its Spearman and regret, ``[mean, low, high]``.
    """
    names = [arm for arm in COMPARED if not COMPARED[arm].learns]
    area = np.stack([found[arm]["area"] for arm in names], axis=1)  # (B, F)
    mine = list(COMPARED).index(PARTNER)
    result: dict[str, Any] = {}
    for when, part in (("first updates", slice(FIRST)), ("all updates", slice(None))):
        criteria = criteria_of(record.rewards[part, mine], record.shares[part, mine], [COMPARED[arm] for arm in names])
        result[when] = {
            name: {
                "spearman": mean_interval(rank_correlation(values, area)),
                "regret": mean_interval(regret(values, area)),
                "names": names[int(values.mean(axis=0).argmax())],
            }
            for name, values in criteria.items()
        }
    return result


def criteria_of(rewards: Tensor, shares: Tensor, arms: Sequence[Arm]) -> dict[str, Floats]:
    """(B, F) each of ``CRITERIA``, from what was seen: (U, B, G, N) rewards and true returns."""
    n_updates, n_seeds, n_starts, n_samples = rewards.shape
    reward, share = (x.transpose(0, 1).reshape(-1, n_samples).double() for x in (rewards, shares))
    away = within.deviations_of(Checkpoint("seen", reward.numpy(), share.numpy(), np.arange(len(reward))))
    found: dict[str, list[Floats]] = {name: [] for name in CRITERIA}
    for arm in arms:
        keep = arm.keep(n_samples) or n_samples
        # Groups without two known samples would drop out; here every sample has both numbers.
        sums = within.sums_of(arm.build(n_samples)[0](reward).numpy(), away)
        numbers = within.metrics_of(sums.reshape(-1, n_seeds, n_updates * n_starts).sum(-1).T, keep)
        numbers["gain_root_k"] = numbers["gain"] * keep**0.5
        for name in CRITERIA:
            found[name].append(np.nan_to_num(numbers[name]))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def tables(results: dict[str, Any]) -> str:
    """Markdown: a table a sensor, then the criteria."""
    lines: list[str] = []
    for sensor, found in results.items():
        head = (
            sensor,
            "end",
            f"reached {SKILLED}",
            f"rollouts trained on until {SKILLED}",
            f"area - {PARTNER}",
            f"area - {UNFILTERED}",
            f"updates to {SKILLED} - {PARTNER}",
        )
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for arm, mine in found["arms"].items():
            reached = mine["reached"]["value"][0]
            cells = [f"{mine['end']['value'][0]:.0f}", f"{reached:.0%}"]
            cells += [f"{'' if reached == 1 else 'over '}{mine['rollouts'][0]:.0f}"]
            differences = (mine["area"]["difference"], mine["area less none's"], mine["updates"]["difference"])
            cells += [show(difference, 1) for difference in differences]
            lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["| criterion | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for when in ("first updates", "all updates"):
        for name in CRITERIA:
            found = [results[sensor]["criteria"][when][name] for sensor in results]
            cells = [f"{show(each['spearman'], 2)}, `{each['names']}`" for each in found]
            lines.append(f"| {name}, {when} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(results: dict[str, Any]) -> str:
    """SVG: mean true return over updates, a panel a sensor."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(svg.STYLE):
        drawn = Figure(figsize=(svg.WIDTH, 1.9 * len(results) + 0.6), layout="constrained")
        for axes, (sensor, found) in zip(np.atleast_1d(drawn.subplots(len(results), sharex=True)), results.items()):
            for arm, colour, marker in zip(DRAWN, svg.SERIES, svg.MARKERS):
                curve = found["arms"][arm]["curve"]
                axes.plot(found["at"], curve, color=colour, marker=marker, ms=4, lw=1.3, label=arm)
            axes.set_title(sensor, loc="left")
            axes.set_ylabel("true return")
        axes.set_xlabel("updates")
        svg.legend(drawn)
        box, inside = svg.drawing(drawn, "cartpole")
    alt = "Mean true return over updates on CartPole, by filter: " + "; ".join(
        f"{sensor}, at the end " + ", ".join(f"{arm} {found['arms'][arm]['curve'][-1]:.0f}" for arm in DRAWN)
        for sensor, found in results.items()
    )
    return svg.alone(box, inside, "True return over updates on CartPole", alt + ".")


def run(seeds: Sequence[int], settings: Settings | None = None) -> dict[str, Any]:
    """Summaries by sensor."""
    settings, results = settings or Settings(), {}
    for sensor in SENSORS:
        results[sensor] = summary(train(sensor, list(COMPARED.values()), seeds, settings), settings)
        print(sensor, flush=True)
    return results


def main(argv: list[str] | None = None) -> None:
    """Run, write cartpole.json, cartpole.md and cartpole.svg."""
    parser = argparse.ArgumentParser(prog="python -m examples.beyond_language.cartpole", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="policies of each arm, at least 2")
    parser.add_argument("--updates", type=int, default=60, help="of each policy, a multiple of 5")
    parser.add_argument("--output", type=Path, required=True, help="folder for cartpole.json, .md and .svg")
    args = parser.parse_args(argv)
    if args.seeds < 2:
        parser.error(f"--seeds {args.seeds} leaves no interval: give at least 2.")
    if args.updates < Settings.every or args.updates % Settings.every:
        parser.error(f"--updates {args.updates}: policies are evaluated every 5 updates, give a multiple of 5.")
    torch.set_num_threads(1)  # tensors are small
    args.output.mkdir(parents=True, exist_ok=True)
    results = run(range(args.seeds), Settings(updates=args.updates))
    (args.output / "cartpole.json").write_text(json.dumps(results))
    (args.output / "cartpole.md").write_text(tables(results))
    (args.output / "cartpole.svg").write_text(figure(results))
    print(tables(results))


if __name__ == "__main__":
    main()
