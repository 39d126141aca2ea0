"""Other reward models than a study's own: its preference pairs are changed before one is trained on them.

All but ``twice`` and ``fewer16`` are wrong on purpose. Only the pairs that train change. The accuracy is measured on
the study's held-out pairs.
"""

import ast
import random
from collections.abc import Callable
from functools import partial

Row = dict[str, str]

#: What ``exploit`` overrates: constants that the policy can write in answer to any prompt.
EXPLOIT = frozenset("789")


def swap(row: Row) -> Row:
    """Return the pair with the worse response chosen."""
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def swap_some(share: float, row: Row, rng: random.Random) -> list[Row]:
    """Return the pair, wrong with probability ``share``."""
    return [swap(row) if rng.random() < share else row]


def swap_close(share: float, row: Row, rng: random.Random) -> list[Row]:
    """Return the pair, wrong with probability ``share`` where both responses parse: accurate at the bottom only."""
    try:
        ast.parse(row["rejected"])
    except (SyntaxError, ValueError):
        return [row]
    return swap_some(share, row, rng)


def prefer_exploit(row: Row, rng: random.Random) -> list[Row]:
    """Return the pair with the response chosen that has more of the characters ``EXPLOIT``."""
    planted = {side: sum(character in EXPLOIT for character in row[side]) for side in ("chosen", "rejected")}
    return [swap(row) if planted["rejected"] > planted["chosen"] else row]


#: Reward models by name, each with its change of a pair; ``given`` is the study's own.
REWARD_MODELS: dict[str, Callable[[Row, random.Random], list[Row]]] = {
    "given": lambda row, rng: [row],
    "twice": lambda row, rng: [row, row],  # twice as long on the same labels
    "fewer16": lambda row, rng: [row] if rng.random() < 1 / 16 else [],
    "noise40": partial(swap_some, 0.4),
    "close40": partial(swap_close, 0.4),
    "exploit": prefer_exploit,
}


def change_pairs(rows: list[Row], name: str, seed: int) -> list[Row]:
    """Return the pairs that the reward model ``name`` is trained on.

    Raises:
        ValueError: there is no such reward model.
    """
    if name not in REWARD_MODELS:
        raise ValueError(f"there is no reward model {name!r}: take one of {', '.join(REWARD_MODELS)}.")
    rng = random.Random(f"micro-code dial {name} {seed}")  # a seed's pairs stay what they were
    return [found for row in rows for found in REWARD_MODELS[name](row, rng)]
