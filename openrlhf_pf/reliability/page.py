"""What report.html says, laid out for ``template.PAGE``."""

import re
from typing import Any

from openrlhf_pf.reliability import svg, validate
from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.answers import Answers, questions_of
from openrlhf_pf.reliability.choose import WRONG_WAY, Recommendation
from openrlhf_pf.reliability.evaluate import summary
from openrlhf_pf.reliability.metrics import METRICS
from openrlhf_pf.reliability.strategies import Strategy
from openrlhf_pf.reliability.template import PAGE, filled
from openrlhf_pf.reliability.words import CAPTIONS, FILTER_MEANINGS, LEARNED_RANKS, Glossary


def number(value: float | None, name: str) -> str:
    """A metric's value as text."""
    if value is None:
        return "–"
    if name == "effective_samples":
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def keep_of(strategy: Strategy) -> str:
    """k as text."""
    return "all" if strategy.name == "none" else str(strategy.keep)


def cell(values: dict[str, float | None], name: str) -> dict[str, str]:
    """``value`` and ``interval`` as text, of ``{estimate, low, high}``."""
    known = values["low"] is not None and name != "effective_samples"
    between = f"{number(values['low'], name)}–{number(values['high'], name)}" if known else ""
    return {"value": number(values["estimate"], name), "interval": between}


def _shown(values: dict[str, float | None], name: str) -> dict[str, str]:
    """As :func:`cell`; a dash between negative numbers would look like one more minus."""
    found = cell(values, name)
    if (values["low"] or 0) < 0:
        found["interval"] = found["interval"].replace("–", " to ")
    return {key: text.replace("-", "−") for key, text in found.items()}


def html(analysis: Analysis, panels: list, sentences: list[str], settings_line: str) -> str:
    """The page; nothing in it refers to anything outside.

    Args:
        analysis: what to show.
        panels: its ``plots.Panel`` pictures.
        sentences: what is to be said beside the recommendation.
        settings_line: everything that decides the numbers.
    """
    from markupsafe import Markup

    recommendation, level = analysis.recommendation, analysis.settings.level
    best = _best(recommendation)
    tables = [[summary(r, a.bootstrap, level) for r in a.results] for a in analysis.analysed]
    # Further checkpoints may contradict the first, which its own answers do not say.
    together = None if recommendation is analysis.analysed[0].recommendation else recommendation
    own = [best if together else _best(a.recommendation) for a in analysis.analysed]
    checkpoints = [_checkpoint(a, table, label) for a, table, label in zip(analysis.analysed, tables, own)]
    r2_rows = [
        _row(s, [_shown(table[i]["binned_r2"], "binned_r2") for table in tables], best if len(tables) == 1 else None)
        for i, s in enumerate(analysis.strategies)
    ]
    figures = [
        {
            "kind": p.figure,
            "title": CAPTIONS[p.figure][0],
            "caption": CAPTIONS[p.figure][1].format(threshold=analysis.settings.threshold),
            "of": p.of,
            "svg": Markup(svg.inline(p.box, p.inside, p.alt)),
        }
        for p in panels
    ]
    meanings = [(metric.title, metric.meaning) for metric in METRICS.values()]
    return filled(
        PAGE,
        glossary=Glossary([s.name for s in analysis.strategies]),
        opening=analysis.opening,
        together=together and {"text": together.text, "state": "" if together.decided else "open"},
        answers=[_answers(a) for a in analysis.analysed],
        warnings=[_of(line, analysis) for line in analysis.warnings],
        sentences=[_of(line, analysis) for line in sentences],
        level=f"{100 * level:g}%",
        checkpoints=checkpoints,
        curves=[_curves(a) for a in analysis.analysed if a.curves is not None],
        curve_notes=_curve_notes(analysis),
        ranks=[_ranks(a) for a in analysis.analysed if a.ranks is not None],
        validation=validate.rows(analysis.validation),
        found=validate.words(analysis.validation) if analysis.validation else [],
        settings=analysis.settings,
        settings_line=settings_line,
        r2_rows=r2_rows,
        titles=[title for title, _ in meanings],
        meanings=meanings,
        meaning_texts=[text for pair in meanings for text in pair],
        figures=figures,
    )


def _best(recommendation: Recommendation) -> str | None:
    return recommendation.best if recommendation.decided else None


def _of(line: str, analysis: Analysis) -> str:
    """A sentence without the checkpoint's name in front, where there is one checkpoint."""
    if len(analysis.analysed) == 1 and line.startswith(name := f"{analysis.analysed[0].checkpoint.name}: "):
        line = line.removeprefix(name)
        return line[:1].upper() + line[1:]
    return line


