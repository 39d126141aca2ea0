"""Reward models outside of PPO: their rewards, their last states, and learning from a few true scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from examples.micro_code.sampling import Draw, sample_all
from examples.micro_code.score import score_all
from examples.micro_code.tasks import Task
from openrlhf_pf.reliability.measures.pairs import count_pairs
from openrlhf_pf.training.correction.labels import Batch, Labelled, pad_sequences, spread

SAMPLES = 5
LEARNING_RATE, PASSES, PROMPTS_A_STEP = 1e-3, 3, 16


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
            found.append(Labelled([np.array(ids) for ids in tokens], scores, np.zeros(len(texts))))
        return found


class RewardModel:
    """A reward model in this process."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right")
        self.model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)

    def states(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (S, d) hidden states at the last token of each row."""
        mask = batch["attention_mask"]
        hidden = self.model.base_model(input_ids=batch["sequences"], attention_mask=mask).last_hidden_state
        return hidden[torch.arange(len(mask)), mask.sum(1) - 1]

    def read(self, prompts: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Return (G, N) rewards and (G, N, d) states."""
        self.model.eval()
        parts = []
        with torch.no_grad():
            for start in range(0, len(prompts), 50):
                parts.append(self.states(pad_sequences(prompts[start : start + 50], 0)))
            states = torch.cat(parts)
            rewards = self.model.score(states).squeeze(1)
        return rewards.numpy().reshape(len(prompts), -1), states.numpy().reshape(len(prompts), SAMPLES, -1)

    def learn(self, prompts: Sequence[Labelled], seed: int) -> None:
        """Train on the prompts' pairs, as ``--sample_filter_correct refresh`` does."""
        optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        generator = np.random.default_rng(seed)
        for _ in range(PASSES):
            order = generator.permutation(len(prompts))
            for start in range(0, len(order), PROMPTS_A_STEP):
                batch = Batch([prompts[i] for i in order[start : start + PROMPTS_A_STEP]]).tensors(0)
                rewards = self.model.score(self.states(batch)).squeeze(1)
                better, worse = rewards[batch["pairs"]].unbind(1)
                loss = -(torch.nn.functional.logsigmoid(better - worse) * batch["weights"]).sum()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()


def accuracy(rewards: np.ndarray, scores: np.ndarray, prompts: np.ndarray | None = None) -> float:
    """Return the share of pairs within prompts that (G, N) rewards order right, of some of the prompts."""
    right, total = count_pairs(rewards, scores)[0]
    chosen = slice(None) if prompts is None else prompts
    return float(right[chosen].sum() / total[chosen].sum())


def fit_head(prompts: Sequence[Labelled], rewards: np.ndarray, states: np.ndarray, penalty: float) -> np.ndarray:
    """Return (d,) weights w of reward + w . state, by the Bradley-Terry loss on pairs with an L2 penalty."""
    scale = states.std()
    differences, offsets = [], []
    for prompt, reward, state in zip(prompts, rewards, states / scale):
        for better, worse in prompt.pairs():
            differences.append(state[better] - state[worse])
            offsets.append(reward[better] - reward[worse])
    x, offset = torch.tensor(np.array(differences)), torch.tensor(np.array(offsets))
    w = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -torch.nn.functional.logsigmoid(x @ w + offset).mean() + penalty / 2 * (w @ w)
        value.backward()
        return value

    optimizer.step(loss)
    return w.detach().numpy() / scale


def label_samples(policy: Path, tasks: Sequence[Task], labels: int, tokens: int, seed: int) -> Samples:
    """Return as many samples of a policy with true scores as ``--sample_filter_correct`` takes in a run."""
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
