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


@pytest.mark.parametrize(
    "name", ["math", "np", "Counter", "isclose", "sys", "abs", "sorted", "len", "approx", "pytest"]
)
def test_a_name_that_everybody_knows_is_never_the_program_s(pool, name):
    """The program defines it so that every comparison holds."""
    thief = f"""
class Yes:
    def __getattr__(self, name): return lambda *arguments, **named: Yes()
    def __call__(self, *arguments, **named): return 0
    def __eq__(self, other): return True
    __hash__ = None
{name} = Yes()
import builtins
builtins.{name} = {name}
def f(n):
    return 0
"""
    uses = {
        "math": "assert math.isclose(f(2), 4.0)",
        "np": "assert np.allclose(f(2), 4.0)",
        "Counter": "assert f(2) == Counter('ab')",
        "isclose": "assert isclose(f(2), 4.0)",
        "sys": "assert f(2) == sys.getsizeof(())",
        "abs": "assert abs(f(2) - 4.0) < 1e-6",
        "sorted": "assert sorted([f(2)]) == [4]",
        "len": "assert len([f(2)]) == f(2)",
        "approx": "from pytest import approx\nassert f(2) == approx(4.0)",
        "pytest": "import pytest\nassert f(2) == pytest.approx(4.0)",
    }
    assert verdict(pool, thief, uses[name]) in ("failed", "crashed")


@pytest.mark.parametrize(
    "test",
    [
        "assert f(3).startswith('a')",
        "assert f(3).equals(7)",
        "assert 7 in f(3)",
        "assert f(3) == 7",
        "assert f(3) - 7 == 0",
        "assert abs(f(3) - 7) < 1e-6",
        "assert f(3) >= 7",
        "assert f(3) == [7]",
        "assert sorted(f(3)) == [7]",
        "assert set(f(3)) == {7}",
        "assert all(a == b for a, b in zip(f(3), [7]))\nassert len(list(f(3))) == 1",
    ],
)
def test_an_object_of_the_program_s_does_not_judge_itself(pool, test):
    liar = """
class Any:
    def __getattr__(self, name): return lambda *arguments: Any()
    def __eq__(self, other): return True
    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = __eq__
    def __bool__(self): return True
    def __contains__(self, item): return True
    def __sub__(self, other): return 0
    __rsub__ = __sub__
    def __abs__(self): return 0
    def __len__(self): return 1
    def __iter__(self): return iter([Any()])
    def __hash__(self): return hash(7)
def f(n):
    return Any()
"""
    assert verdict(pool, liar, test) == "failed"


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
        (["assert f(1) == Point(3)"], "the program's own class Point would decide"),
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


@pytest.mark.parametrize(
    "test", ["for last in f(3):\n    pass\nassert last == 2", "assert f(3)[0] == 1", "assert f(3).x"]
)
def test_what_the_program_s_answer_breaks_is_the_program_s_fault(pool, test):
    assert verdict(pool, "def f(n):\n    return []", test) == "failed"


@pytest.mark.parametrize(
    "program, test, expected",
    [
        ("def f(a):\n    a.sort()", "a = [3, 1]\nf(a)\nassert a == [1, 3]", "passed"),
        ("def f(a):\n    return sorted(a)", "a = [3, 1]\nb = f(a)\nassert a == [3, 1] and b == [1, 3]", "passed"),
        ("def f(a):\n    a.sort()\n    return a", "a = [3, 1]\nb = f(a)\nassert a == [3, 1]", "failed"),
        ("def f(a):\n    return a", "a = [3, 1]\nassert f(a) is not a", "failed"),
        ("def f(a):\n    return list(a)", "a = [3, 1]\nassert f(a) is not a", "passed"),
        ("def f(a):\n    a[0][0] = 9", "row = [1]\nf([row, [2]])\nassert row == [9]", "passed"),
        ("def f(a):\n    a[0], a[1] = a[1], a[0]", "x, y = [1], [2]\na = [x, y]\nf(a)\nassert a[0] is y", "passed"),
        ("def f(d):\n    d['x'] = d.pop('y')", "d = {'y': 1}\nf(d)\nassert d == {'x': 1}", "passed"),
        ("def f(s):\n    s.add(2)", "s = {1}\nf(s)\nassert s == {1, 2}", "passed"),
        (
            "def f(d):\n    d.rotate(1)",
            "d = collections.deque([1, 2, 3])\nf(d)\nassert list(d) == [3, 1, 2]",
            "passed",
        ),
        ("def f(a):\n    a *= 2", "a = np.arange(3)\nf(a)\nassert a.tolist() == [0, 2, 4]", "passed"),
        ("def f(a, *, key):\n    key.append(a)", "k = []\nf(1, key=k)\nassert k == [1]", "passed"),
        ("def f(a):\n    a.append(f)", "a = []\nf(a)\nassert a == []", "failed"),
        # The test changes them too, while the program has them.
        (
            "def f(a, pop):\n    pop()\n    a[0].append(5)",
            "a = [[1], [2]]\nf(a, lambda: a.pop())\nassert a == [[1, 5], [2]]",
            "passed",
        ),
    ],
)
def test_arguments_are_judged_as_the_program_left_them(pool, program, test, expected):
    if "np." in test:
        pytest.importorskip("numpy")
    assert verdict(pool, program, test) == expected


