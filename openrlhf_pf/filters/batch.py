"""The scored samples of one rollout, as a sample filter gets them, and which of its prompts are left out.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, M reward models.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy import ndarray

# Rewards come out of bf16 reward models: a spread below this share of the rewards' size is rounding, not a preference.
FLAT_TOLERANCE = 1e-6
#: Default share of the variance that is kept (RAGEN-2's own default is not known to us).
VARIANCE_SHARE = 0.9


class TorchGenerator(np.random.Generator):
    """A numpy generator with the numbers of torch's: ``random`` is ``torch.rand``, ``permutation`` ``torch.randperm``.

    Both use MT19937 and differ in how they make floats of its integers. Draws of earlier runs can be repeated by it.
    """

    def random(self, size: Any = None, dtype: Any = np.float64, out: None = None) -> Any:
        """Return uniform numbers in [0, 1), as ``torch.rand(size, dtype=dtype)`` does."""
        shape = () if size is None else size
        number = int(np.prod(shape))
        if np.dtype(dtype) == np.float64:
            high, low = self.bit_generator.random_raw(2 * number).reshape(-1, 2).T
            values = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) * 2.0**-53
        else:
            values = (self.bit_generator.random_raw(number) & np.uint64(2**24 - 1)) * 2.0**-24
        values = values.astype(dtype).reshape(shape)
        return values[()] if size is None else values

    def permutation(self, x: Any, axis: int = 0) -> ndarray:
        """Return ``torch.randperm(x)`` for a number; for an array, its entries in that order along ``axis``."""
        if not isinstance(x, int | np.integer):
            return np.take(x, self.permutation(np.shape(x)[axis]), axis=axis)
        order = list(range(x))
        ahead = self.bit_generator.random_raw(max(x - 1, 0)) % np.arange(x, 1, -1, dtype=np.uint64)
        for place, other in enumerate(ahead.tolist()):
            order[place], order[place + other] = order[place + other], order[place]
        return np.array(order, dtype=np.int64)


def make_generator(seed: int) -> np.random.Generator:
    """Return a numpy generator with the numbers of ``torch.Generator().manual_seed(seed)``; 32 bits of it count."""
    bits = np.random.MT19937()
    bits._legacy_seeding(seed & 0xFFFFFFFF)
    return TorchGenerator(bits)


def as_array(values: Any) -> ndarray:
    """Return an array, a sequence or a tensor of any device as a numpy array; bfloat16 becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    return np.asarray(values)


def is_usable(values: ndarray) -> ndarray:
    """Return which numbers are finite in float32: sums of their squares and products never overflow in float64."""
    with np.errstate(over="ignore"):
        return np.isfinite(values.astype(np.float32))


