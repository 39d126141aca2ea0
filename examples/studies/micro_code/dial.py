"""How does what a filter gives depend on the reward model, and does a criterion foresee it?

python -m examples.studies.micro_code.dial --base runs/s1 runs/s2 --output runs/study
python -m examples.studies.micro_code.dial --base runs/s1 --output runs/study --table --json FILE --figure FILE

A world is a base with one of the reward models of rewards.py, and its cells are those of study.py,
which are kept and shared. Criteria are computed before training, from samples of the SFT policy on prompts that
nothing trains on, with their true scores, as openrlhf_pf.cli.analyze would have them.

Notation used for shapes: F arms, P prompts, N samples each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.micro_code.phases import PhaseFailed, Run
from examples.micro_code.sampling import Draw, rewards_of, sample_all, score_samples
from examples.studies.beyond_language import arms as small_worlds
from examples.studies.beyond_language.measures import (
    CRITERIA,
    mean_interval,
    of_samples,
    rank_correlation,
    regret,
    show,
)
from openrlhf_pf.reliability import svg

from .arms import config_of
from .rewards import DIALS
from .study import Cells, command_line, paired_interval, written

#: Of the SFT policy for each prompt that nothing trains on: rollouts of N samples.
ROLLOUTS = 4
#: What can be computed without gradients of the policy.
FROM_SAMPLES = [name for name in CRITERIA if name not in ("slope", "cosine")]


def sampled(source: Run, samples: int) -> tuple[list[str], np.ndarray]:
    """The texts, prompt and response, of ``ROLLOUTS`` rollouts of a base's SFT policy, and their (P, N) scores."""
    tasks, config = source.reward_tasks()[1], source.study.evaluation
    draw = Draw(
        source.path("models", "sft"),
        [task.prompt for task in tasks],
        samples * ROLLOUTS,
        config.max_new_tokens,
        source.study.seed,
    )
    (responses,) = sample_all([draw])
    (scores,) = score_samples(tasks, responses)
    texts = [task.prompt + text for task, some in zip(tasks, responses) for text in some]
    return texts, scores.astype(float).reshape(-1, samples)


