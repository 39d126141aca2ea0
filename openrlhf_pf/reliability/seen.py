"""What a figure shows, in words and numbers, for readers who cannot see it: the alt texts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.curves import Point

Floats = NDArray[np.float64]


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def gains(name: str, rows: Sequence[tuple[str, dict[str, float | None]]]) -> str:
    """Of one checkpoint: label and ``{estimate, low, high}`` of each filter, best first."""
    parts = [
        f"{label} {v['estimate']:.3f}" + ("" if v["low"] is None else f" ({v['low']:.3f} to {v['high']:.3f})")
        for label, v in rows
    ]
    return f"Gain with interval, {name}, largest first: {listed(parts)}." if parts else f"{name}: no gain is known."


def curves(what: str, lines: dict[str, list[Point]], along: str) -> str:
    """Points of each filter along "trained" or "drawn"."""
    parts = []
    for label, points in lines.items():
        values = [f"{p.gain:.3f} with {getattr(p, along)}" for p in points]
        parts.append(f"{label} {', '.join(values)}")
    return f"{what}. {'; '.join(parts)}."


def reliability(x: Floats, y: Floats, halves: Floats) -> str:
    """Mean score ``y`` (B,) over mean reward ``x`` (B,), and that of random halves (H, B)."""
    middle, falls = len(y) // 2, int((np.diff(y) < 0).sum())
    return (
        f"The mean true score is {y[0]:.2f} in the group of the lowest rewards ({x[0]:.3g}), {y[middle]:.2f} in the"
        f" middle ({x[middle]:.3g}) and {y[-1]:.2f} in that of the highest ({x[-1]:.3g}); from one group to the next"
        f" it falls {falls} of {len(y) - 1} times. Random halves of the prompts lie within"
        f" {np.nanmax(np.abs(halves - y)):.2f} of that."
    )


def ranks(name: str, scores: Floats) -> str:
    """Mean score at each rank, best reward first."""
    rises = np.flatnonzero(np.diff(scores) > 0) + 1
    values = ", ".join(f"{score:.2f}" for score in scores)
    direction = (
        "it falls from each rank to the next"
        if not len(rises)
        else f"it rises from rank {listed([f'{rank} to {rank + 1}' for rank in rises])}"
    )
    return f"{name}: the mean true score by rank, from the highest reward on, is {values}; {direction}."


def histogram(wrong: Floats, correct: Floats) -> str:
    """Rewards of either kind."""
    parts = []
    for kind, values in (("correct", correct), ("wrong", wrong)):
        if len(values):
            low, high = np.quantile(values, [0.25, 0.75])
            parts.append(f"half of the {len(values):,} {kind} responses have rewards from {low:.3g} to {high:.3g}")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:] + "."


def drift(name: str, title: str, windows: Sequence[dict]) -> str:
    """One measure over windows of steps."""
    parts = [f"{w['estimate']:.3f} in steps {w['first']} to {w['last']}" for w in windows]
    return f"{title}, {name}: {listed(parts)}."
