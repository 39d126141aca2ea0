"""What each arm of a study gains over the first, with its interval, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openrlhf_pf.reliability import svg


def forest(rows: Sequence[dict[str, Any]]) -> str:
    """A line an arm, from the rows of :func:`examples.studies.micro_code.study.table`, the best arm at the top."""
    import matplotlib

    first, *others = rows
    others = sorted(others, key=lambda row: row["difference"])
    runs = " to ".join(str(n) for n in sorted({min(row["cells"] for row in others), max(r["cells"] for r in others)}))
    with matplotlib.rc_context(svg.STYLE):
        figure, axes = svg.new(0.9 + 0.26 * len(others))
        axes.axvline(0, color=svg.LIGHT["muted"], lw=0.8)
        for place, row in enumerate(others):
            low, high = row["interval"]
            sure = low > 0 or high < 0
            colour = svg.SERIES[0] if sure else svg.LIGHT["muted"]
            axes.plot([low, high], [place, place], color=colour, lw=1.6)
            axes.plot(row["difference"], place, marker="o", ms=5, color=colour)
        axes.set_yticks(range(len(others)), [row["arm"] for row in others])
        axes.set_xlabel(f"pass@1 less {first['arm']}, 95% interval, {runs} run{'s' * (runs != '1')}")
        axes.grid(axis="y", visible=False)
        box, inside = svg.drawing(figure, "study")
    said = [f"{r['arm']} {r['difference']:+.3f} [{r['interval'][0]:+.3f}, {r['interval'][1]:+.3f}]" for r in others]
    return svg.alone(box, inside, f"pass@1 of each arm less {first['arm']}", "; ".join(reversed(said)) + ".")
