"""The phases of a study, in order. Each reads and writes files of the run directory and returns its figures."""

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import commands
from .comparison import Course, matched_steps
from .config import Study
from .one_ray import OneRay
from .policy import save_random_policy
from .sampling import Draw, sample_all, score_samples
from .tasks import Task, demonstrations, generate


class PhaseFailed(RuntimeError):
    """A trainer failed; the message names its log."""


@dataclass(frozen=True)
class Run:
    """A study and the directory of its files."""

    study: Study
    directory: Path
    one_ray: OneRay = field(default_factory=OneRay)

    def path(self, *parts: str) -> Path:
        """Return a path in the run directory."""
        return self.directory.joinpath(*parts)

    def tasks(self, split: str) -> list[Task]:
        """Return the tasks of a split, as the first phase wrote them."""
        return [Task(**row) for row in read_rows(self.path("data", f"{split}.jsonl"))]

    def reward_tasks(self) -> tuple[list[Task], list[Task]]:
        """Return the tasks that train the reward model and PPO, and those that only measure the reward model."""
        tasks, held = self.tasks("prompts"), self.study.reward.eval_prompts
        return tasks[held:], tasks[:held]


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict]:
    """Return the rows of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def labelled_rows(tasks: Sequence[Task]) -> list[dict[str, str]]:
    """Return rows of a prompt data set whose labels hold what the true score needs."""
    return [{"input": t.prompt, "label": json.dumps({"solution": t.solution, "kind": t.kind})} for t in tasks]


def train_on_ray(run: Run, name: str, command: list[str]) -> None:
    """Run a command, module first, in the process of one_ray.py, with its output in ``logs/NAME.log``."""
    log = _start_log(run, name, command)
    _check(name, run.one_ray.run(command[0], command[1:], log), log)


def train_in_process(run: Run, name: str, command: list[str], variables: dict[str, str] | None = None) -> None:
    """Run a command, module first, in a process of its own, with its output in ``logs/NAME.log``; it ends with us.

    ``variables`` are added to its environment, by default those of a launcher.
    """
    log = _start_log(run, name, command)
    variables = commands.launcher_variables() if variables is None else variables
    env = commands.environment(Path(tempfile.gettempdir())) | variables
    with open(log, "a") as output:
        arguments = [sys.executable, "-m", *command]
        process = subprocess.Popen(arguments, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    _check(name, status, log)


def _start_log(run: Run, name: str, command: list[str]) -> Path:
    log = run.path("logs", f"{name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("python -m " + " ".join(command) + "\n\n")
    return log


def _check(name: str, status: int, log: Path) -> None:
    if status != 0:
        end = "\n".join(log.read_text().splitlines()[-25:])
        raise PhaseFailed(f"{name} ended with status {status}; the end of {log}:\n{end}")


def make_task(run: Run) -> dict[str, Any]:
    """Generate the task, the demonstrations and the random policy."""
    study = run.study
    splits = generate(study.task, study.seed)
    for name, tasks in splits.items():
        write_rows(run.path("data", f"{name}.jsonl"), map(asdict, tasks))
    rows = demonstrations(splits["demonstrations"], study.task.bug_rate, study.seed)
    write_rows(run.path("data", "sft.jsonl"), rows)
    bugs = sum(row["output"] != task.solution for row, task in zip(rows, splits["demonstrations"]))
    parameters = save_random_policy(study.model, study.task, study.seed, run.path("models", "random"))
    sizes = {name: len(tasks) for name, tasks in splits.items()}
    return {"parameters": parameters, "demonstrations_with_a_bug": bugs / len(rows)} | sizes


def train_sft(run: Run) -> dict[str, Any]:
    """Run OpenRLHF's SFT on the demonstrations."""
    models = run.path("models", "random"), run.path("data", "sft.jsonl"), run.path("models", "sft")
    train_in_process(run, "sft", commands.sft(run.study, *models))
    return {}


def preference_pairs(
    tasks: Sequence[Task], responses: Sequence[Sequence[str]], scores: np.ndarray, per_prompt: int, seed: int
) -> list[dict[str, str]]:
    """Return rows ``{"prompt", "chosen", "rejected"}``: a response that passes its tests before one that fails.

    Args:
        tasks: a task whose samples all pass or all fail gives no pair.
        responses: (tasks, samples) texts.
        scores: (tasks, samples) their true scores.
        per_prompt: pairs of a prompt, at most; none twice.
        seed: of the choice.
    """
    rng = random.Random(f"micro-code pairs {seed}")
    rows = []
    for task, texts, passed in zip(tasks, responses, scores):
        good = sorted({text for text, ok in zip(texts, passed) if ok})
        bad = sorted({text for text, ok in zip(texts, passed) if not ok})
        candidates = [(g, b) for g in good for b in bad]
        for chosen, rejected in rng.sample(candidates, min(per_prompt, len(candidates))):
            rows.append({"prompt": task.prompt, "chosen": chosen, "rejected": rejected})
    rng.shuffle(rows)
    return rows


def make_pairs(run: Run) -> dict[str, Any]:
    """Sample the SFT policy on the training prompts, score the samples and pair right with wrong ones."""
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
    write_rows(run.path("data", "pairs.jsonl"), pairs)
    write_rows(run.path("data", "eval_pairs.jsonl"), eval_pairs)
    counts = {"sampled": int(scores.size), "sampled_pass": float(scores.mean())}
    return counts | {"pairs": len(pairs), "eval_pairs": len(eval_pairs)}


