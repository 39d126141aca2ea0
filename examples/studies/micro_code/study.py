"""Many PPO runs, arm by arm and seed by seed, from the policies and reward models of finished studies: what pays?

python -m examples.studies.micro_code.study --base runs/study_base --output runs/study --arms none random best_worst
python -m examples.studies.micro_code.study --base runs/s1 runs/s2 --output runs/study --table --json study.json

A BASE is the run directory of a study that has a reward model (examples.micro_code.run --until reward, or further). A
cell is an arm with a base, a reward model and a PPO seed, trained once and kept under its settings. The cells of a
base share one Ray. ``--reward`` takes another reward model than the base's: one that is trained on pairs which
rewards.py has corrupted. The table compares each arm with the first one, paired over bases, seeds and held-out tasks.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.micro_code import commands
from examples.micro_code.config import (
    EvaluationConfig,
    ModelConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
    Study,
    TaskConfig,
    override,
)
from examples.micro_code.one_ray import OneRay
from examples.micro_code.phases import PhaseFailed, Run, _read_rows, _train, _write_rows, finish_reward_model, scalars
from examples.micro_code.sampling import Draw, sample_all, score_samples
from examples.micro_code.tasks import Task

from .arms import ARMS, config_of, episodes, probe_flags
from .baselines import BASELINES, Baseline, baseline_of
from .baselines import train as train_baseline
from .rewards import DIALS, turned
from .study_figure import forest

PROBE = 64  # prompts


def study_of(directory: Path) -> Study:
    """The study of a run directory."""
    stored = json.loads((directory / "study.json").read_text())

    def build(cls: type, values: dict[str, Any]) -> Any:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})

    parts = {"task": TaskConfig, "model": ModelConfig, "sft": SFTConfig, "reward": RewardConfig}
    parts |= {"ppo": PPOConfig, "evaluation": EvaluationConfig}
    return Study(seed=stored["seed"], **{name: build(cls, stored[name]) for name, cls in parts.items()})


def rows_of(tasks: Sequence[Task]) -> list[dict[str, str]]:
    """Rows of a data set of prompts whose labels hold what the true score needs."""
    return [{"input": t.prompt, "label": json.dumps({"solution": t.solution, "kind": t.kind})} for t in tasks]


class Cells:
    """The cells of one base and one reward model, kept in a directory."""

    def __init__(
        self,
        base: Path,
        output: Path,
        changes: Sequence[str] = (),
        reward: str = "given",
        validation: bool = False,
    ) -> None:
        self.base, self.output, self.reward = base.resolve(), output.resolve(), reward
        #: Score on the prompts that nothing trains on, for choosing settings, instead of on the held-out tasks.
        self.validation, self.file = validation, "validation.npz" if validation else "scores.npz"
        self.study = override(study_of(self.base), changes)
        self.run = Run(self.study, self.output, OneRay())
        self.source = Run(self.study, self.base)
        self.name = f"base{self.study.seed}" + (f"-{reward}" if reward != "given" else "")

    def settings(self, arm: str, seed: int) -> dict[str, Any]:
        """Everything that decides a cell."""
        whole = self.study.as_dict()
        others = {name: whole[name] for name in ("seed", "task", "model", "sft", "reward", "evaluation")}
        turned = {"reward_model": self.reward} if self.reward != "given" else {}
        how = self.how(arm)
        if isinstance(how, PPOConfig):
            # A reward function of the examples is the same one in another checkout.
            how = replace(how, flags=tuple(Path(f).name if f.endswith(".py") else f for f in how.flags))
        kind = "ppo" if isinstance(how, PPOConfig) else "baseline"
        return {"base": others, kind: asdict(how), "ppo_seed": seed} | turned

    def how(self, arm: str) -> PPOConfig | Baseline:
        """The settings of an arm.

        Raises:
            ValueError: there is no such arm, or no such variant of it.
        """
        return baseline_of(arm) or config_of(self.study.ppo, arm)

    def path(self, arm: str, seed: int) -> Path:
        """Where a cell is kept."""
        text = json.dumps(self.settings(arm, seed), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return self.output / self.name / f"{arm}-s{seed}-{digest}"

    def reward_model(self) -> Path:
        """The reward model, trained unless it is there, with its accuracy beside it."""
        if self.reward == "given":
            return self.source.path("models", "reward")
        output = self.output / self.name / "reward"
        if not (output / "accuracy.json").exists():
            pairs = self.output / self.name / "pairs.jsonl"
            _write_rows(
                pairs, turned(_read_rows(self.source.path("data", "pairs.jsonl")), self.reward, self.study.seed)
            )
            held = self.source.path("data", "eval_pairs.jsonl")
            command = commands.reward_model(self.study, self.source.path("models", "sft"), pairs, held, output)
            shutil.rmtree(output, ignore_errors=True)
            _train(self.run, f"{self.name}-reward", command, commands.single_process())
            (output / "accuracy.json").write_text(json.dumps(finish_reward_model(output)))
        return output

    def accuracy(self) -> float:
        """The share of the study's held-out pairs that the reward model ranks right."""
        if self.reward == "given":
            return json.loads(self.source.path("phases", "reward.json").read_text())["result"]["heldout_accuracy"]
        return json.loads((self.output / self.name / "reward" / "accuracy.json").read_text())["heldout_accuracy"]

    def train(self, arm: str, seed: int) -> None:
        """Train a cell unless it is there."""
        directory = self.path(arm, seed)
        if (directory / "curves.json").exists():
            return
        tasks, held = self.source.reward_tasks()
        rng = np.random.default_rng([7, seed])  # other prompts for each seed, the same for all arms
        order = rng.permutation(len(tasks))
        policy, reward = self.source.path("models", "sft"), self.reward_model()
        study = replace(self.study, seed=seed)
        config = self.how(arm)
        if isinstance(config, Baseline):
            chosen = [tasks[order[i % len(tasks)]] for i in range(config.prompts)]
            name = f"{self.name}-{arm}-s{seed}"
            train_baseline(config, replace(self.run, study=study), name, (policy, reward), chosen, directory)
            self._keep(arm, seed)
            return
        needed = config.steps * config.rollout_prompts // episodes(config)
        chosen = [tasks[order[i % len(tasks)]] for i in range(needed)]
        prompts, probe = directory / "prompts.jsonl", directory / "probe.jsonl"
        _write_rows(prompts, rows_of(chosen))
        _write_rows(probe, rows_of(held[:PROBE]))
        asked = replace(config, flags=config.flags + probe_flags(config, probe))
        command = commands.ppo(study, asked, policy, reward, prompts, directory / "model")
        _train(self.run, f"{self.name}-{arm}-s{seed}", command)
        self._keep(arm, seed)

    def _keep(self, arm: str, seed: int) -> None:
        """Note that a cell is trained."""
        directory = self.path(arm, seed)
        (directory / "settings.json").write_text(json.dumps(self.settings(arm, seed)))
        (directory / "curves.json").write_text(json.dumps(scalars(directory / "model" / "tensorboard")))

    def evaluate(self, cells: Sequence[tuple[str, int]]) -> None:
        """Score every trained cell's saved policies on the held-out tasks, or on those of ``validation``, unless that
        is there.
        """
        config = self.study.evaluation
        tasks = self.source.reward_tasks()[1] if self.validation else self.source.tasks("heldout")
        prompts = [task.prompt for task in tasks]
        draws: dict[tuple[Path, int], Draw] = {}
        for arm, seed in cells:
            directory = self.path(arm, seed)
            if (directory / self.file).exists():
                continue
            how = self.how(arm)
            for step in {how.steps} if self.validation else {*how.saved_steps(), how.steps}:
                model = self.policy(arm, seed, step)
                if not model.exists():
                    continue  # dynamic filtering makes fewer steps of as many prompts
                samples = config.samples if step == how.steps else config.checkpoint_samples
                draws[directory, step] = Draw(model, prompts, samples, config.max_new_tokens, seed)
        found = dict(zip(draws, score_samples(tasks, *sample_all(list(draws.values()))))) if draws else {}
        for directory in dict.fromkeys(directory for directory, _ in found):
            steps = {str(step): scores for (d, step), scores in found.items() if d == directory}
            np.savez_compressed(directory / self.file, **steps)

    def policy(self, arm: str, seed: int, step: int) -> Path:
        """Where a cell's policy of a saved step is."""
        last = step == self.how(arm).steps
        return self.path(arm, seed) / "model" / ("final" if last else f"checkpoints/global_step{step}_hf")

    def updates(self, arm: str) -> int:
        """Optimizer steps of a whole cell."""
        how = self.how(arm)
        return how.actor_updates(how.steps)

    def make(self, cells: Sequence[tuple[str, int]]) -> None:
        """Train and evaluate cells, each an arm and a seed; on SIGTERM what they run on ends with them."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception
        try:
            for arm, seed in cells:
                self.train(arm, seed)
                print(f"{self.name}, {arm}, seed {seed}: trained", flush=True)
        finally:
            self.run.one_ray.close()
        self.evaluate(cells)

    def scores(self, arm: str, seed: int, step: int | None = None) -> np.ndarray | None:
        """(tasks,) share of samples that pass at the end, or after ``step``; None where it is not there."""
        file = self.path(arm, seed) / self.file
        if not file.exists():
            return None
        found = np.load(file)
        return found[max(found.files, key=int) if step is None else str(step)].mean(axis=1)

    def step_of(self, arm: str, updates: int) -> int:
        """The saved step at which an arm comes nearest to so many optimizer steps."""
        how = self.how(arm)
        return min((*how.saved_steps(), how.steps), key=lambda step: abs(how.actor_updates(step) - updates))

    def steps(self, arm: str, seed: int) -> dict[int, float]:
        """pass@1 at each saved step of a cell that is there."""
        found = np.load(self.path(arm, seed) / self.file)
        return {int(step): float(found[step].mean()) for step in sorted(found.files, key=int)}


def paired_interval(
    differences: np.ndarray, groups: Sequence[Any] | None = None, draws: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """95% interval of the mean of (rows, tasks) differences, resampling rows and tasks; NaN where there is none.

    ``groups``, of (rows,), says which rows share something, such as a policy and a reward model: groups are resampled,
    and rows within them, so that many rows of few groups do not pass for many groups.
    """
    rng = np.random.default_rng(seed)
    n_rows, n_tasks = differences.shape
    members = [np.arange(n_rows)]
    if groups is not None and len(set(groups)) > 1:
        members = [np.array([i for i, g in enumerate(groups) if g == one]) for one in dict.fromkeys(groups)]
    means = np.empty(draws)
    for i in range(draws):
        taken = [members[g] for g in rng.integers(0, len(members), len(members))]
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in taken])
        means[i] = np.nanmean(differences[rows][:, rng.integers(0, n_tasks, n_tasks)])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


CURVES = {"kl": "train/kl", "grad_norm": "train/actor_grad_norm"}
#: Means over a run: of these prompts taken, how many had both right and wrong answers; seconds a step.
MEANS = {"informative": "train/selection/informative", "step_seconds": "train/timing/step_total"}


def table(bases: Sequence[Cells], arms: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row an arm: pass@1, its difference to the first arm, at the end and at the first arm's saved step of about as
    many updates (``_then``), KL, updates; over the cells that both have.
    """
    rows = []
    for arm in arms:
        cells = [(cells, seed) for cells in bases for seed in seeds]
        both = [(c, s) for c, s in cells if c.scores(arm, s) is not None and c.scores(arms[0], s) is not None]
        if not both:
            continue
        mine = np.array([c.scores(arm, s) for c, s in both])
        step = bases[0].step_of(arms[0], bases[0].updates(arm))
        away, at_updates = (mine - np.array([c.scores(arms[0], s, at) for c, s in both]) for at in (None, step))
        studies = [cells.base for cells, _ in both]
        curves = [json.loads((c.path(arm, s) / "curves.json").read_text()) for c, s in both]
        rows.append(
            {
                "arm": arm,
                "cells": len(both),
                "pass_at_1": float(mine.mean()),
                "by_cell": [round(float(x), 4) for x in mine.mean(axis=1)],
                "by_step": _by_step([c.steps(arm, s) for c, s in both]),
                "difference": float(away.mean()),
                "interval": paired_interval(away, studies),
                "updates": bases[0].updates(arm),
                "to_first_after_step": step,
                "difference_then": float(at_updates.mean()),
                "interval_then": paired_interval(at_updates, studies),
            }
            | {key: _last(curves, tag) for key, tag in CURVES.items()}
            | {key: _last(curves, tag, points=0) for key, tag in MEANS.items()}
        )
    return rows


