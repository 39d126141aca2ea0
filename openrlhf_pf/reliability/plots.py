"""The figures of a report, one narrow panel each, so that a phone can show them whole with legible text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability import metrics, seen, svg
from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.curves import Point
from openrlhf_pf.reliability.drift import MEASURES
from openrlhf_pf.reliability.evaluate import CELLS, Samples, cells, summary
from openrlhf_pf.reliability.metrics import METRICS
from openrlhf_pf.reliability.svg import LIGHT, MARKERS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

#: Lines of the reliability figure: random halves of the prompts.
HALVES = 10
WRONG, RIGHT = SERIES[1], SERIES[0]


@dataclass
class Panel:
    """One picture.

    Attributes:
        figure: which kind, a key of ``words.CAPTIONS``.
        name: of its file, and of the ids in it.
        of: the checkpoint that it is of, or "" where it shows all.
        box: its viewBox.
        inside: its SVG elements.
        alt: what is to be seen in it.
    """

    figure: str
    name: str
    of: str
    box: str
    inside: str
    alt: str


def panels(analysis: Analysis) -> list[Panel]:
    """Draw every picture that the data allow, in the order of the page."""
    import matplotlib

    drawn: list[Panel] = []
    with matplotlib.rc_context(svg.STYLE):
        for kind, draw in DRAW.items():
            for number, (of, figure, alt) in enumerate(draw(analysis)):
                name = kind if number == 0 else f"{kind}-{number + 1}"
                drawn.append(Panel(kind, name, of, *svg.drawing(figure, name), alt))
    return drawn


#: What a figure's function yields: the checkpoint or "", the picture, and what is to be seen in it.
Pictures = Iterator[tuple[str, "Figure", str]]


def _each(draw: Callable[[Analysed, Analysis, str], "tuple[Figure, str] | None"]) -> Callable[[Analysis], Pictures]:
    """One picture a checkpoint, in the checkpoint's colour."""

    def pictures(analysis: Analysis) -> Pictures:
        for number, a in enumerate(analysis.analysed):
            found = draw(a, analysis, SERIES[number % len(SERIES)]) if a.checkpoint.known.any() else None
            if found is not None:
                figure, alt = found
                several = len(analysis.analysed) > 1
                yield (a.checkpoint.name, figure, f"{a.checkpoint.name}. {alt}") if several else ("", figure, alt)

    return pictures


def gains(analysis: Analysis) -> Pictures:
    """The gain of each filter with its interval, best of the first checkpoint first; twins share a row."""
    tables = []
    for a in analysis.analysed:
        found = {r.strategy.label: summary(r, a.bootstrap, analysis.settings.level)["gain"] for r in a.results}
        tables.append({label: v for label, v in found.items() if v["estimate"] is not None})
    labels = sorted(tables[0], key=lambda label: -tables[0][label]["estimate"])
    if not labels:
        return
    figure, ax = svg.new(0.8 + (0.2 + 0.06 * len(tables)) * len(labels))
    alt = []
    for number, (a, table) in enumerate(zip(analysis.analysed, tables)):
        offset = 0.5 * ((number + 0.5) / len(tables) - 0.5)
        rows = [(i, table[label]) for i, label in enumerate(labels) if label in table]
        x = np.array([v["estimate"] for _, v in rows])
        ends = np.array([[v["estimate"] if v[end] is None else v[end] for _, v in rows] for end in ("low", "high")])
        ax.errorbar(
            x,
            np.array([i for i, _ in rows]) + offset,
            xerr=np.abs(ends - x),
            fmt=MARKERS[number % len(MARKERS)],
            markersize=4,
            color=SERIES[number % len(SERIES)],
            label=a.checkpoint.name,
        )
        alt.append(seen.gains(a.checkpoint.name, [(label, table[label]) for label in labels if label in table]))
    if "none" in tables[0]:
        ax.axvline(tables[0]["none"]["estimate"], color=LIGHT["muted"], linestyle="--", linewidth=0.8)
    if np.prod(ax.get_xlim()) < 0:
        ax.axvline(0, color=LIGHT["muted"], linewidth=0.6)
    ax.set_yticks(range(len(labels)), labels, color=LIGHT["ink"])
    ax.invert_yaxis()
    ax.set_xlabel("gain")
    if len(tables) > 1:
        svg.legend(figure)
    yield "", figure, " ".join(alt)


