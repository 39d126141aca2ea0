"""Many PPO runs from one policy and reward model, arm by arm and seed by seed: what gives a filter its lead?

python -m examples.micro_code.study --base runs/study_base --output runs/study --arms none random best_worst
python -m examples.micro_code.study --base runs/study_base --output runs/study --table

BASE is the run directory of a study that has a reward model (examples.micro_code.run --until reward, or further). A
cell is an arm with a PPO seed; it is trained once and kept under its settings. All cells share one Ray. The table
compares each arm with the first one, paired over seeds and held-out tasks.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import commands
from .config import EvaluationConfig, ModelConfig, PPOConfig, RewardConfig, SFTConfig, Study, TaskConfig, override
from .one_ray import OneRay
from .phases import PhaseFailed, Run, _train, _write_rows, scalars
from .sampling import Draw, sample_all, score_samples

RLOO = ("--algo.advantage.estimator", "rloo")
GROUP = ("--sample_filter_baseline", "group")
#: What differs from the base study's PPO. ``ranks_...`` keep these ranks of each prompt, 1 being the highest reward.
ARMS: dict[str, dict[str, Any]] = {
    "none": {"sample_filter": "none", "keep": 5},
    "random": {"sample_filter": "rank_weights", "weights": (1.0,) * 5},
    "best_worst": {"sample_filter": "best_worst"},
    "best_random": {"sample_filter": "best_random"},
    "max_variance": {"sample_filter": "max_variance"},
    "ranks_2_5": {"sample_filter": "rank_weights", "weights": (0.0, 1.0, 0.0, 0.0, 1.0)},
    "ranks_1_4": {"sample_filter": "rank_weights", "weights": (1.0, 0.0, 0.0, 1.0, 0.0)},
    "ranks_2_4": {"sample_filter": "rank_weights", "weights": (0.0, 1.0, 0.0, 1.0, 0.0)},
    "ranks_1_2": {"sample_filter": "rank_weights", "weights": (1.0, 1.0, 0.0, 0.0, 0.0)},
    "ranks_4_5": {"sample_filter": "rank_weights", "weights": (0.0, 0.0, 0.0, 1.0, 1.0)},
}
#: Variants of any arm, as ``arm+variant``.
VARIANTS: dict[str, dict[str, Any]] = {
    "rloo": {"flags": RLOO},
    "group": {"flags": RLOO + GROUP},
    "updates": {"batch_size": 32, "micro_batch_size": 32},
    "few": {"batch_size": 320, "micro_batch_size": 64},
    "lr2": {"learning_rate": 6e-4},
    "kl.1": {"kl": 0.1},
    "kl0": {"kl": 0.0},
    "warm8": {"critic_warmup_steps": 8},
}


def config_of(base: PPOConfig, arm: str) -> PPOConfig:
    """The PPO settings of ``arm``, ``arm+variant`` or ``arm+variant+variant``."""
    name, *variants = arm.split("+")
    found = replace(base, save_every=4, **ARMS[name])
    for variant in variants:
        change = dict(VARIANTS[variant])
        if "flags" in change:
            change["flags"] = found.flags + change["flags"]
        found = replace(found, **change)
    return found


def study_of(directory: Path) -> Study:
    """The study of a run directory."""
    stored = json.loads((directory / "study.json").read_text())

    def build(cls: type, values: dict[str, Any]) -> Any:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})

    parts = {"task": TaskConfig, "model": ModelConfig, "sft": SFTConfig, "reward": RewardConfig}
    parts |= {"ppo": PPOConfig, "evaluation": EvaluationConfig}
    return Study(seed=stored["seed"], **{name: build(cls, stored[name]) for name, cls in parts.items()})


class Cells:
    """The cells of one base, kept in a directory."""

    def __init__(self, base: Path, output: Path, changes: Sequence[str] = ()) -> None:
        self.base, self.output = base.resolve(), output.resolve()
        self.study = override(study_of(self.base), changes)
        self.run = Run(self.study, self.output, OneRay())
        self.source = Run(self.study, self.base)

    def settings(self, arm: str, seed: int) -> dict[str, Any]:
        """Everything that decides a cell."""
        whole = self.study.as_dict()
        others = {name: whole[name] for name in ("seed", "task", "model", "sft", "reward", "evaluation")}
        return {"base": others, "ppo": asdict(config_of(self.study.ppo, arm)), "ppo_seed": seed}

    def path(self, arm: str, seed: int) -> Path:
        """Where a cell is kept."""
        text = json.dumps(self.settings(arm, seed), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return self.output / f"base{self.study.seed}" / f"{arm}-s{seed}-{digest}"

    def train(self, arm: str, seed: int) -> None:
        """Train a cell unless it is there."""
        directory = self.path(arm, seed)
        if (directory / "curves.json").exists():
            return
        config = config_of(self.study.ppo, arm)
        prompts = [task.prompt for task in self.source.reward_tasks()[0]]
        rng = np.random.default_rng([7, seed])  # other prompts for each seed, the same for all arms
        order = rng.permutation(len(prompts))
        needed = config.steps * config.rollout_prompts
        rows = [{"input": prompts[order[i % len(prompts)]]} for i in range(needed)]
        _write_rows(directory / "prompts.jsonl", rows)
        policy, reward = self.source.path("models", "sft"), self.source.path("models", "reward")
        study = replace(self.study, seed=seed)
        command = commands.ppo(study, config, policy, reward, directory / "prompts.jsonl", directory / "model")
        _train(self.run, f"base{self.study.seed}-{arm}-s{seed}", command)
        (directory / "settings.json").write_text(json.dumps(self.settings(arm, seed)))
        (directory / "curves.json").write_text(json.dumps(scalars(directory / "model" / "tensorboard")))

    def evaluate(self, cells: Sequence[tuple[str, int]]) -> None:
        """Score every trained cell's saved policies on the held-out tasks, unless that is there."""
        config, tasks = self.study.evaluation, self.source.tasks("heldout")
        prompts = [task.prompt for task in tasks]
        draws: dict[tuple[Path, int], Draw] = {}
        for arm, seed in cells:
            directory = self.path(arm, seed)
            if (directory / "scores.npz").exists():
                continue
            ppo = config_of(self.study.ppo, arm)
            for step in ppo.saved_steps():
                last = step == ppo.steps
                model = directory / "model" / ("final" if last else f"checkpoints/global_step{step}_hf")
                samples = config.samples if last else config.checkpoint_samples
                draws[directory, step] = Draw(model, prompts, samples, config.max_new_tokens, seed)
        found = dict(zip(draws, score_samples(tasks, *sample_all(list(draws.values()))))) if draws else {}
        for directory in dict.fromkeys(directory for directory, _ in found):
            steps = {str(step): scores for (d, step), scores in found.items() if d == directory}
            np.savez_compressed(directory / "scores.npz", **steps)

    def scores(self, arm: str, seed: int, step: int | None = None) -> np.ndarray | None:
        """(tasks,) share of samples that pass, at the end or at a step; None where it is not there."""
        file = self.path(arm, seed) / "scores.npz"
        if not file.exists():
            return None
        found = np.load(file)
        return found[str(step or max(map(int, found.files)))].mean(axis=1)


