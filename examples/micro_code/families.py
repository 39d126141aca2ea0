"""Families of small Python functions with their descriptions.

A family draws a :class:`Draft`: one function (the reference solution) and one way to say it in words. The words are
drawn apart from the function, so the same function can be asked for in many phrasings. To add a family, write ``def
my_family(rng) -> Draft`` and list it in ``FAMILIES``; its ``kind`` names the test inputs (``INPUTS``) that it is
judged on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

K = range(2, 10)  # the constants of the task


@dataclass(frozen=True)
class Draft:
    """One function in words and in code; ``kind`` names the arguments it takes."""

    kind: str
    description: str
    solution: str


def _inputs_of_lists() -> tuple:
    rng = random.Random(7)
    edge_cases = [[], [0], [-1], [5], [2, 2, 2], [-3, -3], list(range(-12, 21)), list(range(20, -13, -1))]
    return tuple((values,) for values in edge_cases + [[rng.randint(-20, 40) for _ in range(n)] for n in (3, 5, 8, 9)])


def _inputs_of_strings() -> tuple:
    words = [
        "",
        "a",
        "Ab",
        "abcabc",
        "Hello World",
        "banana split",
        "Zebra Eats Oats",
        "tEsT oF cAsE aNd More tExt",
        "x" * 12 + "yz",
    ]
    return tuple((word,) for word in words)


# Hidden test inputs, one list of argument tuples for each kind: edge cases first. Fixed, so that two functions are the
# same task exactly when they answer the same on all of them.
INPUTS: dict[str, tuple] = {
    "list": _inputs_of_lists(),
    "int": tuple((n,) for n in [0, 1, -1, *range(2, 21), -2, -3, -6, -7, -8, -9, -12, -15, 36, 63, 100]),
    "count": tuple((n,) for n in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, -3]),
    "str": _inputs_of_strings(),
    "pair": tuple((a, b) for a in (-7, -1, 0, 2, 5, 13) for b in (-9, 0, 1, 3, 8, 20)),
}


def _condition(rng: random.Random, v: str) -> tuple[str, str]:
    """(words, code) of a test on ``v``; the words follow "is" or "are"."""
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


def _arithmetic(rng: random.Random, v: str) -> tuple[str, str]:
    """(words, code) of a small expression in ``v``."""
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


def _map(rng: random.Random) -> tuple[str, str]:
    """(imperative words about "each", code in ``v``) of a change to every item."""
    k = rng.choice(K)
    return rng.choice(
        [
            (rng.choice([f"add {k} to each", f"increase each by {k}"]), f"v + {k}"),
            (rng.choice([f"subtract {k} from each", f"decrease each by {k}"]), f"v - {k}"),
            (rng.choice([f"multiply each by {k}", f"scale each by {k}"]), f"v * {k}"),
            (rng.choice([f"divide each by {k} rounding down", f"floor divide each by {k}"]), f"v // {k}"),
            (rng.choice(["square each", "take the square of each"]), "v * v"),
            (rng.choice(["negate each", "flip the sign of each"]), "-v"),
        ]
    )


REDUCTIONS = [
    (["add them up", "return their sum", "return the total"], "sum({})"),
    (["return the largest or 0", "return the maximum or 0"], "max({}, default=0)"),
    (["return the smallest or 0", "return the minimum or 0"], "min({}, default=0)"),
    (["return the list", "return them in order of appearance"], "[{}]"),
    (["return them sorted", "sort them from small to large"], "sorted({})"),
    (["sort them from large to small", "return them sorted downwards"], "sorted({}, reverse=True)"),
]


def list_pipeline(rng: random.Random) -> Draft:
    """Keep some items of a list, change each, reduce them."""
    keep_words, keep = _condition(rng, "v")
    change_words, change = _map(rng)
    reduce_words, reduction = rng.choice(REDUCTIONS)
    inner = f"{change} for v in x if {keep}"
    call = reduction.format(
        f"({inner})" if "default" in reduction else f"[{inner}]" if "reverse" in reduction else inner
    )
    start = rng.choice(
        ["from x keep the items that are", "take the numbers of x that are", "of the items in x which are"]
    )
    return Draft(
        "list",
        f"{start} {keep_words} , {change_words} and {rng.choice(reduce_words)}",
        f"def f(x):\n    return {call}",
    )


def conditional(rng: random.Random) -> Draft:
    """One of two expressions, by a test on a number."""
    test_words, test = _condition(rng, "n")
    then_words, then = _arithmetic(rng, "n")
    else_words, other = _arithmetic(rng, "n")
    description = rng.choice(
        [
            f"if n is {test_words} return {then_words} , otherwise {else_words}",
            f"return {then_words} when n is {test_words} , else {else_words}",
            f"give {else_words} unless n is {test_words} , in which case give {then_words}",
        ]
    )
    return Draft("int", description, f"def f(n):\n    return {then} if {test} else {other}")


def loop(rng: random.Random) -> Draft:
    """A total over a counted loop with a test inside."""
    start, first = rng.choice(K), rng.choice([0, 1, 2, 3])
    test_words, test = _condition(rng, "i")
    term_words, term = _arithmetic(rng, "i")
    inclusive, adding = rng.random() < 0.5, rng.random() < 0.5
    end_words = rng.choice(
        ["up to and including n", "to n inclusive"] if inclusive else ["up to but not n", "to n exclusive"]
    )
    verb = rng.choice(["add", "count in"] if adding else ["subtract", "take off"])
    description = f"start at {start} and for i from {first} {end_words} {verb} {term_words} if i is {test_words}"
    stop = "n + 1" if inclusive else "n"
    lines = ["def f(n):", f"    t = {start}", f"    for i in range({first}, {stop}):", f"        if {test}:"]
    lines += [f"            t {'+' if adding else '-'}= {term}", "    return t"]
    return Draft("count", description, "\n".join(lines))


def string_chain(rng: random.Random) -> Draft:
    """Two or three edits of a string, one after the other."""
    words, code = [], "s"
    for _ in range(rng.choice([2, 3])):
        k, (a, b) = rng.choice(K), rng.sample("abelost", 2)
        step_words, step = rng.choice(
            [
                (rng.choice([f"take the first {k} characters", f"keep only the first {k} letters"]), f"[:{k}]"),
                (rng.choice([f"take the last {k} characters", f"keep only the last {k} letters"]), f"[-{k}:]"),
                (rng.choice([f"drop the first {k} characters", f"remove the first {k} letters"]), f"[{k}:]"),
                (rng.choice([f"drop the last {k} characters", f"remove the last {k} letters"]), f"[:-{k}]"),
                (rng.choice(["reverse it", "turn it around"]), "[::-1]"),
                (rng.choice(["make it upper case", "capitalise every letter"]), ".upper()"),
                (rng.choice(["make it lower case", "use small letters"]), ".lower()"),
                (rng.choice([f"keep every {k} th character", f"take one character in {k}"]), f"[::{k}]"),
                (rng.choice([f"replace {a} by {b}", f"turn each {a} into {b}"]), f".replace('{a}', '{b}')"),
            ]
        )
        words.append(step_words)
        code += step
    return Draft(
        "str",
        "with the string s , " + rng.choice([" , then ", " and then "]).join(words),
        f"def f(s):\n    return {code}",
    )


def two_numbers(rng: random.Random) -> Draft:
    """Two numbers, each changed, then put together."""
    (left_words, left), (right_words, right) = _arithmetic(rng, "a"), _arithmetic(rng, "b")
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


FAMILIES: dict[str, Callable[[random.Random], Draft]] = {
    "list_pipeline": list_pipeline,
    "conditional": conditional,
    "loop": loop,
    "string_chain": string_chain,
    "two_numbers": two_numbers,
}
