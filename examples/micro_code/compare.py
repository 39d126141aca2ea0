"""Several finished studies side by side, as a Markdown table.

python -m examples.micro_code.compare runs/seed*
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import MEASURES

HEADINGS = [
    "seed",
    "RM accuracy",
    "SFT pass@1",
    "after",
    "gain [95%]",
    "greedy SFT",
    "greedy after",
    "reward first",
    "last",
    "KL",
    "seconds",
]


def rows_of(summaries: Sequence[dict[str, Any]], name: str) -> list[list[str]]:
    """One row per study for the PPO run ``name``; studies without it are left out."""
    rows = []
    for summary in summaries:
        if name not in summary["policies"]:
            continue
        sft, ppo = summary["policies"]["sft"], summary["policies"][name]
        low, high = ppo["gain_interval"]
        row = [str(summary["study"]["seed"]), f"{summary['reward_model']['heldout_accuracy']:.3f}"]
        row += [f"{sft['pass_at_1']:.3f}", f"{ppo['pass_at_1']:.3f}", f"{ppo['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"]
        row += [
            f"{sft['greedy']:.3f}",
            f"{ppo['greedy']:.3f}",
            f"{ppo['reward_first']:+.2f}",
            f"{ppo['reward_last']:+.2f}",
        ]
        rows.append([*row, f"{ppo['kl_last']:.3f}", f"{sum(summary['seconds'].values()):.0f}"])
    return rows


def differences(summaries: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per study and rival: what the filter adds at equal rollouts, updates and seconds."""
    rows = []
    for summary in summaries:
        by_rival: dict[str, list[str]] = {}
        for row in summary["comparisons"]:
            low, high = row["interval"]
            by_rival.setdefault(row["rival"], []).append(f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
        seed = str(summary["study"]["seed"])
        rows += [[seed, summary["titles"][rival], *cells] for rival, cells in by_rival.items()]
    return rows


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(line) + " |" for line in [headings, ["---"] * len(headings), *rows]]
    return "\n".join(lines)


def main() -> None:
    """Prints one table for each PPO run that the studies have, and one of what the filter adds."""
    parser = argparse.ArgumentParser(prog="python -m examples.micro_code.compare", description=__doc__.splitlines()[0])
    parser.add_argument("directories", nargs="+", type=Path, help="run directories, each with a summary.json")
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in parser.parse_args().directories]
    for name in ("unfiltered", "random", "ppo", "overoptimised"):
        rows = rows_of(summaries, name)
        if rows:
            better = sum(s["policies"][name]["gain"] > 0 for s in summaries if name in s["policies"])
            print(f"{name}: pass@1 above SFT's in {better} of {len(rows)} studies\n\n{markdown(HEADINGS, rows)}\n")
    headings = ["seed", "the filter against", *(f"at equal {measure}" for measure in MEASURES)]
    print(f"difference of pass@1 [95%]\n\n{markdown(headings, differences(summaries))}")


if __name__ == "__main__":
    main()
