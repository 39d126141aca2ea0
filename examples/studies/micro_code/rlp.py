"""Reward learning on policy: retrain the reward model on the policy's own samples, then the policy by it.

python -m examples.studies.micro_code.rlp --seed 1 --output runs/rlp1
python -m examples.studies.micro_code.rlp --policy overoptimised --base runs/rlp1/base --output runs/rlp1_hard
python -m examples.studies.micro_code.rlp --table runs/rlp1 runs/rlp2 --against again --output rlp.json

The first policy is that of a study's PF-PPO run, which is made where BASE has none. Its samples on the prompts of PPO
become pairs (spg). A reward model is trained from the SFT policy's weights on the study's pairs and these, and PPO
starts from the SFT policy again. Controls: "again" trains on the study's pairs in another order, since reward models
of the same pairs differ; "longer" does so for as many steps as spg. Finished steps are kept.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from examples.micro_code import commands
from examples.micro_code.config import PRESETS, override, with_overoptimisation
from examples.micro_code.phases import (
    PhaseFailed,
    Run,
    finish_reward_model,
    labelled_rows,
    preference_pairs,
    read_rows,
    settings_of,
    train_in_process,
    train_on_ray,
    write_rows,
)
from examples.micro_code.run import prepare, run_phase, run_phases
from examples.micro_code.sampling import Draw, sample_all, score_samples
from examples.studies.tables import tables_of

from .rlp_results import measure_reward_model, results
from .runs import study_of

METHODS = ("spg", "again", "longer")
SAMPLES = 10  # as in the paper (Section 4.1)
PAIRING = {"--threshold": 0.5, "--pairs_per_prompt": 1}


class Loop:
    """The steps from a finished study's policy to the second ones, each kept under its settings.

    Args:
        base: a study with an SFT policy, pairs, a reward model and the PPO run ``policy``.
        output: where results go.
        policy: ``ppo`` or ``overoptimised``; every PPO run has its settings.
        console: prints a line a step.
    """

    def __init__(self, base: Run, output: Path, policy: str, console: Console) -> None:
        self.base, self.run, self.study = base, Run(base.study, output, base.one_ray), base.study
        self.policy, self.console = policy, console
        self.sft, self.reward_model = base.path("models", "sft"), base.path("models", "reward")
        self.first, self.samples = base.path("models", policy, "final"), self.run.path("samples", "first")

    def step(self, name: str, work: Callable[[], dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Do a step unless it is done with these settings and models; return its result."""
        models = (self.sft, self.first, self.reward_model)
        times = [(model / "model.safetensors").stat().st_mtime for model in models]
        settings = {"study": settings_of(self.study, self.policy), "models": times, "policy": self.policy, **more}
        return run_phase(self.run.path("phases", f"{name}.json"), name, settings, work, self.console)["result"]

    def collect(self) -> dict[str, Any]:
        """Sample the first policy on the prompts of PPO, with rewards of the model that trained it."""
        tasks, prompts = self.base.reward_tasks()[0], self.run.path("data", "prompts.jsonl")
        write_rows(prompts, labelled_rows(tasks))
        shutil.rmtree(self.samples, ignore_errors=True)
        command = commands.collect(self.study, self.first, self.reward_model, prompts, self.samples, "first", SAMPLES)
        train_on_ray(self.run, "collect-first", command)
        return {"samples": len(tasks) * SAMPLES}

    def pairs(self) -> dict[str, Any]:
        """Pair the samples: an answer that most agree on before one that few do."""
        output = self.run.path("data", "first-spg.jsonl")
        cluster = {"--cluster": f"{Path(__file__).parent / 'clusters.py'}:behaviour"}
        flags = cluster | PAIRING | {"--seed": self.study.seed, "--output": output}
        given = [str(word) for flag in flags.items() for word in flag]
        train_in_process(self.run, "preferences", ["openrlhf_pf.cli.preferences", str(self.samples), *given], {})
        report = json.loads(Path(f"{output}.report.json").read_text())
        shares = {kind: values["accuracy"]["estimate"] for kind, values in (report["accuracy"] or {}).items()}
        return {name: report[name] for name in ("prompts", "used", "pairs", "warnings")} | {"accuracy": shares}

    def data(self, method: str) -> str:
        """Return the pairs that a method trains on; samples come first where it needs them."""
        pairs, spg = self.base.path("data", "pairs.jsonl"), self.run.path("data", "first-spg.jsonl")
        if method == "again":
            return str(pairs)
        self.step("collect-first", self.collect)
        self.step("preferences-first", self.pairs)
        if method == "spg":
            return f"{pairs},{spg}"
        rows, repeated = read_rows(pairs), self.run.path("data", "repeated.jsonl")
        order = np.random.default_rng(self.study.seed).permutation(len(rows))
        write_rows(repeated, [rows[order[i % len(rows)]] for i in range(len(read_rows(spg)))])
        return f"{pairs},{repeated}"

    def reward(self, method: str) -> Path:
        """Return a new reward model, trained from the SFT policy's weights."""
        output, held = self.run.path("models", f"{method}-reward"), self.base.path("data", "eval_pairs.jsonl")
        data = self.data(method)
        is_control = method in ("again", "longer")
        study = replace(self.study, seed=self.study.seed + 1000) if is_control else self.study

        def work() -> dict[str, Any]:
            shutil.rmtree(output, ignore_errors=True)
            command = commands.reward_model(study, self.sft, data, held, output)
            train_in_process(self.run, output.name, command)
            return finish_reward_model(output)

        self.step(output.name, work)
        return output

    def ppo(self, name: str, reward: Path) -> Path:
        """Return the policy of the first PPO run repeated with another reward model."""
        output, prompts = self.run.path("models", name), self.base.path("data", f"{self.policy}_prompts.jsonl")

        def work() -> dict[str, Any]:
            shutil.rmtree(output, ignore_errors=True)
            run = self.study.ppo_runs()[self.policy]
            run = replace(run, save_every=run.steps)
            train_on_ray(self.run, name, commands.ppo(self.study, run, self.sft, reward, prompts, output))
            return {}

        self.step(name, work)
        return output / "final"

    def evaluate(self, policies: dict[str, Path], rewards: dict[str, Path]) -> dict[str, Any]:
        """Write ``measures.npz`` (see rlp_results.py)."""
        tasks, held = self.base.tasks("heldout"), self.base.reward_tasks()[1]
        n, tokens = self.study.evaluation.samples, self.study.evaluation.max_new_tokens
        draws = [Draw(p, [t.prompt for t in tasks], n, tokens, self.study.seed) for p in policies.values()]
        held_draw = Draw(self.first, [t.prompt for t in held], n, tokens, self.study.seed)
        *responses, own = sample_all([*draws, held_draw])
        scores = dict(zip(policies, score_samples(tasks, *responses)))
        asked, answers = [*tasks, *held], [*responses[list(policies).index("first")], *own]
        right = np.concatenate([scores["first"], score_samples(held, own)[0]])
        fresh = preference_pairs(asked, answers, right, n**2, self.study.seed)
        original = read_rows(self.base.path("data", "eval_pairs.jsonl"))
        arrays = {f"passed_{name}": passed.mean(axis=1) for name, passed in scores.items()}
        for name, reward in rewards.items():
            found = measure_reward_model(reward, {"fresh": (asked, fresh), "original": (held, original)})
            arrays |= {f"{measure}_{name}": values for measure, values in found.items()}
        np.savez_compressed(self.run.path("measures.npz"), **arrays)
        return {"fresh_pairs": len(fresh), "original_pairs": len(original)}

    def run_all(self, methods: Sequence[str]) -> None:
        """Train by each method and evaluate."""
        rewards = {"first": self.reward_model} | {method: self.reward(method) for method in methods}
        policies = {"sft": self.sft, "first": self.first}
        policies |= {method: self.ppo(method, rewards[method]) for method in methods}
        self.step("evaluate", lambda: self.evaluate(policies, rewards), stages=list(rewards))


