"""Numbers to decisions, without sentences: is the ranking right, and which strategy suits this reward model?

The verdict on the ranking comes from pairs alone: every prompt counts by its pairs, whatever the size of its rewards.
The criterion of the recommendation is the gain (docs/when_to_filter.md): the estimated rise of the mean true score by
one step on the kept samples. It also depends on how far apart rewards lie; where it disagrees with the verdict,
:func:`find_causes` names the reason.
Strategies are compared by paired differences on the same resampled prompts. Intervals are joint over all strategies:
their width is that of the largest standardised deviation, so that of 100 data sets in which all strategies are equal
about 3 single one out. A strategy is recommended only if pairs of the responses that it keeps are ranked correctly.

Notation used for shapes: C strategies that compete, R repetitions.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.filters import filter_class
from openrlhf_pf.reliability.measures.bootstrap import MOST_MISSING, deviations
from openrlhf_pf.reliability.measures.contrasts import Interval
from openrlhf_pf.reliability.measures.evaluate import Result
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

#: Shares of correctly ordered pairs from which on a reward model is called right and mostly right.
RIGHT_FROM, MOSTLY_FROM = 0.9, 0.7
RIGHT, MOSTLY, SLIGHTLY = "right", "mostly right", "slightly right"
GUESSING, WRONG, UNKNOWN = "no better than guessing", "wrong way round", "unknown"
SAME = "reward is the score"
#: Verdicts by which higher rewards mean better responses.
GOOD = (RIGHT, MOSTLY, SLIGHTLY)

#: Fewer prompts than this decide nothing: bootstrap intervals are unreliable.
FEWEST_PROMPTS = 30
#: A correlation of reward and score from which on they are the same up to scale.
SAME_FROM = 0.999
#: The share of responses that may not make up more than half of the spread of rewards within prompts.
FEW = 0.05


def verdict_of(accuracy: dict[str, float | None]) -> str:
    """Return the verdict by ``{estimate, low, high}`` of the share of correctly ordered pairs."""
    if accuracy["estimate"] is None or accuracy["low"] is None:
        return UNKNOWN
    if accuracy["high"] < 0.5:
        return WRONG
    if accuracy["low"] <= 0.5:
        return GUESSING
    return RIGHT if accuracy["estimate"] >= RIGHT_FROM else MOSTLY if accuracy["estimate"] >= MOSTLY_FROM else SLIGHTLY


def is_same(checkpoint: Checkpoint) -> bool:
    """Return whether reward and score are the same up to scale, or nearly: the reward is then measured by itself."""
    reward, score = (x[checkpoint.known] for x in (checkpoint.reward, checkpoint.score))
    reward, score = (x / max(np.abs(x).max(initial=0.0), np.finfo(float).tiny) for x in (reward, score))
    if len(reward) < 3 or min(np.ptp(reward), np.ptp(score)) <= 0:
        return False
    return bool(abs(np.corrcoef(reward, score)[0, 1]) > SAME_FROM)


def count_informative(checkpoint: Checkpoint) -> int:
    """Return the number of prompts that have responses with different true scores."""
    high = np.where(checkpoint.known, checkpoint.score, -np.inf).max(axis=1)
    low = np.where(checkpoint.known, checkpoint.score, np.inf).min(axis=1)
    return len(np.unique(checkpoint.prompt[high > low]))


def find_causes(checkpoint: Checkpoint, everything: Result, misranked: dict[str, Interval]) -> list[str]:
    """Return why ranking and gain may disagree, the likeliest first: "one prompt", "few informative prompts",
    "huge rewards", "hacked top", or "close" if nothing stands out.

    ``everything`` is the result of training on all samples, ``misranked`` of ``contrasts.find_misranked``.
    """
    causes, informative = [], count_informative(checkpoint)
    if informative and everything.units.get("pairwise_accuracy", np.inf) < 2:
        causes.append("one prompt")
    elif informative < FEWEST_PROMPTS <= checkpoint.n_prompts:
        causes.append("few informative prompts")
    if measure_huge_rewards(checkpoint)[1] > 0.5:
        causes.append("huge rewards")
    return [*causes, *["hacked top"] * ("top" in misranked)] or ["close"]


def measure_huge_rewards(checkpoint: Checkpoint) -> tuple[int, float]:
    """Return the number of the ``FEW`` furthest responses and their share of the spread of rewards within prompts."""
    known = checkpoint.known & (checkpoint.known.sum(axis=1, keepdims=True) > 1)
    if not known.any():
        return 0, 0.0
    filled = np.where(known, checkpoint.reward, np.nan)[known.any(axis=1)]
    filled = filled / max(np.nanmax(np.abs(filled)), np.finfo(float).tiny)
    away = (filled - np.nanmedian(filled, axis=1, keepdims=True)) ** 2
    away = np.sort(away[np.isfinite(away)])[::-1]
    few = max(1, int(FEW * len(away)))
    return few, float(away[:few].sum() / max(away.sum(), np.finfo(float).tiny))


Floats = NDArray[np.float64]
#: Name, results and number of prompts of further checkpoints.
Others = Sequence[tuple[str, Sequence[Result], int]]

CRITERION = "gain"
#: More prompts than this times the present number are not asked for.
MOST_MORE = 100

#: Answers to "which filter, if any?".
NO_HELP, WRONG_WAY, TIME_ONLY, FILTER, NO_FILTER, OPEN = "no help", "wrong way", "time only", "filter", "none", "open"
#: Reasons for the answer "open".
NOTHING_KNOWN, FEW_PROMPTS, FEW_INFORMATIVE = "nothing known", "few prompts", "few informative prompts"
NOTHING_TO_COMPARE, CHECKPOINTS = "nothing to compare", "checkpoints disagree"
DISAGREE, PAIRS = "ranking and gain disagree", "preference pairs"


@dataclass
class Recommendation:
    """A report's recommendation; its fields, ``text`` and ``headline`` are ``recommendation`` in report.json.

    Attributes:
        decided: whether the data single out a strategy.
        strategy, keep, options: what to train with; None, None and {} when undecided.
        answer: "filter" (significantly better than none, per sample), "none" (every filter is significantly worse),
            "time only" (no filter is significantly better, but some may be as good), "no help" (no ranking within a
            prompt was found), "wrong way" (higher rewards go with lower scores), or "open" (see ``reason``).
        reason: why the answer is open, or "".
        confidence: share of the repetitions in which the best strategy stays the best, decided or not.
        best: label of the strategy with the largest gain, decided or not.
        not_told_apart: labels of the strategies that may be as good.
        comparisons: one entry per rival: ``label``, ``strategy``, ``options``, ``value``, the ``difference`` of best
            minus rival ``{estimate, low, high}``, whether it is significant (``told_apart``), and how many prompts
            would make it so (``prompts_needed``; None if it is, or if no number would).
        prompts_needed: how many prompts would settle the answer if differences are as estimated; None if it is
            settled, or if no number would.
        values: gains by label.
        contradicted: name of the checkpoint that contradicts and the strategy that is better there.
        lead: gain times root of the number of samples, of the best strategy divided by that of no filter, minus 1.
        n_prompts, level: of the data and the intervals.
    """

    decided: bool
    strategy: str | None
    keep: int | None
    options: dict[str, Any]
    answer: str
    confidence: float | None
    best: str | None
    not_told_apart: list[str]
    comparisons: list[dict[str, Any]]
    prompts_needed: int | None
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    contradicted: tuple[str, str] | None = None
    lead: float | None = None
    n_prompts: int = 0
    level: float = 0.95


@dataclass
class Field:
    """The strategies that compete.

    Attributes:
        rivals: C of them, one of each set that keeps the same samples.
        value: (C,) the gains.
        away: (C, R) their deviations in the repetitions.
        n_prompts: number of prompts, resampled one by one or in blocks.
        level: of the intervals.
    """

    rivals: list[Result]
    value: Floats
    away: Floats
    n_prompts: int
    level: float

    @classmethod
    def of(cls, results: Sequence[Result], n_prompts: int, level: float) -> "Field":
        """Take those whose gain is known."""
        known = [r for r in results if not r.twin and np.isfinite(r.estimates.get(CRITERION, np.nan))]
        rivals = [r for r in known if np.isnan(r.draws[CRITERION]).mean() <= MOST_MISSING]
        units = [min(r.units.get(CRITERION, np.inf), n_prompts) for r in rivals]
        away = [deviations(r.draws[CRITERION], "plain", n) for r, n in zip(rivals, units)]
        value = np.array([r.estimates[CRITERION] for r in rivals])
        return cls(rivals, value, np.nan_to_num(np.array(away)), n_prompts, level)

    @property
    def labels(self) -> list[str]:
        """Names of the strategies."""
        return [r.strategy.label for r in self.rivals]

    @property
    def best(self) -> int:
        """Number of the largest."""
        return int(self.value.argmax())

    @property
    def none(self) -> int:
        """Number of the strategy that keeps everything, which competes where any does."""
        return next(i for i, r in enumerate(self.rivals) if r.strategy.name == "none")

    def ends(self) -> tuple[Floats, Floats]:
        """Return (C,) each: the lower and the upper ends of one joint interval of the gains."""
        error, share = self.away.std(axis=1), (1 + self.level) / 2
        low, high = (_quantile(away, error, share) * error for away in (self.away, -self.away))
        return self.value - low, self.value + high

    def leads_of(self, one: int) -> tuple[Floats, Floats, Floats]:
        """Return (C,) each: the lead of a strategy over every other, and the ends of joint intervals."""
        i, j = np.triu_indices(len(self.rivals), 1)
        differences = self.away[i] - self.away[j]
        lead, error = self.value[one] - self.value, (self.away[one] - self.away).std(axis=1)
        width = _quantile(np.abs(differences), differences.std(axis=1), self.level) * error
        return lead, lead - width, lead + width

    def compare(self, best: int) -> list[dict[str, Any]]:
        """Compare a strategy with every other, nearest first; see ``Recommendation.comparisons``."""
        lead, low, high = self.leads_of(best)
        return [
            {
                "label": self.rivals[i].strategy.label,
                "strategy": self.rivals[i].strategy.name,
                "options": dict(self.rivals[i].strategy.options),
                "value": float(self.value[i]),
                "difference": {"estimate": float(lead[i]), "low": float(low[i]), "high": float(high[i])},
                "told_apart": bool(low[i] > 0),
                "prompts_needed": None if low[i] > 0 else self._count_needed(lead[i], lead[i] - low[i]),
            }
            for i in np.argsort(lead, kind="stable")
            if i != best
        ]

    def _count_needed(self, estimate: float, half_width: float) -> int | None:
        """Return the number of prompts at which the half-width, which falls as 1/sqrt(n), is below the estimate."""
        ratio = half_width / estimate if estimate > 0 else np.inf
        return int(np.ceil(self.n_prompts * ratio**2)) if ratio**2 < MOST_MORE else None

    def find_contradiction(self, one: int, others: Others) -> tuple[str, str] | None:
        """Return the first checkpoint at which another strategy is significantly better, and that strategy's label."""
        label = self.labels[one]
        for name, results, n_prompts in others:
            found = Field.of(results, n_prompts, self.level)
            if label in found.labels and found.leads_of(found.best)[1][found.labels.index(label)] > 0:
                return name, found.labels[found.best]
        return None

    def lead_at_equal_rollouts(self, one: int | None) -> float | None:
        """Return by how much gain times the root of the number of samples is above that of no filter, minus 1.

        Adam's steps have a fixed length, so gain divided by the noise of the step counts, which falls with the root of
        the number of samples: this orders filters of different k in simulations and on the real stack
        (docs/evidence.md).
        """
        if one is None:
            return None
        mine, all_of_them = (self.value[i] * np.sqrt(max(self.rivals[i].kept, 0.0)) for i in (one, self.none))
        return float(mine / all_of_them - 1) if mine > 0 and all_of_them > 0 else None

    def recommend(self, one: int | None, answer: str, reason: str = "", **more: Any) -> Recommendation:
        """Return a recommendation about strategy ``one``; ``more`` are further fields of it."""
        decided, comparisons = answer in (FILTER, NO_FILTER), more.pop("comparisons", [])
        strategy = self.rivals[one].strategy if decided else None
        shown = one if decided or one is None else self.best
        repeated = self.value[:, None] + self.away
        return Recommendation(
            decided=decided,
            strategy=strategy.name if strategy else None,
            keep=strategy.keep if strategy else None,
            options=dict(strategy.options) if strategy else {},
            answer=answer,
            confidence=None if shown is None else float((repeated.argmax(axis=0) == shown).mean()),
            best=None if shown is None else self.labels[shown],
            not_told_apart=[c["label"] for c in comparisons if not c["told_apart"]],
            comparisons=comparisons,
            prompts_needed=more.pop("needed", None),
            reason=reason,
            values={label: float(value) for label, value in zip(self.labels, self.value)},
            lead=self.lead_at_equal_rollouts(one),
            n_prompts=self.n_prompts,
            level=self.level,
            **more,
        )


