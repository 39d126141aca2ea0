"""The whole analysis: files to everything that a report shows."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from openrlhf_pf.reliability.measures import within
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.contrasts import (
    Calibration,
    Interval,
    calibrate,
    find_misranked,
    measure_length,
    measure_redrawn,
)
from openrlhf_pf.reliability.measures.evaluate import Result, evaluate, summarize_metric
from openrlhf_pf.reliability.measures.strategies import POWERS, Strategy, strategies_for
from openrlhf_pf.reliability.read.checkpoints import Checkpoint, Rollouts, load
from openrlhf_pf.reliability.recommend import (
    PAIRS,
    SAME,
    Recommendation,
    choose,
    count_informative,
    find_causes,
    is_same,
    verdict_of,
)

#: Filters that choose by length: not recommended where the reward follows length.
BY_LENGTH = ("shortest", "reward_per_token", "pareto")
#: What most of a reward's error significantly is when the same responses are scored again.
REDRAWN, REPEATED = "redrawn", "repeated"
MOST_BINS, MOST_REPETITIONS = 1000, 20_000


@dataclass(frozen=True)
class Settings:
    """The options of an analysis.

    Attributes:
        keep: k; None for each filter's own default.
        bins: groups of the binned R².
        repetitions: of the bootstrap.
        seed: of the bootstrap.
        level: of the intervals, between 0 and 1.
        threshold: a score above it is correct.
        low, high: thresholds of the threshold filters; None for the quartiles of the first checkpoint's rewards.
        powers: exponents of ``reward_power``.
        weights: rank weights, best first; None for the second and the last rank.
        strategies: names to compare; empty for all that the data allow.
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

    def __post_init__(self) -> None:
        if not 3 <= self.bins <= MOST_BINS:
            raise ValueError(
                f"bins must be at least 3 and at most {MOST_BINS:,}, got {self.bins}: two points are always on a line,"
                " and 20 is usual."
            )
        if not 100 <= self.repetitions <= MOST_REPETITIONS:
            raise ValueError(
                f"bootstrap must be at least 100 and at most {MOST_REPETITIONS:,}, got {self.repetitions}: fewer give"
                " no usable interval, and 1000 is usual."
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}: give 0 or more.")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite score, got {self.threshold}: 0.5 is usual.")
        if not 0.5 <= self.level < 1:
            raise ValueError(f"level must be at least 0.5 and below 1, got {self.level}: 0.95 is usual.")


@dataclass
class Analysed:
    """One checkpoint: its samples, repetitions, numbers and decisions.

    Attributes:
        results: every metric of every strategy.
        accuracy: ``{estimate, low, high}`` of the share of correctly ordered pairs of all samples.
        rankings: label to the verdict on the pairs that a strategy keeps, see ``verdict_of``.
        informative: number of prompts whose responses differ in true score.
        same: reward and score are the same up to scale.
        misranked, length: see ``contrasts.find_misranked`` and ``contrasts.measure_length``.
        redrawn: ``{estimate, low, high}`` of the share of its error that a second scoring redraws, or None.
        subsets: part of a benchmark to ``{estimate, low, high, groups}``, its share of correctly ordered pairs.
        causes: see ``find_causes``.
    """

    checkpoint: Checkpoint
    bootstrap: Bootstrap
    results: list[Result]
    calibration: Calibration | None
    misranked: dict[str, Interval]
    accuracy: Interval
    rankings: dict[str, str]
    informative: int
    causes: list[str]
    same: bool
    length: dict[str, Interval] | None
    redrawn: Interval | None
    subsets: dict[str, Interval]
    recommendation: Recommendation | None = None

    @property
    def ranking(self) -> str:
        """The verdict on all pairs."""
        return SAME if self.same else self.rankings["none"]

    @property
    def everything(self) -> Result:
        """The result of training on all samples."""
        return self.result_of("none")

    def result_of(self, label: str) -> Result:
        """Return the result of the strategy with this label."""
        return next(r for r in self.results if r.strategy.label == label)

    @property
    def follows_length(self) -> bool:
        """Whether the reward follows length more than the true score."""
        return self.length is not None and (self.length["difference"]["low"] or 0) > 0

    @property
    def errors(self) -> str:
        """What most errors are when responses are scored again, significantly: REDRAWN, REPEATED, or ""."""
        if self.redrawn is None or self.redrawn["low"] is None:
            return ""
        return REDRAWN if self.redrawn["low"] > 0.5 else REPEATED if self.redrawn["high"] < 0.5 else ""


@dataclass
class Analysis:
    """The contents of a report.

    ``warnings`` are those of reading, ``opening`` are sentences that the report begins with.
    """

    settings: Settings
    analysed: list[Analysed]
    recommendation: Recommendation
    warnings: list[str] = field(default_factory=list)
    opening: list[str] = field(default_factory=list)
    n_files: int = 0

    @property
    def strategies(self) -> list[Strategy]:
        """What was compared."""
        return [result.strategy for result in self.analysed[0].results]


