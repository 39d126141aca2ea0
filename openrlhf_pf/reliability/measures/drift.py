"""Does the reward model become less reliable over the training steps?

A rollout log is cut into windows of steps; each has a reliability, computed on all its samples, kept or not. The
verdict is the slope of a straight line through the windows, with a bootstrap interval over prompts: a prompt that
returns in later epochs is drawn with all its visits.

Notation used for shapes: V windows, R repetitions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.measures.bootstrap import (
    MOST_MISSING,
    Bootstrap,
    deviations,
    effective_units,
    interval,
)
from openrlhf_pf.reliability.measures.evaluate import evaluate
from openrlhf_pf.reliability.measures.metrics import METRICS
from openrlhf_pf.reliability.measures.strategies import Strategy
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]

MOST_WINDOWS = 10
#: A line through fewer is no trend.
FEWEST_WINDOWS = 3
#: The first that can be computed gives the verdict: within prompts, a changing mix of easy and hard ones is harmless.
MEASURES = ("pairwise_accuracy", "auc", "sample_r2")


@dataclass
class Trend:
    """One measure over the windows.

    Attributes:
        measure: key of ``METRICS``.
        windows: ``first`` and ``last`` step, ``{estimate, low, high}`` of each window.
        change: fitted change from the first window to the last, ``{estimate, low, high}``, in the measure's unit.
        verdict: "falling", "rising" or "no evidence of change".
    """

    measure: str
    windows: list[dict]
    change: dict[str, float]
    verdict: str


def cut_windows(steps: NDArray[np.int64], most: int = MOST_WINDOWS) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Return (G,) the window of each step (G,), and the first and last step of each of at most V windows, which hold
    about the same number of different steps.
    """
    different, place = np.unique(steps, return_inverse=True)
    parts = np.array_split(different, min(most, len(different)))
    window = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return window[place], [(int(part[0]), int(part[-1])) for part in parts]


def find_trends(
    checkpoint: Checkpoint, bootstrap: Bootstrap, threshold: float = 0.5, level: float = 0.95
) -> dict[str, Trend]:
    """Return measure to its trend over the steps, where it can be computed in enough windows; a score above the
    threshold is correct.
    """
    if checkpoint.step is None or len(np.unique(checkpoint.step)) < FEWEST_WINDOWS:
        return {}
    window, spans = cut_windows(checkpoint.step)
    results, units = [], []
    for number in range(len(spans)):
        part = checkpoint.select(window == number)
        (result,) = evaluate(part, [Strategy("none", part.reward.shape[1])], bootstrap, threshold=threshold)
        samples = np.bincount(bootstrap.block[part.prompt], part.known.sum(axis=1), bootstrap.n_blocks)
        results.append(result)
        units.append(effective_units(samples))
    trends = {}
    for measure in MEASURES:
        estimates = np.array([result.estimates.get(measure, np.nan) for result in results])
        missing = np.full(len(bootstrap.counts), np.nan)
        draws = np.stack([result.draws.get(measure, missing) for result in results], axis=1)
        n = np.array([result.units.get(measure, number) for result, number in zip(results, units)])
        some = np.isfinite(estimates) & (np.isnan(draws).mean(axis=0) <= MOST_MISSING) & (n > 1)
        if some.sum() >= FEWEST_WINDOWS:
            kept = [span for span, known in zip(spans, some) if known]
            trends[measure] = _fit_trend(measure, kept, estimates[some], draws[:, some], n[some], level)
    return trends


def _fit_trend(
    measure: str, spans: list[tuple[int, int]], estimates: Floats, draws: Floats, units: Floats, level: float
) -> Trend:
    kind = METRICS[measure].kind
    windows = []
    for span, estimate, draw, n in zip(spans, estimates, draws.T, units):
        low, high = interval(estimate, draw, kind, n, level, n)
        shown = float(estimate * abs(estimate)) if kind == "r2" else float(estimate)
        windows.append({"first": span[0], "last": span[1], "estimate": shown, "low": low, "high": high})
    x = np.array([(first + last) / 2 for first, last in spans])
    x = (x - x.mean()) / np.ptp(x)
    # Windows count by their prompts, not by their apparent precision: a window with all pairs right has none of the
    # repetitions differ and would be the only one that counts.
    design = np.stack([np.ones_like(x), x])
    solve = np.linalg.solve((design * units) @ design.T, design * units)
    start, slope = solve @ estimates
    known = np.where(np.isnan(draws), np.nanmean(draws, axis=0), draws)
    away = deviations(known @ solve[1], "plain", units.sum())
    low, high = slope + np.quantile(away, [(1 - level) / 2, (1 + level) / 2])

    def change(by: float) -> float:
        """Return the change in the measure's own unit."""
        ends = np.clip([start + by * x[0], start + by * x[-1]], -1, 1)
        ends = ends * abs(ends) if kind == "r2" else ends
        return float(ends[1] - ends[0])

    verdict = "falling" if high < 0 else "rising" if low > 0 else "no evidence of change"
    fitted = {"estimate": change(slope), "low": change(low), "high": change(high)}
    return Trend(measure, windows, fitted, verdict)
