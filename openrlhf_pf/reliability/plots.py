"""The figures of a report. Each function draws one and returns it; none knows where it is saved."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability import metrics
from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.evaluate import CELLS, Samples, cells, summary
from openrlhf_pf.reliability.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

#: Told apart by readers with any colour vision (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WRONG, RIGHT, GREY = "#D55E00", "#0072B2", "#666666"
#: Inches of a figure that a phone can show whole.
NARROW = 5.6
#: Lines of the reliability figure: random halves of the prompts.
HALVES = 10

#: Name of a figure to its title and the sentence that goes with it.
CAPTIONS = {
    "reliability": (
        "Reward against true score",
        "Each thin line is a random half of the prompts, the thick one all of them: where the thin lines lie close "
        "together and the thick one rises, a higher reward means a better response; where they spread or run flat, "
        "the reward says little.",
    ),
    "strategies": (
        "How right the rewards are, by strategy",
        "Dots are estimates, bars their intervals: further right is better, and strategies whose bars overlap much "
        "may well be equally good.",
    ),
    "histogram": (
        "Rewards of correct and wrong responses",
        "The less the two colours overlap, the better the reward tells right from wrong.",
    ),
    "rank": (
        "Rank by reward against true score",
        "Rank 1 is the response of a prompt that the reward model likes best: the line should fall from left to "
        "right, and where it is flat, those ranks are interchangeable.",
    ),
    "calibration": (
        "Where the reward model promises too much",
        "Dots are actual mean scores, the lines what the reward predicts: high rewards whose dots lie below the "
        "straight line (marked) are over-confident, and training would chase them.",
    ),
    "drift": (
        "Reliability over the training steps",
        "Where the line falls, the reward model judges the responses of the newer policy less well than those of the "
        "older one.",
    ),
}


def figures(analysis: Analysis) -> "dict[str, Figure]":
    """Draw every figure that the data allow, by its name in ``CAPTIONS``."""
    drawn = {
        "reliability": _by_checkpoint(analysis, _reliability, share_y=True),
        "strategies": strategies(analysis),
        "histogram": _by_checkpoint(analysis, _histogram),
        "rank": rank(analysis),
        "calibration": _by_checkpoint(analysis, _calibration, share_y=True),
        "drift": drift(analysis),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _new(
    columns: int = 1, width: float = NARROW, height: float = 3.9, **options: object
) -> "tuple[Figure, list[Axes]]":
    # Not pyplot: no display is opened and no figure is kept.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    for ax in axes:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _by_checkpoint(analysis: Analysis, draw: object, share_y: bool = False) -> "Figure | None":
    some = [a for a in analysis.analysed if a.checkpoint.known.any()]
    if not some:
        return None
    figure, axes = _new(len(some), NARROW if len(some) == 1 else 4.6 * len(some), sharey=share_y)
    for number, (ax, a) in enumerate(zip(axes, some)):
        draw(ax, a, analysis, number)
        if len(some) > 1:
            ax.set_title(a.checkpoint.name)
    return figure


def _reliability(ax: "Axes", a: Analysed, analysis: Analysis, number: int) -> None:
    """The paper's Figure 1 for one checkpoint."""
    samples = Samples.of(a.checkpoint, a.bootstrap, analysis.settings.threshold)
    one = np.ones(len(samples.take))
    cell, n_cells = cells(samples.unit, one, CELLS)
    columns = [one, samples.reward, samples.score]
    counts = a.bootstrap.halves(HALVES, analysis.settings.seed)
    sums = a.bootstrap.sums(samples.block, columns, cell, n_cells, counts)
    colour = COLOURS[number % len(COLOURS)]
    for x, y in metrics.points_of_cells(sums, analysis.settings.bins):
        ax.plot(x, y, color=colour, alpha=0.3, linewidth=0.9)
    whole = np.stack([np.bincount(cell, column) for column in columns], axis=-1)[None]
    x, y = metrics.points_of_cells(whole, analysis.settings.bins)[0]
    ax.plot(x, y, color=colour, linewidth=2.2, marker="o", markersize=4)
    ax.set_xlabel("reward (mean of the group)")
    if number == 0:
        ax.set_ylabel("true score (mean of the group)")