def _by_step(cells: Sequence[dict[int, float]]) -> dict[int, float]:
    shared = sorted(set.intersection(*(set(steps) for steps in cells)))
    return {step: round(float(np.mean([steps[step] for steps in cells])), 4) for step in shared}


def _last(curves: list[dict[str, list]], tag: str, points: int = 3) -> float | None:
    """The mean over the last points of a curve, or over all where ``points`` is 0."""
    values = [np.mean([v for _, v in c[tag][-points:]]) for c in curves if c.get(tag)]
    return round(float(np.mean(values)), 4) if values else None


def command_line(name: str, about: str | None, arms: Sequence[str]) -> argparse.ArgumentParser:
    """What the commands have in common that look at cells; ``arms`` is the default of ``--arms``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.studies.micro_code.{name}",
        description=about,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--base", type=Path, nargs="+", required=True, help="run directories with a policy and a reward model")
    add("--output", type=Path, required=True, help="where cells are kept; all these commands share them")
    add("--arms", nargs="+", default=list(arms), help=f"of {', '.join([*ARMS, *BASELINES])}, with +variants")
    add("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    add("--figure", type=Path, metavar="FILE", help="draw them there, as SVG")
    return parser


def written(options: argparse.Namespace, numbers: Any, drawing: Callable[[], str]) -> None:
    """Do what ``--json`` and ``--figure`` ask for."""
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    if options.figure:
        options.figure.write_text(drawing())


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate and compare; 0 when every cell ended well."""
    parser = command_line("study", __doc__, ["none", "random", "best_worst"])
    add = parser.add_argument
    add("--reward", choices=DIALS, default="given", help="the reward model of every cell, see rewards.py")
    add("--validation", action="store_true", help="score on prompts that nothing trains on, to choose settings by")
    add("--seeds", nargs="+", type=int, default=[1], help="of PPO, on every base")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="as for run")
    add("--table", action="store_true", help="train nothing: compare what is there")
    options = parser.parse_args(argv)
    bases = [Cells(base, options.output, options.set, options.reward, options.validation) for base in options.base]
    wanted = [(arm, seed) for seed in options.seeds for arm in options.arms]
    try:
        for arm, _ in wanted:
            bases[0].how(arm)
        for cells in [] if options.table else bases:
            cells.make(wanted)
    except (PhaseFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    rows = table(bases, options.arms, options.seeds)
    for row in rows:
        print(json.dumps(row))
    written(options, rows, lambda: forest(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
