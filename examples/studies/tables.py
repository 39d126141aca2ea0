"""Print the tables of the studies' result files as Markdown, or draw their figures; intervals that the studies share.

python -m examples.studies.tables examples/studies/*/results/*.json
python -m examples.studies.tables --figures examples/studies/micro_code/results/{filters,judge,selection}.json
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.report import svg

Floats = NDArray[np.float64]


def paired_interval(differences: Floats, groups: Sequence[Any] | None = None) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of (runs, tasks) differences; NaN entries do not count.

    Args:
        differences: (runs, tasks). Runs and tasks are resampled.
        groups: (runs,) what runs share, such as a policy and a reward model. Groups are resampled, and runs within
            them, so that many runs of few groups do not count as many groups.
    """
    rng = np.random.default_rng(0)
    n_runs, n_tasks = differences.shape
    groups = [None] * n_runs if groups is None else groups
    members = [np.array([i for i, g in enumerate(groups) if g == one]) for one in dict.fromkeys(groups)]
    means = np.empty(4000)
    for i in range(len(means)):
        taken = [members[g] for g in rng.integers(0, len(members), len(members))]
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in taken])
        means[i] = np.nanmean(differences[rows][:, rng.integers(0, n_tasks, n_tasks)])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def show(interval: Sequence[float]) -> str:
    """Return ``+0.123 [+0.100, +0.146]`` of [mean, low, high]."""
    mean, low, high = (f"{x:+.3f}" for x in interval)
    return f"{mean} [{low}, {high}]"


def table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a Markdown table, a row a name."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join([name, *values]) + " |" for name, values in rows.items())]) + "\n"


def of_runs(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of micro_code/runs.py: an arm's pass@1, and its difference from the first arm."""
    lines = {}
    for row in rows:
        difference = show([row["difference"], *row["interval"]])
        kl = "-" if row["kl"] is None else f"{row['kl']:.3f}"
        lines[row["arm"]] = [str(row["runs"]), str(row["updates"]), f"{row['pass_at_1']:.3f}", difference, kl]
    return table(["arm", "runs", "updates", "pass@1", f"minus {rows[0]['arm']}", "KL"], lines)


def of_numbers(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of rows that have numbers alone, such as those of micro_code/drift.py: a column a row."""
    values = {name: [str(row[name]) for row in rows] for name in rows[0]}
    return table(["", *map(str, range(1, len(rows) + 1))], values)


def find_intervals(found: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[float]]:
    """Return every [mean, low, high] in nested results, by the keys and list places that lead to it."""
    numbers = isinstance(found, list) and len(found) == 3 and all(isinstance(x, float | int) for x in found)
    if numbers and found[1] <= found[0] <= found[2]:
        return {path: found}
    if isinstance(found, dict) and "difference" in found and "interval" in found:
        return {path: [found["difference"], *found["interval"]]}
    parts = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return {key: value for name, part in parts for key, value in find_intervals(part, (*path, str(name))).items()}


def tables_of(found: Any) -> str:
    """Return the tables of one file of results: the last two keys of an interval are its row and its column."""
    if isinstance(found, list):
        return of_runs(found) if "difference" in found[0] else of_numbers(found)
    grids: dict[str, dict[str, dict[str, str]]] = {}
    for (*title, row, column), interval in find_intervals(found).items():
        grids.setdefault(", ".join(title), {}).setdefault(row, {})[column] = show(interval)
    parts = []
    for title, rows in grids.items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        parts.append(
            table([title, *columns], {n: [c.get(column, "-") for column in columns] for n, c in rows.items()})
        )
    return "\n".join(parts)


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
    """Print the tables of files, or draw their figures."""
    parser = argparse.ArgumentParser("python -m examples.studies.tables", description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON files of results")
    parser.add_argument("--figures", action="store_true", help="draw FILE.svg next to each FILE of micro_code/runs.py")
    options = parser.parse_args(argv)
    for file in options.files:
        found = json.loads(file.read_text())
        if options.figures:
            file.with_suffix(".svg").write_text(forest(found))
        else:
            print(f"## {file.stem}\n\n{tables_of(found)}")


if __name__ == "__main__":
    main()
