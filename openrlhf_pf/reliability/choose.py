"""Which strategy suits this reward model, said no more surely than the data allow.

The criterion is one line, ``CRITERION``: the gain, by how much the mean true score rises with the first step along the
gradient of the samples that a strategy keeps (docs/gain.md). The paper's R² over all samples (``binned_r2``) mixes in
differences between prompts, which filters of group scope do not see.

Strategies are compared by paired differences: all are computed on the same resampled prompts. That the best of many is
looked at, and that many are compared, is allowed for: an interval's width is that of the largest standardised
deviation among all of them, so that in 100 data sets in which all are equal about 3 name one.

Notation used for shapes: C strategies that compete, R repetitions.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.filters import filter_class
from openrlhf_pf.reliability.bootstrap import MOST_MISSING, deviations, to_scale
from openrlhf_pf.reliability.evaluate import Result
from openrlhf_pf.reliability.metrics import METRICS
from openrlhf_pf.reliability.strategies import Strategy

Floats = NDArray[np.float64]

#: Any metric of ``METRICS`` of which more is better.
CRITERION = "gain"
#: Fewer prompts than this decide nothing: bootstrap intervals are not to be relied on there.
FEWEST_PROMPTS = 30
#: More prompts than this times the present ones are not asked for.
MOST_MORE = 10_000
#: What to train with until a report decides: the rule of least regret on small worlds with Adam and on the small task
#: (docs/evidence.md). All responses, so that there is no k; not a finding of a report.
DEFAULT = {"strategy": "none", "keep": None, "options": {}}

#: What the data say of filters.
NO_HELP, WRONG_WAY, TIME_ONLY, FILTER, NO_FILTER, OPEN = "no help", "wrong way", "time only", "filter", "none", "open"


@dataclass
class Recommendation:
    """What a report recommends; the dictionary of its fields is ``recommendation`` in report.json.

    Attributes:
        decided: whether the data single out a strategy.
        strategy, keep, options: what to train with; None, None and {} when undecided.
        answer: "filter" (sample by sample it is better than none beyond doubt; the headline says so where it may still
            be behind at equal rollouts), "none" (every filter is worse), "time only" (no filter
            is better beyond doubt, but one may be as good), "no help" (no ranking within a prompt was found that
            training could use), "wrong way" (higher rewards go with lower scores), or "open".
        confidence: share of the repetitions in which the best strategy stays the best, decided or not.
        best: label of the strategy with the largest criterion, decided or not.
        not_told_apart: labels of the strategies that may be as good.
        comparisons: one entry a rival: ``label``, its ``value``, the ``difference`` of best less rival ``{estimate,
            low, high}``, whether they are ``told_apart``, and how many prompts would tell them apart if the difference
            is what it seems (None if they are, or if no number would).
        prompts_needed: how many prompts would settle the answer, if differences are what they seem; None if it is
            settled, or if no number would.
        text: all of it in plain words.
        headline: the first of these words.
        criterion: name of the metric that was compared.
        default: what to train with until a report decides, in these three terms.
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
    text: str
    headline: str
    criterion: str = CRITERION
    default: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT))

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return asdict(self)


