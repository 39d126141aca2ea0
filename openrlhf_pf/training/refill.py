"""Which prompts are left out of training, and which finished prompts a step must replace.

Shapes: G prompts (groups), N scored samples per prompt.
"""

from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_pf.filters import FilterBatch, SampleFilter
from openrlhf_pf.filters.prompts import VARIANCE_SHARE, band, variance_top_p
from openrlhf_pf.training.flags.prompts import drop_rule, prompts_per_step
from openrlhf_pf.training.rollout import numbers_of, true_scores_or_none

#: Finished prompts are judged once they are this share of those still pending: what is asked for sooner would only
#: wait at the engines, and judging all of G prompts after each of them would cost G² in all.
_JUDGE_SHARE = 1 / 16


def dropped_prompts(args: SimpleNamespace, batch: FilterBatch) -> NDArray[np.bool_]:
    """Return (G,) bool: the prompts that ``--sample_filter_drop`` leaves out.

    Args:
        args: OpenRLHF's nested arguments.
        batch: the rewards that train, whatever the filter ranks by, and the true scores.
    """
    rule = drop_rule(args)
    if rule is None:
        return np.zeros(len(batch.rewards), dtype=bool)
    if rule == "flat":
        return batch.flat_within(args.sample_filter_drop_tolerance or 0.0)
    if rule == "variance_top_p":
        return ~variance_top_p(batch, args.sample_filter_drop_share or VARIANCE_SHARE)
    return ~band(batch, *args.sample_filter_drop_band)


def refill_metrics(args: SimpleNamespace, n_prompts: int) -> dict[str, float]:
    """Return how many of a step's ``n_prompts`` replaced others, and their share of its rollouts."""
    if args.sample_filter_refill is None:
        return {}
    replaced = max(0, n_prompts - prompts_per_step(args))
    return {"filter/replaced_prompts": float(replaced), "filter/replaced_share": replaced / n_prompts}


class FinishedPrompts:
    """The prompts of a step whose responses are complete, and which of them will train.

    All are judged together each time, as the experience maker will judge them: ``variance_top_p`` compares them with
    each other, and only all of them together show whether there are true scores.
    """

    def __init__(self, args: SimpleNamespace, sample_filter: SampleFilter) -> None:
        self.args = args
        self.filter = sample_filter
        self.groups: list[list[Experience]] = []
        self._values: list[NDArray] = []  # (2, N) rewards and scores of each
        self._unjudged = 0

    def add(self, group: list[Experience]) -> None:
        """Add a prompt with its N samples."""
        self.groups.append(group)
        self._values.append(np.concatenate([numbers_of(group, name, len(group)) for name in ("rewards", "scores")]))
        self._unjudged += 1

    def is_worth_judging(self, pending: int) -> bool:
        """Return whether enough prompts came since the last judgement, with ``pending`` ones still to come."""
        return self._unjudged >= _JUDGE_SHARE * pending

    def trains(self) -> NDArray[np.bool_]:
        """Return (G,) bool, in the order in which the prompts came."""
        self._unjudged = 0
        if not self._values:
            return np.zeros(0, dtype=bool)
        rewards, scores = np.stack(self._values, axis=1)
        batch = FilterBatch(rewards, scores=true_scores_or_none(scores, rewards))
        return ~(self.filter.too_few_usable(batch) | dropped_prompts(self.args, batch))