class FilterBatch:
    """The scored samples of one rollout, read-only; columns that are costly to make are made when first used.

    Args:
        rewards: (G, N) the reward model's own scores. NaN, infinite and larger ones than float32 has are not usable.
        generator: source of all randomness: :func:`make_generator`, or any object with numpy's ``random(size,
            dtype)``. Without one, every batch has numbers of its own.
        step: number of training steps before this rollout.
        columns: what else is known of the samples, by the name of the property that returns it (``response_lengths``,
            ``response_tokens``, ``prompts``, ``responses``, ``labels``, ``datasources``, ``posterior_mean``,
            ``visits``, ``scores``, ``extra_logs``, ``model_rewards``): its value, or a function without arguments that
            makes it. Arrays may be tensors.

    Raises:
        ValueError: rewards have another number of dimensions, or the generator is of another kind.
    """

    rewards: ndarray
    generator: np.random.Generator
    step: int

    def __init__(
        self,
        rewards: Any,
        generator: np.random.Generator | None = None,
        step: int = 0,
        **columns: Any | Callable[[], Any],
    ) -> None:
        rewards = as_array(rewards)
        if rewards.ndim != 2:
            raise ValueError(f"rewards must have shape (prompts, samples), got {rewards.shape}.")
        rewards = rewards if rewards.dtype in (np.float32, np.float64) else rewards.astype(np.float32)
        generator = np.random.default_rng() if generator is None else generator
        if not hasattr(generator, "random"):
            raise ValueError(
                f"the generator must have numpy's random(size, dtype), got a {type(generator).__name__}: use "
                "openrlhf_pf.filters.make_generator(seed)."
            )
        self.__dict__.update(rewards=rewards, generator=generator, step=step, _columns=columns)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a FilterBatch is read-only: {name} cannot be set.")

    def _column(self, name: str) -> Any:
        value = self._columns.get(name)
        if value is None:
            raise ValueError(f"these samples have no {name}: the filter needs them, give FilterBatch({name}=...).")
        return value() if callable(value) else value

    def _array_or_none(self, name: str) -> ndarray | None:
        return None if self._columns.get(name) is None else as_array(self._column(name))

    def ranked_by(self, rewards: Any) -> "FilterBatch":
        """Return the same samples with other rewards (G, N) to rank by; unusable ones stay unusable."""
        return FilterBatch(
            np.where(self.usable, as_array(rewards), np.nan), self.generator, self.step, **self._columns
        )

    # ── Columns of the samples ──

    @cached_property
    def response_lengths(self) -> ndarray:
        """(G, N) int64: tokens of each response."""
        return as_array(self._column("response_lengths"))

    @cached_property
    def response_tokens(self) -> Sequence[Sequence[ndarray]]:
        """G x N responses as tokens, (tokens,) int64 each, including what an environment answered in between."""
        return [[as_array(tokens) for tokens in row] for row in self._column("response_tokens")]

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
    def scores(self) -> ndarray | None:
        """(G, N) float64 true scores, NaN where one is missing; None when the reward function returns none."""
        return self._array_or_none("scores")

    @cached_property
    def extra_logs(self) -> Mapping[str, ndarray]:
        """Name to (G, N) float64: the extra logs of the reward function, NaN where one is missing."""
        return {name: as_array(values) for name, values in self._column("extra_logs").items()}

    # ── Columns of the prompts ──

    @cached_property
    def datasources(self) -> Sequence[str]:
        """G data sources: the data set's column ``datasource`` ("default" where there is none)."""
        return self._column("datasources")

    @cached_property
    def posterior_mean(self) -> ndarray | None:
        """(G,) float64: each prompt's chance of success by ``--prompt_selection``, the mean of its posterior when it
        was selected, before this rollout; None without prompt selection.
        """
        return self._array_or_none("posterior_mean")

    @cached_property
    def visits(self) -> ndarray | None:
        """(G,) int64: in how many earlier rollouts ``--prompt_selection`` took each prompt; None without it."""
        return self._array_or_none("visits")

    # ── Several reward models ──

    @property
    def has_ensemble(self) -> bool:
        """True if there are ``model_rewards``."""
        return self._columns.get("model_rewards") is not None

    @cached_property
    def model_rewards(self) -> ndarray:
        """(M, G, N) the score of each reward model of the ensemble."""
        return as_array(self._column("model_rewards"))

    @cached_property
    def ensemble_mean(self) -> ndarray:
        """(G, N) mean over the reward models."""
        with np.errstate(over="ignore", invalid="ignore"):  # infinite and too large ones
            return self.model_rewards.mean(axis=0)

    @cached_property
    def ensemble_spread(self) -> ndarray:
        """(G, N) standard deviation over the reward models (with M - 1)."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.model_rewards.std(axis=0, ddof=1)

    def lower_bound(self) -> ndarray:
        """Return the (G, N) lower confidence bound: mean minus one standard deviation over the models."""
        with np.errstate(invalid="ignore"):
            return self.ensemble_mean - self.ensemble_spread

    # ── Derived from the rewards ──

    @cached_property
    def usable(self) -> ndarray:
        """(G, N) bool: the reward is a finite number of float32, the type that training uses; 1e308 is not."""
        return is_usable(self.rewards)

    @cached_property
    def n_usable(self) -> ndarray:
        """(G,) number of samples with a usable reward."""
        return self.usable.sum(axis=1)

    @cached_property
    def order(self) -> ndarray:
        """(G, N) the sample at each rank by reward, best first, unusable ones last; ties as in :meth:`ranking`."""
        return self.ranking(self.rewards)

    def ranking(self, keys: Any) -> ndarray:
        """Rank the samples of each prompt by a key.

        Ties are broken by a random permutation, never by position: prompts with equal keys are shuffled, then sorted
        again, stably. The others, nearly all when keys are floats, are sorted once.

        Args:
            keys: (G, N) numbers, the highest is best; NaN counts as the lowest.

        Returns:
            (G, N) int64: the sample at each rank, best first, samples without a usable reward last.
        """
        keys = as_array(keys)
        keys = np.where(self.usable & ~np.isnan(keys), keys, -np.inf)
        order = np.argsort(-keys, axis=1)
        ordered = np.take_along_axis(keys, order, axis=1)
        tied = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if len(tied):
            keys = keys[tied]
            # A usable sample whose key is as low as can be still ranks before one that cannot be used.
            coins = self.generator.random(keys.shape, dtype=np.float32)
            shuffle = np.argsort(np.where(self.usable[tied], coins, 2.0), axis=1, kind="stable")
            by_key = np.argsort(-np.take_along_axis(keys, shuffle, axis=1), axis=1, kind="stable")
            order[tied] = np.take_along_axis(shuffle, by_key, axis=1)
        return order

    @cached_property
    def spread(self) -> ndarray:
        """(G,) highest minus lowest usable reward of each prompt; -inf where there is none."""
        rewards = self.rewards.astype(np.float64)  # in float32 the difference may be infinite
        return np.where(self.usable, rewards, -np.inf).max(axis=1) - np.where(self.usable, rewards, np.inf).min(axis=1)

    def flat_within(self, tolerance: float = 0.0) -> ndarray:
        """Return (G,) bool: the usable rewards of the prompt lie within ``tolerance``, or ``FLAT_TOLERANCE``."""
        size = np.where(self.usable, np.abs(self.rewards), 0.0).max(axis=1).clip(min=1.0)
        return (self.n_usable > 0) & (self.spread <= (FLAT_TOLERANCE * size).clip(min=tolerance))

    @cached_property
    def flat(self) -> ndarray:
        """(G,) bool: all usable rewards of the prompt are equal, up to ``FLAT_TOLERANCE``."""
        return self.flat_within()


def put_in_columns(columns: ndarray, values: Any, width: int | None = None) -> ndarray:
    """Return (G, N) float64 zeros with ``values`` in the ``columns`` (G, K) of each row; N is K if not given."""
    table = np.zeros((len(columns), columns.shape[1] if width is None else width))
    np.put_along_axis(table, columns, values, axis=1)
    return table


def deviations(values: ndarray, known: ndarray) -> ndarray:
    """Return (G, N) float64 values minus their prompt's mean over the ``known`` ones; of others it means nothing."""
    filled = np.where(known, values, 0.0).astype(np.float64)
    return filled - filled.sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True).clip(min=1)