@dataclass
class Field:
    """The strategies that compete, on the criterion's scale.

    Attributes:
        rivals: C of them, one of each set that keeps the same samples.
        value: (C,) the criterion.
        away: (C, R) its deviations in the repetitions.
        n_prompts: what was resampled, one by one or in blocks.
        level: of the intervals.
    """

    rivals: list[Result]
    value: Floats
    away: Floats
    n_prompts: int
    level: float

    @classmethod
    def of(cls, results: Sequence[Result], n_prompts: int, level: float) -> "Field":
        """Those whose criterion is known."""
        known = [r for r in results if not r.twin and np.isfinite(r.estimates.get(CRITERION, np.nan))]
        rivals = [r for r in known if np.isnan(r.draws[CRITERION]).mean() <= MOST_MISSING]
        kind = METRICS[CRITERION].kind
        value = np.array([float(to_scale(np.array(r.estimates[CRITERION]), kind)) for r in rivals])
        away = [
            deviations(
                r.estimates[CRITERION], r.draws[CRITERION], kind, min(r.units.get(CRITERION, np.inf), n_prompts)
            )
            for r in rivals
        ]
        return cls(rivals, value, np.nan_to_num(np.array(away)), n_prompts, level)

    @property
    def best(self) -> int:
        """Number of the largest."""
        return int(self.value.argmax())

    @property
    def none(self) -> int | None:
        """Number of the strategy that keeps everything, where it competes."""
        return next((i for i, r in enumerate(self.rivals) if r.strategy.name == "none"), None)

    def above_zero(self) -> Floats:
        """(C,) lower ends of one joint statement, that the criterion is above 0."""
        return self.value - self._quantile(self.away) * self._error(self.away)

    def below_zero(self) -> Floats:
        """(C,) upper ends likewise."""
        return self.value + self._quantile(-self.away) * self._error(self.away)

    def ahead(self, of: int) -> tuple[Floats, Floats, Floats]:
        """(C,) each: by how much strategy ``of`` is ahead of every other, and the ends of joint intervals."""
        i, j = np.triu_indices(len(self.rivals), 1)
        width = self._quantile(np.abs(self.away[i] - self.away[j]), self._error(self.away[i] - self.away[j]))
        lead = self.value[of] - self.value
        error = self._error(self.away[of] - self.away)
        return lead, lead - width * error, lead + width * error

    def _error(self, away: Floats) -> Floats:
        return away.std(axis=1)

    def _quantile(self, away: Floats, error: Floats | None = None) -> float:
        """Of the largest standardised deviation; two-sided ones come as absolute values with their errors."""
        share = self.level if error is not None else (1 + self.level) / 2
        error = self._error(away) if error is None else error
        some = error > 1e-12
        if not some.any():
            return 0.0
        return float(np.quantile((away[some] / error[some, None]).max(axis=0), share))


def choose(
    results: Sequence[Result],
    others: Sequence[tuple[str, Sequence[Result], int]] = (),
    n_prompts: int = 0,
    level: float = 0.95,
) -> Recommendation:
    """Recommend a strategy if it is better than training on all samples beyond doubt, or say what is known instead.

    Ranks that were found from the samples must in addition be better than every filter, on prompts that they were not
    found from; otherwise the recommendation is what it would be without them.

    Args:
        results: the strategies on the checkpoint that training starts from.
        others: name, results and number of prompts of further checkpoints; one that contradicts leaves it undecided.
        n_prompts: number of prompts that were resampled, one by one or in blocks.
        level: of the intervals.
    """
    learned = _choose_learned(results, others, n_prompts, level)
    return learned or _choose_named([r for r in results if not r.strategy.learned], others, n_prompts, level)


def _choose_learned(
    results: Sequence[Result], others: Sequence[tuple[str, Sequence[Result], int]], n_prompts: int, level: float
) -> Recommendation | None:
    """The ranks that were found, if they are better than every other strategy beyond doubt, and than nothing."""
    found = Field.of(results, n_prompts, level)
    place = next((i for i, r in enumerate(found.rivals) if r.strategy.learned), None)
    if place is None or n_prompts < FEWEST_PROMPTS or found.above_zero()[place] <= 0:
        return None
    comparisons = _comparisons(found, place)
    label = found.rivals[place].strategy.label
    contradicted = any(_better_there(label, theirs, count, level) for _, theirs, count in others)
    if contradicted or not all(c["told_apart"] for c in comparisons):
        return None
    return _decided(found, place, comparisons, [])