def _curves(lines: dict[str, list[Point]], along: str, label: str, what: str) -> "tuple[Figure, str]":
    figure, ax = svg.new()
    colours = dict(zip(("best_worst", "best_of_n", "best_random", "max_variance"), zip(SERIES, MARKERS)))
    last = max(getattr(p, along) for points in lines.values() for p in points)
    for number, (name, points) in enumerate(lines.items()):
        # Side by side: filters that keep the same would hide each other.
        aside = 0.008 * last * (number - (len(lines) - 1) / 2)
        x, gain = np.array([getattr(p, along) for p in points]) + aside, np.array([p.gain for p in points])
        away = np.nan_to_num(np.abs(np.array([[p.low, p.high] for p in points]).T - gain))
        colour, marker = colours.get(name, (LIGHT["muted"], "P"))
        ax.errorbar(x, gain, yerr=away, marker=marker, markersize=4, linewidth=1.4, color=colour, label=name)
    ax.set_xlabel(label)
    ax.set_ylabel("gain")
    _whole_numbers(ax)
    svg.legend(figure)
    return figure, seen.curves(what, lines, along)


def _whole_numbers(ax: object) -> None:
    ax.xaxis.get_major_locator().set_params(integer=True)


def _over_keep(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str] | None":
    if a.curves is None:
        return None
    n = a.curves.n_samples
    what = f"Gain with k of {n} responses trained"
    return _curves(a.curves.keep, "trained", f"k: responses trained of {n} drawn, a prompt", what)


def _over_samples(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str] | None":
    # With two responses a prompt there is one point and no curve.
    if a.curves is None or a.curves.n_samples < 3:
        return None
    return _curves(a.curves.samples, "drawn", "N: responses drawn, a prompt", "Gain with N responses drawn")


def _reliability(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str]":
    """The paper's Figure 1."""
    samples = Samples.of(a.checkpoint, a.bootstrap, analysis.settings.threshold)
    one = np.ones(len(samples.take))
    cell, n_cells = cells(samples.unit, one, CELLS)
    columns = [one, samples.reward, samples.score]
    counts = a.bootstrap.halves(HALVES, analysis.settings.seed)
    sums = a.bootstrap.sums(samples.block, columns, cell, n_cells, counts)
    figure, ax = svg.new()
    halves = metrics.points_of_cells(sums, analysis.settings.bins)
    for x, y in halves:
        ax.plot(x, y, color=colour, alpha=0.35, linewidth=0.7)
    whole = np.stack([np.bincount(cell, column) for column in columns], axis=-1)[None]
    x, y = metrics.points_of_cells(whole, analysis.settings.bins)[0]
    ax.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=3.5)
    ax.set_xlabel("reward (mean of the group)")
    ax.set_ylabel("true score (mean of the group)")
    return figure, seen.reliability(x, y, halves[:, 1])


def _histogram(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str]":
    known = a.checkpoint.known
    reward, correct = a.checkpoint.reward[known], a.checkpoint.score[known] > analysis.settings.threshold
    low, high = np.quantile(reward, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 41)
    figure, ax = svg.new()
    for some, shade, label in ((~correct, WRONG, "wrong"), (correct, RIGHT, "correct")):
        counts = np.histogram(reward[some], edges)[0]
        ax.stairs(counts, edges, fill=True, color=shade, alpha=0.3)
        ax.stairs(counts, edges, color=shade, linewidth=1.4, label=f"{label} ({some.sum():,})")
    ax.set_xlabel("reward")
    ax.set_ylabel("number of responses")
    svg.legend(figure)
    return figure, seen.histogram(reward[~correct], reward[correct])


