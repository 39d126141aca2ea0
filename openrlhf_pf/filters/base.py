"""What a sample filter sees and what it must give back.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

# Rewards come out of bf16 reward models: a spread below this share of the rewards' size is rounding, not a preference.
FLAT_TOLERANCE = 1e-6


class FilterBatch:
    """The scored samples of one rollout, read-only; derived tensors are computed when first asked for.

    Args:
        rewards: (G, N) the reward model's own scores. NaN and infinite entries mean "no usable reward".
        generator: source of all randomness. Without one, torch's global generator is used.
    """

    def __init__(self, rewards: Tensor, generator: torch.Generator | None = None) -> None:
        if rewards.dim() != 2:
            raise ValueError(f"rewards must have shape (prompts, samples), got {tuple(rewards.shape)}.")
        self.rewards = rewards if rewards.dtype in (torch.float32, torch.float64) else rewards.float()
        self.generator = generator

    @cached_property
    def usable(self) -> Tensor:
        """(G, N) bool: the reward is a finite number."""
        return self.rewards.isfinite()

    @cached_property
    def n_usable(self) -> Tensor:
        """(G,) how many samples of each prompt have a usable reward."""
        return self.usable.sum(dim=1)

    @cached_property
    def order(self) -> Tensor:
        """(G, N) the sample at each rank, best first, unusable ones last.

        Ties are broken by a random permutation, never by position: prompts with equal rewards are shuffled, then
        sorted again, stably. The others, nearly all when rewards are floats, are sorted once.
        """
        keys = torch.where(self.usable, self.rewards, -torch.inf)
        ordered, order = keys.sort(dim=1, descending=True)
        tied = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero().squeeze(1)
        if len(tied):
            keys = keys[tied]
            shuffle = torch.rand(keys.shape, generator=self.generator).argsort(dim=1)
            by_reward = keys.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
            order[tied] = shuffle.gather(1, by_reward)
        return order

    @cached_property
    def flat(self) -> Tensor:
        """(G,) bool: all usable rewards of the prompt are equal, up to ``FLAT_TOLERANCE``."""
        highest = torch.where(self.usable, self.rewards, -torch.inf).amax(dim=1)
        lowest = torch.where(self.usable, self.rewards, torch.inf).amin(dim=1)
        size = torch.where(self.usable, self.rewards.abs(), 0.0).amax(dim=1).clamp(min=1.0)
        return (self.n_usable > 0) & (highest - lowest <= FLAT_TOLERANCE * size)


class SampleFilter(ABC):
    """A filtered policy mu: rewards (G, N) in, weights (G, N) out (PF-PPO, Section 3).

    A subclass writes :meth:`weigh`; calling the filter adds the rules that hold for every filter: a sample without a
    usable reward has weight 0, and a prompt with fewer than k usable samples has weight 0 throughout.

    Args:
        n_samples: N, samples drawn a prompt.
        keep: k, samples a prompt that train.

    Raises:
        ValueError: k is not between 1 and N, or there is nothing to choose from.
    """

    #: "group": weights sum to 1 in each prompt, k samples of each prompt train.
    scope: ClassVar[str] = "group"

    def __init__(self, n_samples: int, keep: int) -> None:
        if not 1 <= keep <= n_samples:
            raise ValueError(
                f"keep must lie between 1 and the {n_samples} samples of a prompt, got {keep}: "
                "draw more samples a prompt or keep fewer."
            )
        self.n_samples = n_samples
        self.keep = keep

    @classmethod
    def default_keep(cls, n_samples: int) -> int:
        """k when the user does not give it."""
        return 2

    @abstractmethod
    def weigh(self, batch: FilterBatch) -> Tensor:
        """Return the weights (G, N); each prompt's weights sum to 1, or are all 0 to drop the prompt."""

    def __call__(self, rewards: Tensor | FilterBatch, generator: torch.Generator | None = None) -> Tensor:
        """Weigh one rollout.

        Args:
            rewards: (G, N) scores, or a :class:`FilterBatch` of them.
            generator: source of randomness, when ``rewards`` is a tensor.

        Returns:
            (G, N) float64 weights: finite, not negative, rows that sum to 1, or to 0 for a dropped prompt.

        Raises:
            ValueError: the number of columns is not N, or :meth:`weigh` returned something else than it should.
        """
        batch = rewards if isinstance(rewards, FilterBatch) else FilterBatch(rewards, generator)
        if batch.rewards.shape[1] != self.n_samples:
            raise ValueError(
                f"this filter was built for {self.n_samples} samples a prompt, got {batch.rewards.shape[1]}."
            )
        weights = self.weigh(batch).double()
        if weights.shape != batch.rewards.shape or not weights.isfinite().all() or (weights < 0).any():
            raise ValueError(
                f"{type(self).__name__}.weigh must return finite weights, none negative, of shape "
                f"{tuple(batch.rewards.shape)}, got shape {tuple(weights.shape)} or a weight outside that range."
            )
        weights = weights * batch.usable
        weights = weights * (batch.n_usable >= self.keep).unsqueeze(1)
        total = weights.sum(dim=1, keepdim=True)
        return torch.where(total > 0, weights / total, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What a filter that learns must save with a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (most filters have no state)
        """Restore what :meth:`state_dict` returned."""
