"""Train PPO runs, arm by arm and seed by seed, from the policies and reward models of finished studies, and compare.

python -m examples.studies.micro_code.runs --base runs/study_base --output runs/study --arms none random best_worst
python -m examples.studies.micro_code.runs --base runs/s1 runs/s2 --output runs/study --table --json study.json

A BASE is the run directory of a study that has a reward model (examples.micro_code.run --until reward, or further).
A run is an arm with a base, a reward model and a PPO seed; it is trained once and kept under its settings. The runs of
a base share one Ray. ``--reward`` trains a reward model on pairs that rewards.py has changed. The table compares each
arm with the first one, paired over bases, seeds and held-out tasks.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.micro_code import commands
from examples.micro_code.config import PPOConfig, Study
from examples.micro_code.one_ray import OneRay
from examples.micro_code.phases import (
    PhaseFailed,
    Run,
    finish_reward_model,
    labelled_rows,
    read_rows,
    scalars,
    train_in_process,
    train_on_ray,
    write_rows,
)
from examples.micro_code.sampling import Draw, sample_all, score_samples
from examples.studies.tables import paired_interval

from .arms import ARMS, config_of, episodes, probe_flags
from .rewards import change_pairs

PROBE = 64  # prompts


def study_of(directory: Path) -> Study:
    """Return the study of a run directory."""
    stored = json.loads((directory / "study.json").read_text())

    def build(default: Any, values: dict[str, Any]) -> Any:
        known = {f.name for f in dataclasses.fields(default)}
        return replace(default, **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})

    groups = ("task", "model", "sft", "reward", "ppo", "evaluation")
    study = Study(seed=stored["seed"])
    return replace(study, **{name: build(getattr(study, name), stored[name]) for name in groups})


class Runs:
    """The runs of one base and one reward model, kept in a directory."""

    def __init__(self, base: Path, output: Path, reward: str = "given") -> None:
        self.base, self.output, self.reward = base.resolve(), output.resolve(), reward
        self.study = study_of(self.base)
        self.run = Run(self.study, self.output, OneRay())
        self.source = Run(self.study, self.base)
        self.name = f"base{self.study.seed}" + (f"-{reward}" if reward != "given" else "")
        self.name = self.name.replace("@", "-labels")  # OpenRLHF splits the names of data sets at it

    def settings(self, arm: str, seed: int) -> dict[str, Any]:
        """Return everything that decides a run."""
        whole = self.study.as_dict()
        others = {name: whole[name] for name in ("seed", "task", "model", "sft", "reward", "evaluation")}
        values = asdict(self.config(arm))
        # A file of the examples is the same one in another checkout.
        values["flags"] = [Path(flag).name if flag.endswith(".py") else flag for flag in values["flags"]]
        values["sample_filter"] = Path(values["sample_filter"]).name
        return {"base": others, "ppo": values, "ppo_seed": seed, "reward_model": self.reward}

    def config(self, arm: str) -> PPOConfig:
        """Return the settings of an arm."""
        return config_of(self.study.ppo, arm)

    def path(self, arm: str, seed: int) -> Path:
        """Return where a run is kept."""
        text = json.dumps(self.settings(arm, seed), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return self.output / self.name / f"{arm}-s{seed}-{digest}"

    def reward_model(self) -> Path:
        """Return the reward model, which is trained unless it is there, with its accuracy next to it."""
        if self.reward == "given":
            return self.source.path("models", "reward")
        output = self.output / self.name / "reward"
        if "@" in self.reward:
            return self._corrected_before(output)
        if not (output / "accuracy.json").exists():
            pairs = self.output / self.name / "pairs.jsonl"
            given = read_rows(self.source.path("data", "pairs.jsonl"))
            write_rows(pairs, change_pairs(given, self.reward, self.study.seed))
            held = self.source.path("data", "eval_pairs.jsonl")
            command = commands.reward_model(self.study, self.source.path("models", "sft"), pairs, held, output)
            shutil.rmtree(output, ignore_errors=True)
            train_in_process(self.run, f"{self.name}-reward", command)
            (output / "accuracy.json").write_text(json.dumps(finish_reward_model(output)))
        return output

    def _corrected_before(self, output: Path) -> Path:
        """Return the reward model NAME of ``NAME@LABELS`` after it has learned from true scores of SFT samples."""
        if not (output / "config.json").exists():
            from .offline import correct_before_training, label_samples

            name, labels = self.reward.split("@")
            given = Runs(self.base, self.output, name).reward_model()
            tasks, _ = self.source.reward_tasks()
            tokens, policy = self.study.evaluation.max_new_tokens, self.source.path("models", "sft")
            labelled = label_samples(policy, tasks, int(labels), tokens, self.study.seed)
            correct_before_training(given, labelled, self.study.seed, output)
        return output

    def train(self, arm: str, seed: int) -> None:
        """Train a run unless it is there."""
        directory = self.path(arm, seed)
        if (directory / "curves.json").exists():
            return
        tasks, held = self.source.reward_tasks()
        order = np.random.default_rng([7, seed]).permutation(len(tasks))  # other prompts for each seed, same for arms
        policy, reward = self.source.path("models", "sft"), self.reward_model()
        study, name, config = replace(self.study, seed=seed), f"{self.name}-{arm}-s{seed}", self.config(arm)
        needed = config.steps * config.rollout_prompts // episodes(config)
        prompts, probe = directory / "prompts.jsonl", directory / "probe.jsonl"
        write_rows(prompts, labelled_rows([tasks[order[i % len(tasks)]] for i in range(needed)]))
        write_rows(probe, labelled_rows(held[:PROBE]))
        asked = replace(config, flags=config.flags + probe_flags(config, probe))
        train_on_ray(self.run, name, commands.ppo(study, asked, policy, reward, prompts, directory / "model"))
        (directory / "settings.json").write_text(json.dumps(self.settings(arm, seed)))
        (directory / "curves.json").write_text(json.dumps(scalars(directory / "model" / "tensorboard")))

    def evaluate(self, runs: Sequence[tuple[str, int]]) -> None:
        """Score the saved policies of runs on the held-out tasks, unless that is done."""
        config, tasks = self.study.evaluation, self.source.tasks("heldout")
        prompts = [task.prompt for task in tasks]
        draws: dict[tuple[Path, int], Draw] = {}
        for arm, seed in runs:
            directory, how = self.path(arm, seed), self.config(arm)
            if (directory / "scores.npz").exists():
                continue
            for step in {*how.saved_steps(), how.steps}:
                model = self.policy(arm, seed, step)
                if not model.exists():
                    continue  # dynamic filtering makes fewer steps of the same prompts
                samples = config.samples if step == how.steps else config.checkpoint_samples
                draws[directory, step] = Draw(model, prompts, samples, config.max_new_tokens, seed)
        found = dict(zip(draws, score_samples(tasks, *sample_all(list(draws.values()))))) if draws else {}
        for directory in dict.fromkeys(directory for directory, _ in found):
            steps = {str(step): scores for (d, step), scores in found.items() if d == directory}
            np.savez_compressed(directory / "scores.npz", **steps)

    def policy(self, arm: str, seed: int, step: int) -> Path:
        """Return where the policy of a saved step is."""
        last = step == self.config(arm).steps
        return self.path(arm, seed) / "model" / ("final" if last else f"checkpoints/global_step{step}_hf")

    def make(self, runs: Sequence[tuple[str, int]]) -> None:
        """Train and evaluate runs, each an arm and a seed. On SIGTERM their trainers end, too."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception
        try:
            for arm, seed in runs:
                self.train(arm, seed)
                print(f"{self.name}, {arm}, seed {seed}: trained", flush=True)
        finally:
            self.run.one_ray.close()
        self.evaluate(runs)

    def scores(self, arm: str, seed: int, step: int | None = None) -> np.ndarray | None:
        """Return the (tasks,) share of samples that pass at the end or after ``step``; None without that run."""
        file = self.path(arm, seed) / "scores.npz"
        if not file.exists():
            return None
        found = np.load(file)
        return found[max(found.files, key=int) if step is None else str(step)].mean(axis=1)

    def steps(self, arm: str, seed: int) -> dict[int, float]:
        """Return pass@1 at each saved step of a finished run."""
        found = np.load(self.path(arm, seed) / "scores.npz")
        return {int(step): float(found[step].mean()) for step in sorted(found.files, key=int)}


