"""Baselines without PPO: sample the policy, choose by the reward model, train with OpenRLHF's own trainers.

``raft`` fine-tunes on the best of N responses to each prompt (train_sft). ``dpo`` and ``ipo`` take the best and the
worst of N as a pair (train_dpo). With several rounds, each samples and trains the policy of the round before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from examples.micro_code import commands
from examples.micro_code.config import Study
from examples.micro_code.phases import Run, train_in_process, write_rows
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
        """Optimizer steps, at most: a prompt whose responses are all equal gives no pair."""
        return self.rounds * (self.prompts // self.rounds * self.epochs // self.batch_size)

    def saved_steps(self) -> range:
        """Return the saved steps before the last, as PPOConfig does: none."""
        return range(0)

    def actor_updates(self, step: int) -> int:
        """Return the updates after ``step``, as PPOConfig does."""
        return step


#: Learning rates are the best of three on the validation prompts of one study.
BASELINES = {
    "raft": Baseline("raft", 3e-4),
    "dpo": Baseline("dpo", 1e-4),
    "ipo": Baseline("ipo", 1e-4),
    "dpo_iterative": Baseline("dpo", 1e-4, rounds=4),
}


def choose_rows(
    method: str, tasks: Sequence[Task], responses: Sequence[Sequence[str]], rewards: np.ndarray
) -> list[dict[str, str]]:
    """Return the rows that train, by (tasks, samples) rewards: best responses, or pairs of the best and the worst."""
    rows = []
    for task, texts, reward in zip(tasks, responses, rewards):
        best, worst = texts[int(np.argmax(reward))], texts[int(np.argmin(reward))]
        if method == "raft":
            rows.append({"input": task.prompt, "output": best})
        elif best != worst:
            rows.append({"prompt": task.prompt, "chosen": best, "rejected": worst})
    return rows


def train(baseline: Baseline, run: Run, name: str, models: tuple[Path, Path], tasks: Sequence[Task], at: Path) -> None:
    """Train from the policy and by the reward model of ``models``; write the last policy to ``at/model/final``.

    Args:
        baseline: what to train.
        run: where logs go; its study has the seed.
        name: of the logs.
        models: policy and reward model.
        tasks: the prompts.
        at: where data and policies go.
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
        write_rows(data, choose_rows(baseline.method, some, responses, rewards))
        last = number + 1 == baseline.rounds
        output = at / "model" / ("final" if last else f"round{number + 1}")
        train_in_process(run, f"{name}-{number + 1}", command_of(study, baseline, policy, data, output))
        policy = output


def command_of(study: Study, baseline: Baseline, policy: Path, data: Path, output: Path) -> list[str]:
    """Return the command of one round."""
    if baseline.method == "raft":
        settings = replace(
            study.sft, epochs=baseline.epochs, batch_size=baseline.batch_size, learning_rate=baseline.learning_rate
        )
        return commands.sft(replace(study, sft=settings), policy, data, output)
    settings = replace(
        study.reward, epochs=baseline.epochs, batch_size=baseline.batch_size, learning_rate=baseline.learning_rate
    )
    command = commands.on_pairs("train_dpo", study, settings, policy, data, output)
    command += ["--ref.model_name_or_path", str(policy), "--model.beta", str(baseline.beta)]
    return [*command, "--model.ipo_enable"] if baseline.method == "ipo" else command
