"""Families of small Python functions with their descriptions.

A family draws a :class:`Draft`: one function (the reference solution) and one way to describe it. The words are drawn
separately from the function, so the same function is asked for in many phrasings. To add a family, write
``def my_family(rng) -> Draft``, list it in ``FAMILIES``, and give the test inputs of its ``kind`` in ``INPUTS``.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

K = range(2, 10)  # the constants of the task

# Hidden test inputs, a list of argument tuples for each kind: edge cases first. Fixed: two functions are the same task
# exactly when they return the same on all of them.
INPUTS: dict[str, tuple] = {
    "int": tuple((n,) for n in [0, 1, -1, *range(2, 21), -2, -3, -6, -7, -8, -9, -12, -15, 36, 63, 100]),
    "pair": tuple((a, b) for a in (-7, -1, 0, 2, 5, 13) for b in (-9, 0, 1, 3, 8, 20)),
}


@dataclass(frozen=True)
class Draft:
    """One function in words and in code; ``kind`` names the arguments it takes."""

    kind: str
    description: str
    solution: str


def _draw_condition(rng: random.Random, v: str) -> tuple[str, str]:
    """Return (words, code) of a test on ``v``; the words follow "is"."""
    k = rng.choice(K)
    return rng.choice(
        [
            ("even", f"{v} % 2 == 0"),
            ("odd", f"{v} % 2 == 1"),
            ("positive", f"{v} > 0"),
            ("negative", f"{v} < 0"),
            (rng.choice(["greater than", "above", "bigger than"]) + f" {k}", f"{v} > {k}"),
            (rng.choice(["less than", "below", "smaller than"]) + f" {k}", f"{v} < {k}"),
            (f"at least {k}", f"{v} >= {k}"),
            (f"at most {k}", f"{v} <= {k}"),
            (rng.choice(["divisible by", "multiples of"]) + f" {k}", f"{v} % {k} == 0"),
            (rng.choice(["not", "different from"]) + f" {k}", f"{v} != {k}"),
        ]
    )


def _draw_arithmetic(rng: random.Random, v: str) -> tuple[str, str]:
    """Return (words, code) of a small expression in ``v``."""
    k = rng.choice(K)
    return rng.choice(
        [
            (rng.choice([f"{v} plus {k}", f"{k} more than {v}", f"{v} increased by {k}"]), f"{v} + {k}"),
            (rng.choice([f"{v} minus {k}", f"{k} less than {v}", f"{v} decreased by {k}"]), f"{v} - {k}"),
            (rng.choice([f"{v} times {k}", f"{k} times {v}", f"{v} multiplied by {k}"]), f"{v} * {k}"),
            (rng.choice([f"{v} divided by {k} rounded down", f"the whole part of {v} over {k}"]), f"{v} // {k}"),
            (rng.choice([f"{v} modulo {k}", f"the remainder of {v} by {k}"]), f"{v} % {k}"),
            (rng.choice([f"the square of {v}", f"{v} squared"]), f"{v} * {v}"),
            (rng.choice([f"minus {v}", f"{v} negated"]), f"-{v}"),
            (rng.choice([f"the absolute value of {v}", f"{v} without its sign"]), f"abs({v})"),
        ]
    )


def conditional(rng: random.Random) -> Draft:
    """Return one of two expressions, by a test on a number."""
    test_words, test = _draw_condition(rng, "n")
    then_words, then = _draw_arithmetic(rng, "n")
    else_words, other = _draw_arithmetic(rng, "n")
    description = rng.choice(
        [
            f"if n is {test_words} return {then_words} , otherwise {else_words}",
            f"return {then_words} when n is {test_words} , else {else_words}",
            f"give {else_words} unless n is {test_words} , in which case give {then_words}",
        ]
    )
    return Draft("int", description, f"def f(n):\n    return {then} if {test} else {other}")


def two_numbers(rng: random.Random) -> Draft:
    """Return two numbers, each changed, then joined."""
    (left_words, left), (right_words, right) = _draw_arithmetic(rng, "a"), _draw_arithmetic(rng, "b")
    joins, code = rng.choice(
        [
            (["the larger of {} and {}", "the maximum of {} and {}"], "max({}, {})"),
            (["the smaller of {} and {}", "the minimum of {} and {}"], "min({}, {})"),
            (["the sum of {} and {}", "{} added to {}"], "({}) + ({})"),
            (["{} less {}", "the difference of {} and {}"], "({}) - ({})"),
            (["the product of {} and {}", "{} multiplied with {}"], "({}) * ({})"),
        ]
    )
    description = rng.choice(["return ", "compute ", "give "]) + rng.choice(joins).format(left_words, right_words)
    return Draft("pair", description, f"def f(a, b):\n    return {code.format(left, right)}")


FAMILIES: dict[str, Callable[[random.Random], Draft]] = {"conditional": conditional, "two_numbers": two_numbers}
