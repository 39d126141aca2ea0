"""Does the reward model become less reliable as training goes on?

A rollout log is cut into windows of steps; each has a reliability, computed on all its samples, kept or not. The
verdict is the slope of a straight line through the windows, with a bootstrap interval over prompts: a prompt that
returns in later epochs is drawn with all its visits.

Notation used for shapes: V windows, R repetitions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability import metrics, within
from openrlhf_pf.reliability.bootstrap import MOST_MISSING, Bootstrap, deviations, interval
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
    for measure, (estimates, draws, units) in values.items():
        some = np.isfinite(estimates) & (np.isnan(draws).mean(axis=0) <= MOST_MISSING) & (units > 1)
        if some.sum() >= FEWEST_WINDOWS:
            kept = [span for span, known in zip(spans, some) if known]
            trends[measure] = _trend(measure, kept, estimates[some], draws[:, some], units[some], level)
    return trends


def _measures(
    checkpoint: Checkpoint, window: NDArray[np.int64], n_windows: int, bootstrap: Bootstrap, threshold: float
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Measure to its (V,) estimates, (R, V) repetitions, and (V,) how many equal prompts would know as much."""
    samples = Samples.of(checkpoint, bootstrap, threshold)
    sample_window = window[samples.take // checkpoint.reward.shape[1]]
    pairs = metrics.pairwise_sums(
        *(np.where(checkpoint.known, values, np.nan) for values in (checkpoint.reward, checkpoint.score)),
        [np.ones(checkpoint.reward.shape)],
    )[0]
    block = bootstrap.block[checkpoint.prompt]
    centre = (samples.reward.mean(), samples.score.mean())
    found: dict[str, list[tuple[float, Floats, float]]] = {measure: [] for measure in MEASURES}
    for number in range(n_windows):
        mine, groups = sample_window == number, window == number
        if not mine.any():  # no sample has both a reward and a true score
            for rows in found.values():
                rows.append((np.nan, np.full(len(bootstrap.counts), np.nan), 0.0))
            continue
        r, s, one = samples.reward[mine] - centre[0], samples.score[mine] - centre[1], np.ones(mine.sum())
        columns = [one, r, s, r * r, s * s, r * s, one]
        correct = samples.correct[mine].astype(float)
        cell, n_cells = cells(samples.unit[mine], one, CELLS)
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
        units = [
            within.effective(np.bincount(place, weights, bootstrap.n_blocks))
            for place, weights in ((block[groups], pairs[1, groups]), *[(samples.block[mine], one)] * 2)
        ]
        for measure, *row in zip(MEASURES, (float(e[0]) for e in estimates), draws, units):
            found[measure].append(tuple(row))
    columns = {measure: tuple(zip(*rows)) for measure, rows in found.items()}
    return {m: (np.array(e), np.stack(d, axis=1), np.array(n)) for m, (e, d, n) in columns.items()}


def _trend(
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
    # Each window counts by its prompts, and not by how well it seems to be known: where all its pairs are right, or
    # all its samples on a line, no repetition differs, and it would be the only one that counts. For the same reason
    # the line is fitted to shares and correlations as they are, and not to their logarithmic odds.
    design = np.stack([np.ones_like(x), x])
    solve = np.linalg.solve((design * units) @ design.T, design * units)
    start, slope = solve @ estimates
    known = np.where(np.isnan(draws), np.nanmean(draws, axis=0), draws)
    away = deviations(slope, known @ solve[1], "plain", units.sum())
    low, high = slope + np.quantile(away, [(1 - level) / 2, (1 + level) / 2])

    def change(by: float) -> float:
        """In the measure's own unit."""
        ends = np.clip([start + by * x[0], start + by * x[-1]], -1, 1)
        ends = ends * abs(ends) if kind == "r2" else ends
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