def _choose_named(
    results: Sequence[Result], others: Sequence[tuple[str, Sequence[Result], int]], n_prompts: int, level: float
) -> Recommendation:
    found = Field.of(results, n_prompts, level)
    if not found.rivals:
        return _undecided(OPEN, "No strategy can be judged.", _lacking(), found, [])
    if n_prompts < FEWEST_PROMPTS:
        why = f"{n_prompts} prompts are too few to rely on: score at least {FEWEST_PROMPTS}."
        return _undecided(OPEN, "There are too few prompts.", why, found, [], needed=FEWEST_PROMPTS)
    above = found.above_zero()
    if not (above > 0).any():
        return _no_help(found)
    if len(found.rivals) < 2:
        why = (
            f"All strategies that were asked for keep what {found.rivals[0].strategy.label} keeps: name others, or "
            "sample more responses a prompt."
        )
        return _undecided(OPEN, "There is nothing to compare.", why, found, [])
    best = _preferred(found)
    comparisons = _comparisons(found, best)
    close = [c["label"] for c in comparisons if not c["told_apart"]]
    none = found.none
    doubt = best != none and none is not None and found.rivals[none].strategy.label in close
    if doubt or (best == none and close):
        return _time_only(found, comparisons, close)
    if none is None and close:
        needed = _most([c["prompts_needed"] for c in comparisons if not c["told_apart"]])
        why = f"{_lead(found, best)}, but these data cannot tell it from {_listed(close)}. {_more(needed, n_prompts)}"
        return _undecided(OPEN, "The data do not single out a strategy.", why, found, comparisons, needed)
    for name, theirs, count in others:
        if against := _better_there(found.rivals[best].strategy.label, theirs, count, level):
            why = (
                f"{_lead(found, best)} at the first checkpoint, but at {name} {against} is better, beyond doubt by"
                " these data."
            )
            return _undecided(OPEN, "The checkpoints do not agree.", why, found, comparisons)
    return _decided(found, best, comparisons, close)


def _preferred(found: Field) -> int:
    """The best; but where a filter of group scope may be as good as one of batch scope, that one.

    Filters of batch scope leave prompts with unequal numbers of samples, which estimators with a baseline per prompt
    cannot use, so that they must be better to be worth it.
    """
    best = found.best
    if filter_class(found.rivals[best].strategy.name).scope == "group":
        return best
    _, low, _ = found.ahead(best)
    group = [
        i
        for i, r in enumerate(found.rivals)
        if low[i] <= 0 and filter_class(r.strategy.name).scope == "group" and i != found.none
    ]
    return max(group, key=lambda i: found.value[i]) if group else best


def _comparisons(found: Field, best: int) -> list[dict[str, Any]]:
    """Best against every other, nearest first."""
    lead, low, high = found.ahead(best)
    comparisons = []
    for i in np.argsort(lead, kind="stable"):
        if i == best:
            continue
        strategy = found.rivals[i].strategy
        told_apart = bool(low[i] > 0)
        needed = None if told_apart else _needed(lead[i], lead[i] - low[i], found.n_prompts)
        comparisons.append(
            {
                "label": strategy.label,
                "strategy": strategy.name,
                "options": dict(strategy.options),
                "value": _value(found.rivals[i]),
                "difference": {"estimate": float(lead[i]), "low": float(low[i]), "high": float(high[i])},
                "told_apart": told_apart,
                "prompts_needed": needed,
            }
        )
    return comparisons


def _needed(estimate: float, half_width: float, n_prompts: int) -> int | None:
    """Intervals shrink with the root of the number of prompts."""
    ratio = half_width / estimate if estimate > 0 else np.inf
    return int(np.ceil(n_prompts * ratio**2)) if ratio**2 < MOST_MORE else None


def _most(numbers: Sequence[int | None]) -> int | None:
    return None if None in numbers or not numbers else max(numbers)


def _better_there(label: str, results: Sequence[Result], n_prompts: int, level: float) -> str | None:
    """Label of a strategy that beats this one at another checkpoint, beyond the interval."""
    found = Field.of(results, n_prompts, level)
    labels = [r.strategy.label for r in found.rivals]
    if label not in labels:
        return None
    _, low, _ = found.ahead(found.best)
    return labels[found.best] if low[labels.index(label)] > 0 else None


# ── Words ──