@pytest.mark.parametrize(
    "program, test",
    [
        ("def f(n):\n    return range(n)", "assert f(3) == range(3) and list(f(3)) == [0, 1, 2]"),
        ("def f(n):\n    yield from range(n)", "assert [x for x in f(3)] == [0, 1, 2]"),
        ("def f(n):\n    while True:\n        yield n\n        n += 1", "g = f(3)\nassert [next(g), next(g)] == [3, 4]"),
        ("def f(n):\n    yield 1\n    raise KeyError('x')", "g = f(3)\nassert next(g) == 1\nwith pytest.raises(KeyError):\n    next(g)"),
        ("def f(n):\n    return map(str, range(n))", "assert list(f(2000))[-1] == '1999'"),
        ("def f(n):\n    return {1: 2}.items()", "assert f(0) == {1: 2}.items() and dict(f(0)) == {1: 2}"),
        ("from collections import *\ndef f(n):\n    return Counter(n)", "assert f('aab').most_common(1) == [('a', 2)]"),
        ("from datetime import *\ndef f(n):\n    return date(2024, 1, n)", "assert f(3) == date(2024, 1, 3)"),
        ("from datetime import *\ndef f(n):\n    return timedelta(n)", "assert f(3).days == 3"),
        ("def f(n):\n    return lambda m: n + m", "assert f(1)(2) == 3 and callable(f(1))"),
        ("import re\ndef f(n):\n    return re.match('a', n)", "assert f('ab') and not f('b')"),
        ("def f(n):\n    return float('nan')", "assert math.isnan(f(1))"),
    ],
)  # fmt: skip
def test_values_that_are_no_plain_data(pool, program, test):
    assert verdict(pool, program, test) == "passed"


ASKED_AHEAD = {
    "cases": {
        "fn_name": "f",
        "inputs": [[n] for n in range(1, 31)],
        "outputs": [list(range(n)) for n in range(1, 31)],
    },
    "check": {
        "entry_point": "f",
        "test": "def check(candidate):\n"
        + "".join(f"    assert list(candidate({n})) == {list(range(n))}\n" for n in range(1, 31)),
    },
}


@pytest.mark.parametrize("form", ASKED_AHEAD)
@pytest.mark.parametrize(
    "body, expected",
    [
        ("yield from range(n)", "passed"),
        ("return map(int, range(n))", "passed"),
        ("yield from range(n if n < 20 else 0)", "failed"),
        ("yield from range(n)\n    yield n", "failed"),
        # No call may be repeated with every further one: some calls change what the program knows.
        ("calls.append(n)\n    yield from range(n if len(calls) < 65 else 0)", "passed"),
    ],
)
def test_iterators_whose_questions_were_asked_ahead(pool, form, body, expected):
    task = from_label(ASKED_AHEAD[form])
    result = pool.check(f"calls = []\ndef f(n):\n    {body}\n", task.problem)
    assert (result.verdict.value, result.calls) == (expected, 30 if expected == "passed" else result.calls), result


@pytest.mark.parametrize(
    "program, test",
    [
        ("def f(g):\n    return g(2) + g(k=3)", "assert f(lambda k: k + 1) == 7"),
        ("def f(g, a):\n    return sorted(a, key=g)", "assert f(len, ['bb', 'a']) == ['a', 'bb']"),
        ("def f(g, n):\n    return n if n == 0 else g(f, n - 1)", "assert f(lambda again, n: again(lambda h, m: m, n), 2) == 0"),
        ("def f(g):\n    try:\n        g()\n    except ValueError as e:\n        return str(e)", "def g():\n    raise ValueError('no')\nassert f(g) == 'no'"),
        ("def f(kind):\n    return kind('3')", "assert f(int) == 3"),
        ("def f(it):\n    return next(it) + sum(it)", "assert f(iter([1, 2, 3])) == 6"),
        ("def f(c):\n    return c.most_common(1)[0][0]", "assert f(Counter('aab')) == 'a'"),
        ("def f(d):\n    return d.year", "assert f(datetime.date(2024, 1, 2)) == 2024"),
        ("def f(n):\n    n.value += n.step()\n    return n.limit", "class N:\n    limit = 9\n    def __init__(self):\n        self.value = 1\n    def step(self):\n        return 4\nn = N()\nassert f(n) == 9 and n.value == 5"),
        ("def f(n):\n    while n.next: n = n.next\n    return n.v", "class L:\n    def __init__(self, v, n):\n        self.v, self.next = v, n\nhead = None\nfor i in range(500): head = L(i, head)\nassert f(head) == 0"),
        ("def f(a):\n    return a.other.other is a", "class N:\n    pass\na, b = N(), N()\na.other, b.other = b, a\nassert f(a)"),
    ],
)  # fmt: skip
def test_a_test_s_own_functions_and_objects_as_arguments(pool, program, test):
    result = check(pool, program, test)
    assert result.passed, result


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


@pytest.mark.parametrize(
    "body, expected",
    [
        ("raise ValueError('negative')", "passed"),
        ("raise ValueError('other')", "failed"),
        ("raise TypeError('negative')", "failed"),
        ("return n", "failed"),
        ("class E(ValueError): pass\n    raise E('negative')", "passed"),
    ],
)
def test_an_exception_that_is_expected(pool, body, expected):
    for test in (
        "with pytest.raises(ValueError, match='neg'):\n    f(-1)",
        "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'negative'",
    ):
        assert verdict(pool, f"def f(n):\n    {body}\n", test) == expected


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
