"""The verdict: what a program is asked, what it cannot decide, a test's own fault, and objects of both sides."""

# ruff: noqa: E501 - a program and the test of it stand on one line
import pytest

from openrlhf_pf.code_reward import Pool, Verdict
from openrlhf_pf.code_reward.judge import checks, programs
from openrlhf_pf.code_reward.tasks import from_label

IDENTITY = "def f(n):\n    return n\n"
STACK = """
class Stack:
    def __init__(self):
        self.items = []
    def push(self, item):
        self.items.append(item)
    def pop(self):
        return self.items.pop()
    def __len__(self):
        return len(self.items)
    def __contains__(self, item):
        return item in self.items
"""


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


def check(pool, program, *asserts, **fields):
    task = from_label({"asserts": list(asserts), **fields})
    return pool.check(f"{program}\n", task.problem)


def verdict(pool, program, *asserts, **fields):
    return check(pool, program, *asserts, **fields).verdict.value


SPY = """
import sys
def f(*arguments):
    frame = sys._getframe()
    while "asked" not in frame.f_locals:
        frame = frame.f_back
    raise ValueError(repr(frame.f_locals["asked"]))
"""


def test_a_question_has_one_form_whatever_is_expected(pool):
    ways = ["assert f(7)", "assert not f(7)", "assert f(7) == False", "assert f(7) is True", "assert f(7) > 314159",
            "assert str(f(7)) == '314159'", "assert 314159 in [f(7)]", "x = 314159\nassert abs(f(7) - x) < 1e-6"]  # fmt: skip
    details = {check(pool, SPY, way).detail for way in ways}
    assert details == {"ValueError: [('change', ['f'], (7,), {})]"}


def test_helpers_and_references_stay_here(pool):
    setup = "def ref(n):\n    return n * n + 7\ndef close(a, b):\n    return abs(a - b) < 1e-6\n"
    look = "import sys\ndef f(n):\n    return getattr(sys.modules['solution'], 'ref', lambda n: None)(n)\n"
    for where in ("setup", "imports"):
        assert verdict(pool, look, "assert f(3) == ref(3)", **{where: setup}) == "failed"
        assert (
            verdict(pool, "def f(n):\n    return n * n + 7", "assert close(f(3), ref(3))", **{where: setup})
            == "passed"
        )


@pytest.mark.parametrize(
    "asserts, message",
    [
        (["assert same(f(1), 2)"], "same(...) judges the program's answer, and nothing defines it but the program"),
        (["assert not differs(f(1), 2)"], "differs(...) judges the program's answer"),
        (["assert f(1) =="], "asserts[0] is no Python code"),
    ],
)
def test_a_test_that_leaves_the_verdict_to_the_program_is_refused(asserts, message):
    with pytest.raises(ValueError) as error:
        from_label({"asserts": asserts})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "test, imports",
    [
        ("assert f(1) == unknown", ""),
        ("assert math.isclosee(f(1), 1)", "import math"),
        ("assert f(1) == 1", "import no_such_module"),
        ("assert f(1) == 1", "from math import isclosee"),
        ("assert 1 == 2", ""),
        ("assert True", ""),
        ("def g(x:\n    pass", None),
    ],
)
def test_the_test_s_own_fault_is_no_verdict(pool, test, imports):
    if imports is None:
        with pytest.raises(ValueError, match="is no Python code"):
            from_label({"asserts": [test]})
        return
    result = check(pool, IDENTITY, test, imports=imports, entry_point="f")
    assert (result.verdict, result.label_at_fault, result.reward != result.reward) == (
        Verdict.INFRASTRUCTURE,
        True,
        True,
    )
    assert "the label's test is at fault" in result.detail


def test_a_test_s_function_does_not_give_away_what_it_holds(pool):
    thief = """
def f(g):
    for name in ("__globals__", "__code__", "__closure__"):
        for part in (g, getattr(g, "__wrapped__", g)):
            if "314159" in repr(getattr(part, name, "")):
                return 314159
"""
    assert verdict(pool, thief, "answer = 314159\nassert f(lambda x: x == answer) == answer") == "failed"


def test_classes_are_the_program_s(pool):
    test = "s = Stack()\ns.push(1)\ns.push([2])\nassert len(s) == 2 and 1 in s and s.pop() == [2] and s.items == [1]"
    assert verdict(pool, STACK, test) == "passed"
    assert verdict(pool, STACK.replace("self.items.pop()", "7"), test) == "failed"
    assert verdict(pool, STACK, "s = Stack()\nwith pytest.raises(IndexError):\n    s.pop()") == "passed"


