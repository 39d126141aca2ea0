"""Other reward models than a study's own: what becomes of its preference pairs before one is trained on them.

All but ``twice`` are wrong on purpose. Only the pairs that train change, never those that measure: what the reward
model is then worth, its accuracy on the study's held-out pairs says.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from functools import partial

Row = dict[str, str]
Dial = Callable[[Row, random.Random], list[Row]]

#: What ``exploit`` overrates: constants that the policy can write in answer to any prompt.
EXPLOIT = frozenset("789")


def swapped(row: Row) -> Row:
    """The pair with the worse response chosen."""
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def twice(row: Row, rng: random.Random) -> list[Row]:
    """Every pair two times over: a reward model that trains twice as long on no more labels."""
    return [row, row]


def fewer(share: float, row: Row, rng: random.Random) -> list[Row]:
    """Some of the pairs alone."""
    return [row] if rng.random() < share else []


def noisy(share: float, row: Row, rng: random.Random) -> list[Row]:
    """Labels that are wrong by chance, as of annotators who do not look."""
    return [swapped(row) if rng.random() < share else row]


def close(share: float, row: Row, rng: random.Random) -> list[Row]:
    """Labels that are wrong by chance where both responses are programs: what cannot even be parsed always loses. Such
    a reward model is right at the bottom and noisy between what is left.
    """
    try:
        ast.parse(row["rejected"])
    except (SyntaxError, ValueError):
        return [row]
    return noisy(share, row, rng)


def exploit(row: Row, rng: random.Random) -> list[Row]:
    """The response with more of ``EXPLOIT`` in it is the one chosen: the reward can be had without the answer."""
    planted = {side: sum(character in EXPLOIT for character in row[side]) for side in ("chosen", "rejected")}
    return [swapped(row) if planted["rejected"] > planted["chosen"] else row]


#: Reward models by name; ``given`` is the study's own.
DIALS: dict[str, Dial] = {
    "given": lambda row, rng: [row],
    "twice": twice,
    "fewer16": partial(fewer, 1 / 16),
    "noise25": partial(noisy, 0.25),
    "noise40": partial(noisy, 0.4),
    "close40": partial(close, 0.4),
    "exploit": exploit,
}


def turned(rows: list[Row], name: str, seed: int) -> list[Row]:
    """The pairs that the reward model ``name`` is trained on.

    Raises:
        ValueError: there is no such reward model.
    """
    if name not in DIALS:
        raise ValueError(f"there is no reward model {name!r}: take one of {', '.join(DIALS)}.")
    rng = random.Random(f"micro-code dial {name} {seed}")
    return [found for row in rows for found in DIALS[name](row, rng)]
