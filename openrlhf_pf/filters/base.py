"""The base classes of sample filters.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.batch import FilterBatch, as_array, put_in_columns

#: Weights up to this can be summed.
_LARGEST_WEIGHT = 1e100


class SampleFilter(ABC):
    """A filtered policy mu: rewards (G, N) in, weights (G, N) out (PF-PPO, Section 3).

    A subclass writes :meth:`weigh`; calling the filter adds the rules that hold for every filter: a sample without a
    usable reward has weight 0, and (in group scope) a prompt with fewer than k usable samples has weight 0 throughout.
    Options are further parameters of the constructor, with a type and, if they may be left out, a default.

    Args:
        n_samples: N, samples drawn a prompt.
        keep: k, samples a prompt that train.

    Raises:
        ValueError: k is not between 1 and N.
    """

    #: "group": weights sum to 1 in each prompt, k samples of each prompt train. "batch": weights sum to 1 over all
    #: samples of the rollout, and up to G k of them train, however they fall on prompts.
    scope: ClassVar[Literal["group", "batch"]] = "group"

    def __init__(self, n_samples: int, keep: int) -> None:
        if not 1 <= keep <= n_samples:
            raise ValueError(
                f"keep must lie between 1 and the {n_samples} samples of a prompt, got {keep}: "
                "draw more samples per prompt or keep fewer."
            )
        self.n_samples = n_samples
        self.keep = keep

    @classmethod
    def default_keep(cls, n_samples: int) -> int:
        """Return k when the user does not give it."""
        return 2

    @property
    def max_kept_per_prompt(self) -> int:
        """How many samples of a prompt can have a weight above 0: what trains when samples are reweighted."""
        return self.n_samples

    @abstractmethod
    def weigh(self, batch: FilterBatch) -> ndarray:
        """Return weights (G, N) in proportion; each prompt's, or in batch scope all, are then scaled to sum 1."""

    def __call__(self, rewards: Any, generator: np.random.Generator | None = None) -> ndarray:
        """Weigh one rollout.

        Args:
            rewards: (G, N) scores (array, sequence or tensor), or a :class:`FilterBatch` of them.
            generator: source of randomness, when ``rewards`` is no :class:`FilterBatch`.

        Returns:
            (G, N) float64 weights: finite, not negative. Group scope: rows sum to 1, or to 0 for a dropped prompt.
            Batch scope: all sum to 1, or to 0 when no sample passes.

        Raises:
            ValueError: the number of columns is not N, or :meth:`weigh` did not return weights.
        """
        batch = rewards if isinstance(rewards, FilterBatch) else FilterBatch(rewards, generator)
        if batch.rewards.shape[1] != self.n_samples:
            raise ValueError(
                f"this filter was built for {self.n_samples} samples per prompt, got {batch.rewards.shape[1]}."
            )
        weights = self.checked_weights(batch) * batch.usable * ~self.too_few_usable(batch)[:, None]
        return scaled(weights, weights.sum(axis=1, keepdims=True) if self.scope == "group" else weights.sum())

    def checked_weights(self, batch: FilterBatch) -> ndarray:
        """Return what :meth:`weigh` returns, as float64.

        Raises:
            ValueError: they are no weights of these samples; one sentence says what was returned.
        """
        returned, shape = self.weigh(batch), batch.rewards.shape
        try:
            weights = as_array(returned)
        except ValueError:  # rows of different lengths
            weights = np.array(None)
        if weights.dtype.kind not in "biuf":
            found = f"a {type(returned).__name__}"
        elif weights.shape != shape:
            found = f"shape {weights.shape}"
        elif wrong := int((~np.isfinite(weights)).sum()):
            found = f"{wrong} of {weights.size} weights that are NaN or infinite"
        elif wrong := int((weights < 0).sum()):
            found = f"{wrong} of {weights.size} weights below 0, the lowest {float(weights.min()):.3g}"
        elif float(weights.max(initial=0)) > _LARGEST_WEIGHT:
            found = f"a weight of {float(weights.max()):.3g}, above {_LARGEST_WEIGHT:g}"
        else:
            return weights.astype(np.float64)
        raise ValueError(
            f"{type(self).__name__}.weigh must return finite weights, none negative, of shape {shape}, got {found}."
        )

    def too_few_usable(self, batch: FilterBatch) -> ndarray:
        """Return (G,) bool: prompts of which nothing trains, whatever :meth:`weigh` returns.

        They have fewer than k usable rewards, in batch scope none.
        """
        return batch.n_usable < (self.keep if self.scope == "group" else 1)

    #: A sentence about the last rollout for the log; empty if there is nothing to report.
    log_message: str = ""

    def metrics(self) -> dict[str, float]:
        """Return figures about the last rollout, logged as ``filter/<name>``; NaN is left out."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a filter that learns must save with a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (most filters have no state)
        """Restore what :meth:`state_dict` returned."""


class LearningFilter(SampleFilter):
    """A filter that learns from true scores while it trains, of the samples that train or of a probe.

    It cannot be judged on recorded samples, as its weights depend on earlier rollouts. If its constructor has an
    option ``mode``, training passes the draw (a member of ``DRAWS``) that turns its weights into samples.
    """

    @abstractmethod
    def observe(self, batch: FilterBatch) -> None:
        """Learn from a rollout, whether it trains or not."""


class KeyFilter(SampleFilter):
    """Keeps the k samples of a prompt with the highest key; a subclass returns the keys in :meth:`key`."""

    @property
    def max_kept_per_prompt(self) -> int:
        return self.keep

    @abstractmethod
    def key(self, batch: FilterBatch) -> ndarray:
        """Return (G, N) numbers, the highest is best."""

    def weigh(self, batch: FilterBatch) -> ndarray:
        return self.weights_of_best(batch, self.key(batch))

    def weights_of_best(self, batch: FilterBatch, keys: ndarray) -> ndarray:
        """Return (G, N) 1/k for the k samples with the highest keys (G, N), 0 for the others."""
        return put_in_columns(batch.ranking(keys)[:, : self.keep], 1.0 / self.keep, self.n_samples)


def scaled(weights: ndarray, total: Any) -> ndarray:
    """Return ``weights`` divided by ``total``, 0 where that is 0."""
    total = np.broadcast_to(np.asarray(total, dtype=np.float64), weights.shape)
    return np.divide(weights, total, out=np.zeros(weights.shape), where=total > 0)
