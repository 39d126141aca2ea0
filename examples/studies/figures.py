"""Draw the figures of the studies: FILE.svg next to FILE.json, which micro_code/runs.py has written.

python -m examples.studies.figures examples/studies/micro_code/results/{filters,judge,selection}.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrlhf_pf.reliability.report import svg

from .tables import show


def forest(rows: Sequence[dict[str, Any]]) -> str:
    """Return the SVG of each arm's pass@1 minus the first arm's, with intervals, the best at the top."""
    import matplotlib

    first, *others = rows
    others = sorted(others, key=lambda row: row["difference"])
    with matplotlib.rc_context(svg.STYLE):
        figure, axes = svg.new_figure(0.9 + 0.26 * len(others))
        axes.axvline(0, color=svg.LIGHT["muted"], lw=0.8)
        for place, row in enumerate(others):
            low, high = row["interval"]
            colour = svg.SERIES[0] if low > 0 or high < 0 else svg.LIGHT["muted"]
            axes.plot([low, high], [place, place], color=colour, lw=1.6)
            axes.plot(row["difference"], place, marker="o", ms=5, color=colour)
        axes.set_yticks(range(len(others)), [row["arm"] for row in others])
        axes.set_xlabel(f"pass@1 minus {first['arm']}, 95% interval")
        axes.grid(axis="y", visible=False)
        box, inside = svg.to_svg(figure, "study")
    values = [f"{row['arm']} {show([row['difference'], *row['interval']])}" for row in reversed(others)]
    return svg.write_alone(box, inside, f"pass@1 of each arm minus {first['arm']}", "; ".join(values) + ".")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figures of files."""
    parser = argparse.ArgumentParser("python -m examples.studies.figures", description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON files of runs")
    for file in parser.parse_args(argv).files:
        file.with_suffix(".svg").write_text(forest(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
