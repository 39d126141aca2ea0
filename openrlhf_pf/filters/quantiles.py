"""Quantiles of the latest rewards, task by task.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, S rewards.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.batch import FilterBatch, as_array

#: Default number of rewards of a task that its quantiles are computed from.
WINDOW = 1024
#: What a key of tasks that is a field of the label begins with.
LABEL = "label:"


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