def strategies(analysis: Analysis) -> "Figure | None":
    """R² of each strategy, and two companions, with intervals."""
    shown = ("binned_r2", "equal_spread_r2", "pairwise_accuracy")
    labels = [s.label for s in analysis.strategies]
    figure, axes = _new(3, 10.5, 1.6 + 0.32 * len(labels) + 0.12 * len(analysis.analysed), sharey=True)
    for number, a in enumerate(analysis.analysed):
        offset = 0.6 * ((number + 0.5) / len(analysis.analysed) - 0.5)
        tables = [summary(r, a.bootstrap, analysis.settings.level) for r in a.results]
        for ax, name in zip(axes, shown):
            rows = [(i, t[name]) for i, t in enumerate(tables) if t[name]["estimate"] is not None]
            y = np.array([i for i, _ in rows]) + offset
            x = np.array([t["estimate"] for _, t in rows])
            ends = [[t[end] if t[end] is not None else t["estimate"] for _, t in rows] for end in ("low", "high")]
            away = np.abs(np.array(ends).reshape(2, -1) - x)
            colour = COLOURS[number % len(COLOURS)]
            ax.errorbar(x, y, xerr=away, fmt="o", markersize=4.5, color=colour, label=a.checkpoint.name)
            ax.set_title(METRICS[name].title, fontsize=11)
            ax.set_xlabel("share (0 to 1)")
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    if len(analysis.analysed) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _histogram(ax: "Axes", a: Analysed, analysis: Analysis, number: int) -> None:
    known = a.checkpoint.known
    reward, correct = a.checkpoint.reward[known], a.checkpoint.score[known] > analysis.settings.threshold
    low, high = np.quantile(reward, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 41)
    for some, colour, label in ((~correct, WRONG, "wrong"), (correct, RIGHT, "correct")):
        ax.hist(reward[some], edges, color=colour, alpha=0.55, label=f"{label} ({some.sum():,})")
    ax.set_xlabel("reward")
    if number == 0:
        ax.set_ylabel("number of responses")
    ax.legend(frameon=False, fontsize=9)


def rank(analysis: Analysis) -> "Figure | None":
    """Mean true score at each rank by reward, with intervals; prompts of the most common size only."""
    figure, (ax,) = _new()
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
        x = np.arange(1, size + 1) + 0.06 * number
        ax.errorbar(
            x,
            scores.mean(axis=0),
            yerr=np.abs(away),
            marker="o",
            color=COLOURS[number % len(COLOURS)],
            label=f"{a.checkpoint.name} ({whole.sum():,} prompts of {size})",
        )
    ax.set_xlabel("rank by reward in its prompt (1 = highest)")
    ax.set_ylabel("mean true score")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, fontsize=9)
    return figure


def _calibration(ax: "Axes", a: Analysed, analysis: Analysis, number: int) -> None:
    c = a.calibration
    if c is None:
        ax.text(0.5, 0.5, "all rewards are equal", ha="center", transform=ax.transAxes)
        return
    ax.plot(c.reward, c.linear, color=GREY, linestyle="--", label="straight line")
    ax.step(c.reward, c.isotonic, where="mid", color=COLOURS[2], label="best never-falling curve")
    below, above = c.score - c.linear - c.low, c.high - c.score + c.linear
    bars = np.stack([below, above]).clip(min=0)
    ax.errorbar(c.reward, c.score, yerr=bars, fmt="o", markersize=4, color=RIGHT, label="actual")
    if c.over_confident.any():
        some = c.over_confident
        ax.scatter(c.reward[some], c.score[some], s=90, facecolors="none", edgecolors=WRONG, linewidths=1.8, zorder=3)
        ax.scatter([], [], s=90, facecolors="none", edgecolors=WRONG, linewidths=1.8, label="over-confident")
    ax.set_xlabel("reward (mean of the group)")
    if number == 0:
        ax.set_ylabel("true score (mean of the group)")
    ax.legend(frameon=False, fontsize=9)


def drift(analysis: Analysis) -> "Figure | None":
    """Reliability of each window of steps, one panel a measure."""
    some: Sequence[Analysed] = [a for a in analysis.analysed if a.trends]
    if not some:
        return None
    measures = list(dict.fromkeys(measure for a in some for measure in a.trends))
    figure, axes = _new(len(measures), 3.6 * len(measures) + 1)
    for number, a in enumerate(some):
        for ax, measure in zip(axes, measures):
            ax.set_title(METRICS[measure].title, fontsize=11)
            ax.set_xlabel("training step")
            if measure not in a.trends:
                continue
            windows = a.trends[measure].windows
            x = [(w["first"] + w["last"]) / 2 for w in windows]
            y = np.array([w["estimate"] for w in windows])
            away = np.abs(np.array([[w["low"], w["high"]] for w in windows]).T - y)
            ax.errorbar(x, y, yerr=away, marker="o", color=COLOURS[number % len(COLOURS)], label=a.checkpoint.name)
    axes[0].set_ylabel("share (0 to 1)")
    if len(some) > 1:
        axes[0].legend(frameon=False, fontsize=9)
    return figure
