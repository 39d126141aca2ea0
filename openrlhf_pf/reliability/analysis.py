"""The whole analysis: files in, everything that a report says out."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from openrlhf_pf.reliability.answers import Answers, answer
from openrlhf_pf.reliability.bootstrap import Bootstrap
from openrlhf_pf.reliability.calibration import Calibration, calibrate
from openrlhf_pf.reliability.choose import FEWEST_PROMPTS, Recommendation, choose
from openrlhf_pf.reliability.curves import Curves, curves_of
from openrlhf_pf.reliability.data import Checkpoint, Rollouts, load
from openrlhf_pf.reliability.drift import Trend, drift
from openrlhf_pf.reliability.evaluate import Result, evaluate
from openrlhf_pf.reliability.ranks import FOLDS, Ranks, can_choose, ranks_of
from openrlhf_pf.reliability.strategies import POWERS, Strategy, strategies_for
from openrlhf_pf.reliability.validate import Power, validate


@dataclass(frozen=True)
class Settings:
    """What a user may choose.

    Attributes:
        keep: k; None for each filter's own default.
        bins: groups of the binned R².
        repetitions: of the bootstrap.
        seed: of the bootstrap.
        level: of the intervals, between 0 and 1.
        threshold: a score above it is correct.
        low, high: thresholds of the threshold filters; None for the quartiles of the first checkpoint's rewards.
        powers: exponents of ``reward_power``.
        weights: rank weights, best first; None leaves ``rank_weights`` out.
        strategies: names to compare; empty for all that the data allow.
        validate: data sets for each known truth that is planted in the shape of the data and looked for; 0 for none.
    """

    keep: int | None = None
    bins: int = 20
    repetitions: int = 1000
    seed: int = 0
    level: float = 0.95
    threshold: float = 0.5
    low: float | None = None
    high: float | None = None
    powers: tuple[float, ...] = POWERS
    weights: tuple[float, ...] | None = None
    strategies: tuple[str, ...] = ()
    validate: int = 0

    def __post_init__(self) -> None:
        if self.bins < 3:
            raise ValueError(f"bins must be at least 3, got {self.bins}: two points are always on a line.")
        if self.repetitions < 100:
            raise ValueError(
                f"bootstrap must be at least 100, got {self.repetitions}: fewer repetitions do not tell the ends of "
                "an interval."
            )
        if self.validate < 0:
            raise ValueError(f"validate must not be negative, got {self.validate}: 20 data sets are usual.")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}: give 0 or more.")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite score, got {self.threshold}: 0.5 is usual.")
        if not 0.5 <= self.level < 1:
            raise ValueError(f"level must be at least 0.5 and below 1, got {self.level}: 0.95 is usual.")


@dataclass
class Analysed:
    """One checkpoint: its samples, repetitions and results, and what they say on their own."""

    checkpoint: Checkpoint
    bootstrap: Bootstrap
    results: list[Result]
    calibration: Calibration | None
    trends: dict[str, Trend]
    recommendation: Recommendation
    answers: Answers
    curves: Curves | None
    ranks: Ranks | None

    @property
    def gain_of_ranks(self) -> float:
        """Of the learned ranks; where they are this checkpoint's own, on prompts that they were not chosen from."""
        return next((r.estimates.get("gain", math.nan) for r in self.results if r.strategy.learned), math.nan)


@dataclass
class Analysis:
    """What a report is made of; ``opening`` are sentences that it shall begin with, ``validation`` is of the first
    checkpoint.
    """

    settings: Settings
    strategies: list[Strategy]
    analysed: list[Analysed]
    recommendation: Recommendation
    warnings: list[str] = field(default_factory=list)
    opening: list[str] = field(default_factory=list)
    validation: list[Power] = field(default_factory=list)


