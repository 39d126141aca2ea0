"""The test functions of a module as pytest and unittest run them, and what tests use of pytest, which is not in the
checker's jail.
"""

import contextlib
import inspect
import math
import re
import sys
import unittest
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any


class Skipped(Exception):
    """The test skips itself."""


SKIPS = (Skipped, unittest.SkipTest)


# ── The tests of a module ──


def tests_of(names: dict[str, Any]) -> list[Callable[[], Any]]:
    """The tests among the names of a module, ready to be called, with what is set up before and after them."""
    tests = _collected(names, names)
    for setup, teardown in (("setup_module", "teardown_module"), ("setUpModule", "tearDownModule")):
        tests = _between(tests, names.get(setup), names.get(teardown), sys.modules.get("checker"))
    return tests


def _collected(members: dict[str, Any], names: dict[str, Any]) -> list[Callable[[], Any]]:
    """The tests among the members of a module or a class; the module's names have their fixtures."""
    tests: list[Callable[[], Any]] = []
    for name, member in list(members.items()):
        if isinstance(member, type) and issubclass(member, unittest.TestCase):
            tests += _unittest_tests(member)
        elif getattr(member, "__module__", "") != "checker":
            continue
        elif isinstance(member, type) and name.startswith("Test"):
            methods = dict.fromkeys(name for base in member.__mro__[::-1] for name in vars(base) if name[:4] == "test")
            calls = [call for method in methods for call in _calls(getattr(member, method), names, member, method)]
            tests += _between(calls, getattr(member, "setup_class", None), getattr(member, "teardown_class", None))
            tests += _collected(
                {name: inner for name, inner in vars(member).items() if isinstance(inner, type)}, names
            )
        elif callable(member) and name.startswith("test") and not isinstance(member, Fixture):
            tests += _calls(member, names)
    return tests


def _call_with(step: Callable[..., Any], *arguments: Any) -> Any:
    """Call with as many of the arguments as it takes."""
    taken = len([one for one in inspect.signature(step).parameters.values() if one.kind <= one.POSITIONAL_OR_KEYWORD])
    return finished(step(*arguments[:taken]))


def finished(value: Any) -> Any:
    """The value, or the result of a coroutine."""
    if not inspect.isawaitable(value):
        return value

    import asyncio  # few tests need it

    async def result() -> Any:
        return await value

    return asyncio.run(result())


def _between(tests: list[Callable[[], Any]], before: Any, after: Any, *arguments: Any) -> list[Callable[[], Any]]:
    """The tests, with a step before the first and one after the last."""
    if tests and before:
        tests = [partial(_in_turn, partial(_call_with, before, *arguments), tests[0]), *tests[1:]]
    if tests and after:
        tests = [*tests[:-1], partial(_in_turn, tests[-1], partial(_call_with, after, *arguments))]
    return tests


def _in_turn(*steps: Callable[[], Any]) -> None:
    for step in steps:
        step()


def _unittest_tests(kind: type[unittest.TestCase]) -> list[Callable[[], Any]]:
    if getattr(kind, "__unittest_skip__", False):
        return []
    tests = []
    for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind):
        method = getattr(case, case._testMethodName)  # type: ignore[union-attr]
        if getattr(method, "__unittest_skip__", False) or getattr(method, "__unittest_expecting_failure__", False):
            continue
        if inspect.iscoroutinefunction(method) and not isinstance(case, unittest.IsolatedAsyncioTestCase):
            setattr(case, case._testMethodName, lambda method=method: finished(method()))  # type: ignore[union-attr]
        tests.append(case.debug)  # raises what the test raises
    return _between(tests, kind.setUpClass, lambda: (kind.tearDownClass(), kind.doClassCleanups()))


