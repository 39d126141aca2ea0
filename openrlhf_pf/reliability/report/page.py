"""The contents of report.html, laid out for the template ``page.html.j2``: one file without anything to fetch."""

from importlib.resources import files
from typing import Any

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.measures.evaluate import summarize
from openrlhf_pf.reliability.measures.metrics import METRICS
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