def analyse(
    paths: Sequence[str | os.PathLike[str]],
    settings: Settings | None = None,
    say: Callable[[str], None] = lambda line: None,
    columns: Mapping[str, str] | None = None,
) -> Analysis:
    """Read files and analyse them; see :func:`openrlhf_pf.reliability.data.load` and :func:`analyse_rollouts`."""
    say("reading " + ", ".join(map(str, paths)))
    return analyse_rollouts(load(paths, columns, say), settings, say)


def analyse_rollouts(
    rollouts: Rollouts, settings: Settings | None = None, say: Callable[[str], None] = lambda line: None
) -> Analysis:
    """Analyse checkpoints side by side and recommend a strategy for the first.

    Args:
        rollouts: the checkpoints, first the one that training starts from.
        settings: defaults without it.
        say: called with a line on what is being done.

    Raises:
        ValueError: a setting that does not fit the data; the message is one sentence.
    """
    settings = settings or Settings()
    strategies = _common_strategies(rollouts.checkpoints, settings)
    learns = _learns(rollouts.checkpoints, settings)
    if not strategies and not learns:
        raise ValueError(
            f"learned_weights chooses k ranks of N and needs N above k and at least 3, and {FOLDS} prompts: give "
            "another --keep, or name other strategies beside it."
        )
    if all(strategy.name != "none" for strategy in strategies):  # what any filter has to be better than
        strategies = [Strategy("none", rollouts.checkpoints[0].reward.shape[1]), *strategies]
    validation: list[Power] = []
    if settings.validate:  # first, for it may refuse
        s = settings
        validation = validate(rollouts.checkpoints[0], strategies, s.threshold, s.level, s.seed, s.validate, say)
    analysed: list[Analysed] = []
    for checkpoint in rollouts.checkpoints:
        say(f"{checkpoint.name}: {checkpoint.n_prompts:,} prompts, {int(checkpoint.known.sum()):,} scored samples")
        ranks = None if rollouts.apart or not analysed else analysed[0].ranks
        analysed.append(_analyse_one(checkpoint, strategies, settings, learns, ranks))
    first, *others = analysed
    recommendation = first.recommendation
    if others and not rollouts.apart:
        theirs = [(a.checkpoint.name, a.results, a.checkpoint.n_prompts) for a in others]
        recommendation = choose(first.results, theirs, first.checkpoint.n_prompts, settings.level)
    notes = [*rollouts.warnings, *_warnings(analysed, strategies, settings)]
    strategies = [r.strategy for r in first.results]
    return Analysis(settings, strategies, analysed, recommendation, notes, validation=validation)


def _analyse_one(
    checkpoint: Checkpoint, strategies: Sequence[Strategy], settings: Settings, learns: bool, of_first: Ranks | None
) -> Analysed:
    """``of_first``: the ranks that were found at the first checkpoint, which this one is asked about, too."""
    bootstrap = Bootstrap(checkpoint.n_prompts, settings.repetitions, settings.seed)
    ranks = ranks_of(checkpoint, bootstrap, settings.keep, settings.level, settings.seed) if learns else None
    if ranks is not None:
        same = of_first is not None and len(of_first.c) == len(ranks.c)
        strategies = [*strategies, of_first.strategy(cross_fitted=False) if same else ranks.strategy()]
    results = evaluate(checkpoint, strategies, bootstrap, settings.bins, settings.threshold)
    recommendation = choose(results, (), checkpoint.n_prompts, settings.level)
    return Analysed(
        checkpoint,
        bootstrap,
        results,
        calibrate(checkpoint, bootstrap, settings.bins, settings.level),
        drift(checkpoint, bootstrap, settings.threshold, settings.level),
        recommendation,
        answer(checkpoint, bootstrap, recommendation, settings.level),
        curves_of(checkpoint, strategies, bootstrap, settings.level, settings.seed),
        ranks,
    )