CURVES = {"kl": "train/kl", "grad_norm": "train/actor_grad_norm"}
#: Means over a run: the share of prompts that have both right and wrong answers; seconds a step.
MEANS = {"informative": "train/selection/informative", "step_seconds": "train/timing/step_total"}


def compare(
    bases: Sequence[Runs], arms: Sequence[str], seeds: Sequence[int], versus: Sequence[Runs] = ()
) -> list[dict[str, Any]]:
    """Return a row an arm: pass@1, and its difference from the first arm over the runs that both have.

    ``difference`` is taken at the end, ``difference_then`` at the first arm's saved step of about as many updates.
    With ``versus``, the first arm's runs are those, of the same bases with another reward model.
    """
    first_of = dict(zip(bases, versus or bases))
    rows = []
    for arm in arms:
        both = [(b, seed) for b in bases for seed in seeds]
        both = [(b, s) for b, s in both if b.scores(arm, s) is not None and first_of[b].scores(arms[0], s) is not None]
        if not both:
            continue
        how, first = bases[0].config(arm), bases[0].config(arms[0])
        updates = how.actor_updates(how.steps)
        step = min((*first.saved_steps(), first.steps), key=lambda s: abs(first.actor_updates(s) - updates))
        mine = np.array([b.scores(arm, s) for b, s in both])
        away, at_updates = (
            mine - np.array([first_of[b].scores(arms[0], s, at) for b, s in both]) for at in (None, step)
        )
        studies = [runs.base for runs, _ in both]
        curves = [json.loads((b.path(arm, s) / "curves.json").read_text()) for b, s in both]
        by_step = [b.steps(arm, s) for b, s in both]
        shared = sorted(set.intersection(*map(set, by_step)))
        rows.append(
            {
                "arm": arm,
                "runs": len(both),
                "pass_at_1": float(mine.mean()),
                "by_run": [round(float(x), 4) for x in mine.mean(axis=1)],
                "by_step": {s: round(float(np.mean([steps[s] for steps in by_step])), 4) for s in shared},
                "difference": float(away.mean()),
                "interval": paired_interval(away, studies),
                "updates": updates,
                "to_first_after_step": step,
                "difference_then": float(at_updates.mean()),
                "interval_then": paired_interval(at_updates, studies),
            }
            | {key: _mean_of(curves, tag, 3) for key, tag in CURVES.items()}
            | {key: _mean_of(curves, tag, 0) for key, tag in MEANS.items()}
        )
    return rows


