"""An analysis as report.json, report.html, PNG files and a table for the terminal."""

import base64
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openrlhf_pf.reliability import drift, validate
from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.answers import questions_of
from openrlhf_pf.reliability.evaluate import summary
from openrlhf_pf.reliability.metrics import METRICS
from openrlhf_pf.reliability.page import PAGE
from openrlhf_pf.reliability.strategies import Strategy

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
#: Pixels beyond which a figure scrolls on a phone instead of shrinking; a PNG has its width in bytes 16 to 19.
WIDE = 1000
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
        "drift": {name: asdict(trend) for name, trend in a.trends.items()},
    }


def _list(values: np.ndarray) -> list:
    return [_list(v) if v.ndim else v.item() if v == v else None for v in np.asarray(values)]


def sentences(analysis: Analysis) -> list[str]:
    """What is to be said beside the recommendation, in plain words."""
    lines = [a.calibration.words(a.checkpoint.name) for a in analysis.analysed if a.calibration is not None]
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

    images = {}
    for name, figure in plots.figures(analysis).items():
        figure.savefig(buffer := io.BytesIO(), format="png")
        images[name] = buffer.getvalue()
    files = {f"{name}.png": image for name, image in images.items()}
    text = json.dumps(as_dict(analysis), indent=1, allow_nan=False, ensure_ascii=False)
    files = {"report.html": html(analysis, images).encode(), "report.json": text.encode(), **files}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)
    except OSError as error:
        raise ValueError(
            f"the report cannot be written to {str(directory)!r} ({error.strerror}): give another --output."
        ) from error
    return [directory / name for name in files]


# ── For people ──


def _number(value: float | None, name: str) -> str:
    if value is None:
        return "–"
    if name == "effective_samples":
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _keep(strategy: Strategy) -> str:
    return "all" if strategy.name == "none" else str(strategy.keep)


def _cell(values: dict[str, float | None], name: str) -> dict[str, str]:
    known = values["low"] is not None and name != "effective_samples"
    between = f"{_number(values['low'], name)}–{_number(values['high'], name)}" if known else ""
    return {"value": _number(values["estimate"], name), "interval": between}


def html(analysis: Analysis, images: dict[str, bytes]) -> str:
    """The page, with images by figure name inlined; nothing in it refers to anything outside."""
    from jinja2 import Environment

    from openrlhf_pf.reliability.plots import CAPTIONS

    recommendation, level = analysis.recommendation, analysis.settings.level
    best = recommendation.best if recommendation.decided else None
    tables = [[summary(r, a.bootstrap, level) for r in a.results] for a in analysis.analysed]
    shown = list(METRICS)

    def row(label: str, cells: list[dict[str, str]], **others: Any) -> dict[str, Any]:
        return {"label": label, "cells": cells, "best": label == best, **others}

    checkpoints = [
        {
            "name": a.checkpoint.name,
            "rows": [row(r.strategy.label, [_cell(t[m], m) for m in shown]) for r, t in zip(a.results, table)],
        }
        for a, table in zip(analysis.analysed, tables)
    ]
    r2_rows = [
        row(s.label, [_cell(table[i]["binned_r2"], "binned_r2") for table in tables], keep=_keep(s))
        for i, s in enumerate(analysis.strategies)
    ]
    answers = [
        {
            "name": a.checkpoint.name,
            "decided": a.recommendation.decided,
            "questions": questions_of(a.answers),
            "remarks": a.answers.remarks,
        }
        for a in analysis.analysed
    ]
    # Further checkpoints may contradict the first, which its own answers do not say.
    together = None if recommendation is analysis.analysed[0].recommendation else recommendation
    figures = [
        {
            "title": CAPTIONS[name][0],
            "caption": CAPTIONS[name][1],
            "data": base64.b64encode(image).decode(),
            "wide": int.from_bytes(image[16:20], "big") > WIDE,
        }
        for name, image in images.items()
    ]
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(
        opening=analysis.opening,
        answers=answers,
        together=together,
        samples=samples_line(analysis),
        sentences=sentences(analysis),
        warnings=analysis.warnings,
        settings=analysis.settings,
        settings_line=settings_line(analysis),
        checkpoints=checkpoints,
        r2_rows=r2_rows,
        titles=[METRICS[m].title for m in shown],
        glossary=[(METRICS[m].title, METRICS[m].meaning) for m in shown],
        figures=figures,
    )


def samples_line(analysis: Analysis) -> str:
    """How much data there is."""
    parts = []
    for a in analysis.analysed:
        prefix = f"{a.checkpoint.name}: " if len(analysis.analysed) > 1 else ""
        parts.append(
            f"{prefix}{a.checkpoint.n_prompts:,} prompts with {int(a.checkpoint.known.sum()):,} scored responses"
        )
    return "; ".join(parts)


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
            cells = []
            for name in TERMINAL:
                cell = _cell(values[name], name)
                cells.append(cell["value"] + (f"\n[dim]{cell['interval']}[/dim]" if cell["interval"] else ""))
            table.add_row(r.strategy.label, _keep(r.strategy), *cells)
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