def _no_help(found: Field) -> Recommendation:
    name = METRICS[CRITERION].title
    all_wrong = (found.below_zero() < 0).all()
    if all_wrong:
        why = (
            f"Higher rewards go with lower scores: the {name} is below 0 for every strategy, beyond doubt. This reward"
            " model should not train."
        )
        return _undecided(WRONG_WAY, "No filter can help: the ranking is the wrong way round.", why, found, [])
    why = (
        f"For no strategy is the {name} above 0 beyond doubt: within a prompt, these data do not show that the better"
        " response has the higher reward, so choosing by reward is choosing at random, and this reward model should"
        " not train unless more data say otherwise."
    )
    return _undecided(NO_HELP, "No filter within a prompt can help here, as far as these data show.", why, found, [])


def _time_only(found: Field, comparisons: list[dict[str, Any]], close: list[str]) -> Recommendation:
    none = found.rivals[found.none]
    better = [c for c in comparisons if c["label"] in close]
    needed = _most([c["prompts_needed"] for c in better])
    names = [label for label in [found.rivals[found.best].strategy.label, *close] if label != "none"]
    why = (
        f"No filter's {METRICS[CRITERION].title} is above that of training on all responses ({_value(none):.3f})"
        f" beyond doubt. {_listed(list(dict.fromkeys(names)))} may be as good; keeping k of N responses saves the"
        " forward and backward passes of the others, as a random k of N would. " + _more(needed, found.n_prompts)
    )
    return _undecided(TIME_ONLY, "Filtering saves time only.", why, found, comparisons, needed)


def _decided(found: Field, best: int, comparisons: list[dict[str, Any]], close: list[str]) -> Recommendation:
    strategy = found.rivals[best].strategy
    share = _share(_confidence(found, best))
    if strategy.name == "none":
        answer, headline = NO_FILTER, "Use no filter."
        text = f"{_lead(found, best)}, and every filter compared is worse, beyond doubt."
    else:
        terms, by_samples = _by_samples(found, best)
        answer, headline = FILTER, f"Use {_named(strategy)}, k = {strategy.keep}{terms}."
        gap = next((c["difference"] for c in comparisons if c["strategy"] == "none"), None)
        text = f"{_lead(found, best)}"
        if gap is not None:
            text += (
                f", {gap['estimate']:.3f} more than training on all responses (joint {found.level:.0%} interval "
                f"{gap['low']:.3f} to {gap['high']:.3f} on the same resampled prompts)"
            )
        text += "."
        text += f" {_listed(close)} may be as good." if close else " It is ahead of every other strategy beyond doubt."
        if strategy.learned:
            text += " Ranks were judged on prompts that they were not chosen from."
        text += by_samples
    if best == found.best:
        text += f" It has the largest value in {share} of the repetitions."
    else:
        text += (
            f" {_named(found.rivals[found.best].strategy)} has a larger value, not beyond doubt, and leaves prompts"
            " with unequal numbers of samples."
        )
    text += (
        " What would change this: another reward model, another k, or a policy that has moved on, so analyse later"
        " checkpoints, too. The gain is that of the first step: it does not say how training ends."
    )
    return Recommendation(
        True,
        strategy.name,
        strategy.keep,
        dict(strategy.options),
        answer,
        _confidence(found, best),
        strategy.label,
        close,
        comparisons,
        None,
        f"{headline} {text}",
        headline,
    )


def _named(strategy: Strategy) -> str:
    """What it is called in a sentence."""
    if not strategy.learned:
        return strategy.label
    ranks = [str(rank) for rank, weight in enumerate(strategy.options["weights"], 1) if weight]
    return f"rank_weights on {'ranks' if len(ranks) > 1 else 'rank'} {_listed(ranks)} by reward"


