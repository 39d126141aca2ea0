"""``adaptive``, a filter that chooses its strategy while it trains, and its criterion, the gain.

With d a reward and s a true score, each minus its prompt's mean, the gain is the slope of the mean true score along
the policy gradient of the kept samples, with rewards whitened as PPO whitens advantages: E_w[(d - E_w d) s] / sd_w(d).
docs/when_to_filter.md explains it; this project's own.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, S
candidate strategies.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import LearningFilter, SampleFilter
from openrlhf_pf.filters.batch import FilterBatch, as_array, deviations, is_usable
from openrlhf_pf.filters.group_scope import BestOfN, BestRandom, BestWorst, MaxVariance, NoFilter

#: Strategies to choose among: in group scope, without options of their own.
#: ``none`` keeps k of the N at random, without regard to rewards; all of them where k is N.
CANDIDATES: dict[str, type[SampleFilter]] = {
    "best_worst": BestWorst,
    "best_random": BestRandom,
    "best_of_n": BestOfN,
    "max_variance": MaxVariance,
    "none": NoFilter,
}


class Adaptive(LearningFilter):
    """``adaptive``: the candidate whose kept samples raise the true score fastest, by the evidence so far.

    Each rollout with true scores (of all prompts or of some: others have NaN) adds, for each candidate, the moments of
    reward and score, minus their prompt's means, under that candidate's weights; older rollouts count less and less.
    The criterion is the gain: it has a sign, and differences between prompts are not in it.
    Another candidate takes over if its gain is higher than that of the one in use by more than ``certainty`` standard
    errors of the difference (a jackknife over rollouts, in which what both have in common cancels). Without true
    scores nothing ever changes.

    Args:
        candidates: names of ``CANDIDATES``; the first is used until another is significantly better.
        half_life: rollouts with true scores after which one counts half.
        certainty: standard errors that a candidate must be ahead by. 4 allows for a test after every rollout.
        patience: rollouts with true scores before the first switch, and again after each.
    """

    def __init__(
        self,
        n_samples: int,
        keep: int,
        candidates: Sequence[str] = ("best_worst", "best_random", "best_of_n", "none"),
        half_life: float = 20.0,
        certainty: float = 4.0,
        patience: int = 10,
    ) -> None:
        super().__init__(n_samples, keep)
        unknown = [name for name in candidates if name not in CANDIDATES]
        if unknown or len(set(candidates)) < max(2, len(candidates)):
            raise ValueError(
                f"candidates must be two or more different ones of {', '.join(CANDIDATES)}, got "
                f"{','.join(candidates)}: choose among those."
            )
        check_positive(half_life=half_life, certainty=certainty, patience=patience)
        self.filters = {name: CANDIDATES[name](n_samples, keep) for name in candidates}
        self.in_use = candidates[0]
        self.half_life, self.certainty, self.patience = half_life, certainty, patience
        # After 6 half-lives a rollout counts less than 2 percent.
        self._moments: deque[ndarray] = deque(maxlen=max(patience, round(6 * half_life)))
        self._since_switch = 0

    @property
    def max_kept_per_prompt(self) -> int:
        return max(candidate.max_kept_per_prompt for candidate in self.filters.values())

    def weigh(self, batch: FilterBatch) -> ndarray:
        self.log_message = ""
        self.observe(batch)
        return self.filters[self.in_use].weigh(batch)

    def observe(self, batch: FilterBatch) -> None:
        """Learn from a rollout, whether it trains or not, and switch if another candidate is significantly better."""
        known = known_samples(batch)
        if known is None:
            return
        self._moments.append(np.stack([moments(f, batch, known) for f in self.filters.values()]))
        self._since_switch += 1
        if self._since_switch >= self.patience:
            self._switch()

    def gains(self) -> dict[str, float]:
        """Return the gain of the samples that each candidate would keep; NaN before there is evidence."""
        if not self._moments:
            return dict.fromkeys(self.filters, float("nan"))
        return dict(zip(self.filters, gain(self._decayed().sum(axis=0)).tolist()))

    def metrics(self) -> dict[str, float]:
        """Return ``gain_<candidate>``, and ``strategy``: the place of the one in use among the candidates."""
        values = {f"gain_{name}": value for name, value in self.gains().items()}
        return values | {"strategy": float(list(self.filters).index(self.in_use))}

    def _decayed(self) -> ndarray:
        """(rollouts, S, 5) the moments, with the weight that their age leaves them."""
        return decayed(list(self._moments), self.half_life)

    def _switch(self) -> None:
        names = list(self.filters)
        used = names.index(self.in_use)
        ahead, error = lead(self._decayed(), lambda sums: gain(sums) - gain(sums)[..., used : used + 1])
        best = int(np.where(ahead > self.certainty * error, ahead, 0.0).argmax())
        if best == used or not ahead[best] > 1e-12:  # rounding, where candidates keep the same samples
            return
        values = self.gains()
        self.log_message = (
            f"{names[best]} takes over from {self.in_use}: over {len(self._moments)} rollouts with true scores its "
            f"gain is {values[names[best]]:.3f} against {values[self.in_use]:.3f}, ahead by {ahead[best]:.3f} with a "
            f"standard error of {error[best]:.3f}"
        )
        self.in_use = names[best]
        self._since_switch = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "candidates": list(self.filters),
            "in_use": self.in_use,
            "since_switch": self._since_switch,
            "moments": list(self._moments),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["candidates"] != list(self.filters):
            raise ValueError(
                f"the checkpoint's adaptive filter chooses among {', '.join(state['candidates'])}, this one among "
                f"{', '.join(self.filters)}: give the same candidates to resume."
            )
        self.in_use, self._since_switch = state["in_use"], state["since_switch"]
        self._moments.extend(map(as_array, state["moments"]))


def decayed(sums: list[ndarray], half_life: float) -> ndarray:
    """Return (rollouts, ...) the sums of each rollout, oldest first, with the weight that their age leaves them."""
    stacked = np.stack(sums)
    age = np.arange(len(stacked) - 1, -1, -1)
    return stacked * (0.5 ** (age / half_life)).reshape(-1, *[1] * (stacked.ndim - 1))


def lead(sums: ndarray, difference: Callable[[ndarray], ndarray]) -> tuple[ndarray, ndarray]:
    """Return a difference of strategies, and its standard error by a jackknife over rollouts.

    Args:
        sums: (rollouts, ...) sums over each rollout.
        difference: from sums (..., moments) to the differences, of which what is common to all cancels.
    """
    n, total = len(sums), sums.sum(axis=0)
    without_one = difference(total - sums)
    error = np.sqrt((n - 1) / n * ((without_one - without_one.mean(axis=0)) ** 2).sum(axis=0))
    return difference(total), error


def check_positive(**settings: float) -> None:
    """Raise ValueError for a setting that is not above 0, or above a million."""
    for name, value in settings.items():
        if not 0 < value <= 1e6:
            raise ValueError(f"{name} must be above 0 and at most 1000000, got {value}: leave it out for the default.")


# ── The gain ──

#: Stands in for 0 in a denominator.
_TINY = 1e-300


def known_samples(batch: FilterBatch) -> ndarray | None:
    """Return (G, N) bool: reward and true score are usable; None where there is no such sample."""
    if batch.scores is None:
        return None
    known = batch.usable & is_usable(batch.scores)
    return known if known.any() else None


def moments(candidate: SampleFilter, batch: FilterBatch, known: ndarray) -> ndarray:
    """Return (5,) sums of w, w d, w s, w d d, w d s over samples with a true score, w the candidate's weight.

    Rewards d and scores s are taken from their prompt's means over ``known`` (G, N); a prompt with a single known
    sample adds nothing. Weights are expectations over the draw: nothing is drawn for them.
    """
    w = candidate(batch) * known * (known.sum(axis=1, keepdims=True) > 1)
    d, s = deviations(batch.rewards, known), deviations(batch.scores, known)
    return np.array([(w * x).sum() for x in (np.ones_like(w), d, s, d * d, d * s)])


def gain(sums: ndarray) -> ndarray:
    """Return (...,) gain from moments (..., 5), in units of true score; 0 where the kept rewards have no spread."""
    w, d, s, dd, ds = np.moveaxis(sums, -1, 0)
    w = w.clip(min=_TINY)
    covariance, spread = ds / w - (d / w) * (s / w), dd / w - (d / w) ** 2
    return np.where(spread > 1e-12, covariance / np.sqrt(spread.clip(min=_TINY)), 0.0)