def paired_interval(differences: np.ndarray, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean of (seeds, tasks) differences, resampling seeds and tasks; NaN where there is none."""
    rng = np.random.default_rng(seed)
    n_seeds, n_tasks = differences.shape
    means = np.empty(draws)
    for i in range(draws):
        rows = rng.integers(0, n_seeds, n_seeds)
        means[i] = np.nanmean(differences[rows][:, rng.integers(0, n_tasks, n_tasks)])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def table(cells: Cells, arms: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row an arm: pass@1, its difference to the first arm, reward, KL, updates; over the seeds that both have."""
    rows = []
    for arm in arms:
        config = config_of(cells.study.ppo, arm)
        both = [s for s in seeds if cells.scores(arm, s) is not None and cells.scores(arms[0], s) is not None]
        if not both:
            continue
        mine = np.array([cells.scores(arm, s) for s in both])
        first = np.array([cells.scores(arms[0], s) for s in both])
        curves = [json.loads((cells.path(arm, s) / "curves.json").read_text()) for s in both]
        low, high = paired_interval(mine - first)
        rows.append(
            {
                "arm": arm,
                "seeds": len(both),
                "pass_at_1": float(mine.mean()),
                "by_seed": [round(float(x), 4) for x in mine.mean(axis=1)],
                "by_step": {
                    step: round(float(np.mean([cells.scores(arm, s, step).mean() for s in both])), 4)
                    for step in config.saved_steps()
                },
                "difference": float((mine - first).mean()),
                "interval": [low, high],
                "updates": config.actor_updates(config.steps),
            }
            | {key: _last(curves, tag) for key, tag in CURVES.items()}
        )
    return rows


CURVES = {"kl": "train/kl", "grad_norm": "train/actor_grad_norm"}


def _last(curves: list[dict[str, list]], tag: str, points: int = 3) -> float | None:
    values = [np.mean([v for _, v in c[tag][-points:]]) for c in curves if c.get(tag)]
    return round(float(np.mean(values)), 4) if values else None


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate and compare; 0 when every cell ended well."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.micro_code.study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="run directory with a policy and a reward model")
    parser.add_argument("--output", type=Path, required=True, help="where cells are kept")
    parser.add_argument("--arms", nargs="+", default=["none", "random", "best_worst"], help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="of PPO")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for run")
    parser.add_argument("--table", action="store_true", help="train nothing: compare what is there")
    options = parser.parse_args(argv)
    cells = Cells(options.base, options.output, options.set)
    wanted = [(arm, seed) for seed in options.seeds for arm in options.arms]
    try:
        for arm, seed in [] if options.table else wanted:
            cells.train(arm, seed)
            print(f"{arm}, seed {seed}: trained", flush=True)
    except PhaseFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        cells.run.one_ray.close()
    trained = [cell for cell in wanted if (cells.path(*cell) / "curves.json").exists()]
    cells.evaluate(trained)
    rows = table(cells, options.arms, options.seeds)
    for row in rows:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