def rank(analysis: Analysis) -> Pictures:
    """Mean true score at each rank by reward, with intervals; prompts of the most common size only."""
    figure, ax = svg.new(svg.HEIGHT + 0.16 * (len(analysis.analysed) - 1))
    alt = []
    for number, a in enumerate(analysis.analysed):
        known = a.checkpoint.known
        sizes = known.sum(axis=1)
        size = int(np.bincount(sizes[sizes > 0]).argmax())
        whole = sizes == size
        # Random ties: position must not decide.
        jitter = np.random.default_rng(0).random(a.checkpoint.reward.shape)
        reward = np.where(known, a.checkpoint.reward, -np.inf)[whole]
        order = np.lexsort((jitter[whole], -reward), axis=1)[:, :size]
        scores = np.take_along_axis(a.checkpoint.score[whole], order, axis=1)
        block = a.bootstrap.block[a.checkpoint.prompt[whole]]
        sums = a.bootstrap.sums(block, [np.ones(len(scores)), *scores.T])[:, 0]
        draws = sums[:, 1:] / sums[:, :1]
        level = analysis.settings.level
        away = np.nanquantile(draws - draws.mean(axis=0), [(1 - level) / 2, (1 + level) / 2], axis=0) * np.sqrt(2)
        ax.errorbar(
            np.arange(1, size + 1) + 0.06 * number,
            scores.mean(axis=0),
            yerr=np.abs(away),
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.4,
            color=SERIES[number % len(SERIES)],
            label=f"{a.checkpoint.name} ({whole.sum():,} prompts of {size})",
        )
        alt.append(seen.ranks(a.checkpoint.name, scores.mean(axis=0)))
    ax.set_xlabel("rank by reward in its prompt (1 = highest)")
    ax.set_ylabel("mean true score")
    _whole_numbers(ax)
    svg.legend(figure)
    yield "", figure, " ".join(alt)


def _calibration(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str] | None":
    c = a.calibration
    if c is None:
        return None
    figure, ax = svg.new(svg.HEIGHT + 0.2)
    ax.plot(c.reward, c.linear, color=LIGHT["muted"], linestyle="--", linewidth=1, label="straight line")
    ax.step(c.reward, c.isotonic, where="mid", color=SERIES[2], linewidth=1.2, label="never-falling curve")
    below, above = c.score - c.linear - c.low, c.high - c.score + c.linear
    bars = np.stack([below, above]).clip(min=0)
    ax.errorbar(c.reward, c.score, yerr=bars, fmt="o", markersize=3.5, color=RIGHT, label="actual mean score")
    some = c.over_confident
    if some.any():
        ring = {"s": 60, "facecolors": "none", "edgecolors": WRONG, "linewidths": 1.5, "zorder": 3}
        ax.scatter(c.reward[some], c.score[some], label="promises too much", **ring)
    ax.set_xlabel("reward (mean of the group)")
    ax.set_ylabel("true score (mean of the group)")
    svg.legend(figure)
    return figure, c.words(a.checkpoint.name)


def drift(analysis: Analysis) -> Pictures:
    """The measure of reliability that the verdict rests on, in each window of steps."""
    measure = next((m for m in MEASURES if any(m in a.trends for a in analysis.analysed)), None)
    if measure is None:
        return
    figure, ax = svg.new()
    alt = []
    title = "share of right pairs" if measure == "pairwise_accuracy" else METRICS[measure].title
    for number, a in enumerate(analysis.analysed):
        if measure not in a.trends:
            continue
        windows = a.trends[measure].windows
        x = [(w["first"] + w["last"]) / 2 for w in windows]
        y = np.array([w["estimate"] for w in windows])
        away = np.abs(np.array([[w["low"], w["high"]] for w in windows]).T - y)
        look = {"marker": MARKERS[number % len(MARKERS)], "color": SERIES[number % len(SERIES)]}
        ax.errorbar(x, y, yerr=away, markersize=4, linewidth=1.4, label=a.checkpoint.name, **look)
        alt.append(seen.drift(a.checkpoint.name, title, windows))
    ax.set_xlabel("training step")
    ax.set_ylabel(title)
    if len(analysis.analysed) > 1:
        svg.legend(figure)
    yield "", figure, " ".join(alt)


#: In the order of the page.
DRAW: dict[str, Callable[[Analysis], Pictures]] = {
    "gains": gains,
    "keep": _each(_over_keep),
    "samples": _each(_over_samples),
    "reliability": _each(_reliability),
    "rank": rank,
    "histogram": _each(_histogram),
    "calibration": _each(_calibration),
    "drift": drift,
}
