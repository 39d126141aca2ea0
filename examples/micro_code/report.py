"""What a finished study says: ``summary.json``, a table, a verdict and one figure."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .phases import Run
from .sampling import bootstrap_interval

TITLES = {"sft": "SFT", "ppo": "PF-PPO", "overoptimised": "PF-PPO pushed too hard"}
REWARD, KEPT, KL = "train/rollout/reward_mean", "train/filter/kept_reward_mean", "train/kl"


def summarise(run: Run, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All figures of a study as plain values; ``records`` are the phases' results and seconds by name."""
    scores = np.load(run.path("scores.npz"))
    sft = scores["sft_sampled"].mean(axis=1)
    summary: dict[str, Any] = {
        "study": run.study.as_dict(),
        "seconds": {name: record["seconds"] for name, record in records.items()},
        "task": records["task"]["result"],
        "pairs": records["pairs"]["result"],
        "reward_model": records["reward"]["result"],
        "reliability": records["reliability"]["result"],
        "policies": {"sft": _pass_rates(scores, "sft")},
    }
    for name, config in run.study.ppo_runs().items():
        result = records[name]["result"]
        tuned = scores[f"{name}_sampled"].mean(axis=1)
        gain = tuned - sft  # the same tasks: a paired difference
        curves = result["curves"]
        summary["policies"][name] = _pass_rates(scores, name) | {
            "gain": float(gain.mean()),
            "gain_interval": bootstrap_interval(gain),
            "reward_first": _mean_of(curves[REWARD][:3]),
            "reward_last": _mean_of(curves[REWARD][-3:]),
            "kl_last": _mean_of(curves[KL][-3:]),
            "curves": {tag: curves[tag] for tag in (REWARD, KEPT, KL) if tag in curves},
            "pass_at_1_over_steps": records["evaluate"]["result"]["checkpoints"][name],
            "seconds_per_step": {
                part: _mean_of(curves[f"train/timing/{part}"][1:])
                for part in ("generation", "make_experience", "ppo_train", "broadcast")
                if f"train/timing/{part}" in curves
            },
            "samples_per_step": {
                k: result[k] for k in ("scored_per_step", "kept_per_step", "samples_in_actor_critic_reference")
            },
            "steps": config.steps,
        }
    return summary


def _pass_rates(scores: Any, name: str) -> dict[str, Any]:
    per_task = scores[f"{name}_sampled"].mean(axis=1)
    greedy = scores[f"{name}_greedy"].astype(float)
    return {
        "pass_at_1": float(per_task.mean()),
        "interval": bootstrap_interval(per_task),
        "greedy": float(greedy.mean()),
        "greedy_interval": bootstrap_interval(greedy),
    }


def _mean_of(points: list) -> float:
    return float(np.mean([value for _, value in points]))


def print_table(summary: dict[str, Any], console: Console) -> None:
    """The result table: one row per policy, and the seconds of each phase."""
    table = Table(
        title=f"micro-code, seed {summary['study']['seed']}: {summary['task']['heldout']} held-out functions"
    )
    for heading in (
        "policy",
        "pass@1 [95%]",
        "greedy pass@1",
        "gain over SFT [95%]",
        "reward, first to last",
        "KL a token",
    ):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, figures in summary["policies"].items():
        row = [TITLES[name], _with_interval(figures["pass_at_1"], figures["interval"]), f"{figures['greedy']:.3f}"]
        if name == "sft":
            row += ["-", "-", "-"]
        else:
            row += [_with_interval(figures["gain"], figures["gain_interval"], "+")]
            row += [f"{figures['reward_first']:+.2f} to {figures['reward_last']:+.2f}", f"{figures['kl_last']:.3f}"]
        table.add_row(*row)
    console.print(table)
    console.print(f"Reward model: {summary['reward_model']['heldout_accuracy']:.3f} of held-out pairs ranked right.")
    console.print(f"Its reliability: {summary['reliability']['recommendation']}")
    console.print(f"The whole report: {summary['reliability']['report']}", highlight=False)
    for name in [name for name in summary["policies"] if name != "sft"]:
        per_step = summary["policies"][name]["samples_per_step"]
        text = {key: ", ".join(map(str, values)) for key, values in per_step.items()}
        console.print(
            f"{TITLES[name]}: {text['scored_per_step']} samples scored a step, {text['kept_per_step']} kept; forward "
            f"passes of actor, critic and reference ran on {text['samples_in_actor_critic_reference']}."
        )
    seconds = Table(title="seconds")
    for name in summary["seconds"]:
        seconds.add_column(name, justify="right")
    seconds.add_column("all", justify="right")
    values = list(summary["seconds"].values())
    seconds.add_row(*(f"{value:.0f}" for value in [*values, sum(values)]))
    console.print(seconds)


