"""The kinds of tests that ask a program's functions: each is a function of a :class:`Remote`, the program's source and
the test's data.

It returns if all tests were right. Otherwise it has the remote decide, or raises what the test raised. A remote that
only records what the program answers (:mod:`observe`) is asked all the same questions, and nothing is compared. Whole
programs are judged by :mod:`programs`.
"""

import ast
import contextlib
import inspect
import json
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from openrlhf_pf.code_reward.judge import pytest_stand_in, values
from openrlhf_pf.code_reward.judge.objects import RemoteObject
from openrlhf_pf.code_reward.judge.remote import END, Proxy, Question, Remote, call_of
from openrlhf_pf.code_reward.judge.script import (
    Space,
    foreign_exceptions,
    guarded_imports,
    is_usual,
    parsed,
    undefined_names,
)


def _check_cases(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Input/output pairs: ``path``, ``cases`` of (args, kwargs, expected), ``tolerance``; ``json`` where the values
    came as JSON, ``wrapped`` where an expected value may stand in a list of its own, ``checker`` with a function.
    """
    path, cases, tolerance = data["path"], data["cases"], data["tolerance"]
    equal = is_equal_json if data.get("json") else is_equal
    checker = checker_function(remote, data)
    calls = [call_of(path, args, kwargs) for args, kwargs, _ in cases]
    remote.foresee([("load", source), *calls, END])
    remote.load(source)
    for remote.test, (call, (args, kwargs, expected)) in enumerate(zip(calls, cases)):
        remote.foresee(chain(islice(calls, remote.test, None), [END]))
        remote.calls += 1
        if remote.records:
            with contextlib.suppress(Exception):
                remote.request(call)
            continue
        got = remote.request(call)
        if inspect.iscoroutine(got):
            got = pytest_stand_in.finished(got)
        if checker:
            right = checker(list(args) if not kwargs else {"args": list(args), **kwargs}, got, expected)
        elif data.get("wrapped"):
            (value,) = expected
            if isinstance(got, RemoteObject):  # an iterator is read once
                got = _items(got, len(value) if isinstance(value, list) else 1) or got
            right = equal(got, value, tolerance) or equal(got, expected, tolerance)
        else:
            right = equal(got, expected, tolerance)
        if not right:
            remote.verdict("failed", f"returned {got!r:.100}")


def checker_function(remote: Remote, data: dict[str, Any]) -> Callable[[Any, Any, Any], Any] | None:
    """The label's own ``checker(input, output, expected)``, if it has one."""
    if not data.get("checker"):
        return None
    space = Space(remote, set())
    space.trusted(lambda: space.run(data["checker"]))
    return space.names["checker"]


def _check_function(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """A checker ``check(candidate)``: ``preamble``, ``test``, ``entry_point``, ``function``."""
    path = data["entry_point"].replace("()", "").split(".")
    name = path[-1]
    is_class = len(path) == 1 and name[:1].isupper()
    if len(path) == 1 and not is_class and not foreign_exceptions(data["test"]):
        sure = certain_questions(data["test"], data["function"], name)
        remote.foresee([("load", source), *sure])
    space = Space(remote, {name} if len(path) == 1 else {path[0]})
    space.refuse_missing(data["preamble"], data["test"])
    remote.load(source)
    space.trusted(lambda: space.run(data["preamble"]))
    test = remote.heeded(data["test"])
    space.prepare(test, frozenset({name}))
    # Before and after: the test may use the program under its own name, or define something of that name.
    space.names[name] = candidate = space.foreign(name) if is_class else Proxy(remote, *path)
    space.run(test)

    def counted(*args: Any, **kwargs: Any) -> Any:
        remote.test = remote.calls
        return candidate(*args, **kwargs)

    counted.__name__ = name
    given = candidate if is_class else counted
    _judged(space, lambda: pytest_stand_in.finished(space.names[data["function"]](given)))


def _judged(space: Space, step: Callable[[], Any]) -> None:
    try:
        step()
    except Exception as error:
        if not space.remote.records:
            space.judge(error)
            raise


@lru_cache(maxsize=512)
def certain_questions(test: str, function: str, entry_point: str) -> list[Question]:
    """What ``function(candidate)`` asks first, whatever the answers are: calls with literal arguments, in straight
    code; with the end of the conversation, if it asks nothing else.
    """
    found: list[Question] = []
    try:
        for definition in parsed(test).body:
            if isinstance(definition, ast.FunctionDef) and definition.name == function:
                (name,) = (argument.arg for argument in definition.args.args)
                whole = _foreseen(definition.body, name, entry_point, found)
                # What is in a text may call the program too, and by either name.
                words = re.findall(r"\w+", test)
                if "solution" in words or any(not is_usual(one) for one in undefined_names(test) - {entry_point}):
                    return []  # other names of the program are asked for, and at any time
                whole = whole and words.count(name) == 1 + len(found) and entry_point not in words
                return [*found, END] if whole else found
    except (SyntaxError, ValueError):
        pass  # from here on, or about this test, nothing is sure
    return found


def _foreseen(body: list[ast.stmt], name: str, entry_point: str, found: list[Question]) -> bool:
    """Collect the calls of a name that statements make for sure; whether these are all statements."""
    for statement in body:
        if not isinstance(statement, (ast.Assert, ast.Expr, ast.Assign, ast.Import, ast.ImportFrom)):
            return False
        part = statement.test if isinstance(statement, ast.Assert) else statement
        found += [call_of([entry_point], *call) for call in _literal_calls(part, name)]
    return True


def _literal_calls(node: ast.AST, name: str) -> list[tuple[list[Any], dict[str, Any]]]:
    """The calls of a name in a piece of code, in the order in which they are made.

    Raises:
        ValueError: one of them has other arguments, or may be left out, or the name is used in another way.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("no literal")
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        return [([ast.literal_eval(argument) for argument in node.args], kwargs)]
    if isinstance(node, ast.Name) and node.id == name:
        raise ValueError("no call")
    found = [call for child in ast.iter_child_nodes(node) for call in _literal_calls(child, name)]
    maybe = (ast.BoolOp, ast.IfExp, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    if found and (isinstance(node, maybe) or (isinstance(node, ast.Compare) and len(node.ops) > 1)):
        raise ValueError("not for sure")
    return found


def _check_asserts(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Statements: ``imports``, for the program too where they import, ``setup``, ``asserts``, ``names`` of the
    solution's; ``reference`` with the code that defines ``helpers``, which are ours.
    """
    own = {*data["names"], data.get("entry_point", "")} - {""} - set(data.get("helpers", ()))
    space = Space(remote, own)
    space.refuse_missing(data["imports"], "\n".join([data["setup"], *data["asserts"]]))
    remote.load(f"{guarded_imports(data['imports'])}\n{source}\n")
    space.trusted(lambda: space.run(data["imports"]))
    if data.get("helpers"):
        made: dict[str, Any] = {"__name__": "checker"}
        space.trusted(lambda: exec(compile(data["reference"], "<reference>", "exec"), made))
        space.names.update({name: made[name] for name in data["helpers"] if name in made})
        if any(name[:1].isupper() for name in data["names"]):  # it compares objects of the program's own classes
            remote.weaker = True
    remote.compares_own = bool(data.get("compares_own"))
    setup, *asserts = [remote.heeded(text) for text in [data["setup"], *data["asserts"]]]
    space.prepare("\n".join([setup, *asserts]))
    if setup.strip():
        _judged(space, lambda: space.run(setup))
    for remote.test, text in enumerate(asserts):
        _judged(space, lambda text=text: space.run(text))


def _check_functions(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """A module of test functions ``test_...`` and classes of them, as pytest and unittest run them: ``test``,
    ``entry_point``.
    """
    space = Space(remote, {data["entry_point"]} - {""})
    space.refuse_missing(data.get("imports", ""), data.get("setup", ""), data["test"])
    remote.load(source)
    space.trusted(lambda: space.run(data.get("setup", "")))
    test = remote.heeded(data["test"])
    space.prepare(test)
    _judged(space, lambda: space.run(test))
    tests = pytest_stand_in.tests_of(space.names)
    if not tests:
        remote.fault("it has no function test_...")
    for remote.test, test in enumerate(tests):
        _judged(space, lambda test=test: _run_unless_skipped(remote, test))


def _run_unless_skipped(remote: Remote, test: Callable[[], Any]) -> None:
    before = remote.asked
    try:
        test()
    except pytest_stand_in.SKIPS as error:
        if remote.asked != before:  # what the program answered must not decide whether it is tested
            remote.verdict("failed", f"the test skipped itself after the program was asked: {error}")


Check = Callable[[Remote, str, dict[str, Any]], None]
CHECKS: dict[str, Check] = {
    "cases": _check_cases,
    "function": _check_function,
    "asserts": _check_asserts,
    "functions": _check_functions,
}


# ── Whether a value is the expected one, as Python or as JSON has them ──


def is_equal(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two values are equal as ``==`` has it, floats (also inside lists, tuples and dicts) within a tolerance;
    a NaN is the same as a NaN.
    """
    left, right = _listed(left), _listed(right)
    if isinstance(left, float) or isinstance(right, float):
        return _numbers(left, right) and values.is_close(left, right, tolerance)
    if type(left) is type(right) and isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(is_equal(a, b, tolerance) for a, b in zip(left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(is_equal(left[key], right[key], tolerance) for key in left)
    return bool(left == right)


def is_equal_json(got: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether a value equals a JSON value; JSON has one kind of sequence, no sets, and only strings as keys."""
    got = _listed(got)
    if isinstance(expected, list):
        items = _items(got, len(expected))
        if items is None or len(items) != len(expected):
            return False
        if isinstance(got, (set, frozenset)):
            items, expected = sorted(items, key=_order), sorted(expected, key=_order)
        return all(is_equal_json(a, b, tolerance) for a, b in zip(items, expected))
    if isinstance(expected, dict):
        if not isinstance(got, dict) or len(got) != len(expected):
            return False
        named = {_key(key): value for key, value in got.items()}
        return named.keys() == expected.keys() and all(
            is_equal_json(named[key], value, tolerance) for key, value in expected.items()
        )
    if isinstance(expected, str):
        return (
            str(got) == expected if values.known_name(type(got)) in ("date", "datetime", "time") else got == expected
        )
    if isinstance(expected, (int, float)) and not isinstance(got, (str, bytes, RemoteObject)):
        exact = isinstance(expected, int) and isinstance(got, int)
        return bool(got == expected) if exact else values.is_close(got, expected, tolerance)
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
    if isinstance(got, RemoteObject) and got._remote_ability == values.ITERATES:
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
