"""Compare the run with a filter with the others of its study at equal rollouts, updates and seconds.

The end of the run with the filter is compared with the saved step of the other run whose rollouts, actor updates or
seconds are nearest to it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import PPOConfig
from .sampling import bootstrap_interval

RIVALS = ("unfiltered", "random")
MEASURES = ("rollouts", "updates", "seconds")


@dataclass(frozen=True)
class Course:
    """What a run has spent after each of its steps.

    ``step_seconds`` is the median of a step's seconds: loading in the first steps would otherwise count against the
    run that comes first.
    """

    config: PPOConfig
    step_seconds: float

    def spent(self, measure: str, step: int) -> float:
        """Return sampled responses, updates of the actor, or seconds of training without the start, up to ``step``."""
        if measure == "rollouts":
            return self.config.rollout_prompts * self.config.samples * step
        return self.config.actor_updates(step) if measure == "updates" else self.step_seconds * step


def matched_steps(courses: dict[str, Course]) -> dict[str, dict[str, int]]:
    """Return ``{rival: {measure: step}}``: where each rival has spent what the run ``ppo`` has spent at its end.

    Of two steps that are equally near, it is the earlier one.
    """
    mine, found = courses["ppo"], {}
    for rival in RIVALS:
        other, found[rival] = courses[rival], {}
        for measure in MEASURES:
            target = mine.spent(measure, mine.config.steps)
            away = {step: abs(other.spent(measure, step) - target) for step in other.config.saved_steps()}
            found[rival][measure] = min(away, key=lambda step: (away[step], step))
    return found


def compare(courses: dict[str, Course], scores: dict[tuple[str, int], np.ndarray]) -> list[dict[str, Any]]:
    """Return a row for each rival and measure.

    Args:
        courses: the runs by name.
        scores: by run and step, (tasks, samples) true scores. The same tasks in the same order in all.

    Returns:
        Rows with ``rival``, ``measure``, both steps, what both have spent, both pass@1, and ``difference`` (with the
        filter minus without, paired over tasks) with its 95% ``interval``.
    """
    mine = courses["ppo"]
    end = mine.config.steps
    filtered = scores["ppo", end].mean(axis=1)
    rows = []
    for rival, steps in matched_steps(courses).items():
        for measure, step in steps.items():
            other = scores[rival, step].mean(axis=1)
            rows.append(
                {
                    "rival": rival,
                    "measure": measure,
                    "step": step,
                    "filter_step": end,
                    "spent": courses[rival].spent(measure, step),
                    "filter_spent": mine.spent(measure, end),
                    "pass_at_1": float(other.mean()),
                    "filter_pass_at_1": float(filtered.mean()),
                    "difference": float((filtered - other).mean()),
                    "interval": bootstrap_interval(filtered - other),
                }
            )
    return rows
