"""Which strategy suits this reward model, said no more surely than the data allow.

The criterion is the paper's: R² of binned reward against true score (PF-PPO, Section 3). Strategies are compared by
paired differences: both are computed on the same resampled prompts, in Fisher's z of the correlation, whose square is
R².

A group's mean is noisy, which lowers R² the more the fewer samples a strategy keeps; that alone must not decide. So a
lead counts only if it holds after a correction, too: repetitions of the bootstrap add half of the noise once more and
show by how much that raises (1 - R²) / R², which is linear in the noise, and twice that much is taken off.

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

from openrlhf_pf.reliability import metrics
from openrlhf_pf.reliability.bootstrap import DRAWS, deviations, to_scale
from openrlhf_pf.reliability.evaluate import Result
from openrlhf_pf.reliability.strategies import Strategy

Floats = NDArray[np.float64]

CRITERION = "binned_r2"
#: Fewer prompts than this decide nothing: bootstrap intervals are not to be relied on there.
FEWEST_PROMPTS = 30
#: What PF-PPO and this plugin fall back on; not a finding.
DEFAULT = {"strategy": "best_worst", "keep": 2, "options": {}}


@dataclass
class Recommendation:
    """What a report recommends; the dictionary of its fields is ``recommendation`` in report.json.

    Attributes:
        decided: whether the data single out one strategy.
        strategy, keep, options: what to train with; None, None and {} when undecided.
        confidence: share of the repetitions in which the best strategy stays the best, decided or not.
        best: label of the strategy with the largest criterion, decided or not.
        not_told_apart: labels of the strategies that may be as good.
        comparisons: one entry a rival: ``label``, its R², the ``difference`` of Fisher's z ``{estimate, low, high}``,
            the difference of (1 - R²) / R² ``corrected`` for noise in the groups (rival less best, so that above 0 is
            a lead in both), whether they are ``told_apart``, and how many prompts would tell them apart if the
            difference is what it seems (None if they are, or if no number would).
        text: all of it in plain words.
        criterion: name of the metric that was compared.
        default: what to fall back on when undecided; a convention, not a finding.
    """

    decided: bool
    strategy: str | None
    keep: int | None
    options: dict[str, Any]
    confidence: float | None
    best: str | None
    not_told_apart: list[str]
    comparisons: list[dict[str, Any]]
    text: str
    criterion: str = CRITERION
    default: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT))

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return asdict(self)


def choose(
    results: Sequence[Result],
    others: Sequence[tuple[str, Sequence[Result], int]] = (),
    n_prompts: int = 0,
    bins: int = 20,
    level: float = 0.95,
) -> Recommendation:
    """Recommend the best strategy if its paired interval against every other one excludes 0, or say that none is.

    Args:
        results: the strategies on the checkpoint that training starts from.
        others: name, results and number of prompts of further checkpoints; one that contradicts leaves it undecided.
        n_prompts: number of prompts, or blocks, that were resampled.
        bins: B of the criterion.
        level: of the intervals.
    """
    rivals = _competitors(results)
    if len(rivals) < 2:
        text = "R² could be computed for fewer than two strategies, so there is nothing to compare."
        return _undecided(text, [r.strategy.label for r in rivals], None, None, [])
    order, z, away = _ranked(rivals, n_prompts)
    best = rivals[order[0]]
    confidence = float(((z[:, None] + away).argmax(axis=0) == order[0]).mean())
    rest = order[1:]
    comparisons = [_compare(best, rivals[i], away[order[0]] - away[i], n_prompts, level) for i in rest]
    close = [c["label"] for c in comparisons if not c["told_apart"]]
    evidence = (best.strategy.label, confidence, comparisons)
    lead = f"{_named(best)} has the largest R² of {bins} reward groups, {_r2(best):.3f}"
    lowest = z[order[0]] + np.quantile(away[order[0]], (1 - level) / 2)
    if n_prompts < FEWEST_PROMPTS:
        why = f"{lead}, but {n_prompts} prompts are too few to rely on: score at least {FEWEST_PROMPTS}."
        return _undecided(why, close, *evidence)
    if lowest <= 0:
        why = f"{lead}, but even there higher rewards may go with lower scores: this reward model should not train."
        return _undecided(why, close, *evidence)
    if close:
        return _undecided(_why_not(lead, close, comparisons, confidence, level), close, *evidence)
    for name, theirs, count in others:
        if against := _better_there(best.strategy, theirs, count, level):
            why = f"{lead} at the first checkpoint, but at {name} {against} is better, beyond doubt by these data."
            return _undecided(why, [against], *evidence)
    text = f"{lead}; " + _why(best, comparisons[0], comparisons, confidence, level) + _sensitivity(rivals, best, bins)
    strategy = best.strategy
    return Recommendation(
        True, strategy.name, strategy.keep, dict(strategy.options), confidence, strategy.label, [], comparisons, text
    )


def _competitors(results: Sequence[Result]) -> list[Result]:
    """One of each set of strategies that keep the same, if its criterion is known."""
    known = [r for r in results if not r.twin and np.isfinite(r.estimates.get(CRITERION, np.nan))]
    return [r for r in known if np.isnan(r.draws[CRITERION]).mean() <= 0.1]


def _ranked(rivals: Sequence[Result], n_prompts: int) -> tuple[list[int], Floats, Floats]:
    """Best first: their numbers; (C,) Fisher's z and (C, R) its deviations in the repetitions."""
    z = np.array([_z(r) for r in rivals])
    away = np.stack([deviations(r.estimates[CRITERION], r.draws[CRITERION], "r2", n_prompts) for r in rivals])
    return [int(i) for i in np.argsort(-z, kind="stable")], z, np.nan_to_num(away)