def _quantile(away: Floats, error: Floats, share: float) -> float:
    """Return that of the largest standardised deviation."""
    some = error > 1e-12
    return float(np.quantile((away[some] / error[some, None]).max(axis=0), share)) if some.any() else 0.0


def choose(
    results: Sequence[Result],
    others: Others = (),
    n_prompts: int = 0,
    level: float = 0.95,
    rankings: Mapping[str, str] | None = None,
    informative: int | None = None,
    excluded: Sequence[str] = (),
    open_because: str = "",
) -> Recommendation:
    """Recommend a strategy if it is significantly better than training on all samples.

    Args:
        results: the strategies on the checkpoint that training starts from, "none" among them.
        others: further checkpoints; one that contradicts leaves it undecided.
        n_prompts: number of prompts, resampled one by one or in blocks.
        level: of the intervals.
        rankings: label to the verdict of ``verdict_of`` on the pairs that a strategy keeps; None to go by gains alone.
        informative: number of prompts whose responses differ in true score; None for all.
        excluded: names of strategies that are not recommended.
        open_because: a reason for which nothing can be recommended from these data, or "".
    """
    found = Field.of([r for r in results if r.strategy.name not in excluded], n_prompts, level)
    if open_because:
        return found.recommend(found.best if found.rivals else None, OPEN, open_because)
    if not found.rivals:
        return found.recommend(None, OPEN, NOTHING_KNOWN)
    if found.n_prompts < FEWEST_PROMPTS:
        return found.recommend(found.best, OPEN, FEW_PROMPTS, needed=FEWEST_PROMPTS)
    if informative is not None and informative < FEWEST_PROMPTS:
        return found.recommend(found.best, OPEN, FEW_INFORMATIVE)
    low, high = found.ends()
    if not (low > 0).any():
        if rankings is not None and is_ranked("none", rankings):
            return found.recommend(found.best, OPEN, DISAGREE)
        wrong = (high < 0).all() if rankings is None else rankings.get("none") == WRONG
        return found.recommend(found.best, WRONG_WAY if wrong else NO_HELP)
    best, none = _preferred(found), found.none
    if rankings is not None and not is_ranked(found.labels[best], rankings):
        return found.recommend(best, OPEN, DISAGREE)
    if len(found.rivals) < 2:
        return found.recommend(found.best, OPEN, NOTHING_TO_COMPARE)
    comparisons = found.compare(best)
    close = {c["label"]: c["prompts_needed"] for c in comparisons if not c["told_apart"]}
    needed = max(close.values()) if close and None not in close.values() else None
    if (best == none and close) or found.labels[none] in close:
        return found.recommend(best, TIME_ONLY, comparisons=comparisons, needed=needed)
    if against := found.find_contradiction(best, others):
        return found.recommend(best, OPEN, CHECKPOINTS, comparisons=comparisons, contradicted=against)
    return found.recommend(best, NO_FILTER if best == none else FILTER, comparisons=comparisons)


