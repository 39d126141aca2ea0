"""An analysis as report.json, report.html, SVG files and a table for the terminal."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openrlhf_pf.reliability import drift, svg, validate
from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.answers import questions_of
from openrlhf_pf.reliability.curves import Curves, Point
from openrlhf_pf.reliability.evaluate import summary
from openrlhf_pf.reliability.metrics import METRICS
from openrlhf_pf.reliability.page import cell, html, keep_of

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
#: Columns of the terminal's table, which must fit 120 characters.
TERMINAL = (
    "gain",
    "pairwise_accuracy",
    "within_r2",
    "binned_r2",
    "equal_spread_r2",
    "mean_score",
    "effective_samples",
)


def as_dict(analysis: Analysis) -> dict[str, Any]:
    """What report.json holds; a value that is not defined is None."""
    settings = asdict(analysis.settings)
    return {
        "format": FORMAT,
        "settings": settings,
        "checkpoints": [_checkpoint(a, settings["level"]) for a in analysis.analysed],
        "recommendation": analysis.recommendation.as_dict(),
        "sentences": sentences(analysis),
        "warnings": analysis.warnings,
        "validation": [power.as_dict() for power in analysis.validation],
    }


def _checkpoint(a: Analysed, level: float) -> dict[str, Any]:
    checkpoint, c = a.checkpoint, a.calibration
    strategies = [
        {
            "strategy": r.strategy.name,
            "keep": r.strategy.keep,
            "options": r.strategy.options,
            "label": r.strategy.label,
            "cross_fitted": r.strategy.table is not None,
            "same_as": r.twin or None,
            "kept_samples": r.kept,
            "best_threshold": None if np.isnan(r.threshold) else r.threshold,
            "metrics": summary(r, a.bootstrap, level),
            "points": None if r.points is None else {"reward": _list(r.points[0]), "score": _list(r.points[1])},
        }
        for r in a.results
    ]
    calibration = None
    if c is not None:
        fields = ("edges", "reward", "score", "linear", "isotonic", "over_confident")
        calibration = {name: _list(getattr(c, name)) for name in fields}
    return {
        "name": checkpoint.name,
        "n_prompts": checkpoint.n_prompts,
        "n_groups": len(checkpoint.reward),
        "n_samples": int(np.isfinite(checkpoint.reward).sum()),
        "n_scored": int(checkpoint.known.sum()),
        "samples_per_prompt": checkpoint.reward.shape[1],
        "strategies": strategies,
        "calibration": calibration,
        "learned_ranks": None if a.ranks is None else a.ranks.as_dict(),
        "curves": None if a.curves is None else _curves(a.curves),
        "drift": {name: asdict(trend) for name, trend in a.trends.items()},
    }


def _curves(curves: Curves) -> dict[str, Any]:
    """Filter to points, ``{drawn, trained, estimate, low, high}`` each, over k and over N."""

    def lines(found: dict[str, list[Point]]) -> dict[str, list[dict[str, Any]]]:
        return {
            label: [{"drawn": p.drawn, "trained": p.trained, **p.values()} for p in points]
            for label, points in found.items()
        }

    looked_at = {"n_groups": curves.n_groups, "of_groups": curves.of_groups}
    return {"over_k": lines(curves.keep), "over_n": lines(curves.samples), **looked_at}


def _list(values: np.ndarray) -> list:
    return [_list(v) if v.ndim else v.item() if v == v else None for v in np.asarray(values)]


def sentences(analysis: Analysis) -> list[str]:
    """What is to be said beside the recommendation, in plain words."""
    lines = [a.calibration.words(a.checkpoint.name) for a in analysis.analysed if a.calibration is not None]
    lines += [a.ranks.words(a.checkpoint.name, a.gain_of_ranks) for a in analysis.analysed if a.ranks is not None]
    return lines + [drift.words(a.trends, a.checkpoint.name) for a in analysis.analysed if _has_steps(a)]


def _has_steps(a: Analysed) -> bool:
    return a.checkpoint.step is not None and len(np.unique(a.checkpoint.step)) > 1


def write(analysis: Analysis, directory: Path) -> list[Path]:
    """Write report.json, the figures and report.html.

    Returns:
        The files, report.html first.

    Raises:
        ValueError: the directory cannot be written; the message is one sentence.
    """
    from openrlhf_pf.reliability import plots
    from openrlhf_pf.reliability.words import CAPTIONS

    panels = plots.panels(analysis)
    page = html(analysis, panels, sentences(analysis), settings_line(analysis))
    data = json.dumps(as_dict(analysis), indent=1, allow_nan=False, ensure_ascii=False)
    pictures = {f"{p.name}.svg": svg.alone(p.box, p.inside, CAPTIONS[p.figure][0], p.alt) for p in panels}
    files = {"report.html": page, "report.json": data, **pictures}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_text(content, "utf-8")
    except OSError as error:
        raise ValueError(
            f"the report cannot be written to {str(directory)!r} ({error.strerror}): give another --output."
        ) from error
    return [directory / name for name in files]


# ── For people ──


def settings_line(analysis: Analysis) -> str:
    """Everything that decides the numbers."""
    s = analysis.settings
    options = [
        f"{x.label} " + ", ".join(f"{key} {value:.4g}" for key, value in x.options.items())
        for x in analysis.strategies
        if x.options.keys() & {"high", "low"}
    ]
    return (
        f"{s.bins} groups of equal count; {s.repetitions} bootstrap repetitions over prompts, seed {s.seed}; "
        f"intervals of {s.level:.0%}; a score above {s.threshold:g} is correct"
        + "".join(f"; {option}" for option in options)
        + "."
    )


def show(analysis: Analysis, console: "Console") -> None:
    """Print the tables, warnings and the recommendation."""
    from rich.markup import escape
    from rich.table import Table

    for line in analysis.opening:
        console.print(escape(line) + "\n", soft_wrap=True, highlight=False)
    for a in analysis.analysed:
        for question, short, long in questions_of(a.answers):
            console.print(f"[bold]{question}[/bold] {escape(f'{short}. {long}')}", soft_wrap=True, highlight=False)
        for line in a.answers.remarks:
            console.print(escape(line), soft_wrap=True, highlight=False)
        table = Table(title=f"{escape(a.checkpoint.name)}: {a.checkpoint.n_prompts:,} prompts", title_justify="left")
        table.add_column("strategy", no_wrap=True)
        table.add_column("k", justify="right")
        for name in TERMINAL:
            table.add_column(METRICS[name].title, justify="right")
        for r in a.results:
            values = summary(r, a.bootstrap, analysis.settings.level)
            texts = []
            for name in TERMINAL:
                text = cell(values[name], name)
                texts.append(text["value"] + (f"\n[dim]{text['interval']}[/dim]" if text["interval"] else ""))
            table.add_row(r.strategy.label, keep_of(r.strategy), *texts)
        console.print(table)
    console.print(escape(settings_line(analysis)), soft_wrap=True)
    for line in analysis.warnings:
        console.print("[yellow]warning:[/yellow] " + escape(line), soft_wrap=True)
    for line in sentences(analysis):
        console.print(escape(line), soft_wrap=True)
    if analysis.validation:
        _show_validation(analysis, console)
    style = "bold green" if analysis.recommendation.decided else "bold yellow"
    console.print(f"[{style}]recommendation:[/{style}] " + escape(analysis.recommendation.text), soft_wrap=True)


def _show_validation(analysis: Analysis, console: "Console") -> None:
    from rich.table import Table

    table = Table(title="Could it have been found? What is planted, and how often it is found", title_justify="left")
    for name in ("planted reward model", *validate.QUESTIONS):
        table.add_column(name)
    for world, _, cells in validate.rows(analysis.validation):
        table.add_row(world, *cells)
    console.print(table)
    for line in validate.words(analysis.validation):
        console.print(line, soft_wrap=True, highlight=False)
