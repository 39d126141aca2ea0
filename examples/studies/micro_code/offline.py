"""Reward models outside of PPO: samples of the policies, rewards, last states, and learning from few true scores."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from examples.micro_code.sampling import Draw, sample_all
from examples.micro_code.score import score_all
from examples.micro_code.tasks import Task
from openrlhf_pf.reliability.measures.metrics import count_pairs
from openrlhf_pf.training.correction.head import pairs_of, spread

from .rewards import REWARD_MODELS
from .runs import Runs

SAMPLES = 5
PROMPTS_AT_ONCE = 50
LEARNING_RATE, PASSES, PROMPTS_A_STEP = 1e-3, 3, 16


@dataclass(frozen=True)
class Labelled:
    """A prompt's responses: N of (T,) tokens, with the prompt; (N,) true scores."""

    sequences: list[np.ndarray]
    scores: np.ndarray

    def pairs(self) -> np.ndarray:
        """Return (P, 2) places of the better and the worse response."""
        return np.argwhere(pairs_of(self.scores[None])[0])


def pad_sequences(prompts: Sequence[Labelled]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (S, T) tokens of all responses, padded on the right, and the mask."""
    sequences = [torch.from_numpy(tokens) for prompt in prompts for tokens in prompt.sequences]
    padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(tokens) for tokens in sequences])
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()


class Samples:
    """Responses of a policy to prompts, with true scores; tokens as the reward model reads them."""

    def __init__(self, tasks: Sequence[Task], responses: Sequence[Sequence[str]]) -> None:
        self.tasks, self.responses = tasks, responses
        items = [(text, t.solution, t.kind) for t, texts in zip(tasks, responses) for text in texts]
        self.scores = np.array(score_all(items), dtype=float).reshape(len(tasks), -1)

    def right_rows(self) -> list[dict[str, str]]:
        """Return the samples that pass as rows of a data set for SFT."""
        found = zip(self.tasks, self.responses, self.scores)
        return [
            {"input": task.prompt, "output": text}
            for task, texts, scores in found
            for text, score in zip(texts, scores)
            if score == 1
        ]

    def labelled(self, tokenizer: Any) -> list[Labelled]:
        """Return each prompt with its tokens and true scores."""
        found = []
        for task, texts, scores in zip(self.tasks, self.responses, self.scores):
            ended = [f"{task.prompt}{text} {tokenizer.eos_token}" for text in texts]
            tokens = tokenizer(ended, add_special_tokens=False)["input_ids"]
            found.append(Labelled([np.array(ids) for ids in tokens], scores))
        return found


class RewardModel:
    """A reward model in this process."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right")
        self.model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)

    def states(self, prompts: Sequence[Labelled]) -> torch.Tensor:
        """Return (S, d) hidden states at the last token of each response."""
        tokens, mask = pad_sequences(prompts)
        hidden = self.model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return hidden[torch.arange(len(mask)), mask.sum(1) - 1]

    def read(self, prompts: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Return (G, N) rewards and (G, N, d) states."""
        self.model.eval()
        parts = []
        with torch.no_grad():
            for start in range(0, len(prompts), PROMPTS_AT_ONCE):
                parts.append(self.states(prompts[start : start + PROMPTS_AT_ONCE]))
            states = torch.cat(parts)
            rewards = self.model.score(states).squeeze(1)
        return rewards.numpy().reshape(len(prompts), -1), states.numpy().reshape(len(prompts), SAMPLES, -1)

    def learn(self, prompts: Sequence[Labelled], seed: int) -> None:
        """Train the whole model on the prompts' pairs, each prompt with the same weight."""
        optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        generator = np.random.default_rng(seed)
        for _ in range(PASSES):
            order = generator.permutation(len(prompts))
            for start in range(0, len(order), PROMPTS_A_STEP):
                batch = [prompts[i] for i in order[start : start + PROMPTS_A_STEP]]
                rewards = self.model.score(self.states(batch)).reshape(len(batch), -1)
                losses = [
                    -torch.nn.functional.logsigmoid(reward[better] - reward[worse]).mean()
                    for reward, (better, worse) in zip(rewards, (prompt.pairs().T for prompt in batch))
                ]
                optimizer.zero_grad()
                torch.stack(losses).mean().backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()


def accuracy(rewards: np.ndarray, scores: np.ndarray, prompts: np.ndarray | None = None) -> float:
    """Return the share of pairs within prompts that (G, N) rewards order right, of some of the prompts."""
    right, total = count_pairs(rewards, scores)[0]
    chosen = slice(None) if prompts is None else prompts
    return float(right[chosen].sum() / total[chosen].sum())


def label_samples(policy: Path, tasks: Sequence[Task], labels: int, tokens: int, seed: int) -> Samples:
    """Return that many samples of a policy with true scores."""
    order = np.random.default_rng([11, seed]).permutation(len(tasks))
    chosen = [tasks[i] for i in order[: labels // SAMPLES]]
    (responses,) = sample_all([Draw(policy, [task.prompt for task in chosen], SAMPLES, tokens, seed)])
    return Samples(chosen, responses)


def correct_before_training(given: Path, labelled: Samples, seed: int, output: Path) -> None:
    """Write the reward model ``given`` after it has learned from labelled samples."""
    model = RewardModel(given)
    prompts = labelled.labelled(model.tokenizer)
    before = spread(model.read(prompts)[0])
    model.learn([prompt for prompt in prompts if len(prompt.pairs())], seed)
    # As far apart as before: else the KL penalty would weigh less or more.
    model.model.score.weight.data *= before / spread(model.read(prompts)[0])
    model.model.save_pretrained(output)
    model.tokenizer.save_pretrained(output)


def sample_policies(runs: Runs, tasks: Sequence[Task], seed: int) -> tuple[Samples, Samples]:
    """Return samples of the SFT policy, and of the one that PPO has trained from it without a filter."""
    policies = runs.source.path("models", "sft"), runs.policy("none", seed, runs.config("none").steps)
    prompts, tokens = [task.prompt for task in tasks], runs.study.evaluation.max_new_tokens
    of_sft, of_trained = sample_all([Draw(policy, prompts, SAMPLES, tokens, seed) for policy in policies])
    return Samples(tasks, of_sft), Samples(tasks, of_trained)


def measure_bases(
    parser: argparse.ArgumentParser,
    measure: Callable[[Runs, argparse.Namespace], dict[str, Any]],
    argv: Sequence[str] | None,
) -> int:
    """Measure every base with every reward model, print and write rows; ``parser`` has the flags of ``measure``."""
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("--base", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="where runs.py keeps its runs")
    parser.add_argument("--reward", nargs="+", choices=REWARD_MODELS, default=["given"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    rows = []
    for base in options.base:
        for reward in options.reward:
            rows.append(measure(Runs(base, options.output, reward), options))
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0
