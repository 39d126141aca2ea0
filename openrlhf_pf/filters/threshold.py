"""Filters that compare the reward with thresholds, over the whole rollout batch (PF-PPO, Table 3).

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import math
from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, SampleFilter
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
        window: with ``quantile``: rewards of a task that its quantiles are of (1,024).

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

    def weigh(self, batch: FilterBatch) -> Tensor:
        (high,) = self.thresholds(batch, high=self.high)
        return (batch.rewards > high).double()

    def thresholds(self, batch: FilterBatch, **given: float) -> list[Tensor]:
        """(G, 1) each, in units of the reward; quantiles are of windows that this rollout is added to."""
        shape, dtype = (len(batch.rewards), 1), batch.rewards.dtype
        found = {name: torch.full(shape, value, dtype=dtype) for name, value in given.items()}
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
                # What lies below a low threshold lies above it with the sign turned.
                turned = name == "low"
                value = -threshold_above(-ordered.flip(0), 1 - level) if turned else threshold_above(ordered, level)
                found[name][rows] = value
                self._logged[f"{name}_{task}" if task else name] = value
        return list(found.values())

    def metrics(self) -> dict[str, float]:
        """With quantiles: ``high``, or ``high_<task>`` of the rollout's tasks if they are few; ``low`` likewise."""
        return self._logged if len(self._logged) <= MOST_LOGGED else {}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.unit == "reward" else {"per": self.per, "windows": self.quantiles.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            return
        if self.unit == "reward" or state["per"] != self.per:
            raise ValueError(
                f"the checkpoint's thresholds are quantiles {_by(state['per'])}, these are "
                f"{'rewards' if self.unit == 'reward' else 'quantiles ' + _by(self.per)}: give the same to go on."
            )
        self.quantiles.load_state_dict(state["windows"])


class TopRandom(Top):
    """``top_random``: samples above a threshold, and each other sample with probability 1/2 (PPO-top-rand, Table 3).

    The coins of the other samples are tossed once a rollout, from the batch's generator. Its parameters are those of
    :class:`Top`.
    """

    def weigh(self, batch: FilterBatch) -> Tensor:
        heads = torch.rand(batch.rewards.shape, generator=batch.generator) < 0.5
        return ((super().weigh(batch) > 0) | heads).double()


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

    def weigh(self, batch: FilterBatch) -> Tensor:
        low, high = self.thresholds(batch, low=self.low, high=self.high)
        return ((batch.rewards > high) | (batch.rewards < low)).double()


def _by(per: str | None) -> str:
    return f"per={per}" if per else "over all prompts"