def before_training(bases: Sequence[Cells], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each world of one base: the criteria of arms, name to (F,), and the true score by rank of reward; kept."""
    found, texts, scores = {}, None, None
    for cells in bases:
        file = cells.output / cells.name / "criteria.json"
        kept = json.loads(file.read_text()) if file.exists() else {}
        if kept.get("arms") != list(arms):
            if texts is None or scores is None:
                texts, scores = sampled(cells.source, cells.study.ppo.samples)
            rewards = rewards_of(cells.reward_model(), texts).reshape(scores.shape)
            known = {arm: small_worlds.ARMS[arm.partition("+")[0]] for arm in arms}
            criteria = of_samples(rewards[None], scores[None], known, FROM_SAMPLES)
            by_rank = np.take_along_axis(scores, np.argsort(-rewards, axis=1, kind="stable"), axis=1).mean(axis=0)
            kept = {
                "arms": list(arms),
                "criteria": {name: values[0].tolist() for name, values in criteria.items()},
                "true_score_by_rank": by_rank.tolist(),
            }
            file.write_text(json.dumps(kept))
        found[cells.reward] = kept
    return found


def by_reward(worlds: dict[str, list[Cells]], arms: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """A row a reward model: its accuracy, and pass@1 of each arm and less the first arm, over the bases that have all
    of its cells.
    """
    rows = []
    for reward, bases in worlds.items():
        known = [cells for cells in bases if all(cells.scores(arm, seed) is not None for arm in arms)]
        if not known:
            continue
        scores = {arm: np.array([cells.scores(arm, seed) for cells in known]) for arm in arms}
        row: dict[str, Any] = {
            "reward_model": reward,
            "bases": [cells.study.seed for cells in known],
            "accuracy": [round(cells.accuracy(), 4) for cells in known],
            "pass_at_1": {arm: [round(float(x), 4) for x in scores[arm].mean(axis=1)] for arm in arms},
            "to_first": {},
        }
        for arm in arms[1:]:
            away = scores[arm] - scores[arms[0]]
            row["to_first"][arm] = [round(float(x), 4) for x in (away.mean(), *paired_interval(away))]
        rows.append(row)
    return rows


def foreseen(rows: Sequence[dict[str, Any]], before: dict[tuple[int, str], dict[str, Any]]) -> dict[str, Any]:
    """Spearman between each criterion and pass@1 over arms, and the regret of following it, or always one arm; each
    ``[mean, low, high]`` over worlds, resampled by base.
    """
    worlds = [(base, row["reward_model"]) for row in rows for base in row["bases"]]
    arms = list(rows[0]["pass_at_1"])
    final = np.array([[row["pass_at_1"][arm][i] for arm in arms] for row in rows for i in range(len(row["bases"]))])
    rules = {name: np.array([before[world]["criteria"][name] for world in worlds]) for name in FROM_SAMPLES}
    always = {f"always {arm}": np.eye(len(arms))[[i] * len(worlds)] for i, arm in enumerate(arms)}
    groups = [base for base, _ in worlds]

    def over_bases(values: np.ndarray) -> list[float]:
        # Worlds of one base share its policy and tasks.
        means = [values[[i for i, base in enumerate(groups) if base == one]].mean() for one in sorted(set(groups))]
        return mean_interval(np.array(means))

    return {
        "worlds": len(worlds),
        "spearman": {name: over_bases(rank_correlation(rule, final)) for name, rule in rules.items()},
        "regret": {name: over_bases(regret(rule, final)) for name, rule in (rules | always).items()},
    }


def tables(rows: Sequence[dict[str, Any]], found: dict[str, Any]) -> str:
    """Markdown: a row a reward model, and a row a criterion."""
    arms = list(rows[0]["pass_at_1"])
    lines = [
        "| reward model | pairs ranked right | bases | " + " | ".join(arms) + " |",
        "|---" * (3 + len(arms)) + "|",
    ]
    for row in rows:
        accuracy = f"{np.mean(row['accuracy']):.3f}"
        cells = [f"{np.mean(row['pass_at_1'][arms[0]]):.3f}", *(show(row["to_first"][arm]) for arm in arms[1:])]
        lines.append(f"| {row['reward_model']} | {accuracy} | {len(row['bases'])} | {' | '.join(cells)} |")
    lines += ["", f"| {found['worlds']} worlds | Spearman | regret |", "|---|---|---|"]
    for name, values in found["regret"].items():
        spearman = show(found["spearman"][name], 2) if name in found["spearman"] else "-"
        lines.append(f"| {CRITERIA.get(name, name)} | {spearman} | {show(values)} |")
    return "\n".join(lines)


def figure(rows: Sequence[dict[str, Any]]) -> str:
    """SVG: what each arm gains over the first, by reward model, those that rank most pairs right at the top."""
    import matplotlib

    ordered = sorted(rows, key=lambda row: np.mean(row["accuracy"]))
    arms = list(rows[0]["to_first"])
    with matplotlib.rc_context(svg.STYLE):
        drawn, axes = svg.new(1.1 + 0.42 * len(rows))
        axes.axvline(0, color=svg.LIGHT["muted"], lw=0.8)
        for number, arm in enumerate(arms):
            places = np.arange(len(ordered)) + 0.22 * ((len(arms) - 1) / 2 - number)
            mean, low, high = np.array([row["to_first"][arm] for row in ordered]).T
            axes.errorbar(
                mean,
                places,
                xerr=[mean - low, high - mean],
                fmt=svg.MARKERS[number],
                color=svg.SERIES[number],
                ms=4,
                lw=1.2,
                label=arm.partition("+")[0],
            )
        names = [f"{row['reward_model']} {np.mean(row['accuracy']):.2f}".replace("0.", ".") for row in ordered]
        axes.set_yticks(range(len(ordered)), names)
        axes.set_xlabel(f"pass@1 less {next(iter(rows[0]['pass_at_1']))}, 95% interval")
        axes.grid(axis="y", visible=False)
        svg.legend(drawn)
        box, inside = svg.drawing(drawn, "dial")
    said = [f"{row['reward_model']}: " + ", ".join(f"{a} {show(row['to_first'][a])}" for a in arms) for row in ordered]
    return svg.alone(box, inside, "pass@1 of each arm less the first, by reward model", "; ".join(said) + ".")


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing and compare; 0 when every cell ended well."""
    parser = command_line("dial", __doc__, ["none", "random+updates", "best_worst+updates"])
    add = parser.add_argument
    add("--reward", nargs="+", choices=DIALS, default=list(DIALS), help="reward models, see rewards.py")
    add("--seed", type=int, default=1, help="of PPO")
    add("--table", action="store_true", help="train nothing: compare what is there")
    options = parser.parse_args(argv)
    worlds = {name: [Cells(b, options.output, reward=name) for b in options.base] for name in options.reward}
    try:
        for arm in options.arms:
            config_of(worlds[options.reward[0]][0].study.ppo, arm)
            if arm.partition("+")[0] not in small_worlds.ARMS:
                known = ", ".join(small_worlds.ARMS)
                raise ValueError(f"there are no criteria for the arm {arm!r}: take some of {known}.")
        for bases in [] if options.table else worlds.values():
            for cells in bases:
                cells.make([(arm, options.seed) for arm in options.arms])
    except (PhaseFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    rows = by_reward(worlds, options.arms, options.seed)
    if not rows:
        print(f"{options.output} has no world with all of {', '.join(options.arms)}.", file=sys.stderr)
        return 1
    before: dict[tuple[int, str], dict[str, Any]] = {}
    for i, _ in enumerate(options.base):
        of_base = [bases[i] for bases in worlds.values()]
        finished = [
            c for c in of_base if any(c.reward == r["reward_model"] and c.study.seed in r["bases"] for r in rows)
        ]
        found = before_training(finished, options.arms) if finished else {}
        before |= {(of_base[0].study.seed, reward): values for reward, values in found.items()}
    result = foreseen(rows, before)
    ranks = {f"base{base}, {reward}": values["true_score_by_rank"] for (base, reward), values in before.items()}
    print(tables(rows, result))
    written(options, {"rewards": rows, "criteria": result, "true_score_by_rank": ranks}, lambda: figure(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
