"""Whether an answer is the expected one: values as Python or as JSON has them, and printed text."""

import json
import math
from typing import Any

from openrlhf_pf.code_reward.judge import values
from openrlhf_pf.code_reward.judge.objects import RemoteObject

# Of printed numbers with a point or an exponent, unless the label says otherwise.
RELATIVE, ABSOLUTE = 1e-9, 1e-12


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two values are equal as ``==`` has it, floats (also inside lists, tuples and dicts) within a tolerance;
    a NaN is the same as a NaN.
    """
    left, right = _listed(left), _listed(right)
    if isinstance(left, float) or isinstance(right, float):
        return _numbers(left, right) and values.close(left, right, tolerance, tolerance)
    if type(left) is type(right) and isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b, tolerance) for a, b in zip(left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key], tolerance) for key in left)
    return bool(left == right)


def same_json(got: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether a value is what JSON says, which has one kind of sequence, no sets, and only strings as keys."""
    got = _listed(got)
    if isinstance(expected, list):
        items = _items(got, len(expected))
        if items is None or len(items) != len(expected):
            return False
        if isinstance(got, (set, frozenset)):
            items, expected = sorted(items, key=_order), sorted(expected, key=_order)
        return all(same_json(a, b, tolerance) for a, b in zip(items, expected))
    if isinstance(expected, dict):
        if not isinstance(got, dict) or len(got) != len(expected):
            return False
        named = {_key(key): value for key, value in got.items()}
        return named.keys() == expected.keys() and all(
            same_json(named[key], value, tolerance) for key, value in expected.items()
        )
    if isinstance(expected, str):
        return (
            str(got) == expected if values.known_name(type(got)) in ("date", "datetime", "time") else got == expected
        )
    if isinstance(expected, (int, float)) and not isinstance(got, (str, bytes, RemoteObject)):
        exact = isinstance(expected, int) and isinstance(got, int)
        return bool(got == expected) if exact else values.close(got, expected, tolerance, tolerance)
    return bool(got == expected)


def _listed(value: Any) -> Any:
    return value.tolist() if values.known_name(type(value)) == "ndarray" else value


def _numbers(left: Any, right: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) or values.known_name(type(value)) in ("Decimal", "Fraction")

    return number(left) and number(right)


def _items(got: Any, most: int) -> list[Any] | None:
    """What is in a sequence, a set or an iterator."""
    if isinstance(got, (list, tuple, set, frozenset, range)):
        return list(got)
    if values.known_name(type(got)) in ("deque", "dict_keys", "dict_values", "dict_items"):
        return list(got)
    if isinstance(got, RemoteObject) and got._ability == values.ITERATES:
        return [item for _, item in zip(range(most + 1), got)]
    return None


def _key(key: Any) -> Any:
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    return key


def _order(item: Any) -> tuple[str, Any]:
    if isinstance(item, (int, float)):
        return "", item
    return type(item).__name__ if isinstance(item, str) else "list", str(
        list(item) if isinstance(item, tuple) else item
    )


def same_output(got: str, expected: str, tolerance: float | None = None) -> bool:
    """Whether two texts have the same lines, without blanks at their ends and empty lines at the end.

    Numbers with a point or an exponent are equal within a tolerance, whatever their digits: ``None`` is 1e-9 of the
    expected one. Whole numbers are equal as text.
    """
    one, other = _lines(got), _lines(expected)
    if len(one) != len(other):
        return False
    relative, absolute = (RELATIVE, ABSOLUTE) if tolerance is None else (tolerance, tolerance)
    return all(a == b or _same_line(a.split(), b.split(), relative, absolute) for a, b in zip(one, other))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.replace("\r\n", "\n").rstrip().split("\n")]


def _same_line(got: list[str], expected: list[str], relative: float, absolute: float) -> bool:
    if len(got) != len(expected):
        return False
    return all(a == b or _same_number(a, b, relative, absolute) for a, b in zip(got, expected))


def _same_number(got: str, expected: str, relative: float, absolute: float) -> bool:
    if len(got) > 400 or len(expected) > 400 or "_" in got or not any(sign in expected for sign in ".eE"):
        return False
    try:
        left, right = float(got), float(expected)
    except ValueError:
        return False
    return left == right or math.isclose(left, right, rel_tol=relative, abs_tol=absolute)