def _learns(checkpoints: Sequence[Checkpoint], settings: Settings) -> bool:
    """Whether ranks are looked for: where they are asked for, or nothing in particular is, and all checkpoints can."""
    if settings.strategies and "learned_weights" not in settings.strategies:
        return False
    fewest = min(checkpoint.n_prompts for checkpoint in checkpoints)
    return fewest >= FOLDS and all(can_choose(checkpoint, settings.keep) for checkpoint in checkpoints)


def _common_strategies(checkpoints: Sequence[Checkpoint], settings: Settings) -> list[Strategy]:
    """Those that every checkpoint allows, with thresholds from the first."""

    def allowed(checkpoint: Checkpoint) -> list[Strategy]:
        s = settings
        return strategies_for(checkpoint, s.strategies, s.keep, s.low, s.high, s.powers, s.weights)

    names = [{strategy.name for strategy in allowed(checkpoint)} for checkpoint in checkpoints]
    return [strategy for strategy in allowed(checkpoints[0]) if all(strategy.name in found for found in names)]


def _warnings(analysed: Sequence[Analysed], strategies: Sequence[Strategy], settings: Settings) -> list[str]:
    """One sentence for everything that a reader must know before using a number."""
    notes = []
    for a in analysed:
        name, known = a.checkpoint.name, a.checkpoint.known
        if a.checkpoint.n_prompts < FEWEST_PROMPTS:
            notes.append(
                f"{name}: {a.checkpoint.n_prompts} prompts are too few for intervals to be relied on; score at least "
                f"{FEWEST_PROMPTS}."
            )
        else:
            notes += _few_carry(a)
        correct = a.checkpoint.score[known] > settings.threshold
        if correct.all() or not correct.any():
            notes.append(
                f"{name}: {'all' if correct.all() else 'no'} scores are above {settings.threshold:g}, so there is no "
                "ROC-AUC; choose another --threshold."
            )
        odd = any(np.ptp(x[known]) == 0 for x in (a.checkpoint.reward, a.checkpoint.score))
        for result in [] if odd else a.results:
            if not result.kept:
                notes.append(f"{name}: {result.strategy.label} keeps nothing: no sample passes it.")
            elif not result.twin and np.isnan(result.estimates.get("binned_r2", np.nan)):
                notes.append(
                    f"{name}: {result.strategy.label} has no binned R², because it keeps fewer than "
                    f"{2 * settings.bins} samples or fewer than 3 different rewards, or its scores are all equal."
                )
        if any(s.name == "reward_power" for s in strategies) and np.nanmax(np.abs(a.checkpoint.reward)) > 1:
            notes.append(
                f"{name}: some rewards lie outside [-1, 1], for which reward_power is meant; its numbers hold only "
                "if 0 is between good and bad."
            )
    labels = {r.strategy.label: r.twin for r in analysed[0].results if r.twin}
    notes += [
        f"{label} weighs all samples as {twin} does here; they are one strategy." for label, twin in labels.items()
    ]
    return notes


def _few_carry(a: Analysed) -> list[str]:
    """One sentence where few of the prompts say most of what is said within prompts."""
    units = next((r.units for r in a.results if r.strategy.name == "none" and r.units), None)
    n_prompts = a.checkpoint.n_prompts
    if units is None or units["gain"] >= min(FEWEST_PROMPTS, n_prompts / 5):
        return []
    about = round(units["gain"])
    # Ranks do not know how far apart rewards lie.
    if units["gain"] < units["within_spearman"] / 2:
        return [
            f"{a.checkpoint.name}: the rewards of about {about} of {n_prompts:,} prompts lie so far apart that these"
            " carry most of gain, signal to noise and R² within prompts, which would be others with more prompts;"
            " pairwise accuracy and Spearman are by all prompts alike."
        ]
    often = f"only about {about}" if about else "none"
    return [
        f"{a.checkpoint.name}: in {often} of {n_prompts:,} prompts do responses have different true scores; no others"
        " carry what is said within prompts."
    ]
