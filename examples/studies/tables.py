"""Print the tables of the studies' result files as Markdown.

python -m examples.studies.tables examples/studies/*/results/*.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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


def is_interval(value: Any) -> bool:
    """Return whether this is [mean, low, high]."""
    numbers = isinstance(value, list) and len(value) == 3 and all(isinstance(x, float | int) for x in value)
    return numbers and value[1] <= value[0] <= value[2]


def find_intervals(found: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[float]]:
    """Return every [mean, low, high] in nested results, by the keys and list places that lead to it."""
    if is_interval(found):
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


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of files."""
    parser = argparse.ArgumentParser("python -m examples.studies.tables", description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON files of results")
    for file in parser.parse_args(argv).files:
        print(f"## {file.stem}\n\n{tables_of(json.loads(file.read_text()))}")


if __name__ == "__main__":
    main()