def _compare(best: Result, rival: Result, away: Floats, n_prompts: int, level: float) -> dict[str, Any]:
    differences, told_apart, ratios = {}, True, []
    noisy = _unexplained(rival.draws[CRITERION]) - _unexplained(best.draws[CRITERION])
    plain = float(_unexplained(rival.estimates[CRITERION]) - _unexplained(best.estimates[CRITERION]))
    raw_away = deviations(plain, noisy, "plain", n_prompts)
    for name, estimate, moved in (
        ("difference", _z(best) - _z(rival), away),
        ("corrected", plain + DRAWS * (plain - float(np.nanmedian(noisy))), np.nan_to_num(raw_away)),
    ):
        low, high = np.quantile(moved - np.median(moved), [(1 - level) / 2, (1 + level) / 2])
        differences[name] = {"estimate": estimate, "low": float(estimate + low), "high": float(estimate + high)}
        told_apart &= bool(estimate + low > 0)
        ratios.append(-low / estimate if estimate > 0 else np.inf)
    # Intervals shrink with the root of the number of prompts.
    reachable = not told_apart and max(ratios) < 100
    needed = int(np.ceil(n_prompts * max(ratios) ** 2)) if reachable else None
    return {
        "label": rival.strategy.label,
        "strategy": rival.strategy.name,
        "options": dict(rival.strategy.options),
        "r2": _r2(rival),
        **differences,
        "told_apart": told_apart,
        "prompts_needed": needed,
    }


def _unexplained(r: Floats | float) -> Floats:
    """(1 - R²) / R², bounded where the reward explains nothing."""
    # A line that falls explains nothing that training could use.
    return 1 / np.maximum(np.square(np.maximum(r, 0)), 1e-3) - 1


def _z(result: Result) -> float:
    return float(to_scale(np.array(result.estimates[CRITERION]), "r2"))


def _better_there(strategy: Strategy, results: Sequence[Result], n_prompts: int, level: float) -> str | None:
    """Label of a strategy that beats this one at another checkpoint, beyond the interval."""
    rivals = _competitors(results)
    labels = [r.strategy.label for r in rivals]
    if strategy.label not in labels:
        return None
    order, _, away = _ranked(rivals, n_prompts)
    mine = labels.index(strategy.label)
    for i in order:
        if i != mine and _compare(rivals[i], rivals[mine], away[i] - away[mine], n_prompts, level)["told_apart"]:
            return labels[i]
    return None


# ── Words ──


def _r2(result: Result) -> float:
    return float(result.estimates[CRITERION] ** 2)


def _named(result: Result) -> str:
    if result.strategy.name == "none":
        return "none (all responses)"
    return f"{result.strategy.label} (k = {result.strategy.keep})"


def _why(best: Result, next_: dict, comparisons: list[dict], confidence: float, level: float) -> str:
    low = min(comparisons, key=lambda c: c["difference"]["low"])["label"]
    return (
        f"the next is {next_['label']} with {next_['r2']:.3f}. On the same resampled prompts it is ahead of every "
        f"other strategy, and no {level:.0%} interval of a difference reaches 0 (the closest is against {low}); it "
        f"stays the best in {_share(confidence)} of the repetitions. Use {_named(best)}. "
        "What would change this: another reward model, another k, or a policy that has moved "
        "on, so analyse later checkpoints, too. A high R² says that the rewards of the kept samples are right, not "
        "that training will gain. "
    )


def _why_not(lead: str, close: list[str], comparisons: list[dict], confidence: float, level: float) -> str:
    needed = [c["prompts_needed"] for c in comparisons if c["label"] in close]
    more = (
        f"If the differences are what they seem, about {max(needed):,} prompts would tell them apart."
        if None not in needed
        else "Some of the differences are so small that no reasonable number of prompts would tell them apart."
    )
    return (
        f"{lead}, but these data cannot tell it from {_listed(close)}: on the same resampled prompts, the {level:.0%} "
        f"interval of the difference holds 0, or does once noise in the groups is allowed for. It is the best in "
        f"{_share(confidence)} of the repetitions. {more} To have fewer rivals, compare only strategies that you "
        "would use (--strategies)."
    )


def _share(share: float) -> str:
    return "all" if share == 1 else "more than 99%" if share > 0.99 else f"{share:.0%}"


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else ", ".join(labels[:-1]) + " and " + labels[-1]


def _sensitivity(rivals: Sequence[Result], best: Result, bins: int) -> str:
    """Whether half or twice as many groups would have made another strategy the best."""
    changed = []
    for other in (max(bins // 2, 3), 2 * bins):
        r = [metrics.correlation_of_points(metrics.points_of_cells(rival.cells[None], other))[0] for rival in rivals]
        first = rivals[int(np.nanargmax(r))]
        if first is not best:
            changed.append(f"with {other} groups {first.strategy.label} would be ahead")
    if not changed:
        return f"It is also ahead with {max(bins // 2, 3)} and with {2 * bins} groups."
    return f"But it depends on the number of groups: {' and '.join(changed)}."


def _undecided(
    why: str, close: list[str], best: str | None, confidence: float | None, comparisons: list[dict]
) -> Recommendation:
    text = (
        f"{why} No strategy is recommended. If you must choose, {DEFAULT['strategy']} with k = {DEFAULT['keep']} is "
        "the usual default; that is a convention, not a finding of this report."
    )
    return Recommendation(False, None, None, {}, confidence, best, close, comparisons, text)


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
        close = _listed([str(found.get("best")), *found.get("not_told_apart", [])])
        raise ValueError(
            f"the report {str(file)!r} recommends no sample filter (the data do not tell {close} apart): name one "
            "yourself, or score more prompts and analyse again."
        )
    # N may be another in training, and all are kept in any case.
    return {"name": name, "keep": None if name == "none" else keep, "options": options}