# ── Prompts that do not train at all, whatever a filter would keep of them ──


def variance_top_p(batch: FilterBatch, share: float = VARIANCE_SHARE) -> ndarray:
    """Return (G,) bool: the smallest set of prompts with ``share`` of the rollout's within-prompt reward variance.

    As in RAGEN-2 (arXiv 2604.06268). A prompt whose rewards are all equal has none and is never in it.
    """
    away = np.where(batch.usable, deviations(batch.rewards, batch.usable), 0.0)
    variance = (away**2).sum(axis=1) / batch.n_usable.clip(min=1)
    variance = np.where(batch.flat, 0.0, variance)
    order = np.argsort(-variance, kind="stable")
    ordered = variance[order]
    before = ordered.cumsum() - ordered
    kept = np.empty(len(order), dtype=bool)
    kept[order] = (ordered > 0) & (before < share * ordered.sum() * (1 - 1e-12))
    return kept


def band(batch: FilterBatch, low: float, high: float) -> ndarray:
    """Return (G,) bool: the mean true score of a prompt's samples lies between ``low`` and ``high``, both included.

    Without true scores the mean reward counts; a prompt with neither is out.
    """
    values = batch.rewards if batch.scores is None else batch.scores
    known = batch.usable & is_usable(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, values, 0.0).astype(np.float64).sum(axis=1) / known.sum(axis=1)
    return (mean >= low) & (mean <= high)
