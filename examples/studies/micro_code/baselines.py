"""What needs no PPO: the policy is sampled, the reward model chooses, and OpenRLHF's own trainers learn from that.

``raft`` fine-tunes on the best of N responses to each prompt (train_sft); ``dpo`` and ``ipo`` take the best and the
worst of N as a pair (train_dpo). With several rounds each samples the policy of the round before, and is trained on,
its reference the policy that it starts from. All see as many prompts and responses as a PPO run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from examples.micro_code import commands
from examples.micro_code.config import Study
from examples.micro_code.phases import Run, _train, _write_rows
from examples.micro_code.sampling import Draw, rewards_of, sample_all
from examples.micro_code.tasks import Task


@dataclass(frozen=True)
class Baseline:
    """``prompts`` in all, ``samples`` responses to each, in ``rounds``; the rest is the trainer's."""

    method: str
    learning_rate: float
    rounds: int = 1
    prompts: int = 1024
    samples: int = 5
    epochs: int = 1
    batch_size: int = 32
    beta: float = 0.1

    @property
    def steps(self) -> int:
        """Optimizer steps, at most: a prompt whose responses are all alike gives no pair."""
        return self.rounds * (self.prompts // self.rounds * self.epochs // self.batch_size)

    def saved_steps(self) -> range:
        """As of PPO's settings: no policy is kept but the last."""
        return range(0)

    def actor_updates(self, step: int) -> int:
        """As of PPO's settings: each step is an update."""
        return step


#: Learning rates are the best of three on the validation prompts of one study.
BASELINES = {
    "raft": Baseline("raft", 3e-4),
    "dpo": Baseline("dpo", 1e-4),
    "ipo": Baseline("ipo", 1e-4),
    "dpo_iterative": Baseline("dpo", 1e-4, rounds=4),
}
#: Variants, as ``arm+variant``: what the learning rate is multiplied with.
RATES = {"rate.1": 0.1, "rate.3": 1 / 3, "rate3": 3.0}


def baseline_of(arm: str) -> Baseline | None:
    """The baseline of ``arm`` or ``arm+variant``; None if it is no baseline.

    Raises:
        ValueError: there is no such variant.
    """
    name, *variants = arm.split("+")
    if name not in BASELINES:
        return None
    found = BASELINES[name]
    for variant in variants:
        if variant not in RATES:
            raise ValueError(f"there is no variant {variant!r} of {name}: take one of {', '.join(RATES)}.")
        found = replace(found, learning_rate=found.learning_rate * RATES[variant])
    return found


def chosen_rows(
    method: str, tasks: Sequence[Task], responses: Sequence[Sequence[str]], rewards: np.ndarray
) -> list[dict[str, str]]:
    """What trains, by (tasks, samples) rewards: ``input`` and ``output``, or ``prompt``, ``chosen``, ``rejected``."""
    rows = []
    for task, texts, reward in zip(tasks, responses, rewards):
        best, worst = texts[int(np.argmax(reward))], texts[int(np.argmin(reward))]
        if method == "raft":
            rows.append({"input": task.prompt, "output": best})
        elif best != worst:
            rows.append({"prompt": task.prompt, "chosen": best, "rejected": worst})
    return rows


def train(baseline: Baseline, run: Run, name: str, models: tuple[Path, Path], tasks: Sequence[Task], at: Path) -> None:
    """Train from the policy and by the reward model of ``models``; the last policy is ``at/model/final``.

    ``run`` is where logs go, and its study has the seed.
    """
    study, (policy, reward) = run.study, models
    each = baseline.prompts // baseline.rounds
    for number in range(baseline.rounds):
        some = tasks[number * each : (number + 1) * each]
        seed = study.seed * 1000 + number
        draw = Draw(policy, [t.prompt for t in some], baseline.samples, study.evaluation.max_new_tokens, seed)
        (responses,) = sample_all([draw])
        texts = [task.prompt + text for task, drawn in zip(some, responses) for text in drawn]
        rewards = rewards_of(reward, texts).reshape(len(some), -1)
        data = at / f"data{number}.jsonl"
        _write_rows(data, chosen_rows(baseline.method, some, responses, rewards))
        last = number + 1 == baseline.rounds
        output = at / "model" / ("final" if last else f"round{number + 1}")
        command = COMMANDS[baseline.method](study, baseline, policy, data, output)
        _train(run, f"{name}-{number + 1}", command, commands.single_process())
        policy = output


def _raft(study: Study, baseline: Baseline, policy: Path, data: Path, output: Path) -> list[str]:
    settings = replace(
        study.sft, epochs=baseline.epochs, batch_size=baseline.batch_size, learning_rate=baseline.learning_rate
    )
    return commands.sft(replace(study, sft=settings), policy, data, output)


def _dpo(study: Study, baseline: Baseline, policy: Path, data: Path, output: Path) -> list[str]:
    rate, beta = baseline.learning_rate, baseline.beta
    command = commands.dpo(study, policy, data, output, rate, beta, baseline.batch_size, baseline.epochs)
    return [*command, "--model.ipo_enable"] if baseline.method == "ipo" else command


COMMANDS: dict[str, Callable[[Study, Baseline, Path, Path, Path], list[str]]] = {
    "raft": _raft,
    "dpo": _dpo,
    "ipo": _dpo,
}