def run_loop(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Do what a command line asks for; return its results.

    Raises:
        ValueError: BASE holds another study than the flags ask for, or OUTPUT other files.
    """
    output = args.output.resolve()
    base = (args.base or output / "base").resolve()
    study = override(PRESETS[args.preset or "study"], args.set)
    study = study if args.seed is None else override(study, [f"seed={args.seed}"])
    if (base / "study.json").exists():
        asked, study = study, study_of(base)
        if (args.preset or args.set or args.seed is not None) and study != asked:
            raise ValueError(f"{base} holds a study with other settings: leave out --preset, --seed and --set.")
    study = with_overoptimisation(study) if args.policy == "overoptimised" else study
    if output.exists() and not (output / "rlp.json").exists() and any(p.name != "base" for p in output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no earlier run: take another --output.")
    if not (base / "study.json").exists():
        prepare(base, study, resume=True)
    run = Run(study, base)
    output.mkdir(parents=True, exist_ok=True)
    (output / "rlp.json").write_text(json.dumps({"seed": study.seed, "policy": args.policy, "methods": args.methods}))
    try:
        run_phases(run, console, only=("task", "sft", "pairs", "reward", args.policy))
        Loop(run, output, args.policy, console).run_all(args.methods)
    finally:
        run.one_ray.close()
    return results([output], args.against)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    prog = "python -m examples.studies.micro_code.rlp"
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="run directory; finished steps are kept. With --table, a JSON file")
    add("--base", type=Path, help="run directory of a study; what is missing there is made (default: OUTPUT/base)")
    add("--preset", choices=sorted(PRESETS), help="settings of a study that is to be made (default: study)")
    add("--seed", type=int, help="seed of that study and of all that follows")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="one of its settings, as for run")
    add("--policy", choices=("ppo", "overoptimised"), default="ppo", help="the PPO run that gives the first policy")
    add("--methods", nargs="+", choices=METHODS, default=["spg", "again"], help="how reward models are retrained")
    add("--table", nargs="+", type=Path, metavar="DIR", help="train nothing: finished runs, one a seed, together")
    add("--against", default="first", metavar="STAGE", help="what a table compares with: first, again, ...")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop or compare runs; return 0 when all ended well."""
    args = parse(argv)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as in run.py
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=not sys.stdout.isatty())
    try:
        found = results(args.table, args.against) if args.table else run_loop(args, console)
    except (PhaseFailed, ValueError) as error:
        console.print(f"[red]Failed:[/red] {error}", highlight=False)
        return 1
    file = args.output if args.table else args.output / "result.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(tables_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