def _mean_of(curves: list[dict[str, list]], tag: str, points: int) -> float | None:
    """Return the mean over the last points of a curve, or over all where ``points`` is 0."""
    values = [np.mean([v for _, v in c[tag][-points:]]) for c in curves if c.get(tag)]
    return round(float(np.mean(values)), 4) if values else None


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate and compare; return 0 when every run ended well."""
    prog = "python -m examples.studies.micro_code.runs"
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--base", type=Path, nargs="+", required=True, help="run directories with a policy and a reward model")
    add("--output", type=Path, required=True, help="where runs are kept")
    arms = ["none", "random", "best_worst"]
    add("--arms", nargs="+", default=arms, help=f"of {', '.join(ARMS)}, with +variants")
    add("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    add("--reward", default="given", help="the reward model of every run, see rewards.py, or NAME@LABELS")
    add("--seeds", nargs="+", type=int, default=[1], help="of PPO, on every base")
    add("--versus", metavar="REWARD", help="compare with the first arm's runs of this reward model")
    add("--table", action="store_true", help="train nothing: compare what is there")
    options = parser.parse_args(argv)
    bases = [Runs(base, options.output, options.reward) for base in options.base]
    try:
        for arm in options.arms:
            bases[0].config(arm)
        for runs in [] if options.table else bases:
            runs.make([(arm, seed) for seed in options.seeds for arm in options.arms])
    except (PhaseFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    versus = [Runs(base, options.output, options.versus) for base in options.base if options.versus]
    rows = compare(bases, options.arms, options.seeds, versus)
    for row in rows:
        print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