def _calls(function: Any, names: dict[str, Any], kind: type | None = None, method: str = "") -> list[Callable]:
    """A call for each row of arguments that marks and fixtures with ``params`` give a test."""
    if getattr(function, _SKIPPED, False) or getattr(kind, _SKIPPED, False):
        return []
    of_class, of_function = getattr(kind, _ROWS, [{}]), getattr(function, _ROWS, [{}])
    rows = [{**one, **other} for one in of_class for other in of_function]
    fixtures = _fixtures(names, kind)
    wanted = [*inspect.signature(function).parameters, *getattr(function, _USED, ())]
    wanted += [name for name, fixture in fixtures.items() if fixture.autouse]
    wanted = [name for name in wanted if name in fixtures]
    for name in wanted:  # which grows by the fixtures of fixtures
        parameters = inspect.signature(fixtures[name].function).parameters
        wanted += [other for other in parameters if other in fixtures and other not in wanted]
    for name in dict.fromkeys(wanted):
        if fixtures[name].params is not None:
            rows = [row | {_PARAM + name: value} for row in rows for value in fixtures[name].params]
    return [partial(_run, function, names, kind, method, row) for row in rows]


_PARAM = "param of "
_ROWS, _SKIPPED, _USED = "_pytest_rows", "_pytest_skipped", "_pytest_fixtures"  # what marks set on a test


def _fixtures(names: dict[str, Any], kind: type | None) -> "dict[str, Fixture]":
    members = {**names, **({name: getattr(kind, name) for name in dir(kind)} if kind else {})}
    return {member.name or name: member for name, member in members.items() if isinstance(member, Fixture)}


def _run(function: Any, names: dict[str, Any], kind: type | None, method: str, row: dict[str, Any]) -> None:
    made, fixtures, found = kind() if kind else None, _fixtures(names, kind), dict(row)
    with ExitStack() as after:

        def value(name: str) -> Any:
            """The value of a fixture, made once a test."""
            if name not in found:
                request = SimpleNamespace(param=row.get(_PARAM + name), addfinalizer=after.callback)
                known, make = {"self": made, "request": request}, fixtures[name].function
                parameters = inspect.signature(make).parameters
                result = make(**{one: known[one] if one in known else value(one) for one in parameters})
                if inspect.isgeneratorfunction(make):
                    after.callback(next, result, None)
                found[name] = next(result) if inspect.isgeneratorfunction(make) else finished(result)
            return found[name]

        setup, teardown = ("setup_method", "teardown_method") if kind else ("setup_function", "teardown_function")
        steps = [getattr(made, name, None) if kind else names.get(name) for name in (setup, teardown)]
        called = getattr(made, method) if kind else function
        if steps[0]:
            _call_with(steps[0], called)
        if steps[1]:
            after.callback(_call_with, steps[1], called)
        for name, fixture in fixtures.items():
            if fixture.autouse or name in getattr(function, _USED, ()):
                value(name)
        wanted = [name for name in inspect.signature(called).parameters if name in row or name in fixtures]
        finished(called(**{name: value(name) for name in wanted}))


# ── What tests use of pytest ──


class Fixture:
    """A function whose value tests take as an argument of its name."""

    def __init__(self, function: Callable[..., Any], params: Any, autouse: bool, name: str | None) -> None:
        self.function, self.params, self.autouse, self.name = function, params, autouse, name


def fixture(
    function: Any = None, *, params: Any = None, autouse: bool = False, name: str | None = None, **_: Any
) -> Any:
    """Mark a function as a fixture; its scope is always one test."""
    make = partial(Fixture, params=params, autouse=autouse, name=name)
    return make if function is None else make(function)


yield_fixture = fixture


class _Raised(SimpleNamespace):
    @property
    def typename(self) -> str:
        """The name of the class of the exception."""
        return self.type.__name__

    def match(self, pattern: str) -> bool:
        """Whether the text of the exception matches."""
        assert re.search(pattern, str(self.value)), f"{self.value} does not match {pattern!r}"
        return True


@contextlib.contextmanager
def _raising(kinds: Any, match: str | None) -> Iterator[_Raised]:
    found = _Raised(value=None, type=None)
    try:
        yield found
    except kinds as error:
        found.value, found.type = error, type(error)
        assert match is None or re.search(match, str(error)), f"{error} does not match {match!r}"
        return
    raise AssertionError("did not raise")


def raises(kinds: Any, *call: Any, match: str | None = None, **kwargs: Any) -> Any:
    """A context in which one of these exceptions has to be raised, or a call that has to raise it."""
    if not call:
        return _raising(kinds, match)
    with _raising(kinds, match) as found:
        call[0](*call[1:], **kwargs)
    return found


