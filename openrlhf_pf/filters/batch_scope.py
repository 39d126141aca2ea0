"""Filters over the whole rollout batch: reward thresholds, and powers of the reward (PF-PPO, Table 3).

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import math
import warnings
from collections import defaultdict
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import SampleFilter
from openrlhf_pf.filters.batch import FilterBatch
from openrlhf_pf.filters.quantiles import RunningQuantiles, check_task_key, tasks_of, threshold_above

#: Thresholds of more tasks than this are not logged.
MOST_LOGGED = 20


class Top(SampleFilter):
    """``top``: only samples whose reward is above a threshold (PPO-top in PF-PPO, Table 3).

    Args:
        high: the threshold t_hi; samples with R > t_hi pass.
        unit: what thresholds are given in: ``reward``, as in the paper, or ``quantile``, the share of rewards below
            them, between 0 and 1 (ours); see :class:`RunningQuantiles` and :func:`threshold_above`.
        per: with ``quantile``: ``datasource`` or ``label:FIELD`` for a threshold of its own for each task.
        window: with ``quantile``: rewards of a task that its quantiles are computed from (1,024).

    Raises:
        ValueError: a threshold is out of range, or an option has no effect.
    """

    scope = "batch"

    def __init__(
        self,
        n_samples: int,
        keep: int,
        high: float,
        unit: Literal["reward", "quantile"] = "reward",
        per: str | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(n_samples, keep)
        inert = next((name for name, value in (("per", per), ("window", window)) if value is not None), None)
        if unit == "reward" and inert:
            raise ValueError(f"{inert} has no effect on thresholds in units of the reward: add unit=quantile.")
        check_task_key(per)
        self.unit, self.per = unit, per
        self.high = self._checked("high", high)
        self.quantiles = RunningQuantiles() if window is None else RunningQuantiles(window)
        self._logged: dict[str, float] = {}

    def _checked(self, name: str, threshold: float) -> float:
        if self.unit == "quantile" and not 0 < threshold < 1:
            raise ValueError(f"{name} must lie between 0 and 1 as a quantile, got {threshold}: 0.75, for example.")
        if not math.isfinite(threshold):
            raise ValueError(f"{name} must be a finite reward, got {threshold}: give a threshold among the rewards.")
        return threshold

    def weigh(self, batch: FilterBatch) -> ndarray:
        (high,) = self.thresholds(batch, high=self.high)
        return batch.rewards > high

    def thresholds(self, batch: FilterBatch, **given: float) -> list[ndarray]:
        """Add this rollout to the quantiles' windows and return the thresholds as rewards, (G, 1) each."""
        shape, dtype = (len(batch.rewards), 1), batch.rewards.dtype
        with np.errstate(over="ignore"):  # a threshold that float32 does not reach
            found = {name: np.full(shape, value, dtype=dtype) for name, value in given.items()}
        if self.unit == "reward":
            return list(found.values())
        self._logged = {}
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, task in enumerate(tasks_of(batch, self.per)):
            rows_of[task].append(row)
        for task, rows in rows_of.items():
            rewards = batch.rewards[rows]
            ordered = self.quantiles.add(task, rewards[batch.usable[rows]])
            for name, level in given.items():
                if name == "low":  # rewards below it are, with the other sign, above it
                    value = -threshold_above(-ordered[::-1], 1 - level)
                else:
                    value = threshold_above(ordered, level)
                found[name][rows] = value
                self._logged[f"{name}_{task}" if task else name] = value
        return list(found.values())

    def metrics(self) -> dict[str, float]:
        """Return, with quantiles, ``high`` and ``low``, or ``high_<task>`` and ``low_<task>`` if the tasks are few."""
        return self._logged if len(self._logged) <= MOST_LOGGED else {}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.unit == "reward" else {"per": self.per, "windows": self.quantiles.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            return
        if self.unit == "reward" or state["per"] != self.per:
            raise ValueError(
                f"the checkpoint's thresholds are quantiles {_by(state['per'])}, these are "
                f"{'rewards' if self.unit == 'reward' else 'quantiles ' + _by(self.per)}: give the same to resume."
            )
        self.quantiles.load_state_dict(state["windows"])


class TopRandom(Top):
    """``top_random``: samples above a threshold, and each other sample with probability 1/2 (PPO-top-rand, Table 3).

    The coins of the other samples are tossed once a rollout, from the batch's generator. Its parameters are those of
    :class:`Top`.
    """

    def weigh(self, batch: FilterBatch) -> ndarray:
        heads = batch.generator.random(batch.rewards.shape, dtype=np.float32) < 0.5
        return super().weigh(batch) | heads


class TopBottom(Top):
    """``top_bottom``: samples above one threshold or below another (PPO-top-bott in PF-PPO, Table 3).

    Args:
        low: the threshold t_lo; samples with R < t_lo pass.
        high: the threshold t_hi, above t_lo; samples with R > t_hi pass.
        unit, per, window: as for :class:`Top`.
    """

    def __init__(
        self,
        n_samples: int,
        keep: int,
        low: float,
        high: float,
        unit: Literal["reward", "quantile"] = "reward",
        per: str | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(n_samples, keep, high, unit, per, window)
        self.low = self._checked("low", low)
        if low >= high:
            raise ValueError(f"low must be below high, got low {low} and high {high}: give them in that order.")

    def weigh(self, batch: FilterBatch) -> ndarray:
        low, high = self.thresholds(batch, low=self.low, high=self.high)
        return (batch.rewards > high) | (batch.rewards < low)


class RewardPower(SampleFilter):
    """``reward_power``: samples of the whole batch in proportion to ``|R| ** power`` (PPO-pow-1, -2, -3 in Table 3).

    Meant for a reward model whose range is [-1, 1], as in the paper: the sign says good or bad, and a reward near 0
    says nothing. Rewards outside that range follow the same rule, with one warning: if 0 is not in the middle of the
    rewards, all samples of one side get too much weight.

    Args:
        power: the exponent, above 0.
    """

    scope = "batch"

    def __init__(self, n_samples: int, keep: int, power: float) -> None:
        super().__init__(n_samples, keep)
        if not (math.isfinite(power) and power > 0):
            raise ValueError(f"power must be a finite number above 0, got {power}: the paper uses 1, 2 and 3.")
        self.power = power
        self._warned = False

    def weigh(self, batch: FilterBatch) -> ndarray:
        size = np.where(batch.usable, np.abs(batch.rewards), 0.0).astype(np.float64)
        largest = size.max()
        if largest > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"reward_power is meant for rewards in [-1, 1] with 0 between good and bad, got a reward of size "
                f"{largest:g}: scale and shift the reward model, or choose a filter by rank.",
                stacklevel=2,
            )
        # Divided first, so that no power overflows; a common factor does not change weights.
        return (size / max(largest, np.finfo(np.float64).tiny)) ** self.power


def _by(per: str | None) -> str:
    return f"per={per}" if per else "over all prompts"
