"""Does the reward model become less reliable as training goes on?

A rollout log is cut into windows of steps; each has a reliability, computed on all its samples, kept or not. The
verdict is the slope of a straight line through the windows, with a bootstrap interval over prompts: a prompt that
returns in later epochs is drawn with all its visits.

Notation used for shapes: V windows, R repetitions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability import metrics
from openrlhf_pf.reliability.bootstrap import Bootstrap, deviations, from_scale, interval, to_scale
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.evaluate import CELLS, Samples, cells
from openrlhf_pf.reliability.metrics import METRICS

Floats = NDArray[np.float64]

MOST_WINDOWS = 10
#: A line through fewer is no trend.
FEWEST_WINDOWS = 3
#: The first that can be computed gives the verdict: within prompts, a shifting mix of easy and hard ones cannot show.
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


def windows_of(steps: NDArray[np.int64], most: int = MOST_WINDOWS) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Cut steps into windows of about as many different steps each.

    Args:
        steps: (G,) the step of each group.
        most: V at most.

    Returns:
        (G,) the window of each group, and the first and last step of each window.
    """
    different, place = np.unique(steps, return_inverse=True)
    parts = np.array_split(different, min(most, len(different)))
    window = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return window[place], [(int(part[0]), int(part[-1])) for part in parts]


def drift(
    checkpoint: Checkpoint, bootstrap: Bootstrap, threshold: float = 0.5, level: float = 0.95
) -> dict[str, Trend]:
    """Follow the reliability over the steps.

    Args:
        checkpoint: samples with ``step``.
        bootstrap: the repetitions, for this checkpoint's prompts.
        threshold: a score above it is correct.
        level: of the intervals.

    Returns:
        Trend by measure, for those that can be computed in enough windows; empty without enough different steps.
    """
    if checkpoint.step is None or len(np.unique(checkpoint.step)) < FEWEST_WINDOWS:
        return {}
    window, spans = windows_of(checkpoint.step)
    values = _measures(checkpoint, window, len(spans), bootstrap, threshold)
    trends = {}
    for measure, (estimates, draws) in values.items():
        some = np.isfinite(estimates) & (np.isnan(draws).mean(axis=0) <= 0.1)
        if some.sum() >= FEWEST_WINDOWS:
            kept = [span for span, known in zip(spans, some) if known]
            trends[measure] = _trend(measure, kept, estimates[some], draws[:, some], bootstrap.n_blocks, level)
    return trends


def _measures(
    checkpoint: Checkpoint, window: NDArray[np.int64], n_windows: int, bootstrap: Bootstrap, threshold: float
) -> dict[str, tuple[Floats, Floats]]:
    """Measure to its (V,) estimates and (R, V) repetitions."""
    samples = Samples.of(checkpoint, bootstrap, threshold)
    sample_window = window[samples.take // checkpoint.reward.shape[1]]
    pairs = metrics.pairwise_sums(
        *(np.where(checkpoint.known, values, np.nan) for values in (checkpoint.reward, checkpoint.score)),
        [np.ones(checkpoint.reward.shape)],
    )[0]
    block = bootstrap.block[checkpoint.prompt]
    centre = (samples.reward.mean(), samples.score.mean())
    found: dict[str, list[tuple[float, Floats]]] = {measure: [] for measure in MEASURES}
    for number in range(n_windows):
        mine, groups = sample_window == number, window == number
        r, s, one = samples.reward[mine] - centre[0], samples.score[mine] - centre[1], np.ones(mine.sum())
        columns = [one, r, s, r * r, s * s, r * s, one]
        correct = samples.correct[mine].astype(float)
        cell, n_cells = cells(samples.unit[mine], one, CELLS) if len(one) else (np.zeros(0, int), 1)
        exact = np.stack([np.bincount(samples.unit[mine], c) for c in (one, correct)])[None]

        def measured(sums: Floats, of_pairs: Floats, table: Floats, correct: Floats) -> tuple[Floats, ...]:
            return (
                metrics.pairwise_accuracy(of_pairs),
                metrics.threshold_metrics(table, correct)["auc"],
                metrics.from_sums(sums, centre)["sample_r2"],
            )

        estimates = measured(
            np.array([[c.sum() for c in columns]]), pairs[:, groups].sum(axis=1)[None], *exact.swapaxes(0, 1)
        )
        repeated = bootstrap.sums(samples.block[mine], [one, correct], cell, n_cells)
        draws = measured(
            bootstrap.sums(samples.block[mine], columns)[:, 0],
            bootstrap.sums(block[groups], list(pairs[:, groups]))[:, 0],
            repeated[..., 0],
            repeated[..., 1],
        )
        for measure, estimate, draw in zip(MEASURES, estimates, draws):
            found[measure].append((float(estimate[0]), draw))
    return {m: (np.array([e for e, _ in rows]), np.stack([d for _, d in rows], axis=1)) for m, rows in found.items()}


def _trend(
    measure: str, spans: list[tuple[int, int]], estimates: Floats, draws: Floats, n_units: int, level: float
) -> Trend:
    kind = METRICS[measure].kind
    windows = []
    for span, estimate, draw in zip(spans, estimates, draws.T):
        low, high = interval(estimate, draw, kind, n_units, level)
        shown = float(estimate**2) if kind == "r2" else float(estimate)
        windows.append({"first": span[0], "last": span[1], "estimate": shown, "low": low, "high": high})
    away = np.stack([deviations(e, d, kind, n_units) for e, d in zip(estimates, draws.T)], axis=1)
    x = np.array([(first + last) / 2 for first, last in spans])
    x = (x - x.mean()) / np.ptp(x)
    # Each window counts by how well it is known; the weights are fixed, the values are drawn.
    precision = 1 / np.maximum(np.nanvar(away, axis=0), 1e-12)
    design = np.stack([np.ones_like(x), x])
    solve = np.linalg.solve((design * precision) @ design.T, design * precision)
    z = to_scale(estimates, kind)
    start, slope = solve @ z
    slopes = slope + np.nan_to_num(away) @ solve[1]
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])

    def change(by: float) -> float:
        """In the measure's own unit, for a slope on its scale."""
        ends = from_scale(np.array([start + by * x[0], start + by * x[-1]]), kind)
        ends = np.sign(ends) * ends**2 if kind == "r2" else ends
        return float(ends[1] - ends[0])

    verdict = "falling" if high < 0 else "rising" if low > 0 else "no evidence of change"
    fitted = {"estimate": change(slope), "low": change(low), "high": change(high)}
    return Trend(measure, windows, fitted, verdict)


def words(trends: dict[str, Trend], name: str) -> str:
    """The verdict in plain words."""
    if not trends:
        return f"{name}: there are too few steps to see a trend."
    trend = next(trends[measure] for measure in MEASURES if measure in trends)
    first, last = trend.windows[0]["first"], trend.windows[-1]["last"]
    change = trend.change
    by = f"{change['estimate']:+.3f} (interval {change['low']:+.3f} to {change['high']:+.3f})"
    title = METRICS[trend.measure].title
    if trend.verdict == "no evidence of change":
        return (
            f"{name}: no evidence that the reward model's reliability changed from step {first} to {last}; the fitted "
            f"change of the {title} is {by}, so there may be none."
        )
    return (
        f"{name}: the reward model's reliability is {trend.verdict} from step {first} to {last}; the fitted change of "
        f"the {title} is {by}."
    )