def analyse(
    paths: Sequence[str | os.PathLike[str]],
    settings: Settings | None = None,
    say: Callable[[str], None] = lambda line: None,
    columns: Mapping[str, str] | None = None,
) -> Analysis:
    """Read files and analyse them; see ``read.checkpoints.load`` and :func:`analyse_rollouts`."""
    say("reading " + ", ".join(map(str, paths)))
    return analyse_rollouts(load(paths, columns, say), settings, say)


def analyse_rollouts(
    rollouts: Rollouts, settings: Settings | None = None, say: Callable[[str], None] = lambda line: None
) -> Analysis:
    """Analyse checkpoints side by side and recommend a strategy for the first.

    Args:
        rollouts: the checkpoints, first the one that training starts from.
        settings: defaults without it.
        say: called with a line on the progress.

    Raises:
        ValueError: a setting that does not fit the data; the message is one sentence.
    """
    settings = settings or Settings()
    strategies = _common_strategies(rollouts.checkpoints, settings)
    if all(strategy.name != "none" for strategy in strategies):  # every filter is compared with it
        strategies = [Strategy("none", rollouts.checkpoints[0].reward.shape[1]), *strategies]
    analysed: list[Analysed] = []
    for checkpoint in rollouts.checkpoints:
        say(f"{checkpoint.name}: {checkpoint.n_prompts:,} prompts, {int(checkpoint.known.sum()):,} scored samples")
        analysed.append(_analyse_one(checkpoint, strategies, settings))
    first, *others = analysed
    recommendation = first.recommendation
    if others and not rollouts.separate:
        theirs = [(a.checkpoint.name, a.results, a.checkpoint.n_prompts) for a in others]
        recommendation = _choose(first, theirs, settings)
    return Analysis(settings, analysed, recommendation, list(rollouts.warnings), n_files=rollouts.n_files)


def _choose(a: Analysed, others: Sequence, settings: Settings) -> Recommendation:
    return choose(
        a.results,
        others,
        a.checkpoint.n_prompts,
        settings.level,
        a.rankings,
        a.informative,
        BY_LENGTH if a.follows_length else (),
        PAIRS if a.checkpoint.has_pairs else SAME if a.same else "",
    )


def _analyse_one(checkpoint: Checkpoint, strategies: Sequence[Strategy], settings: Settings) -> Analysed:
    level, bootstrap = settings.level, Bootstrap(checkpoint.n_prompts, settings.repetitions, settings.seed)
    results = evaluate(checkpoint, strategies, bootstrap, settings.bins, settings.threshold)
    everything = next(r for r in results if r.strategy.name == "none")
    accuracies = {r.strategy.label: summarize_metric(r, "pairwise_accuracy", bootstrap, level) for r in results}
    misranked = find_misranked(checkpoint, bootstrap, level)
    found = Analysed(
        checkpoint=checkpoint,
        bootstrap=bootstrap,
        results=results,
        calibration=calibrate(checkpoint, bootstrap, settings.bins, level),
        misranked=misranked,
        accuracy=accuracies["none"],
        rankings={label: verdict_of(share) for label, share in accuracies.items()},
        informative=count_informative(checkpoint),
        causes=find_causes(checkpoint, everything, misranked),
        same=is_same(checkpoint),
        length=measure_length(checkpoint, within.deviations_of(checkpoint), bootstrap, level),
        redrawn=measure_redrawn(checkpoint, bootstrap, level),
        subsets=_measure_subsets(checkpoint, bootstrap, level),
    )
    found.recommendation = _choose(found, (), settings)
    return found


def _measure_subsets(checkpoint: Checkpoint, bootstrap: Bootstrap, level: float) -> dict[str, Interval]:
    """Return the share of correctly ordered pairs of each part of a benchmark."""
    found = {}
    for name in [] if checkpoint.subset is None else dict.fromkeys(checkpoint.subset.tolist()):
        rows = checkpoint.subset == name
        part = Checkpoint(name, *(x[rows] for x in (checkpoint.reward, checkpoint.score, checkpoint.prompt)))
        (result,) = evaluate(part, [Strategy("none", part.reward.shape[1])], bootstrap, whole=False)
        share = summarize_metric(result, "pairwise_accuracy", bootstrap, level)
        found[name] = {**share, "groups": int(rows.sum())}
    return found


def _common_strategies(checkpoints: Sequence[Checkpoint], settings: Settings) -> list[Strategy]:
    """Return those that every checkpoint allows, with thresholds from the first."""

    def allowed(checkpoint: Checkpoint) -> list[Strategy]:
        s = settings
        return strategies_for(checkpoint, s.strategies, s.keep, s.low, s.high, s.powers, s.weights)

    if checkpoints[0].has_pairs:
        return [Strategy("none", checkpoints[0].reward.shape[1])]

    def key(strategy: Strategy) -> tuple[str, int]:  # rank weights suit one number of samples
        return strategy.name, len(strategy.options.get("weights", ()))

    keys = [{key(strategy) for strategy in allowed(checkpoint)} for checkpoint in checkpoints]
    return [strategy for strategy in allowed(checkpoints[0]) if all(key(strategy) in found for found in keys)]
