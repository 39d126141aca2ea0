"""The phases of a study, in order. Each reads and writes files of the run directory and returns its figures as plain
values.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import commands
from .comparison import Course, matched_steps
from .config import Study
from .one_ray import OneRay
from .pairs import preference_pairs
from .policy import save_random_policy
from .sampling import Draw, sample_all, score_samples
from .tasks import Task, demonstrations, generate


class PhaseFailed(RuntimeError):
    """A trainer did not end well; the message says where its log is."""


@dataclass(frozen=True)
class Run:
    """A study and the directory that holds all it makes."""

    study: Study
    directory: Path
    one_ray: OneRay = field(default_factory=OneRay)

    def path(self, *parts: str) -> Path:
        return self.directory.joinpath(*parts)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split, as the first phase wrote them."""
        return [Task(**row) for row in _read_rows(self.path("data", f"{split}.jsonl"))]

    def reward_tasks(self) -> tuple[list[Task], list[Task]]:
        """The prompts that train the reward model and PPO, and those that only measure the reward model."""
        tasks, held = self.tasks("prompts"), self.study.reward.eval_prompts
        return tasks[held:], tasks[:held]


def _write_rows(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _train(run: Run, name: str, command: list[str], launcher: dict[str, str] | None = None) -> None:
    """Runs a trainer with its output in ``logs/NAME.log``; ends it with us.

    ``command`` begins with the module. With a ``launcher``'s variables it is a process of its own, without it is one
    of those that share a Ray.
    """
    log = run.path("logs", f"{name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("python -m " + " ".join(command) + "\n\n")
    if launcher is None:
        status = run.one_ray.run(command[0], command[1:], log)
    else:
        with open(log, "a") as output:
            env = commands.environment(Path(tempfile.gettempdir())) | launcher
            arguments = [sys.executable, "-m", *command]
            process = subprocess.Popen(arguments, env=env, stdout=output, stderr=subprocess.STDOUT)
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
    if status != 0:
        raise PhaseFailed(
            f"{name} ended with status {status}; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-25:])
        )


def make_task(run: Run) -> dict[str, Any]:
    """Generates the task, the demonstrations and the random policy."""
    study = run.study
    splits = generate(study.task, study.seed)
    for name, tasks in splits.items():
        _write_rows(run.path("data", f"{name}.jsonl"), map(asdict, tasks))
    rows = demonstrations(splits["demonstrations"], study.task.bug_rate, study.seed)
    _write_rows(run.path("data", "sft.jsonl"), rows)
    bugs = sum(row["output"] != task.solution for row, task in zip(rows, splits["demonstrations"]))
    parameters = save_random_policy(study.model, study.task, study.seed, run.path("models", "random"))
    return {"parameters": parameters, "demonstrations_with_a_bug": bugs / len(rows)} | {
        k: len(v) for k, v in splits.items()
    }


def train_sft(run: Run) -> dict[str, Any]:
    """OpenRLHF's SFT on the demonstrations."""
    command = commands.sft(
        run.study, run.path("models", "random"), run.path("data", "sft.jsonl"), run.path("models", "sft")
    )
    _train(run, "sft", command, commands.single_process())
    return {}


def make_pairs(run: Run) -> dict[str, Any]:
    """Samples the SFT policy on the training prompts, scores the samples and pairs a right with a wrong one."""
    study, config = run.study, run.study.reward
    train, held = run.reward_tasks()
    prompts = [task.prompt for task in train + held]
    draw = Draw(run.path("models", "sft"), prompts, config.samples, study.evaluation.max_new_tokens, study.seed)
    (responses,) = sample_all([draw])
    (scores,) = score_samples(train + held, responses)
    n = len(train)
    pairs = preference_pairs(train, responses[:n], scores[:n], config.pairs_per_prompt, study.seed)
    eval_pairs = preference_pairs(held, responses[n:], scores[n:], config.pairs_per_prompt, study.seed)
    if len(pairs) < config.batch_size or not eval_pairs:
        raise PhaseFailed(
            f"only {len(pairs)} preference pairs and {len(eval_pairs)} for evaluation: {scores.mean():.0%} of the SFT "
            f"policy's samples pass the tests; pairs need samples that do and samples that do not."
        )
    _write_rows(run.path("data", "pairs.jsonl"), pairs)
    _write_rows(run.path("data", "eval_pairs.jsonl"), eval_pairs)
    return {
        "sampled": int(scores.size),
        "sampled_pass": float(scores.mean()),
        "pairs": len(pairs),
        "eval_pairs": len(eval_pairs),
    }


def train_reward_model(run: Run) -> dict[str, Any]:
    """OpenRLHF's reward-model training; its accuracy is that on pairs of prompts which it never saw."""
    run.one_ray.start(
        run.path("logs", "one_ray.log")
    )  # training keeps one core busy; what comes next starts on another
    output = run.path("models", "reward")
    data = run.path("data", "pairs.jsonl"), run.path("data", "eval_pairs.jsonl")
    _train(
        run,
        "reward",
        commands.reward_model(run.study, run.path("models", "sft"), *data, output),
        commands.single_process(),
    )
    return finish_reward_model(output)


def finish_reward_model(output: Path) -> dict[str, float]:
    """Gives what ``train_rm`` has just written rewards of unit spread; what it said of the held-out pairs."""
    evaluation = {
        tag: points[-1][1] for tag, points in scalars(output / "tensorboard").items() if tag.startswith("eval/")
    }
    _scale_rewards(output, 1 / evaluation["eval/reward_std"])
    return {"heldout_accuracy": evaluation["eval/acc_mean"]}


def _scale_rewards(model: Path, factor: float) -> None:
    """Multiplies a reward model's value head, so that PPO sees rewards of about unit spread whatever the training
    gave.

    OpenRLHF's --reward.normalize_enable would do it, but keeps mean and spread in non-persistent buffers, which
    transformers 5 leaves uninitialised when it loads a model: the rewards become infinite.
    """
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["score.weight"] = weights["score.weight"] * factor
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def measure_reliability(run: Run) -> dict[str, Any]:
    """Is the reward model right, and where? On samples of the SFT policy for prompts that it has never seen."""
    study = run.study
    _, held = run.reward_tasks()
    prompts, samples, output = run.path("data", "reliability.jsonl"), run.path("samples"), run.path("reliability")
    rows = [{"input": t.prompt, "label": json.dumps({"solution": t.solution, "kind": t.kind})} for t in held]
    _write_rows(prompts, rows)
    shutil.rmtree(samples, ignore_errors=True)
    policy, reward = run.path("models", "sft"), run.path("models", "reward")
    _train(run, "collect", commands.collect(study, policy, reward, prompts, samples))
    _train(run, "analyze", commands.analyze(samples, output), {})
    report = json.loads((output / "report.json").read_text())
    return {"recommendation": report["recommendation"]["text"], "report": str(output / "report.html")}


def train_ppo(run: Run, name: str) -> dict[str, Any]:
    """One PPO run; its curves come from OpenRLHF's own TensorBoard log, its sample counts from its console log."""
    config = run.study.ppo_runs()[name]
    output, prompts = run.path("models", name), [task.prompt for task in run.reward_tasks()[0]]
    needed = config.steps * config.rollout_prompts
    rows = [{"input": prompts[i % len(prompts)]} for i in range(needed)]
    _write_rows(run.path("data", f"{name}_prompts.jsonl"), rows)
    policy, reward = run.path("models", "sft"), run.path("models", "reward")
    _train(
        run, name, commands.ppo(run.study, config, policy, reward, run.path("data", f"{name}_prompts.jsonl"), output)
    )
    text = run.path("logs", f"{name}.log").read_text()
    counts = {int(n) for n in re.findall(r"Starting experience making with (\d+) samples", text)}
    filtered = re.findall(r"(\d+) samples scored, (\d+) kept", text)
    return {
        "curves": scalars(output / "tensorboard"),
        "scored_per_step": sorted({int(scored) for scored, _ in filtered}) or sorted(counts),
        "kept_per_step": sorted({int(kept) for _, kept in filtered}) or sorted(counts),
        "samples_in_actor_critic_reference": sorted(counts),
    }


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalar curves, tag to (step, value), of the TensorBoard files below a directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(directory.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            curves.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return curves


def evaluate_all(run: Run) -> dict[str, Any]:
    """True scores on held-out tasks, into ``scores.npz``: of the SFT policy, of each PPO run's end, of the steps at
    which the filter is compared, and of some steps on the way for the curves.
    """
    study, config = run.study, run.study.evaluation
    tasks = run.tasks("heldout")
    prompts = [task.prompt for task in tasks]
    draws: dict[str, Draw] = {}

    def add(name: str, model: Path, samples: int, greedy: bool = False) -> None:
        draws[name] = Draw(model, prompts, samples, config.max_new_tokens, study.seed, greedy)

    for name in ("sft", *study.ppo_runs()):
        model = run.path("models", "sft") if name == "sft" else run.path("models", name, "final")
        add(f"{name}_sampled", model, config.samples)
        add(f"{name}_greedy", model, 1, greedy=True)
    matched = {name: set(steps.values()) for name, steps in matched_steps(courses(run)).items()}
    for name, ppo in study.ppo_runs().items():
        for step in ppo.saved_steps()[:-1]:
            model = run.path("models", name, "checkpoints", f"global_step{step}_hf")
            if step in matched.get(name, ()):
                add(f"{name}_step{step}", model, config.samples)
            elif step % config.curve_every == 0:
                add(f"{name}_step{step}", model, config.checkpoint_samples)
    arrays = dict(zip(draws, score_samples(tasks, *sample_all(list(draws.values())))))
    np.savez_compressed(run.path("scores.npz"), **arrays)
    return {"heldout_samples": sum(array.size for array in arrays.values())}


def courses(run: Run) -> dict[str, Course]:
    """What each PPO run has spent, by the run's own timing."""
    return {
        name: Course(ppo, float(np.median([seconds for _, seconds in timing(run, name)])))
        for name, ppo in run.study.ppo_runs().items()
    }


def timing(run: Run, name: str) -> list[tuple[int, float]]:
    """(step, seconds of that step) of a PPO run."""
    return scalars(run.path("models", name, "tensorboard"))["train/timing/step_total"]


def policy_scores(run: Run) -> dict[tuple[str, int], np.ndarray]:
    """The true scores that ``evaluate_all`` has written, (tasks, samples) by run and step; SFT is step 0 of itself."""
    ends = {name: ppo.steps for name, ppo in run.study.ppo_runs().items()} | {"sft": 0}
    scores = {}
    for key, array in np.load(run.path("scores.npz")).items():
        name, kind = key.rsplit("_", 1)
        if kind == "sampled":
            scores[name, ends[name]] = array
        elif kind.startswith("step"):
            scores[name, int(kind.removeprefix("step"))] = array
    return scores


def titles(study: Study) -> dict[str, str]:
    """What the policies of a study are called in tables and figures."""
    k, n = study.ppo.keep, study.ppo.samples
    return {
        "sft": "SFT",
        "unfiltered": "PPO, no filter",
        "random": f"PPO, random {k} of {n}",
        "ppo": f"PF-PPO, {study.ppo.sample_filter} {k} of {n}",
        "overoptimised": "PF-PPO pushed too hard",
    }


def phases_of(study: Study) -> dict[str, tuple[str, Callable[[Run], dict[str, Any]]]]:
    """The phases by name, in order: what to tell the user, and what to do."""
    ppo = {
        name: (f"{titles(study)[name]} (openrlhf.cli.train_ppo)", lambda run, name=name: train_ppo(run, name))
        for name in study.ppo_runs()
    }
    return {
        "task": ("generate the task and a random policy", make_task),
        "sft": ("train the policy (openrlhf.cli.train_sft)", train_sft),
        "pairs": ("sample preference pairs from the policy", make_pairs),
        "reward": ("train the reward model (openrlhf.cli.train_rm)", train_reward_model),
        "reliability": ("measure the reward model (openrlhf_pf.cli.collect, analyze)", measure_reliability),
        **ppo,
        "evaluate": ("score held-out tasks by running their tests", evaluate_all),
    }


def settings_of(study: Study, phase: str) -> dict[str, Any]:
    """The settings that a phase's outcome depends on, those of the phases before it included."""
    parts = {"task": ["seed", "task", "model"]}
    parts["sft"] = [*parts["task"], "sft", "evaluation"]
    parts["pairs"] = parts["reward"] = [*parts["sft"], "reward"]
    parts["reliability"] = [*parts["reward"], "ppo"]
    parts |= {name: [*parts["reward"], "ppo"] for name in ("unfiltered", "random", "ppo")}
    parts["overoptimised"] = [*parts["reward"], "overoptimised"]
    settings = study.as_dict()
    return {part: settings[part] for part in parts.get(phase, list(settings))}