def is_ranked(label: str, rankings: Mapping[str, str]) -> bool:
    """Return whether pairs kept by a strategy are ranked correctly; by all pairs where it keeps none."""
    ranking = rankings.get(label, UNKNOWN)
    return (rankings.get("none", UNKNOWN) if ranking == UNKNOWN else ranking) in GOOD


def _preferred(found: Field) -> int:
    """Return the best; a filter of group scope that may be as good goes before one of batch scope.

    Batch scope leaves prompts with unequal numbers of samples, which estimators with a baseline per prompt cannot use.
    """
    scopes = [filter_class(r.strategy.name).scope for r in found.rivals]
    if scopes[found.best] == "group":
        return found.best
    low = found.leads_of(found.best)[1]
    group = [i for i, scope in enumerate(scopes) if scope == "group" and low[i] <= 0 and i != found.none]
    return max(group, key=lambda i: found.value[i]) if group else found.best


# ── For training ──


def read_recommendation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the strategy that a report recommends.

    Args:
        path: report.json, or the directory that holds it.

    Returns:
        ``name``, ``keep`` and ``options``, as ``build_filter(name, n_samples, keep, **options)`` takes them, and the
        report's ``headline``. The name is ``none``, and ``keep`` None, if the report recommends no filter, is
        undecided, or if filters only save time.

    Raises:
        ValueError: there is no report, or it is not one; the message is one sentence.
    """
    file = Path(path)
    file = file / "report.json" if file.is_dir() else file
    again = "run openrlhf-pf analyze and give its report.json"
    try:
        found = json.loads(file.read_text("utf-8"))["recommendation"]
        decided, name, keep, options = (found[key] for key in ("decided", "strategy", "keep", "options"))
        valid = not decided or (isinstance(name, str) and type(keep) is int and isinstance(options, dict))
    except OSError as error:
        raise ValueError(f"the report {str(file)!r} cannot be read ({error.strerror}): {again}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is not a report of the reliability tool: {again}.") from error
    if not valid:
        raise ValueError(f"{str(file)!r} has a recommendation that cannot be used: {again}.")
    headline = str(found.get("headline") or "").rstrip(".")
    if not decided or name == "none":  # N may be another in training, and all are kept in any case
        name, keep, options = "none", None, {}
    return {"name": name, "keep": keep, "options": options, "headline": headline}
