"""Rollouts to test filters with: every column that a filter can ask for, random, tied or spoiled.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openrlhf_pf.filters import FilterBatch

#: (G,) columns that only ``--prompt_selection`` fills.
OF_SELECTION = ("posterior_mean", "visits")
#: Lists with an entry for each prompt.
OF_TEXTS = ("prompts", "responses", "response_tokens", "labels", "datasources")
#: Tasks that prompts are of, in turn: in the labels, which are JSON, and as data sources.
TASKS = ("code", "maths", "chat")


class UnknownLog(KeyError):
    """A filter asked for an extra log that only the user's reward function knows."""


class ExtraLogs(dict[str, Tensor]):
    """Extra logs that tell a missing key from the filter's own KeyError."""

    def __missing__(self, key: str) -> Tensor:
        raise UnknownLog(key)


@dataclass(frozen=True)
class Rollout:
    """Everything a filter can ask for; batches are made of copies, so that no check sees what another one changed."""

    rewards: Tensor
    columns: dict[str, Any]

    def batch(self, seed: int, step: int = 0) -> FilterBatch:
        """Return a batch of copies, with a generator of this seed."""
        columns = {name: partial(copy.deepcopy, value) for name, value in self.columns.items()}
        return FilterBatch(self.rewards.clone(), torch.Generator().manual_seed(seed), step, **columns)

    def changed_in(self, batch: FilterBatch) -> set[str]:
        """Return the names of what is no longer the same in a batch of this rollout."""
        asked_for = self.columns.keys() & batch.__dict__.keys()
        changed = {name for name in asked_for if not equal(batch.__dict__[name], self.columns[name])}
        if not equal(batch.rewards, self.rewards):
            changed.add("rewards")
        elif not equal(batch.usable, self.rewards.isfinite()):
            changed.add("usable")
        return changed

    def with_samples(self, order: Tensor) -> "Rollout":
        """Return the same prompts with their samples in another order (G, N)."""

        def moved(values: Tensor) -> Tensor:
            return values.gather(-1, order.expand_as(values))

        texts = {
            name: [[row[i] for i in places] for row, places in zip(self.columns[name], order.tolist())]
            for name in ("responses", "response_tokens")
        }
        return Rollout(moved(self.rewards), self._moved(moved) | texts)

    def with_prompts(self, order: Tensor) -> "Rollout":
        """Return the same samples with their prompts in another order (G,)."""

        def moved(values: Tensor) -> Tensor:
            return values[..., order, :]

        texts = {name: [self.columns[name][i] for i in order] for name in OF_TEXTS}
        of_prompts = {name: self.columns[name][order] for name in OF_SELECTION if name in self.columns}
        return Rollout(moved(self.rewards), self._moved(moved) | texts | of_prompts)

    def without_selection(self) -> "Rollout":
        """Return the same samples as they are where prompts are not selected."""
        return Rollout(self.rewards, {name: v for name, v in self.columns.items() if name not in OF_SELECTION})

    def _moved(self, moved: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        tensors = {
            name: moved(value)
            for name, value in self.columns.items()
            if isinstance(value, Tensor) and name not in OF_SELECTION
        }
        logs = ExtraLogs({name: moved(value) for name, value in self.columns["extra_logs"].items()})
        return {**self.columns, **tensors, "extra_logs": logs}


def make_rollout(n_prompts: int, n_samples: int, seed: int) -> Rollout:
    """Return random samples: rewards between -1 and 1, scores between 0 and 1; no two of a prompt are equal."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, n_prompts, n_samples, generator=generator, dtype=torch.float64)

    rewards = normal().tanh()
    place = torch.rand(n_prompts, n_samples, generator=generator).argsort(dim=1)
    lengths = 20 + 37 * place + torch.randint(37, place.shape, generator=generator)
    scores = (2 * rewards + normal()).sigmoid()
    mean = torch.rand(n_prompts, generator=generator, dtype=torch.float64)
    visits = torch.randint(4, (n_prompts,), generator=generator)
    return _rollout(rewards, lengths, scores, rewards + 0.3 * normal(3), mean, visits)


def make_tied_rollout(n_prompts: int, n_samples: int, seed: int) -> Rollout:
    """Return samples that are equal but for their rewards: all 0 in half of the prompts, 0 or 1 at random in the rest.

    In either half, a filter that does not look at positions weighs each position the same on average.
    """
    rewards = torch.randint(2, (n_prompts, n_samples), generator=torch.Generator().manual_seed(seed)).double()
    rewards[: n_prompts // 2] = 0.0
    lengths = torch.full(rewards.shape, 100)
    scores, mean = torch.ones_like(rewards), torch.full((n_prompts,), 0.5, dtype=torch.float64)
    visits = torch.zeros(n_prompts, dtype=torch.long)
    return _rollout(rewards, lengths, scores, rewards.expand(3, -1, -1).clone(), mean, visits)


def _rollout(
    rewards: Tensor, lengths: Tensor, scores: Tensor, model_rewards: Tensor, mean: Tensor, visits: Tensor
) -> Rollout:
    tokens_of = {n: torch.arange(n) ** 2 % (7 + n) for n in lengths.unique().tolist()}
    tasks = [TASKS[i % len(TASKS)] for i in range(len(rewards))]
    columns = {
        "response_lengths": lengths,
        "prompts": [f"Question {i}" for i in range(len(rewards))],
        "responses": [[f"{'step ' * (n // 40)}answer {n}" for n in row] for row in lengths.tolist()],
        "response_tokens": [[tokens_of[n] for n in row] for row in lengths.tolist()],
        "labels": [json.dumps({"answer": i, "task": task}) for i, task in enumerate(tasks)],
        "datasources": tasks,
        "posterior_mean": mean,
        "visits": visits,
        "scores": scores,
        "extra_logs": ExtraLogs(accuracy=(scores > 0.5).double()),
        "model_rewards": model_rewards,
    }
    return Rollout(rewards, columns)


def spoiled(rollout: Rollout, seed: int) -> Rollout:
    """Return the rollout with NaN and infinite rewards in the first half of its prompts, only NaN in the first."""
    generator = torch.Generator().manual_seed(seed)
    shape = rollout.rewards.shape
    values = torch.tensor([torch.nan, torch.inf, -torch.inf])[torch.randint(3, shape, generator=generator)]
    hit = torch.rand(shape, generator=generator) < 0.3
    hit[shape[0] // 2 :] = False
    rewards = torch.where(hit, values, rollout.rewards)
    rewards[0] = torch.nan
    return Rollout(rewards, rollout.columns)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other
