"""Reward Learning on Policy: retrain the reward model on the policy's own samples, then the policy by it.

python -m examples.studies.micro_code.rlp --seed 1 --output runs/rlp1
python -m examples.studies.micro_code.rlp --base runs/study_base --methods spg --rounds 2 --output runs/rlp
python -m examples.studies.micro_code.rlp --policy overoptimised --base runs/rlp1/base --output runs/rlp1_hard
python -m examples.studies.micro_code.rlp --table runs/rlp1 runs/rlp2 runs/rlp3 --against again

The first policy is that of a study's PF-PPO run, which is made where BASE has none. Its samples on the prompts of PPO
become pairs (spg) or views (uml), or its likelihoods weigh the study's pairs (ocrm); a reward model is trained from
the SFT policy's weights on the study's pairs and these, and PPO starts from the SFT policy again. The control "again"
trains on the study's pairs alone, in another order, for reward models of the same pairs differ; "longer" does so for
as many steps as spg. "uml_ramp" is uml with a weight of SKL that rises over the first half of the steps. Samples are
collected with true scores, which the report alone looks at. Finished steps are kept under their settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from examples.micro_code import commands
from examples.micro_code.config import PRESETS, Study, override, with_overoptimisation
from examples.micro_code.pairs import preference_pairs
from examples.micro_code.phases import (
    PhaseFailed,
    Run,
    _read_rows,
    _train,
    _write_rows,
    finish_reward_model,
    scalars,
    settings_of,
)
from examples.micro_code.run import prepare, run_phase, run_phases
from examples.micro_code.sampling import Draw, sample_all, score_samples
from examples.micro_code.tasks import Task

from .rlp_results import DEFAULT_METHODS, METHODS, cautions, ranked_right, results, scorer, table
from .study import study_of


@dataclass(frozen=True)
class RLPConfig:
    """As in the paper (Section 4.1); it does not say how many prompts a batch of views has."""

    samples: int = 10
    threshold: float = 0.5
    pairs_per_prompt: int = 1
    views_weight: float = 0.5
    views_batch: int = 16


@dataclass(frozen=True)
class Stage:
    """A policy and the reward model that taught it."""

    name: str
    policy: Path
    reward: Path


class Loop:
    """The steps from a finished study's policy to the last one, each kept under its settings.

    Args:
        base: a study with an SFT policy, pairs, a reward model and the PPO run ``policy``.
        output: what is made goes there.
        policy: ``ppo`` or ``overoptimised``; every PPO run has its settings.
    """

    def __init__(
        self, base: Run, output: Path, policy: str, console: Console, config: RLPConfig | None = None
    ) -> None:
        self.base, self.run = base, Run(base.study, output, base.one_ray)
        self.study, self.policy, self.console, self.config = base.study, policy, console, config or RLPConfig()
        self.first = Stage("first", base.path("models", policy, "final"), base.path("models", "reward"))

    def step(self, name: str, title: str, work: Callable[[], dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A step's result, of now or of before."""
        used = (self.base.path("models", "sft"), self.first.policy, self.first.reward)
        weights = [hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:16] for model in used]
        study = settings_of(self.study, self.policy)
        settings = {"study": study, "weights": weights, "rlp": asdict(self.config), "policy": self.policy, **more}
        return run_phase(self.run.path("phases", f"{name}.json"), title, settings, work, self.console)["result"]

    def collect(self, stage: Stage) -> Path:
        """Samples of a policy on the prompts of PPO, with the rewards of the model that taught it."""
        prompts, output = self.run.path("data", "prompts.jsonl"), self.run.path("samples", stage.name)

        def work() -> dict[str, Any]:
            tasks = self.base.reward_tasks()[0]
            labels = [json.dumps({"solution": t.solution, "kind": t.kind}) for t in tasks]
            _write_rows(prompts, [{"input": t.prompt, "label": label} for t, label in zip(tasks, labels)])
            shutil.rmtree(output, ignore_errors=True)
            command = commands.collect(
                self.study, stage.policy, stage.reward, prompts, output, stage.name, self.config.samples
            )
            _train(self.run, f"collect-{stage.name}", command)
            return {"samples": len(tasks) * self.config.samples}

        self.step(f"collect-{stage.name}", f"{stage.name}: sample the policy (openrlhf_pf.cli.collect)", work)
        return output

    def pairs(self, stage: Stage, samples: Path) -> Path:
        """What the samples agree on, against what they do not."""
        output = self.run.path("data", f"{stage.name}-spg.jsonl")

        def work() -> dict[str, Any]:
            flags = {
                "--cluster": f"{Path(__file__).parent / 'clusters.py'}:behaviour",
                "--threshold": self.config.threshold,
                "--pairs_per_prompt": self.config.pairs_per_prompt,
                "--seed": self.study.seed,
                "--output": output,
            }
            given = [str(word) for flag in flags.items() for word in flag]
            command = ["openrlhf_pf.cli.preferences", str(samples), *given]
            _train(self.run, f"preferences-{stage.name}", command, {})
            report = json.loads(Path(f"{output}.report.json").read_text())
            shares = {kind: values["accuracy"]["estimate"] for kind, values in (report["accuracy"] or {}).items()}
            counted = {name: report[name] for name in ("prompts", "used", "pairs", "lead", "warnings")}
            return {**counted, "accuracy": shares, "skipped": report["skipped"]}

        title = f"{stage.name}: pairs of its samples (openrlhf_pf.cli.preferences)"
        for sentence in self.step(f"preferences-{stage.name}", title, work)["warnings"]:
            self.console.print(f"    the report on these pairs warns: {sentence}", highlight=False)
        return output

    def weighted(self, stage: Stage, pairs: Path) -> Path:
        """The study's pairs, weighted for a policy."""
        output = self.run.path("data", f"{stage.name}-weighted.jsonl")

        def work() -> dict[str, Any]:
            output.parent.mkdir(parents=True, exist_ok=True)
            flags = {"--policy": stage.policy, "--reference": self.base.path("models", "sft"), "--output": output}
            given = [str(word) for flag in flags.items() for word in flag]
            _train(self.run, f"weights-{stage.name}", ["openrlhf_pf.cli.weigh_pairs", str(pairs), *given], {})
            weights = np.array([row["margin"] for row in _read_rows(output)])
            return {"effective": float(1 / (weights**2).mean()), "largest": float(weights.max())}

        self.step(f"weights-{stage.name}", f"{stage.name}: weigh the pairs (openrlhf_pf.cli.weigh_pairs)", work)
        return output

    def repeated(self, pairs: Path, like: Path) -> Path:
        """As many of the study's pairs once more as there are pairs in ``like``."""
        rows, output = _read_rows(pairs), self.run.path("data", "repeated.jsonl")
        order = np.random.default_rng(self.study.seed).permutation(len(rows))
        _write_rows(output, [rows[order[i % len(rows)]] for i in range(len(_read_rows(like)))])
        return output

    def reward(self, name: str, method: str, before: Stage) -> Path:
        """A new reward model from the SFT policy's weights."""
        output = self.run.path("models", f"{name}-reward")
        pairs, eval_pairs = self.base.path("data", "pairs.jsonl"), self.base.path("data", "eval_pairs.jsonl")
        study, data, views = self.study, str(pairs), []
        if method in ("again", "longer"):
            study = replace(study, seed=study.seed + 1000)
        if method in ("spg", "longer"):
            more = self.pairs(before, self.collect(before))
            data = f"{pairs},{more if method == 'spg' else self.repeated(pairs, more)}"
        if method == "ocrm":
            data, views = str(self.weighted(before, pairs)), ["--policy_weights"]
        if method in ("uml", "uml_ramp"):
            values = {"": self.collect(before), "_weight": self.config.views_weight, "_batch": self.config.views_batch}
            if method == "uml_ramp":
                steps = len(_read_rows(pairs)) * study.reward.epochs // study.reward.batch_size
                values["_ramp"] = steps // 2
            views = [str(word) for key, value in values.items() for word in (f"--policy_samples{key}", value)]

        def work() -> dict[str, Any]:
            shutil.rmtree(output, ignore_errors=True)
            command = commands.reward_model(study, self.base.path("models", "sft"), data, eval_pairs, output)
            module = "openrlhf_pf.cli.train_rm" if views else command[0]
            _train(self.run, output.name, [module, *command[1:], *views], commands.single_process())
            found = finish_reward_model(output)
            if method in ("uml", "uml_ramp"):
                nats = [value for _, value in scalars(output / "tensorboard")["train/rlp/mi_nwj"]]
                found["information"] = float(np.mean(nats[-len(nats) // 4 :]))
            return found

        self.step(
            output.name,
            f"{name}: train the reward model ({'openrlhf_pf' if views else 'openrlhf'}.cli.train_rm)",
            work,
        )
        return output

    def ppo(self, name: str, reward: Path) -> Path:
        """The first policy's PPO run again, from the SFT policy, by another reward model."""
        output, prompts = self.run.path("models", name), self.base.path("data", f"{self.policy}_prompts.jsonl")

        def work() -> dict[str, Any]:
            shutil.rmtree(output, ignore_errors=True)
            run = self.study.ppo_runs()[self.policy]
            run = replace(run, save_every=run.steps)
            command = commands.ppo(self.study, run, self.base.path("models", "sft"), reward, prompts, output)
            _train(self.run, name, command)
            return {}

        self.step(name, f"{name}: train the policy (openrlhf.cli.train_ppo)", work)
        return output / "final"

    def stages(self, methods: Sequence[str], rounds: int) -> list[Stage]:
        """All steps of these methods; the first stage, and one a method and round."""
        found = [self.first]
        for method in methods:
            before = self.first
            for number in range(1, rounds + 1):
                name = method if number == 1 else f"{method}-{number}"
                reward = self.reward(name, method, before)
                before = Stage(name, self.ppo(name, reward), reward)
                found.append(before)
        return found

    def evaluate(self, stages: Sequence[Stage]) -> None:
        """``measures.npz``: of each stage ``passed`` (held-out tasks,), the share of samples that pass; and of its
        reward model, on prompts that no reward model has trained on, ``fresh`` and ``original``, the share of pairs
        ranked right by prompt, of the first policy's samples and of the study's held-out pairs, and ``spread``, the
        standard deviation of rewards by prompt. NaN where a prompt has no pair.
        """

        def work() -> dict[str, Any]:
            tasks, held = self.base.tasks("heldout"), self.base.reward_tasks()[1]
            config, arrays = self.study.evaluation, {}

            def draw(policy: Path, some: Sequence[Task]) -> Draw:
                prompts = [task.prompt for task in some]
                return Draw(policy, prompts, config.samples, config.max_new_tokens, self.study.seed)

            policies = {"sft": self.base.path("models", "sft")} | {stage.name: stage.policy for stage in stages}
            draws = [draw(policy, tasks) for policy in policies.values()]
            *responses, own = sample_all([*draws, draw(self.first.policy, held)])
            scores = dict(zip(policies, score_samples(tasks, *responses)))
            arrays |= {f"passed_{name}": passed.mean(axis=1) for name, passed in scores.items()}
            asked = [*tasks, *held]
            answers = [*responses[list(policies).index("first")], *own]
            right = np.concatenate([scores["first"], score_samples(held, own)[0]])
            fresh = preference_pairs(asked, answers, right, len(answers[0]) ** 2, self.study.seed)
            original = _read_rows(self.base.path("data", "eval_pairs.jsonl"))
            for stage in stages:
                reward = scorer(stage.reward, [*fresh, *original], asked, answers)
                arrays[f"fresh_{stage.name}"] = ranked_right(fresh, asked, reward)
                arrays[f"original_{stage.name}"] = ranked_right(original, held, reward)
                spread = [np.std([reward[task.prompt + text] for text in some]) for task, some in zip(asked, answers)]
                arrays[f"spread_{stage.name}"] = np.array(spread)
            np.savez_compressed(self.run.path("measures.npz"), **arrays)
            return {"fresh_pairs": len(fresh), "original_pairs": len(original)}

        self.step("evaluate", "evaluate policies and reward models", work, stages=[stage.name for stage in stages])


def base_study(base: Path, args: argparse.Namespace) -> Study:
    """The study of BASE, or the one that is to be made there.

    Raises:
        ValueError: BASE holds another study than the flags ask for.
    """
    asked = override(PRESETS[args.preset or "study"], args.set)
    asked = asked if args.seed is None else override(asked, [f"seed={args.seed}"])
    study = asked
    if (base / "study.json").exists():
        study = study_of(base)
        if (args.preset or args.set or args.seed is not None) and study != asked:
            raise ValueError(f"{base} holds a study with other settings: leave out --preset, --seed and --set.")
    return with_overoptimisation(study) if args.policy == "overoptimised" else study


def loop(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Do what a command line asks for; its ``results``."""
    output = args.output.resolve()
    base = (args.base or output / "base").resolve()
    study = base_study(base, args)
    if not (base / "study.json").exists():
        prepare(base, study, resume=True)
    run = Run(study, base)
    settings = {"seed": study.seed, "policy": args.policy, "methods": args.methods, "rounds": args.rounds}
    if output.exists() and not (output / "rlp.json").exists() and any(p.name != "base" for p in output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no earlier run: take another --output.")
    output.mkdir(parents=True, exist_ok=True)
    (output / "rlp.json").write_text(json.dumps(settings))
    try:
        run_phases(run, console, only=("task", "sft", "pairs", "reward", args.policy))
        steps = Loop(run, output, args.policy, console)
        steps.evaluate(steps.stages(args.methods, args.rounds))
    finally:
        run.one_ray.close()
    return results([output], args.against)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.studies.micro_code.rlp",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, help="run directory; finished steps in it are kept. With --table, a JSON file")
    add("--base", type=Path, help="run directory of a study; what is missing there is made (default: OUTPUT/base)")
    add("--preset", choices=sorted(PRESETS), help="settings of a study that is to be made (default: study)")
    add("--seed", type=int, help="seed of that study and of all that follows")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="one of its settings, as for run")
    add("--policy", choices=("ppo", "overoptimised"), default="ppo", help="the PPO run that gives the first policy")
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(DEFAULT_METHODS),
        help="how the reward model is retrained",
    )
    add("--rounds", type=int, default=1, help="how often, each with the policy of the round before")
    add("--table", nargs="+", type=Path, metavar="DIR", help="train nothing: finished runs, one a seed, together")
    add("--against", default="first", metavar="STAGE", help="what a table compares with: first, again, ...")
    args = parser.parse_args(argv)
    if args.output is None and args.table is None:
        parser.error("give --output DIR, or finished runs with --table")
    if args.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {args.rounds}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop or compare runs; 0 when all ended well."""
    args = parse(argv)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as in run.py
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=not sys.stdout.isatty())
    try:
        found = results(args.table, args.against) if args.table else loop(args, console)
    except (PhaseFailed, ValueError) as error:
        console.print(f"[red]Failed:[/red] {error}", highlight=False)
        return 1
    file = args.output if args.table else args.output / "result.json"
    if file is not None:
        file.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    for sentence in cautions(found):
        print(f"warning: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
