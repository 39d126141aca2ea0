"""The contents of report.html, laid out for the template ``page.html.j2``: one file without anything to fetch."""

from importlib.resources import files
from typing import Any

from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.measures.evaluate import summarize
from openrlhf_pf.reliability.measures.metrics import METRICS
from openrlhf_pf.reliability.measures.strategies import Strategy
from openrlhf_pf.reliability.recommend.choose import Recommendation
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
from openrlhf_pf.reliability.report.terminal import format_cell, format_keep


def render_page(analysis: Analysis, panels: list[Panel]) -> str:
    """Return report.html; nothing in it refers to anything outside.

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
            light=Markup(svg.css_variables(False)),
            dark=Markup(svg.css_variables(True)),
            opening=analysis.opening,
            together=together and {"text": text_of(together, first), "state": "" if together.decided else "open"},
            answers=[
                {
                    "name": a.checkpoint.name,
                    "data": line,
                    "questions": answers_of(a),
                    "caveat": caveat_of(a, warnings),
                    "accuracy": a.accuracy,
                }
                for a, line in zip(analysis.analysed, describe_data(analysis))
            ],
            warnings=[_without_name(line, analysis) for line in warnings],
            sentences=[_without_name(line, analysis) for line in sentences_of(analysis)],
            level=f"{100 * level:g}%",
            checkpoints=[_tables(a, together or a.recommendation, level) for a in analysis.analysed],
            settings_line=settings_line(analysis),
            metrics=list(METRICS.values()),
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


def _tables(a: Analysed, recommendation: Recommendation, level: float) -> dict[str, Any]:
    """Return the rows of all metrics, and those of the short table, largest gain first."""
    best = recommendation.best if recommendation.decided else None
    table = [summarize(r, a.bootstrap, level) for r in a.results]
    gains = [-1e9 if (gain := values["gain"]["estimate"]) is None else gain for values in table]
    order = sorted(range(len(table)), key=lambda i: -gains[i])
    return {
        "name": a.checkpoint.name,
        "rows": [_row(r.strategy, [_cell(t[m], m) for m in METRICS], best) for r, t in zip(a.results, table)],
        "ranked": [_row(a.results[i].strategy, _short_cells(table[i]), best) for i in order],
    }


def _row(strategy: Strategy, cells: list[dict[str, str]], best: str | None) -> dict[str, Any]:
    label, meaning = strategy.label, FILTER_MEANINGS.get(strategy.name, "")
    return {"label": label, "keep": format_keep(strategy), "meaning": meaning, "cells": cells, "best": label == best}


def _cell(values: dict[str, float | None], name: str) -> dict[str, str]:
    return {key: text.replace("-", "−") for key, text in format_cell(values, name).items()}


def _short_cells(values: dict[str, dict]) -> list[dict[str, str]]:
    """Return gain, share of correctly ordered pairs and the paper's R²."""
    pairs = values["pairwise_accuracy"]
    texts = {key: "" if value is None else f"{100 * value:.0f}" for key, value in pairs.items()}
    between = f"{texts['low']}–{texts['high']}%" if texts["low"] and texts["high"] else ""
    share = {"value": f"{texts['estimate']}%" if texts["estimate"] else "–", "interval": between}
    return [_cell(values["gain"], "gain"), share, _cell(values["binned_r2"], "binned_r2")]
