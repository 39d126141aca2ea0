"""What programs do, in the real sandbox: one fingerprint for the same answers, another one for others, none for a
program that answers nothing.
"""

import json
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction

import pytest

from openrlhf_pf.code_reward import Pool, Verdict
from openrlhf_pf.code_reward.judge.observe import canonical, disarmed, observation_of
from openrlhf_pf.code_reward.tasks import from_label


@pytest.fixture(scope="module")
def pool():
    with Pool(2, packages=()) as pool:
        yield pool


def seen(pool, label, *programs):
    """The fingerprint of each program, or the verdict and the reason why there is none."""
    task = from_label(label)
    problem = observation_of(task.problem)
    results = pool.check_all([(task.program(program), problem) for program in programs])
    return [r.detail if r.passed else (r.verdict.value, r.detail) for r in results]


CALLS = {"entry_point": "f", "inputs": [[1], [2], [0]], "outputs": [1, 4, 0]}
SQUARE, POWER, DOUBLE = (f"def f(n):\n    return {body}\n" for body in ("n * n", "float(n ** 2)", "2 * n"))
PARTLY = "def f(n):\n    return n * n // (n > 0)\n"  # fails for the last input
FORMS = {
    "calls": CALLS,
    "HumanEval": {"entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == 1\n"
                  "    assert candidate(2) == 4 and candidate(0) == 0\n"},
    "a loop": {"entry_point": "f", "test": "def check(c):\n    for n in range(3):\n        assert c(n) == n * n\n"},
    "asserts": {"asserts": ["assert f(1) == 1", "assert f(2) == 4", "assert f(0) == 0"]},
    "MBPP": {"task_id": 1, "test_list": ["assert f(1) == 1", "assert f(2) == 4", "assert f(0) == 0"], "code": SQUARE},
    "pytest": {"test": "from solution import f\ndef test_it():\n    assert f(1) == 1\n    assert f(2) == 4\n"
               "    assert f(0) == 0\n", "entry_point": "f"},
    "unittest": {"test": "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n"
                 "        self.assertEqual(f(1), 1)\n        self.assertEqual(f(2), 4)\n"
                 "        self.assertEqual(f(0), 0)\n", "entry_point": "f"},
    "EvalPlus": {"task_id": "Mbpp/2", "prompt": "def f(n):\n", "canonical_solution": "    return n * n\n",
                 "entry_point": "f", "base_input": [[1], [2]], "plus_input": [[0]], "atol": 0},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_equal_answers_have_equal_fingerprints(pool, form):
    square, power, double, partly, broken, unreadable = seen(
        pool, FORMS[form], SQUARE, POWER, DOUBLE, PARTLY, "def f(n):\n    return n.x\n", "def f(n:\n"
    )
    assert square == power and len(square) == 32, "1.0 is 1"
    assert double not in (square, partly) and partly != square, "the inputs after a wrong answer are asked as well"
    assert len(partly) == 32, "an exception for one input is an answer"
    assert broken == ("failed", "it fails on every input")
    assert unreadable[0] == "syntax_error"


@pytest.mark.parametrize("form", FORMS)
def test_expected_values_take_no_part(pool, form):
    wrong = json.loads(json.dumps(FORMS[form]).replace("== 4", "== 5").replace("), 4)", "), 5)").replace("n * n", "n"))
    wrong |= {"outputs": [7, 8, 9]} if form == "calls" else {}
    assert wrong != FORMS[form]
    assert seen(pool, wrong, SQUARE, DOUBLE) == seen(pool, FORMS[form], SQUARE, DOUBLE)


def test_of_calls_and_programs_no_expected_value_is_sent():
    secret = {"entry_point": "f", "inputs": [[1]], "outputs": ["a secret"]}
    for label in (secret, {"stdin": ["1"], "stdout": ["a secret"]}):
        assert b"a secret" in from_label(label).problem.encoded
        assert b"a secret" not in observation_of(from_label(label).problem).encoded


def test_exceptions_are_told_apart_by_their_class(pool):
    ways = ["n * n if n else 1 // 0", "n * n if n else 2 // 0", "n * n if n else [][0]"]
    one, same, other = seen(pool, CALLS, *(f"def f(n):\n    return {way}\n" for way in ways))
    assert one == same != other


def test_what_does_not_end_or_cannot_be_compared_has_no_fingerprint(pool):
    label = {**CALLS, "cpu_seconds": 1}
    endless, gone, own, lazy, listed = seen(
        pool,
        label,
        "def f(n):\n    while n == 0: pass\n    return n\n",
        "import os\ndef f(n):\n    os._exit(0)\n",
        "class A: pass\ndef f(n):\n    return A()\n",
        "def f(n):\n    yield from range(n)\n",
        "def f(n):\n    return list(range(n))\n",
    )
    assert endless[0] == "timeout" and gone[0] == "crashed"
    assert own == ("failed", "it returns a A, which only the program can compare")
    assert lazy == listed, "JSON has one kind of sequence"


def test_whole_programs_by_what_they_print(pool):
    label = {"stdin": ["1\n", "0\n"], "stdout": ["x", "y"]}
    one, blanks, other, partly, broken = seen(
        pool,
        label,
        "print(int(input()) + 1)",
        "print(int(input()) + 1, '')\nprint()",
        "print(int(input()))",
        "print(1 + 1 // int(input()))",
        "raise ValueError",
    )
    assert one == blanks and len({one, other, partly}) == 3 and len(partly) == 32
    assert broken == ("failed", "it fails on every input")


@pytest.mark.parametrize("label", [CALLS, {"stdin": ["1"], "stdout": ["1"]}], ids=["calls", "programs"])
def test_a_program_without_its_package_fails_alone(pool, label):
    """As the only one of a prompt's programs that cannot be compared, and not as a failure of the sandbox."""
    (found,) = seen(pool, label, "import torch\ndef f(n):\n    return n\n")
    assert found[0] == "failed"


def test_a_test_that_asks_nothing_is_the_labels_fault(pool):
    task = from_label({"entry_point": "f", "test": "def check(candidate):\n    assert 1 == 1\n"})
    result = pool.check(SQUARE, observation_of(task.problem))
    assert result.verdict is Verdict.INFRASTRUCTURE and result.label_at_fault


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "one, other",
    [
        (1, True), (1, 1.0), (0.1 + 0.2, 0.30000000000000004), (10**400, 10**400), (1, Fraction(2, 2)),
        (2, Decimal(2)),
        (1, 1 + 0j), (float("nan"), float("nan")), ({0, 8}, {8, 0}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Counter("aab"), {"b": 1, "a": 2}), (OrderedDict(a=1), {"a": 1.0}), (-0.0, 0),
    ],
)  # fmt: skip
def test_what_is_equal_has_one_text(one, other, as_json):
    assert canonical(one, as_json) == canonical(other, as_json)
    assert canonical([one], as_json) == canonical([other], as_json)


@pytest.mark.parametrize(
    "one, other, in_json",
    [
        (1, "1", False), (0.1, 0.2, False), ("a", b"a", False), ([1, 2], [2, 1], False), ([1], (1,), True),
        ([1, 2], {1, 2}, True), ({1: 2}, {"1": 2}, True), ([1], deque([1]), True), ([1, 2], [[1], 2], False),
        ([""], [], False), (None, "null", False), (0.1, Fraction(1, 10), False), (["a, b"], ["a", "b"], False),
    ],
)  # fmt: skip
def test_what_is_not_equal_has_two(one, other, in_json):
    assert canonical(one) != canonical(other)
    assert (canonical(one, True) == canonical(other, True)) is in_json


def test_no_comparison_of_a_test_leaves_a_question_out():
    asked = []
    test = disarmed(
        "assert f(1) == 2 and f(2) == 3\nassert all(f(n) == 0 for n in (3, 4))\nassert 0 < f(5) < f(6)\nf(7)"
    )
    exec(test, {"f": lambda n: asked.append(n) or 0})
    assert asked == [1, 2, 3, 4, 5, 6, 7]
