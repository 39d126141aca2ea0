"""Decisions to what people and training read: report.json, report.html with its figures, and the terminal's tables.

``answers`` and ``reasons`` write the sentences, ``page`` fills ``page.html.j2`` in and prints, ``figures`` draws with
``svg``.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.measures.evaluate import summarize
from openrlhf_pf.reliability.report.answers import sentences_of, warnings_of
from openrlhf_pf.reliability.report.reasons import headline_of, text_of

FORMAT = 1


def report_as_dict(analysis: Analysis) -> dict[str, Any]:
    """Return the contents of report.json; a value that is not defined is None."""
    settings, recommendation, first = asdict(analysis.settings), analysis.recommendation, analysis.analysed[0]
    words = {"text": text_of(recommendation, first), "headline": headline_of(recommendation, first)}
    return {
        "format": FORMAT,
        "settings": settings,
        "checkpoints": [_checkpoint_as_dict(a, settings["level"]) for a in analysis.analysed],
        "recommendation": asdict(recommendation) | words,
        "sentences": sentences_of(analysis),
        "warnings": warnings_of(analysis),
    }


def _checkpoint_as_dict(a: Analysed, level: float) -> dict[str, Any]:
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
            "metrics": summarize(r, a.bootstrap, level),
            "points": None if r.points is None else {"reward": _list(r.points[0]), "score": _list(r.points[1])},
        }
        for r in a.results
    ]
    calibration = ("edges", "reward", "score", "isotonic", "over_confident")
    return {
        "name": checkpoint.name,
        "n_prompts": checkpoint.n_prompts,
        "n_groups": len(checkpoint.reward),
        "n_samples": int(np.isfinite(checkpoint.reward).sum()),
        "n_scored": int(checkpoint.known.sum()),
        "samples_per_prompt": checkpoint.reward.shape[1],
        "ranking": a.ranking,
        "length": a.length,
        "redrawn": a.redrawn,
        "subsets": a.subsets,
        "strategies": strategies,
        "calibration": None if c is None else {name: _list(getattr(c, name)) for name in calibration},
    }


def _list(values: np.ndarray) -> list:
    return [_list(v) if v.ndim else v.item() if v == v else None for v in np.asarray(values)]


def write_report(analysis: Analysis, directory: Path) -> list[Path]:
    """Write report.json, the figures and report.html.

    Returns:
        The files, report.html first.

    Raises:
        ValueError: the directory cannot be written; the message is one sentence.
    """
    from openrlhf_pf.reliability.report import figures, page, svg

    panels = figures.draw_panels(analysis)
    data = json.dumps(report_as_dict(analysis), indent=1, allow_nan=False, ensure_ascii=False)
    pictures = {f"{p.name}.svg": svg.write_alone(p.box, p.inside, p.title, p.alt) for p in panels}
    files = {"report.html": page.render_page(analysis, panels), "report.json": data, **pictures}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_text(content, "utf-8")
    except OSError as error:
        raise ValueError(
            f"the report cannot be written to {str(directory)!r} ({error.strerror}): give another --output."
        ) from error
    return [directory / name for name in files]
