"""What a sample filter sees and what it must give back.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

# Rewards come out of bf16 reward models: a spread below this share of the rewards' size is rounding, not a preference.
FLAT_TOLERANCE = 1e-6


class FilterBatch:
    """The scored samples of one rollout, read-only; what is costly to make is made when first asked for.

    Args:
        rewards: (G, N) the reward model's own scores. NaN and infinite entries mean "no usable reward".
        generator: source of all randomness. Without one, torch's global generator is used.
        step: number of training steps made before this rollout.
        columns: what else is known of the samples, by the name of the property that serves it (``response_lengths``,
            ``response_tokens``, ``prompts``, ``responses``, ``labels``, ``datasources``, ``posterior_mean``,
            ``visits``, ``scores``, ``extra_logs``, ``model_rewards``): its value, or a function without arguments that
            makes it.
    """

    rewards: Tensor
    generator: torch.Generator | None
    step: int

    def __init__(
        self,
        rewards: Tensor,
        generator: torch.Generator | None = None,
        step: int = 0,
        **columns: Any | Callable[[], Any],
    ) -> None:
        if rewards.dim() != 2:
            raise ValueError(f"rewards must have shape (prompts, samples), got {tuple(rewards.shape)}.")
        rewards = rewards if rewards.dtype in (torch.float32, torch.float64) else rewards.float()
        self.__dict__.update(rewards=rewards, generator=generator, step=step, _columns=columns)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a FilterBatch is read-only: {name} cannot be set.")

    def _column(self, name: str) -> Any:
        value = self._columns.get(name)
        if value is None:
            raise ValueError(f"these samples have no {name}: the filter needs them, give FilterBatch({name}=...).")
        return value() if callable(value) else value

    def _column_if_there(self, name: str) -> Any | None:
        return None if self._columns.get(name) is None else self._column(name)

    def ranked_by(self, rewards: Tensor) -> "FilterBatch":
        """The same samples with other rewards (G, N) to rank by; those without a usable reward stay so."""
        return FilterBatch(torch.where(self.usable, rewards, torch.nan), self.generator, self.step, **self._columns)

    # ── What came with the samples ──

    @cached_property
    def response_lengths(self) -> Tensor:
        """(G, N) int64: tokens of each response."""
        return self._column("response_lengths")

    @cached_property
    def response_tokens(self) -> Sequence[Sequence[Tensor]]:
        """G x N responses as tokens, (tokens,) int64 each; with what an environment answered in between."""
        return self._column("response_tokens")

    @cached_property
    def prompts(self) -> Sequence[str]:
        """G prompt texts."""
        return self._column("prompts")

    @cached_property
    def responses(self) -> Sequence[Sequence[str]]:
        """G x N response texts."""
        return self._column("responses")

    @cached_property
    def labels(self) -> Sequence[str]:
        """G labels of the data set ("" where there is none)."""
        return self._column("labels")

    @cached_property
    def scores(self) -> Tensor | None:
        """(G, N) float64 true scores, NaN where one is missing; None when the reward function returns none."""
        return self._column_if_there("scores")

    @cached_property
    def extra_logs(self) -> Mapping[str, Tensor]:
        """Name to (G, N) float64: the extra logs of the reward function, NaN where one is missing."""
        return self._column("extra_logs")

    # ── What is known of the prompts ──

    @cached_property
    def datasources(self) -> Sequence[str]:
        """G data sources: what the data set's column ``datasource`` says ("default" where there is none)."""
        return self._column("datasources")

    @cached_property
    def posterior_mean(self) -> Tensor | None:
        """(G,) float64: each prompt's chance of success by ``--prompt_selection``, the mean of its posterior when it
        was selected, before this rollout; None without prompt selection.
        """
        return self._column_if_there("posterior_mean")

    @cached_property
    def visits(self) -> Tensor | None:
        """(G,) int64: in how many earlier rollouts ``--prompt_selection`` took each prompt; None without it."""
        return self._column_if_there("visits")

    # ── Several reward models ──

    @property
    def has_ensemble(self) -> bool:
        """Whether there are ``model_rewards``."""
        return self._columns.get("model_rewards") is not None

    @cached_property
    def model_rewards(self) -> Tensor:
        """(M, G, N) the score of each reward model of the ensemble."""
        return self._column("model_rewards")

    @cached_property
    def ensemble_mean(self) -> Tensor:
        """(G, N) mean over the reward models."""
        return self.model_rewards.mean(dim=0)

    @cached_property
    def ensemble_spread(self) -> Tensor:
        """(G, N) standard deviation over the reward models (with M - 1)."""
        return self.model_rewards.std(dim=0)

    def lower_bound(self, width: float = 1.0) -> Tensor:
        """(G, N) lower confidence bound: mean less ``width`` standard deviations over the reward models."""
        return self.ensemble_mean - width * self.ensemble_spread

    # ── Derived from the rewards ──

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
        """(G, N) the sample at each rank by reward, best first, unusable ones last; ties as in :meth:`ranking`."""
        return self.ranking(self.rewards)

    def ranking(self, keys: Tensor) -> Tensor:
        """Rank the samples of each prompt by a key.

        Ties are broken by a random permutation, never by position: prompts with equal keys are shuffled, then sorted
        again, stably. The others, nearly all when keys are floats, are sorted once.

        Args:
            keys: (G, N) numbers, the highest is best; NaN counts as the lowest.

        Returns:
            (G, N) int64: the sample at each rank, best first, samples without a usable reward last.
        """
        keys = torch.where(self.usable & ~keys.isnan(), keys, -torch.inf)
        ordered, order = keys.sort(dim=1, descending=True)
        tied = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero().squeeze(1)
        if len(tied):
            keys = keys[tied]
            # A usable sample whose key is as low as can be still ranks before one that cannot be used.
            usable = self.usable[tied]
            shuffle = torch.rand(keys.shape, generator=self.generator).masked_fill_(~usable, 2.0).argsort(dim=1)
            by_key = keys.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
            order[tied] = shuffle.gather(1, by_key)
        return order

    @cached_property
    def spread(self) -> Tensor:
        """(G,) highest less lowest usable reward of each prompt; -inf where there is none."""
        highest = torch.where(self.usable, self.rewards, -torch.inf).amax(dim=1)
        return highest - torch.where(self.usable, self.rewards, torch.inf).amin(dim=1)

    def flat_within(self, tolerance: float = 0.0) -> Tensor:
        """(G,) bool: the usable rewards of the prompt lie within ``tolerance``, or within ``FLAT_TOLERANCE``."""
        size = torch.where(self.usable, self.rewards.abs(), 0.0).amax(dim=1).clamp(min=1.0)
        return (self.n_usable > 0) & (self.spread <= (FLAT_TOLERANCE * size).clamp(min=tolerance))

    @cached_property
    def flat(self) -> Tensor:
        """(G,) bool: all usable rewards of the prompt are equal, up to ``FLAT_TOLERANCE``."""
        return self.flat_within()