class approx:
    """Equal to a number, or a container of numbers, within a tolerance."""

    __array_ufunc__, __array_priority__ = None, 100  # an array on the left leaves the comparison to us

    def __init__(
        self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False
    ) -> None:
        self._expected, self._nan = expected, nan_ok
        self._absolute = 1e-12 if abs is None else abs
        self._relative = rel if rel is not None else 0.0 if abs is not None else 1e-6

    def __eq__(self, got: object) -> bool:
        return self._same(got, self._expected)

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _same(self, got: Any, expected: Any) -> bool:
        if hasattr(expected, "tolist"):
            return self._same(_listed(got), expected.tolist())
        if isinstance(expected, dict):
            alike = isinstance(got, dict) and got.keys() == expected.keys()
            return alike and all(self._same(got[key], value) for key, value in expected.items())
        if isinstance(expected, (list, tuple)):
            got = _listed(got)  # an object of the program's could lie about its length
            return isinstance(got, (list, tuple)) and len(got) == len(expected) and all(map(self._same, got, expected))
        try:
            if self._nan and math.isnan(expected) and math.isnan(got):
                return True
            if isinstance(got, complex) or isinstance(expected, complex):
                return abs(got - expected) <= max(self._relative * abs(expected), self._absolute)
            return bool(got == expected) or math.isclose(got, expected, rel_tol=self._relative, abs_tol=self._absolute)
        except TypeError:
            return False


def _listed(value: Any) -> Any:
    return list(value) if type(value).__name__ in ("ndarray", "deque", "range") else value


class _Marks:
    """Decorators: ``parametrize`` gives a test its arguments, skips leave it out, all others change nothing."""

    def __getattr__(self, name: str) -> Any:
        if name == "parametrize":
            return _parametrize
        if name == "skipif":
            held = lambda text: eval(text, {"sys": sys}) if isinstance(text, str) else text  # noqa: E731
            return lambda condition=True, *_, **__: _set(_SKIPPED, bool(held(condition)))
        if name == "usefixtures":
            return lambda *names: _set(_USED, names)
        if name in ("skip", "xfail"):  # whether a test fails that is expected to, says nothing about the program
            return lambda *args, **_: _set(_SKIPPED, True)(args[0]) if _is_decorated(args) else _set(_SKIPPED, True)
        return lambda *args, **_: args[0] if _is_decorated(args) else lambda function: function


def _is_decorated(args: tuple) -> bool:
    return len(args) == 1 and callable(args[0])


def _set(name: str, value: Any) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        setattr(function, name, value)
        return function

    return decorate


def _parametrize(argnames: Any, argvalues: Any, indirect: Any = False, **_: Any) -> Any:
    names = [name.strip() for name in argnames.split(",")] if isinstance(argnames, str) else list(argnames)
    given = {name: _PARAM + name if indirect is True or name in (indirect or ()) else name for name in names if name}
    rows = []
    for row in argvalues:
        if isinstance(row, _Row):
            if row.skipped:
                continue
            row = row.values if len(given) > 1 else row.values[0]
        rows.append(dict(zip(given.values(), row if len(given) > 1 or not isinstance(argnames, str) else [row])))

    def decorate(function: Any) -> Any:
        setattr(function, _ROWS, [{**one, **other} for one in getattr(function, _ROWS, [{}]) for other in rows])
        return function

    return decorate


class _Row(SimpleNamespace):
    """A row of ``parametrize``."""


def param(*values: Any, marks: Any = (), **_: Any) -> Any:
    """A row of ``parametrize``; one that is marked with a skip is left out."""
    probe = lambda: None  # noqa: E731
    for mark in marks if isinstance(marks, (list, tuple)) else [marks]:
        mark(probe)
    return _Row(values=values, skipped=getattr(probe, _SKIPPED, False))


def fail(reason: str = "", *_: Any, **__: Any) -> None:
    """Fail the test."""
    raise AssertionError(reason)


def skip(reason: str = "", **_: Any) -> None:
    """Skip the test."""
    raise Skipped(reason)


xfail = skip


def importorskip(name: str, *_: Any, **__: Any) -> Any:
    """The module; skips the test where it is not there."""
    try:
        return __import__(name)
    except ImportError:
        raise Skipped(name) from None


def main(*_: Any, **__: Any) -> int:
    """Nothing: the tests are run without being asked for."""
    return 0


mark = _Marks()
