"""The results of a finished study: ``summary.json``, tables, a verdict and a figure."""

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .comparison import MEASURES, RIVALS, compare
from .phases import Run, courses, policy_scores, titles
from .sampling import bootstrap_interval

REWARD, KL = "train/rollout/reward_mean", "train/kl"
COUNTS = ("scored_per_step", "kept_per_step", "samples_in_actor_critic_reference")
COLOURS = {"unfiltered": "tab:blue", "random": "tab:orange", "ppo": "tab:green", "overoptimised": "tab:red"}


def summarise(run: Run, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return all figures of a study as plain values; ``records`` are the phases' results and seconds by name."""
    scores = np.load(run.path("scores.npz"))
    sft = scores["sft_sampled"].mean(axis=1)
    spent, by_step = courses(run), policy_scores(run)
    summary: dict[str, Any] = {
        "study": run.study.as_dict(),
        "titles": titles(run.study),
        "seconds": {name: record["seconds"] for name, record in records.items()},
        "task": records["task"]["result"],
        "pairs": records["pairs"]["result"],
        "reward_model": records["reward"]["result"],
        "reliability": records["reliability"]["result"],
        "policies": {"sft": _pass_rates(scores, "sft")},
        "comparisons": compare(spent, by_step),
    }
    start = dict.fromkeys((*MEASURES, "step"), 0) | {"pass_at_1": float(sft.mean())}
    for name, config in run.study.ppo_runs().items():
        result = records[name]["result"]
        gain = scores[f"{name}_sampled"].mean(axis=1) - sft  # the same tasks: a paired difference
        curves = result["curves"]
        points = [
            {measure: spent[name].spent(measure, step) for measure in MEASURES}
            | {"step": step, "pass_at_1": float(by_step[name, step].mean())}
            for step in sorted(step for other, step in by_step if other == name)
        ]
        summary["policies"][name] = _pass_rates(scores, name) | {
            "gain": float(gain.mean()),
            "gain_interval": bootstrap_interval(gain),
            "reward_first": _mean_of(curves[REWARD][:3]),
            "reward_last": _mean_of(curves[REWARD][-3:]),
            "kl_last": _mean_of(curves[KL][-3:]),
            "curves": {tag: curves[tag] for tag in (REWARD, KL)},
            "course": [start, *points],
            "samples_per_step": {key: result[key] for key in COUNTS},
            "steps": config.steps,
            "actor_updates": config.actor_updates(config.steps),
            "step_seconds": spent[name].step_seconds,
        }
    return summary


def _pass_rates(scores: Any, name: str) -> dict[str, Any]:
    per_task = scores[f"{name}_sampled"].mean(axis=1)
    return {
        "pass_at_1": float(per_task.mean()),
        "interval": bootstrap_interval(per_task),
        "greedy": float(scores[f"{name}_greedy"].mean()),
    }


def _mean_of(points: list) -> float:
    return float(np.mean([value for _, value in points]))


def print_tables(summary: dict[str, Any], console: Console) -> None:
    """Print a row a policy, a row a comparison, and the seconds of each phase."""
    names = summary["titles"]
    console.print(_policies(summary))
    console.print(_comparisons(summary))
    console.print(f"Reward model: {summary['reward_model']['heldout_accuracy']:.3f} of held-out pairs ranked right.")
    console.print(f"Its reliability: {summary['reliability']['recommendation']}")
    console.print(f"The whole report: {summary['reliability']['report']}", highlight=False)
    for name in [name for name in summary["policies"] if name != "sft"]:
        scored, kept, passed = (
            ", ".join(map(str, summary["policies"][name]["samples_per_step"][key])) for key in COUNTS
        )
        console.print(
            f"{names[name]}: {scored} samples scored a step, {kept} kept; forward passes of actor, critic and "
            f"reference ran on {passed}."
        )
    seconds = summary["seconds"] | {"all": sum(summary["seconds"].values())}
    table = _table("seconds", *seconds)
    table.add_row(*(f"{value:.0f}" for value in seconds.values()))
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _policies(summary: dict[str, Any]) -> Table:
    title = f"micro-code, seed {summary['study']['seed']}: {summary['task']['heldout']} held-out functions"
    headings = ("greedy", "gain over SFT [95%]", "updates", "s a step", "reward, first to last", "KL a token")
    table = _table(title, "policy", "pass@1 [95%]", *headings)
    for name, figures in summary["policies"].items():
        row = [summary["titles"][name], _with_interval(figures["pass_at_1"], figures["interval"])]
        row.append(f"{figures['greedy']:.3f}")
        if name == "sft":
            row += ["-"] * 5
        else:
            row += [_with_interval(figures["gain"], figures["gain_interval"], "+")]
            row += [str(figures["actor_updates"]), f"{figures['step_seconds']:.1f}"]
            row += [f"{figures['reward_first']:+.2f} to {figures['reward_last']:+.2f}", f"{figures['kl_last']:.3f}"]
        table.add_row(*row)
    return table


def _comparisons(summary: dict[str, Any]) -> Table:
    headings = ("at equal", "spent: its, theirs (step)", "pass@1: its, theirs", "difference [95%]")
    table = _table(f"{summary['titles']['ppo']}, at its end, against", "", *headings)
    for row in summary["comparisons"]:
        table.add_row(
            summary["titles"][row["rival"]],
            row["measure"],
            f"{row['filter_spent']:.0f}, {row['spent']:.0f} ({row['step']})",
            f"{row['filter_pass_at_1']:.3f}, {row['pass_at_1']:.3f}",
            _with_interval(row["difference"], row["interval"], "+"),
        )
    return table


def _with_interval(value: float, interval: tuple[float, float], sign: str = "") -> str:
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def _sign(interval: tuple[float, float]) -> int:
    """Return 1 or -1 where the whole interval is above or below 0, else 0."""
    return int(interval[0] > 0) - int(interval[1] < 0)


def verdict(summary: dict[str, Any]) -> str:
    """Return what PPO gained, what the filter added and saved, and over-optimisation where that was run."""
    lines = [_effect_of_ppo(summary), *(_effect_of_filter(summary, rival) for rival in RIVALS)]
    lines.append(_savings_of_filter(summary))
    if "overoptimised" in summary["policies"]:
        lines.append(_over_optimisation(summary))
    return "\n".join(lines)


def _effect_of_ppo(summary: dict[str, Any]) -> str:
    sft, ppo = summary["policies"]["sft"], summary["policies"]["unfiltered"]
    effects = {1: "[green]PPO helped[/green]", 0: "[yellow]No clear effect of PPO[/yellow]", -1: "[red]PPO hurt[/red]"}
    gain = _with_interval(ppo["pass_at_1"] - sft["pass_at_1"], ppo["gain_interval"], "+")
    return (
        f"{effects[_sign(ppo['gain_interval'])]} without a filter: pass@1 {sft['pass_at_1']:.3f} before, "
        f"{ppo['pass_at_1']:.3f} after, {gain}."
    )


def _effect_of_filter(summary: dict[str, Any], rival: str) -> str:
    effects = {1: "[green]gained[/green]", 0: "[yellow]had no clear effect[/yellow]", -1: "[red]lost[/red]"}
    parts = [
        f"at equal {row['measure']} it {effects[_sign(row['interval'])]} "
        f"({_with_interval(row['difference'], row['interval'], '+')})"
        for row in summary["comparisons"]
        if row["rival"] == rival
    ]
    return f"{summary['titles']['ppo']} against {summary['titles'][rival]}: {', '.join(parts)}."


def _savings_of_filter(summary: dict[str, Any]) -> str:
    mine, other = summary["policies"]["ppo"], summary["policies"]["unfiltered"]
    share = 1 - mine["step_seconds"] / other["step_seconds"]
    seconds = f"{abs(share):.0%} {'fewer' if share >= 0 else 'more'} seconds a step"
    rows = [row for row in summary["comparisons"] if (row["rival"], row["measure"]) == ("unfiltered", "rollouts")]
    price = {1: "and gained pass@1", 0: "with no clear loss of pass@1", -1: "and lost pass@1"}
    return (
        f"For the same rollouts it took {mine['actor_updates']} updates of the actor instead of "
        f"{other['actor_updates']} and {seconds}, {price[_sign(rows[0]['interval'])]}."
    )


def _over_optimisation(summary: dict[str, Any]) -> str:
    sft, hard = summary["policies"]["sft"], summary["policies"]["overoptimised"]
    rose, fell = hard["reward_last"] > hard["reward_first"], _sign(hard["gain_interval"]) < 0
    result = "shows over-optimisation" if rose and fell else "does not show over-optimisation here"
    return (
        f"Pushed too hard, it {result}: the reward model's reward goes from {hard['reward_first']:+.2f} to "
        f"{hard['reward_last']:+.2f}, pass@1 from {sft['pass_at_1']:.3f} to {hard['pass_at_1']:.3f}."
    )


def draw_figure(summary: dict[str, Any], path: Any) -> None:
    """Draw all runs: pass@1 over rollouts, updates and seconds, reward and KL over steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = {name: figures for name, figures in summary["policies"].items() if name != "sft"}
    figure, axes = plt.subplots(1, 5, figsize=(18, 3.6))
    labels = ("rollouts (sampled responses)", "updates of the actor", "seconds of training, start left out")
    for axis, measure, label in zip(axes, MEASURES, labels):
        for name, figures in runs.items():
            x, y = zip(*((point[measure], point["pass_at_1"]) for point in figures["course"]))
            axis.plot(x, y, marker="o", markersize=4, color=COLOURS[name], label=summary["titles"][name])
            low, high = figures["interval"]
            axis.errorbar(x[-1], y[-1], [[y[-1] - low], [high - y[-1]]], color=COLOURS[name], capsize=3)
        axis.axhline(summary["policies"]["sft"]["pass_at_1"], color="grey", linestyle="--", label="SFT")
        axis.set_xlabel(label)
    axes[0].set_ylabel("pass@1, held out")
    axes[0].legend(frameon=False, fontsize=8)
    for axis, tag, label in zip(axes[3:], (REWARD, KL), ("reward of all samples", "KL to SFT, a token, kept samples")):
        for name, figures in runs.items():
            axis.plot(*zip(*figures["curves"][tag]), color=COLOURS[name])
        axis.set_xlabel("PPO step")
        axis.set_ylabel(label)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def report(run: Run, records: dict[str, dict[str, Any]], console: Console) -> dict[str, Any]:
    """Write ``summary.json`` and ``micro_code.png``, print tables and verdict; return the summary."""
    summary = summarise(run, records)
    run.path("summary.json").write_text(json.dumps(summary, indent=1))
    draw_figure(summary, run.path("micro_code.png"))
    print_tables(summary, console)
    console.print(verdict(summary))
    console.print(f"Figure: {run.path('micro_code.png')}  figures: {run.path('summary.json')}")
    return summary