class SampleFilter(ABC):
    """A filtered policy mu: rewards (G, N) in, weights (G, N) out (PF-PPO, Section 3).

    A subclass writes :meth:`weigh`; calling the filter adds the rules that hold for every filter: a sample without a
    usable reward has weight 0, and (in group scope) a prompt with fewer than k usable samples has weight 0 throughout.
    Further settings are further parameters of the constructor, with a type and, if they may be left out, a default.

    Args:
        n_samples: N, samples drawn a prompt.
        keep: k, samples a prompt that train.

    Raises:
        ValueError: k is not between 1 and N, or there is nothing to choose from.
    """

    #: "group": weights sum to 1 in each prompt, k samples of each prompt train. "batch": weights sum to 1 over all
    #: samples of the rollout, and up to G k of them train, however they fall on prompts.
    scope: ClassVar[Literal["group", "batch"]] = "group"

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

    @property
    def most_weighed(self) -> int:
        """How many samples of a prompt can have a weight above 0: what trains when samples are reweighted."""
        return self.n_samples

    @abstractmethod
    def weigh(self, batch: FilterBatch) -> Tensor:
        """Return weights (G, N) in proportion; each prompt's, or in batch scope all, are then scaled to sum 1."""

    def __call__(self, rewards: Tensor | FilterBatch, generator: torch.Generator | None = None) -> Tensor:
        """Weigh one rollout.

        Args:
            rewards: (G, N) scores, or a :class:`FilterBatch` of them.
            generator: source of randomness, when ``rewards`` is a tensor.

        Returns:
            (G, N) float64 weights: finite, not negative. Group scope: rows sum to 1, or to 0 for a dropped prompt.
            Batch scope: all sum to 1, or to 0 when no sample passes.

        Raises:
            ValueError: the number of columns is not N, or :meth:`weigh` returned something else than it should.
        """
        batch = rewards if isinstance(rewards, FilterBatch) else FilterBatch(rewards, generator)
        if batch.rewards.shape[1] != self.n_samples:
            raise ValueError(
                f"this filter was built for {self.n_samples} samples a prompt, got {batch.rewards.shape[1]}."
            )
        weights = self.weigh(batch)
        if not isinstance(weights, Tensor) or weights.shape != batch.rewards.shape or not _all_weights(weights):
            raise ValueError(
                f"{type(self).__name__}.weigh must return finite weights, none negative, of shape "
                f"{tuple(batch.rewards.shape)}, got {_what(weights)}."
            )
        weights = weights.double() * batch.usable * ~self.too_few_usable(batch).unsqueeze(1)
        return scaled(weights, weights.sum(dim=1, keepdim=True) if self.scope == "group" else weights.sum())

    def too_few_usable(self, batch: FilterBatch) -> Tensor:
        """(G,) bool: prompts of which nothing trains, whatever :meth:`weigh` says.

        They have fewer than k usable rewards, in batch scope none.
        """
        return batch.n_usable < (self.keep if self.scope == "group" else 1)

    #: What the filter has to say about the last rollout, for the log.
    news: str = ""

    def metrics(self) -> dict[str, float]:
        """Figures about the last rollout, logged as ``filter/<name>``; NaN is left out."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a filter that learns must save with a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (most filters have no state)
        """Restore what :meth:`state_dict` returned."""


class KeyFilter(SampleFilter):
    """Keeps the k samples of a prompt with the highest key; a subclass says which in :meth:`key`."""

    @property
    def most_weighed(self) -> int:
        return self.keep

    @abstractmethod
    def key(self, batch: FilterBatch) -> Tensor:
        """Return (G, N) numbers, the highest is best."""

    def weigh(self, batch: FilterBatch) -> Tensor:
        return self.weights_of_best(batch, self.key(batch))

    def weights_of_best(self, batch: FilterBatch, keys: Tensor) -> Tensor:
        """(G, N) 1/k for the k samples with the highest keys (G, N), 0 for the others."""
        best = batch.ranking(keys)[:, : self.keep]
        return torch.zeros(best.shape[0], self.n_samples, dtype=torch.float64).scatter_(1, best, 1.0 / self.keep)


def scaled(weights: Tensor, total: Tensor) -> Tensor:
    """Divide ``weights`` by ``total``; 0 where that is 0."""
    return torch.where(total > 0, weights / total, 0.0)


def _all_weights(weights: Tensor) -> bool:
    return bool(weights.isfinite().all() and (weights >= 0).all())


def _what(weights: Any) -> str:
    if not isinstance(weights, Tensor):
        return f"a {type(weights).__name__}"
    return f"shape {tuple(weights.shape)}" + ("" if _all_weights(weights) else " with a weight outside that range")
