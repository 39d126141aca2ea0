"""The figures of a report, one narrow panel each, so that a phone shows them whole with legible text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.measures import metrics
from openrlhf_pf.reliability.measures.evaluate import CELLS, Samples, cut_cells, summarize_metric
from openrlhf_pf.reliability.report import svg
from openrlhf_pf.reliability.report.svg import LIGHT, MARKERS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Thin lines of the reliability figure: random halves of the prompts.
HALVES = 10
WRONG, CORRECT = SERIES[1], SERIES[0]


@dataclass
class Panel:
    """One picture: its kind, a key of ``FIGURES``; its title; the name of its file and of the ids in it; the
    checkpoint that it shows, or "" for all; its viewBox and SVG elements; and its contents in words.
    """

    figure: str
    title: str
    name: str
    of: str
    box: str
    inside: str
    alt: str


#: What a figure's function yields: the checkpoint or "", the picture, and its contents in words.
Pictures = Iterator[tuple[str, "Figure", str]]


def draw_panels(analysis: Analysis) -> list[Panel]:
    """Draw every picture that the data allow, in the order of the page."""
    import matplotlib

    drawn: list[Panel] = []
    with matplotlib.rc_context(svg.STYLE):
        for kind, (title, draw) in FIGURES.items():
            for number, (of, figure, alt) in enumerate(draw(analysis)):
                name = kind if number == 0 else f"{kind}-{number + 1}"
                drawn.append(Panel(kind, title, name, of, *svg.to_svg(figure, name), alt))
    return drawn


def _each(draw: Callable[[Analysed, Analysis, str], "tuple[Figure, str] | None"]) -> Callable[[Analysis], Pictures]:
    """Return a function that draws one picture per checkpoint, in the checkpoint's colour."""

    def pictures(analysis: Analysis) -> Pictures:
        for number, a in enumerate(analysis.analysed):
            found = draw(a, analysis, SERIES[number % len(SERIES)]) if a.checkpoint.known.any() else None
            if found is not None:
                figure, alt = found
                name = a.checkpoint.name if len(analysis.analysed) > 1 else ""
                yield name, figure, f"{name}. {alt}" if name else alt

    return pictures


def _style(number: int) -> dict[str, object]:
    """Return the marker and the colour of checkpoint ``number``."""
    return {"marker": MARKERS[number % len(MARKERS)], "color": SERIES[number % len(SERIES)], "markersize": 4}


def draw_gains(analysis: Analysis) -> Pictures:
    """Yield the gain of each filter with its interval, best of the first checkpoint first."""
    tables = []
    for a in analysis.analysed:
        level = analysis.settings.level
        found = {r.strategy.label: summarize_metric(r, "gain", a.bootstrap, level) for r in a.results}
        tables.append({label: values for label, values in found.items() if values["estimate"] is not None})
    labels = sorted(tables[0], key=lambda label: -tables[0][label]["estimate"])
    if not labels:
        return
    figure, ax = svg.new_figure(0.8 + (0.2 + 0.06 * len(tables)) * len(labels), "gain")
    for number, (a, table) in enumerate(zip(analysis.analysed, tables)):
        offset = 0.5 * ((number + 0.5) / len(tables) - 0.5)
        rows = [(i, table[label]) for i, label in enumerate(labels) if label in table]
        x = np.array([v["estimate"] for _, v in rows])
        ends = np.array([[v["estimate"] if v[end] is None else v[end] for _, v in rows] for end in ("low", "high")])
        ax.errorbar(
            x,
            np.array([i for i, _ in rows]) + offset,
            xerr=np.abs(ends - x),
            linestyle="",
            label=a.checkpoint.name,
            **_style(number),
        )
    if "none" in tables[0]:
        ax.axvline(tables[0]["none"]["estimate"], color=LIGHT["muted"], linestyle="--", linewidth=0.8)
    if np.prod(ax.get_xlim()) < 0:
        ax.axvline(0, color=LIGHT["muted"], linewidth=0.6)
    ax.set_yticks(range(len(labels)), labels, color=LIGHT["ink"])
    ax.invert_yaxis()
    if len(tables) > 1:
        svg.add_legend(figure)
    best = tables[0][labels[0]]["estimate"]
    yield "", figure, f"Gain of {len(labels)} filters with intervals; {labels[0]} has the largest, {best:.3f}."


