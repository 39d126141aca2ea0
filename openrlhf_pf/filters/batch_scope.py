"""Filters over the whole rollout batch: reward thresholds, and powers of the reward (PF-PPO, Table 3).

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, S
rewards.
"""

import json
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import SampleFilter
from openrlhf_pf.filters.batch import FilterBatch, as_array

#: Default number of rewards of a task that its quantiles are computed from.
WINDOW = 1024
#: What a key of tasks that is a field of the label begins with.
LABEL = "label:"
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


# ── Thresholds as quantiles of the latest rewards, task by task ──


class RunningQuantiles:
    """A sliding window over the rewards of each task, of which any quantile is exact.

    The window holds whole rollouts: this one, and the latest before it, up to ``window`` rewards of the task together.
    So nothing depends on the order of prompts or samples, a new task is judged by its first rollout alone, and old
    rewards are forgotten as the policy moves. Of a rollout with more than ``window`` rewards of a task, ``window`` are
    remembered, evenly spaced in order of size.

    Args:
        window: rewards of a task that are remembered at most.

    Raises:
        ValueError: ``window`` is below 1.
    """

    def __init__(self, window: int = WINDOW) -> None:
        if window < 1:
            raise ValueError(f"window must be 1 or more rewards of a task, got {window}: {WINDOW} is the default.")
        self.window = window
        self._rollouts: dict[str, list[ndarray]] = {}

    def add(self, task: str, rewards: ndarray) -> ndarray:
        """Add the finite rewards (S,) of a task in one rollout and return those of its window in rising order."""
        rollouts = self._rollouts.get(task, []) + ([rewards] if len(rewards) else [])
        if not rollouts:
            return rewards
        while len(rollouts) > 1 and sum(map(len, rollouts)) > self.window:
            del rollouts[0]
        ordered = np.sort(np.concatenate(rollouts))
        if len(ordered) > self.window:
            places = np.linspace(0, len(ordered) - 1, self.window).round().astype(np.int64)
            rollouts = [ordered[places]]
        self._rollouts[task] = rollouts
        return ordered

    def state_dict(self) -> dict[str, Any]:
        """Return task to the rewards of its window, rollout by rollout."""
        return {task: list(rollouts) for task, rollouts in self._rollouts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._rollouts = {task: list(map(as_array, rollouts)) for task, rollouts in state.items()}


def threshold_above(ordered: ndarray, level: float) -> float:
    """Return a threshold below the highest rewards: their quantile, or if no reward is above it the next lower reward.

    Where many rewards share the highest value, as with rewards of 0 and 1, the quantile often is that value itself;
    with a threshold below it those samples pass. Where all rewards are equal none does.

    Args:
        ordered: (S,) rewards in rising order; infinity is returned for none.
        level: of the quantile, between 0 and 1; between two rewards it is interpolated.
    """
    if not len(ordered):
        return float("inf")
    place = level * (len(ordered) - 1)
    first = int(place)
    low, high = float(ordered[first]), float(ordered[min(first + 1, len(ordered) - 1)])
    quantile, highest = low + (place - first) * (high - low), float(ordered[-1])
    lower = int(np.searchsorted(ordered, ordered[-1]))  # rewards below the highest
    return float(ordered[lower - 1]) if quantile >= highest and lower else quantile


def check_task_key(per: str | None) -> None:
    """Raise ValueError if ``per`` is no key of tasks."""
    if per not in (None, "datasource") and not (per.startswith(LABEL) and len(per) > len(LABEL)):
        raise ValueError(
            f"per must be datasource or label:FIELD, a field of labels that are JSON, got '{per}': choose one of "
            "them, or leave it out for one threshold over all prompts."
        )


def tasks_of(batch: FilterBatch, per: str | None) -> Sequence[str]:
    """Return G tasks, by the data source or by a field of the label; "" for all prompts without a key.

    Raises:
        ValueError: there are no data sources, or a label is no JSON object with that field.
    """
    if per is None:
        return [""] * len(batch.rewards)
    return batch.datasources if per == "datasource" else label_fields(batch.labels, per.removeprefix(LABEL))


def label_fields(labels: Sequence[str], field: str) -> list[str]:
    """Return the value of a field of each label, as text.

    Raises:
        ValueError: a label is no JSON object with that field.
    """
    found = []
    for label in labels:
        try:
            value = json.loads(label)[field]
        except (ValueError, KeyError, TypeError):
            short = label if len(label) <= 60 else label[:60] + "..."
            raise ValueError(
                f"per=label:{field} needs labels that are JSON objects with a field '{field}', got the label "
                f"'{short}': name a field that all of them have, or leave per out."
            ) from None
        found.append(value if isinstance(value, str) else json.dumps(value, sort_keys=True))
    return found