def _with_interval(value: float, interval: tuple[float, float], sign: str = "") -> str:
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def verdict(summary: dict[str, Any]) -> str:
    """One sentence on whether PF-PPO helped, and one on over-optimisation where that was run."""
    ppo, sft = summary["policies"]["ppo"], summary["policies"]["sft"]
    low, high = ppo["gain_interval"]
    change = f"pass@1 {sft['pass_at_1']:.3f} before, {ppo['pass_at_1']:.3f} after"
    if low > 0:
        text = f"[green]PF-PPO helped[/green]: {change}, and the 95% interval of the gain is above 0."
    elif high < 0:
        text = f"[red]PF-PPO hurt[/red]: {change}, and the 95% interval of the gain is below 0."
    else:
        text = f"[yellow]No clear effect of PF-PPO[/yellow]: {change}, and the 95% interval of the gain holds 0."
    hard = summary["policies"].get("overoptimised")
    if hard:
        rose, fell = hard["reward_last"] > hard["reward_first"], hard["gain_interval"][1] < 0
        what = "shows over-optimisation" if rose and fell else "does not show over-optimisation here"
        text += (
            f"\nPushed too hard, it {what}: the reward model's reward goes from {hard['reward_first']:+.2f} to "
            f"{hard['reward_last']:+.2f}, pass@1 from {sft['pass_at_1']:.3f} to {hard['pass_at_1']:.3f}."
        )
    return text


def draw_figure(summary: dict[str, Any], path: Any) -> None:
    """Reward of all and of kept samples, the true score and the KL over steps; one column per PPO run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in summary["policies"] if name != "sft"]
    figure, axes = plt.subplots(
        3, len(names), figsize=(5.2 * len(names), 7.2), sharex="col", sharey="row", squeeze=False
    )
    for column, name in enumerate(names):
        policy = summary["policies"][name]
        reward_axis, score_axis, kl_axis = axes[:, column]
        reward_axis.set_title(TITLES[name])
        reward_axis.plot(*zip(*policy["curves"][REWARD]), color="tab:blue", label="all samples")
        if KEPT in policy["curves"]:
            reward_axis.plot(*zip(*policy["curves"][KEPT]), color="tab:orange", label="kept samples")
        reward_axis.legend(frameon=False)
        score_axis.plot(*zip(*policy["pass_at_1_over_steps"]), color="tab:green", marker="o")
        low, high = policy["interval"]
        score_axis.errorbar(
            policy["steps"],
            policy["pass_at_1"],
            [[policy["pass_at_1"] - low], [high - policy["pass_at_1"]]],
            color="tab:green",
            capsize=3,
        )
        score_axis.axhline(summary["policies"]["sft"]["pass_at_1"], color="grey", linestyle="--", label="SFT")
        score_axis.legend(frameon=False)
        kl_axis.plot(*zip(*policy["curves"][KL]), color="tab:red")
        kl_axis.set_xlabel("PPO step")
    for axis, label in zip(
        axes[:, 0], ("reward (reward model)", "true score (pass@1, held out)", "KL to SFT, a token")
    ):
        axis.set_ylabel(label)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(run: Run, records: dict[str, dict[str, Any]], console: Console) -> dict[str, Any]:
    """Writes ``summary.json`` and ``micro_code.png`` into the run directory and prints table and verdict."""
    summary = summarise(run, records)
    run.path("summary.json").write_text(json.dumps(summary, indent=1))
    draw_figure(summary, run.path("micro_code.png"))
    print_table(summary, console)
    console.print(verdict(summary))
    console.print(f"Figure: {run.path('micro_code.png')}  figures: {run.path('summary.json')}")
    return summary