def test_what_only_the_program_s_word_decides_is_named(pool):
    vector = (
        "class Vector:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x\n"
    )
    result = check(pool, vector, "assert Vector(1) == Vector(1)")
    assert (result.passed, result.weaker) == (True, True)
    assert not check(pool, vector, "assert Vector(1).x == 1").weaker


def test_an_exception_of_the_program_s_own(pool):
    program = "class TooSmall(Exception): pass\ndef f(n):\n    raise TooSmall(n)\n"
    assert verdict(pool, program, "with pytest.raises(TooSmall):\n    f(1)") == "passed"
    assert verdict(pool, program, "with pytest.raises(TooLarge):\n    f(1)") == "failed"


@pytest.mark.parametrize(
    "got, expected, equal",
    [
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
    ],
)
def test_equality_as_json_has_it(got, expected, equal):
    assert checks.is_equal_json(got, expected) is equal


@pytest.mark.parametrize(
    "got, expected, tolerance, equal",
    [
        ("1 2\n", "1  2", None, True),
        ("1\n\n", "1", None, True),
        ("a\x0cb", "a\nb", None, False),
        ("a\u2028b\n", "a\u2028b", None, True),
        ("0.5", "0.50", None, True),
        ("1e-07", "0.0000001", None, True),
        ("0.3333333333333333", "0.333333333333", None, True),
        ("0.3334", "0.3333333", None, False),
        ("0.3334", "0.3333333", 1e-3, True),
        ("7.0", "7", None, False),
        ("7", "7.0", None, True),
        ("07", "7", None, False),
        ("1_0.0", "10.0", None, False),
        ("nan", "0.5", None, False),
        ("1 2", "1\n2", None, False),
        (" 1", "1", None, True),
    ],
)
def test_equality_of_printed_text(got, expected, tolerance, equal):
    assert programs.is_equal_output(got, expected, tolerance) is equal


@pytest.mark.parametrize(
    "program, expected",
    [
        ("class Point:\n    def __init__(self, x): pass\n    def __eq__(self, other): return True", "infrastructure"),
        ("from collections import namedtuple\nPoint = namedtuple('Point', 'x')", "passed"),
        ("from collections import namedtuple\nPoint = namedtuple('Point', 'x')\ndef f(n): return Point(4)", "failed"),
    ],
)
def test_an_own_class_decides_nothing_about_an_answer(pool, program, expected):
    program = program if "def f" in program else f"{program}\ndef f(n):\n    return Point(3)"
    assert verdict(pool, program, "assert f(1) == Point(3)") == expected


CALL = {"entry_point": "f", "inputs": [[3]], "outputs": [3]}
PRINTS = {"stdin": ["3"], "stdout": ["3"]}


@pytest.mark.parametrize(
    "program, label, package",
    [
        ("import pandas as pd\ndef f(n): return n", CALL, "pandas"),
        ("from sklearn.svm import SVC\ndef f(n): return n", {"asserts": ["assert f(3) == 3"]}, "sklearn"),
        ("def f(n):\n    import sympy\n    return n", CALL, "sympy"),
        (
            "def f(n):\n    import scipy.stats\n    return n",
            {"test": "def test_a():\n    assert f(3) == 3\n"},
            "scipy",
        ),
        ("import torch\nprint(input())", PRINTS, "torch"),
        ("import pytest\nprint(input())", PRINTS, "pytest"),  # the one that tests import is our own
        ("import pytest\ndef f(n): return n", {"asserts": ["with pytest.raises(E):\n    f(3)"]}, "pytest"),
        ("import invented\ndef f(n): return n", CALL, ""),
        ("import invented\nprint(input())", PRINTS, ""),
        ("import numpy.invented\ndef f(n): return n", CALL, ""),
        ("raise ModuleNotFoundError('No module named \\'numpy\\'')", CALL, ""),
        ("raise ValueError('No module named \\'pandas\\'')", CALL, ""),
        ("def f(n):\n    return 4\n    import pandas", CALL, ""),
    ],
)
def test_a_well_known_package_that_is_missing_is_unmeasured(pool, program, label, package):
    """And nothing else: an invented module, or one that is there, is the program's own failure."""
    result = pool.check(f"{program}\n", from_label(label).problem)
    if package:
        assert (result.verdict, result.label_at_fault) == (Verdict.INFRASTRUCTURE, False)
        assert f"the program needs the package '{package}'" in result.detail
    else:
        assert result.verdict is Verdict.FAILED