def _row(strategy: Strategy, cells: list[dict[str, str]], best: str | None) -> dict[str, Any]:
    meaning = LEARNED_RANKS if strategy.learned else FILTER_MEANINGS.get(strategy.name, "")
    label = strategy.label
    return {"label": label, "keep": keep_of(strategy), "meaning": meaning, "cells": cells, "best": label == best}


def _checkpoint(a: Analysed, table: list[dict], best: str | None) -> dict[str, Any]:
    order = sorted(
        range(len(table)), key=lambda i: -1e9 if (x := table[i]["gain"]["estimate"]) is None else x, reverse=True
    )
    return {
        "name": a.checkpoint.name,
        "names": [r.strategy.name for r in a.results],
        "rows": [_row(r.strategy, [_shown(t[m], m) for m in METRICS], best) for r, t in zip(a.results, table)],
        "ranked": [_row(a.results[i].strategy, _first_cells(table[i]), best) for i in order],
    }


def _first_cells(values: dict[str, dict]) -> list[dict[str, str]]:
    """Gain and share of right pairs: what everybody reads; the other metrics are one click away."""
    pairs = values["pairwise_accuracy"]
    texts = {key: "" if value is None else f"{100 * value:.0f}" for key, value in pairs.items()}
    between = f"{texts['low']}–{texts['high']}%" if texts["low"] and texts["high"] else ""
    share = {"value": f"{texts['estimate']}%" if texts["estimate"] else "–", "interval": between}
    return [_shown(values["gain"], "gain"), share]


def _answers(a: Analysed) -> dict[str, Any]:
    states = [_state(a.answers), "" if a.recommendation.decided else "open", ""]
    if a.recommendation.answer == WRONG_WAY:
        states[1] = "bad"
    if a.answers.more[0] != "None":
        states[2] = "open"
    beside = (a.answers.remarks, [], [f"So far there are {amount_of(a)}."])
    questions = []
    for (question, short, long), state, more in zip(questions_of(a.answers), states, beside):
        # What matters first; the rest is there for those who go on.
        first, *rest = re.split(r"(?<=[a-z)][.]) (?=[A-Z])", long, maxsplit=1)
        questions.append(
            {"question": question, "short": short, "first": first, "rest": [*rest, *more], "state": state}
        )
    return {"name": a.checkpoint.name, "questions": questions, "meter": _meter(a.answers)}


def _state(answers: Answers) -> str:
    return {"right": "", "mostly right": "", "wrong way round": "bad"}.get(answers.verdict, "open")


def _meter(answers: Answers) -> dict[str, Any] | None:
    """The share of right pairs on a scale from 0 to 100%."""
    low, at, high = (answers.accuracy[key] for key in ("low", "estimate", "high"))
    if low is None or at is None or high is None:
        return None
    return {
        "low": round(100 * low, 1),
        "width": round(100 * (high - low), 1),
        "at": round(100 * at, 1),
        "label": f"On a scale from 0 to 100% with guessing at 50%, {at:.1%} of pairs are right; the interval reaches"
        f" from {low:.1%} to {high:.1%}.",
    }


def _curves(a: Analysed) -> dict[str, Any]:
    rows = [
        {
            "label": label,
            "drawn": p.drawn,
            "trained": p.trained,
            "cell": _shown(p.values(), "gain"),
        }
        for label in a.curves.samples
        for p in (*a.curves.samples[label], *a.curves.keep.get(label, ()))
    ]
    different = {(row["label"], row["drawn"], row["trained"]): row for row in rows}
    return {"name": a.checkpoint.name, "rows": [different[key] for key in sorted(different)]}


def _ranks(a: Analysed) -> dict[str, Any]:
    found = a.ranks
    titles = {
        "ranks": f"the {found.keep} ranks of largest gain",
        "subset": f"the {found.keep} ranks of largest J",
        "weights": "c / v of each rank, for scaled advantages",
    }
    rows = [
        {
            "title": title,
            "weights": [f"{weight:.2f}".lstrip("0") if weight else "–" for weight in found.rules[name].weights],
            "cells": [
                _shown({"estimate": found.rules[name].in_sample, "low": None, "high": None}, "signal_to_noise"),
                _shown(found.rules[name].held_out, "signal_to_noise"),
            ],
        }
        for name, title in titles.items()
    ]
    return {"name": a.checkpoint.name, "n": len(found.c), "rows": rows}


def _curve_notes(analysis: Analysis) -> list[str]:
    """Where not all samples were looked at."""
    return [
        f"{a.checkpoint.name}: to save time, from {a.curves.n_groups:,} of the {a.curves.of_groups:,} groups of"
        " responses, taken at random, so that intervals are wider than in the table above."
        for a in analysis.analysed
        if a.curves is not None and a.curves.n_groups < a.curves.of_groups
    ]


def amount_of(a: Analysed) -> str:
    """How much data there is."""
    return f"{a.checkpoint.n_prompts:,} prompts with {int(a.checkpoint.known.sum()):,} scored responses"
