"""The test functions of a module, and what tests in data sets use of pytest, which is not in the checker's jail."""

import contextlib
import math
import re
import unittest
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any


@contextlib.contextmanager
def _raising(kinds: Any, match: str | None) -> Iterator[SimpleNamespace]:
    found = SimpleNamespace(value=None, type=None)
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
            return self._same(got.tolist() if hasattr(got, "tolist") else got, expected.tolist())
        if isinstance(expected, dict):
            return (
                isinstance(got, dict)
                and got.keys() == expected.keys()
                and all(self._same(got[key], value) for key, value in expected.items())
            )
        if isinstance(expected, (list, tuple)):
            try:
                return len(got) == len(expected) and all(map(self._same, got, expected))
            except TypeError:
                return False
        try:
            if self._nan and math.isnan(expected) and math.isnan(got):
                return True
            return got == expected or math.isclose(got, expected, rel_tol=self._relative, abs_tol=self._absolute)
        except TypeError:
            return False


class _Marks:
    """Decorators: ``parametrize`` gives a test its arguments, all others change nothing."""

    def __getattr__(self, name: str) -> Any:
        if name == "parametrize":
            return _parametrize
        return lambda *args, **kwargs: args[0] if len(args) == 1 and callable(args[0]) else lambda function: function


def _parametrize(names: Any, rows: Any, **_: Any) -> Any:
    split = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def decorate(function: Any) -> Any:
        before = getattr(function, "arguments", [{}])
        values = [dict(zip(split, row if len(split) > 1 else [row])) for row in rows]
        function.arguments = [{**one, **other} for one in before for other in values]
        return function

    return decorate


def param(*values: Any, **_: Any) -> Any:
    """A row of ``parametrize``."""
    return values if len(values) > 1 else values[0]


def fail(reason: str = "") -> None:
    """Fail the test."""
    raise AssertionError(reason)


mark = _Marks()


def tests_of(name: str, member: Any) -> list[Callable[[], Any]]:
    """The tests that a name of a module of tests stands for, ready to be called."""
    if isinstance(member, type) and issubclass(member, unittest.TestCase):
        return [
            lambda case=case: case.debug()  # raises what the test raises
            for case in unittest.defaultTestLoader.loadTestsFromTestCase(member)
        ]
    if isinstance(member, type) and name.startswith("Test") and member.__module__ == "checker":
        made = [(made, getattr(member, made)) for made in vars(member) if made.startswith("test")]
        return [call for method, function in made for call in _calls(function, member, method)]
    if callable(member) and name.startswith("test") and getattr(member, "__module__", "") == "checker":
        return _calls(member)
    return []


def _calls(function: Any, kind: type | None = None, method: str = "") -> list[Callable[[], Any]]:
    def call(arguments: dict[str, Any]) -> Any:
        if kind is None:
            return function(**arguments)
        made = kind()
        if hasattr(made, "setup_method"):
            made.setup_method()
        return getattr(made, method)(**arguments)

    return [lambda arguments=arguments: call(arguments) for arguments in getattr(function, "arguments", [{}])]