def train_reward_model(run: Run) -> dict[str, Any]:
    """Run OpenRLHF's reward-model training; its accuracy is measured on pairs of prompts that train nothing."""
    # Training keeps one core busy; the Ray of the next phases starts on another.
    run.one_ray.start(run.path("logs", "one_ray.log"))
    output = run.path("models", "reward")
    data = run.path("data", "pairs.jsonl"), run.path("data", "eval_pairs.jsonl")
    train_in_process(run, "reward", commands.reward_model(run.study, run.path("models", "sft"), *data, output))
    return finish_reward_model(output)


def finish_reward_model(output: Path) -> dict[str, float]:
    """Scale what ``train_rm`` has written to rewards of unit spread; return its accuracy on held-out pairs.

    OpenRLHF's --reward.normalize_enable would scale them, but keeps mean and spread in non-persistent buffers, which
    transformers 5 leaves uninitialised when it loads a model: the rewards become infinite.
    """
    from safetensors.torch import load_file, save_file

    curves = scalars(output / "tensorboard")
    weights = load_file(output / "model.safetensors")
    weights["score.weight"] = weights["score.weight"] * (1 / curves["eval/reward_std"][-1][1])
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    return {"heldout_accuracy": curves["eval/acc_mean"][-1][1]}


def measure_reliability(run: Run) -> dict[str, Any]:
    """Measure the reward model on samples of the SFT policy for prompts that train nothing."""
    study = run.study
    _, held = run.reward_tasks()
    prompts, samples, output = run.path("data", "reliability.jsonl"), run.path("samples"), run.path("reliability")
    write_rows(prompts, labelled_rows(held))
    shutil.rmtree(samples, ignore_errors=True)
    models = run.path("models", "sft"), run.path("models", "reward")
    train_on_ray(run, "collect", commands.collect(study, *models, prompts, samples))
    train_in_process(run, "analyze", commands.analyze(samples, output), {})
    report = json.loads((output / "report.json").read_text())
    return {"recommendation": report["recommendation"]["text"], "report": str(output / "report.html")}


def train_ppo(run: Run, name: str) -> dict[str, Any]:
    """Run PPO; its curves come from OpenRLHF's TensorBoard log, its sample counts from its console log."""
    config = run.study.ppo_runs()[name]
    output, prompts = run.path("models", name), [task.prompt for task in run.reward_tasks()[0]]
    rows = [{"input": prompts[i % len(prompts)]} for i in range(config.steps * config.rollout_prompts)]
    data = run.path("data", f"{name}_prompts.jsonl")
    write_rows(data, rows)
    models = run.path("models", "sft"), run.path("models", "reward")
    train_on_ray(run, name, commands.ppo(run.study, config, *models, data, output))
    text = run.path("logs", f"{name}.log").read_text()
    counts = sorted({int(n) for n in re.findall(r"Starting experience making with (\d+) samples", text)})
    filtered = re.findall(r"(\d+) samples scored, (\d+) kept", text)
    return {
        "curves": scalars(output / "tensorboard"),
        "scored_per_step": sorted({int(scored) for scored, _ in filtered}) or counts,
        "kept_per_step": sorted({int(kept) for _, kept in filtered}) or counts,
        "samples_in_actor_critic_reference": counts,
    }


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return all scalar curves, tag to (step, value), of the TensorBoard files below a directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(directory.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            curves.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return curves


def evaluate_all(run: Run) -> dict[str, Any]:
    """Write true scores on held-out tasks into ``scores.npz``.

    They are of the SFT policy, of each PPO run's end, of the steps at which the filter is compared, and of some steps
    in between for the curves.
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
    """Return what each PPO run has spent, by its own timing."""
    timing = {name: scalars(run.path("models", name, "tensorboard")) for name in run.study.ppo_runs()}
    seconds = {name: [value for _, value in curves["train/timing/step_total"]] for name, curves in timing.items()}
    return {name: Course(ppo, float(np.median(seconds[name]))) for name, ppo in run.study.ppo_runs().items()}


def policy_scores(run: Run) -> dict[tuple[str, int], np.ndarray]:
    """Return the true scores of ``evaluate_all``, (tasks, samples) by run and step; SFT is its own step 0."""
    last_steps = {name: ppo.steps for name, ppo in run.study.ppo_runs().items()} | {"sft": 0}
    scores = {}
    for key, array in np.load(run.path("scores.npz")).items():
        name, kind = key.rsplit("_", 1)
        if kind == "sampled":
            scores[name, last_steps[name]] = array
        elif kind.startswith("step"):
            scores[name, int(kind.removeprefix("step"))] = array
    return scores


def titles(study: Study) -> dict[str, str]:
    """Return the names of a study's policies in tables and figures."""
    k, n = study.ppo.keep, study.ppo.samples
    return {
        "sft": "SFT",
        "unfiltered": "PPO, no filter",
        "random": f"PPO, random {k} of {n}",
        "ppo": f"PF-PPO, {study.ppo.sample_filter} {k} of {n}",
        "overoptimised": "PF-PPO pushed too hard",
    }


def phases_of(study: Study) -> dict[str, tuple[str, Callable[[Run], dict[str, Any]]]]:
    """Return the phases by name, in order: a title and the function that does it."""
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
    """Return the settings that a phase's outcome depends on, those of the phases before it included."""
    parts = {"task": ["seed", "task", "model"]}
    parts["sft"] = [*parts["task"], "sft", "evaluation"]
    parts["pairs"] = parts["reward"] = [*parts["sft"], "reward"]
    parts |= {name: [*parts["reward"], "ppo"] for name in ("reliability", "unfiltered", "random", "ppo")}
    parts["overoptimised"] = [*parts["reward"], "overoptimised"]
    settings = study.as_dict()
    return {part: settings[part] for part in parts.get(phase, list(settings))}