def _by_samples(found: Field, best: int) -> tuple[str, str]:
    """On which terms a filter is better than training on all samples of the same rollouts: for the headline, and why.

    Adam's steps have a length of their own, so that what counts is the gain by the noise of the step, which falls with
    the root of the number of samples: it is that which orders filters of different k, on small worlds and on the real
    stack. It does not see whether errors stay: the same samples may come of a reward that errs anew at each look,
    where the filter stayed ahead, or of one whose errors stay, where it did not (docs/evidence.md).
    """
    if found.none is None:
        return "", ""
    mine, all_of_them = (_value(found.rivals[i]) * np.sqrt(max(found.rivals[i].kept, 0.0)) for i in (best, found.none))
    if mine <= 0:
        return "", ""
    if all_of_them > mine:
        return ", to save time, and no filter otherwise", (
            " Per sample, that is. Training on all responses of the same rollouts has more of them: by gain times the"
            f" root of how many train, which counts with Adam, it is ahead by {all_of_them / mine - 1:.0%}. So the"
            " filter is the best way to train on fewer of them, and at equal rollouts no filter is likely to end"
            " higher."
        )
    return ", if the reward errs anew at each look, and to save time if its errors stay", (
        " By gain times the root of how many train, which counts with Adam, it is ahead of training on all responses,"
        " too. On the small task that lasted where a second look at the same response may give another reward, and not"
        " where errors stay, as a reward model's do."
    )


def _undecided(
    answer: str,
    headline: str,
    why: str,
    found: Field,
    comparisons: list[dict[str, Any]],
    needed: int | None = None,
) -> Recommendation:
    text = f"{headline} {why}"
    if answer in (OPEN, TIME_ONLY):
        text += (
            " Until more is known, train on all responses: where nothing speaks for a filter, that is the safer"
            " choice, and no finding of this report."
        )
    best = found.best if found.rivals else None
    return Recommendation(
        False,
        None,
        None,
        {},
        answer,
        None if best is None else _confidence(found, best),
        None if best is None else found.rivals[best].strategy.label,
        [c["label"] for c in comparisons if not c["told_apart"]],
        comparisons,
        needed,
        text,
        headline,
    )


def _lacking() -> str:
    return (
        f"The {METRICS[CRITERION].title} could be computed for none: it needs prompts with at least two responses"
        " whose reward and score are known."
    )


def _lead(found: Field, best: int) -> str:
    result = found.rivals[best]
    name = "none (all responses)" if result.strategy.name == "none" else _named(result.strategy)
    return f"{name} has a {METRICS[CRITERION].title} of {_value(result):.3f}"


def _value(result: Result) -> float:
    value = float(result.estimates[CRITERION])
    return value * abs(value) if METRICS[CRITERION].kind == "r2" else value


def _confidence(found: Field, best: int) -> float:
    return float(((found.value[:, None] + found.away).argmax(axis=0) == best).mean())


def _more(needed: int | None, n_prompts: int) -> str:
    if needed is None:
        return "Some of the differences are so small that no reasonable number of prompts would tell them apart."
    return (
        f"If the differences are what they seem, about {max(needed, n_prompts + 1):,} prompts would tell them apart."
    )


def _share(share: float) -> str:
    return "all" if share == 1 else "more than 99%" if share > 0.99 else f"{share:.0%}"


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else ", ".join(labels[:-1]) + " and " + labels[-1]


# ── For training ──


def read_recommendation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the strategy that a report recommends.

    Args:
        path: report.json, or the directory that holds it.

    Returns:
        ``name``, ``keep`` and ``options``, as ``build_filter(name, n_samples, keep, **options)`` takes them; ``keep``
        is None for ``none``.

    Raises:
        ValueError: there is no report, it is not one, or it is undecided; the message is one sentence.
    """
    file = Path(path)
    file = file / "report.json" if file.is_dir() else file
    again = "run python -m openrlhf_pf.cli.analyze and give its report.json"
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
    if not decided:
        raise ValueError(
            f"the report {str(file)!r} recommends no sample filter ({str(found.get('headline')).rstrip('.')}): name"
            " one yourself, or score more prompts and analyse again."
        )
    # N may be another in training, and all are kept in any case.
    return {"name": name, "keep": None if name == "none" else keep, "options": options}
