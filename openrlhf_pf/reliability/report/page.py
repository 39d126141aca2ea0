"""A report as report.html, laid out for the template ``page.html.j2``, and as tables and sentences in the terminal."""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.measures.evaluate import summarize
from openrlhf_pf.reliability.measures.metrics import METRICS
from openrlhf_pf.reliability.measures.strategies import Strategy
from openrlhf_pf.reliability.recommend import Recommendation
from openrlhf_pf.reliability.report import svg
from openrlhf_pf.reliability.report.answers import (
    FILTER_MEANINGS,
    answers_of,
    caveat_of,
    describe_data,
    sentences_of,
    settings_line,
    warnings_of,
)
from openrlhf_pf.reliability.report.figures import Panel
from openrlhf_pf.reliability.report.reasons import text_of

if TYPE_CHECKING:
    from rich.console import Console


#: Columns of the table: of a terminal of 120 characters, and of a narrower one.
COLUMNS = ("gain", "pairwise_accuracy", "within_r2", "binned_r2", "mean_score", "effective_samples")
FEW_COLUMNS, WIDE = ("gain", "pairwise_accuracy", "binned_r2"), 120


def format_number(value: float | None, name: str) -> str:
    """Return a metric's value as text."""
    if value is None:
        return "–"
    if name == "effective_samples":
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def format_keep(strategy: Strategy) -> str:
    """Return k as text."""
    return "all" if strategy.name == "none" else str(strategy.keep)


def format_cell(values: dict[str, float | None], name: str) -> dict[str, str]:
    """Return ``value`` and ``interval`` as text, of ``{estimate, low, high}``."""
    known = values["low"] is not None and name != "effective_samples"
    dash = " to " if known and values["low"] < 0 else "–"  # a dash would look like one more minus
    between = f"{format_number(values['low'], name)}{dash}{format_number(values['high'], name)}" if known else ""
    return {"value": format_number(values["estimate"], name), "interval": between}


# ── report.html ──


def render_page(analysis: Analysis, panels: list[Panel]) -> str:
    """Return report.html; one file, in which nothing refers to anything outside.

    Args:
        analysis: its contents.
        panels: its pictures.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    recommendation, first, level = analysis.recommendation, analysis.analysed[0], analysis.settings.level
    # Further checkpoints may contradict the first, which its own answers do not say.
    together = None if recommendation is first.recommendation else recommendation
    warnings = warnings_of(analysis)
    template = files(__package__).joinpath("page.html.j2").read_text("utf-8")
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            analysis=analysis,
            light=Markup(svg.css_variables(False)),
            dark=Markup(svg.css_variables(True)),
            together=together and {"text": text_of(together, first), "state": "" if together.decided else "open"},
            checkpoints=[
                (a, line, answers_of(a), caveat_of(a, warnings), _rows(a, together or a.recommendation, level))
                for a, line in zip(analysis.analysed, describe_data(analysis))
            ],
            warnings=[_without_name(line, analysis) for line in warnings],
            sentences=[_without_name(line, analysis) for line in sentences_of(analysis)],
            level=f"{100 * level:g}%",
            settings_line=settings_line(analysis),
            metrics=METRICS,
            panels=[(p, Markup(svg.write_inline(p.box, p.inside, p.alt))) for p in panels],
            threshold=f"{analysis.settings.threshold:g}",
        )
    )


def _without_name(line: str, analysis: Analysis) -> str:
    """Return a sentence without the checkpoint's name in front, where there is one checkpoint."""
    if len(analysis.analysed) == 1 and line.startswith(name := f"{analysis.analysed[0].checkpoint.name}: "):
        line = line.removeprefix(name)
        return line[:1].upper() + line[1:]
    return line


def _rows(a: Analysed, recommendation: Recommendation, level: float) -> list[dict[str, Any]]:
    """Return what the tables show of each filter."""
    rows = []
    for result in a.results:
        strategy, values = result.strategy, summarize(result, a.bootstrap, level)
        pairs = {key: "" if x is None else f"{100 * x:.0f}" for key, x in values["pairwise_accuracy"].items()}
        rows.append(
            {
                "label": strategy.label,
                "keep": format_keep(strategy),
                "meaning": FILTER_MEANINGS.get(strategy.name, ""),
                "cells": {name: _cell(values[name], name) for name in METRICS},
                "pairs": {
                    "value": f"{pairs['estimate']}%" if pairs["estimate"] else "–",
                    "interval": f"{pairs['low']}–{pairs['high']}%" if pairs["low"] else "",
                },
                "gain": -np.inf if (gain := values["gain"]["estimate"]) is None else gain,
                "best": recommendation.decided and strategy.label == recommendation.best,
            }
        )
    return rows


def _cell(values: dict[str, float | None], name: str) -> dict[str, str]:
    return {key: text.replace("-", "−") for key, text in format_cell(values, name).items()}


# ── The terminal ──


def show_report(analysis: Analysis, console: "Console") -> None:
    """Print the answers, tables, warnings and the recommendation."""
    from rich.markup import escape

    warnings = warnings_of(analysis)

    def say(line: str, start: str = "") -> None:
        console.print(start + escape(line), soft_wrap=True, highlight=False)

    for line in describe_data(analysis):
        say(line)
    for line in analysis.opening:
        say(line + "\n")
    for a in analysis.analysed:
        for answer in answers_of(a):
            say(f"{answer.short}. {' '.join(answer.sentences)}", f"[bold]{answer.question}[/bold] ")
        say(caveat_of(a, warnings), "[bold]But:[/bold] ")
        columns = COLUMNS if console.width >= WIDE else FEW_COLUMNS
        console.print(_table_of(a, analysis.settings.level, columns))
    say(settings_line(analysis))
    for line in warnings:
        say(line, "[yellow]warning:[/yellow] ")
    for line in sentences_of(analysis):
        say(line)
    style = "bold green" if analysis.recommendation.decided else "bold yellow"
    say(text_of(analysis.recommendation, analysis.analysed[0]), f"[{style}]recommendation:[/{style}] ")


def _table_of(a: Analysed, level: float, columns: Sequence[str]) -> object:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(a.checkpoint.name)}: {a.checkpoint.n_prompts:,} prompts", title_justify="left")
    table.add_column("strategy", no_wrap=True)
    table.add_column("k", justify="right")
    for name in columns:
        table.add_column(METRICS[name].title, justify="right")
    for r in a.results:
        values = summarize(r, a.bootstrap, level)
        cells = [format_cell(values[name], name) for name in columns]
        texts = [c["value"] + (f"\n[dim]{c['interval']}[/dim]" if c["interval"] else "") for c in cells]
        table.add_row(r.strategy.label, format_keep(r.strategy), *texts)
    return table