def _draw_reliability(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str]":
    """Draw the paper's Figure 1."""
    samples = Samples.of(a.checkpoint, a.bootstrap, analysis.settings.threshold)
    one, bins = np.ones(len(samples.take)), analysis.settings.bins
    cell, n_cells = cut_cells(samples.unit, one, CELLS)
    table = a.bootstrap.table(samples.block, [one, samples.reward, samples.score], cell, n_cells)
    rng = np.random.default_rng(analysis.settings.seed)
    counts = np.stack([rng.permutation(a.bootstrap.n_blocks) % 2 for _ in range(HALVES)]).astype(float)
    figure, ax = svg.new_figure(svg.HEIGHT, "reward (mean of the group)", "true score (mean of the group)")
    for x, y in metrics.points_of_cells(a.bootstrap.resample(table, counts), bins):
        ax.plot(x, y, color=colour, alpha=0.35, linewidth=0.7)
    x, y = metrics.points_of_cells(table.sum(axis=0)[None], bins)[0]
    ax.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=3.5)
    return figure, f"Mean true score from {y[0]:.2f} at the lowest to {y[-1]:.2f} at the highest rewards."


def draw_ranks(analysis: Analysis) -> Pictures:
    """Yield the mean true score at each rank by reward, with intervals; prompts of the most common size only."""
    height = svg.HEIGHT + 0.16 * (len(analysis.analysed) - 1)
    figure, ax = svg.new_figure(height, "rank by reward in its prompt (1 = highest)", "mean true score")
    alt = []
    for number, a in enumerate(analysis.analysed):
        known = a.checkpoint.known
        sizes = known.sum(axis=1)
        size = int(np.bincount(sizes[sizes > 0]).argmax())
        whole = sizes == size
        # Ties in random order, not by position.
        jitter = np.random.default_rng(0).random(a.checkpoint.reward.shape)
        reward = np.where(known, a.checkpoint.reward, -np.inf)[whole]
        order = np.lexsort((jitter[whole], -reward), axis=1)[:, :size]
        scores = np.take_along_axis(a.checkpoint.score[whole], order, axis=1)
        block = a.bootstrap.block[a.checkpoint.prompt[whole]]
        sums = a.bootstrap.sum_up(block, [np.ones(len(scores)), *scores.T])[1:]
        draws, level = sums[:, 1:] / sums[:, :1], analysis.settings.level
        away = np.nanquantile(draws - draws.mean(axis=0), [(1 - level) / 2, (1 + level) / 2], axis=0) * np.sqrt(2)
        mean = scores.mean(axis=0)
        label = f"{a.checkpoint.name} ({whole.sum():,} prompts of {size})"
        x = np.arange(1, size + 1) + 0.06 * number
        ax.errorbar(x, mean, yerr=np.abs(away), linewidth=1.4, label=label, **_style(number))
        alt.append(f"{a.checkpoint.name}: mean true score by rank {', '.join(f'{score:.2f}' for score in mean)}.")
    ax.xaxis.get_major_locator().set_params(integer=True)
    svg.add_legend(figure)
    yield "", figure, " ".join(alt)


def _draw_histogram(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str]":
    known = a.checkpoint.known
    reward, correct = a.checkpoint.reward[known], a.checkpoint.score[known] > analysis.settings.threshold
    low, high = np.quantile(reward, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 41)
    figure, ax = svg.new_figure(svg.HEIGHT, "reward", "number of responses")
    for some, shade, label in ((~correct, WRONG, "wrong"), (correct, CORRECT, "correct")):
        counts = np.histogram(reward[some], edges)[0]
        ax.stairs(counts, edges, fill=True, color=shade, alpha=0.3)
        ax.stairs(counts, edges, color=shade, linewidth=1.4, label=f"{label} ({some.sum():,})")
    svg.add_legend(figure)
    return figure, f"Rewards of {correct.sum():,} correct and {(~correct).sum():,} wrong responses."


def _draw_calibration(a: Analysed, analysis: Analysis, colour: str) -> "tuple[Figure, str] | None":
    c = a.calibration
    if c is None:
        return None
    figure, ax = svg.new_figure(svg.HEIGHT + 0.2, "reward (mean of the group)", "true score (mean of the group)")
    ax.step(c.reward, c.isotonic, where="mid", color=SERIES[2], linewidth=1.2, label="never-falling curve")
    bars = np.abs(np.stack([c.low, c.high]) - c.score)
    ax.errorbar(c.reward, c.score, yerr=bars, fmt="o", markersize=3.5, color=CORRECT, label="mean score")
    some = c.over_confident
    if some.any():
        ring = {"s": 60, "facecolors": "none", "edgecolors": WRONG, "linewidths": 1.5, "zorder": 3}
        ax.scatter(c.reward[some], c.score[some], label="over-confident", **ring)
    svg.add_legend(figure)
    return figure, f"Mean true score of {len(c.score)} groups of reward; the highest {c.top} are over-confident."


#: Kind of figure to its title and how it is drawn, in the order of the page.
FIGURES: dict[str, tuple[str, Callable[[Analysis], Pictures]]] = {
    "gains": ("The gain of each filter", draw_gains),
    "reliability": ("Reward against true score", _each(_draw_reliability)),
    "rank": ("Rank by reward against true score", draw_ranks),
    "histogram": ("Rewards of correct and wrong responses", _each(_draw_histogram)),
    "calibration": ("Where the reward model is over-confident", _each(_draw_calibration)),
}
