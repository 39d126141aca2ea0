"""Whether a value is the expected one: as Python has it, as JSON has it, as printed text."""

import math

import pytest

from openrlhf_pf.code_reward.judge import checks, programs

PYTHON = [
    (1, 1.0, True),
    ([1], (1,), False),
    (0.1 + 0.2, 0.3, False),
    (0.1 + 0.2, 0.3, True, 1e-6),
    ([0.1 + 0.2, {"a": (1.0,)}], [0.3, {"a": (1.0000001,)}], True, 1e-6),
    ([1.0], [1.0, 2.0], False, 1e-6),
    (math.nan, 1.0, False, 1e-6),
    (math.inf, math.inf, True, 1e-6),
    ("1.0", 1.0, False, 1e-6),
    ({"a": 1.0}, {"b": 1.0}, False, 1e-6),
]
JSON = [
    ((1, (2, 3)), [1, [2, 3]], True),
    ({1: 2}, {"1": 2}, True),
    ({None: 1, True: 2, 0.5: 3}, {"null": 1, "true": 2, "0.5": 3}, True),
    ({(1, 2): 3}, {"1": 3}, False),
    ({3, 1, 2}, [1, 2, 3], True),
    ({3, 1}, [1, 3, 3], False),
    (range(3), [0, 1, 2], True),
    (float("nan"), float("nan"), True),
    ([float("inf")], [float("inf")], True),
    ("12", [1, 2], False),
    ([1, 2], "12", False),
    (1, "1", False),
    ([], {}, False),
    (None, [], False),
    ([1], [1, None], False),
    (2, 2.0, True),
    (10**400, 1.0, False),
    (1, True, True),
    (True, 1, True),
    (0.0, False, True),
    ([0, {"a": 1}], [False, {"a": True}], True),
    ([False, {"a": True}], [0, {"a": 1}], True),
    (2, True, False),
    ("true", True, False),
    (None, False, False),
    ([], False, False),
]
PRINTED = [
    ("1 2\n", "1  2", True),
    ("1\n\n", "1", True),
    ("a\x0cb", "a\nb", False),
    ("a\u2028b\n", "a\u2028b", True),
    ("0.5", "0.50", True),
    ("1e-07", "0.0000001", True),
    ("0.3333333333333333", "0.333333333333", True),
    ("0.3334", "0.3333333", False),
    ("0.3334", "0.3333333", True, 1e-3),
    ("7.0", "7", False),
    ("7", "7.0", True),
    ("07", "7", False),
    ("1_0.0", "10.0", False),
    ("nan", "0.5", False),
    ("1 2", "1\n2", False),
    (" 1", "1", True),
]


@pytest.mark.parametrize(
    "is_equal, case",
    [
        *((checks.is_equal, case) for case in PYTHON),
        *((checks.is_equal_json, case) for case in JSON),
        *((programs.is_equal_output, case) for case in PRINTED),
    ],
)
def test_equality(is_equal, case):
    """Each case is what was got, what is expected, whether they are equal, and the tolerance, if one is given."""
    got, expected, equal, *tolerance = case
    assert is_equal(got, expected, *tolerance) is equal
