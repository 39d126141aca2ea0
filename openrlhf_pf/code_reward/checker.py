"""The trusted side of one program: sends inputs, takes plain data back, compares, and alone says whether it passed.

It runs in a confined process of its own, since test code of a data set is code too and may hang on what it gets. The
tested program has no way to this process but its answers, which :mod:`codec` rebuilds from exact built-in types.
"""

import ast
import builtins
import os
import random
import secrets
import socket
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from openrlhf_pf.code_reward import codec

MAX_MESSAGE = 300

_ERROR_VERDICTS = {"MemoryError": "memory"}
_SYNTAX_ERRORS = {"SyntaxError", "IndentationError", "TabError"}


class CandidateError(Exception):
    """The tested program raised an exception, or returned what is not plain data."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Remote:
    """The tested program, seen from outside. What it cannot answer ends this process with a verdict: no test can
    swallow that.
    """

    def __init__(self, caller: socket.socket, talk: socket.socket) -> None:
        self._caller, self._talk = caller, talk
        self.calls = 0
        self.test: int | None = None

    def verdict(self, verdict: str, detail: str = "") -> NoReturn:
        """Tell the caller and end."""
        test = self.test if verdict != "passed" else None
        codec.send(self._caller, (verdict, test, detail[:MAX_MESSAGE], self.calls))
        os._exit(0)

    def request(self, operation: str, *arguments: Any) -> Any:
        """One question, one answer. The number is not to be guessed, so that no answer can be prepared or given
        twice.
        """
        number = secrets.token_hex(8)
        try:
            codec.encode(arguments)
        except codec.NotPlain as error:
            self.verdict("failed", f"an argument of the test's: {error}")
        try:
            codec.send(self._talk, (number, operation, *arguments), 2 * codec.MAX_BYTES)
            answer = codec.receive(self._talk)
        except codec.Closed:
            self.verdict("gone", "the program ended before it answered")
        except codec.NotPlain as error:
            self.verdict("crashed", f"an answer that is none: {error}")
        if type(answer) is tuple and len(answer) == 3 and answer[:2] == (number, "value"):
            return answer[2]
        if type(answer) is tuple and len(answer) == 4 and answer[:2] == (number, "error"):
            raise CandidateError(str(answer[2])[:80], str(answer[3])[:MAX_MESSAGE])
        self.verdict("crashed", "an answer to another question")

    def load(self, source: str) -> None:
        """Have the program's top level run."""
        try:
            self.request("load", source)
        except CandidateError as error:
            if error.kind in _SYNTAX_ERRORS or _is_syntax(source):
                self.verdict("syntax_error", str(error))
            self.verdict(_ERROR_VERDICTS.get(error.kind, "failed"), str(error))

    def evaluate(self, source: str) -> Any:
        """The value of an expression inside the program."""
        self.calls += 1
        return self.request("eval", source)

    def proxy(self, *path: str) -> Callable[..., Any]:
        """A function that calls the program's function, or the method of a fresh instance of its class."""

        def candidate(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self.request("call", list(path), args, kwargs)

        candidate.__name__ = candidate.__qualname__ = path[-1]
        return candidate


def _is_syntax(source: str) -> bool:
    try:
        compile(source, "<solution>", "exec", flags=ast.PyCF_ONLY_AST)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return True
    return False


def serve(caller: socket.socket, talk: socket.socket) -> None:
    """Take ``(source, kind, test data)`` from the caller, check, and send ``(verdict, test, detail, calls)``."""
    source, kind, data = codec.receive(caller, 4 * codec.MAX_BYTES)
    remote = Remote(caller, talk)
    try:
        CHECKS[kind](remote, source, data)
    except CandidateError as error:
        remote.verdict(_ERROR_VERDICTS.get(error.kind, "failed"), str(error))
    except AssertionError as error:
        remote.verdict("failed", f"assertion failed in {_place(error)}")
    except BaseException as error:
        remote.verdict("failed", f"{type(error).__name__} in {_place(error)}: {_text(error)}")
    if not remote.calls:
        remote.test = None
        remote.verdict("infrastructure", "the tests never call the program")
    remote.request("end")  # an answer given twice would arrive here
    remote.verdict("passed")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _place(error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    return f"line {lines[-1]} of the test" if lines else "the test"


def _namespace(*sources: str) -> dict[str, Any]:
    """A module in which trusted sources have run."""
    module = types.ModuleType("checker")
    sys.modules["checker"] = module
    for source in sources:
        exec(compile(source, "<test>", "exec"), module.__dict__)
    return module.__dict__


def _check_cases(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Input/output pairs: ``path``, ``cases`` of (args, kwargs, expected), ``tolerance``."""
    remote.load(source)
    call = remote.proxy(*data["path"])
    for remote.test, (args, kwargs, expected) in enumerate(data["cases"]):
        got = call(*args, **kwargs)
        if not codec.same(got, expected, data["tolerance"]):
            remote.verdict("failed", f"returned {got!r:.100}")


def _check_stdio(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Whole programs: ``cases`` of (standard input, standard output), compared line by line without trailing
    blanks.
    """
    for remote.test, (text, expected) in enumerate(data["cases"]):
        remote.calls += 1
        try:
            got = remote.request("run", source, text, data["max_output"])
        except CandidateError as error:
            if error.kind in _SYNTAX_ERRORS:
                remote.verdict("syntax_error", str(error))
            raise
        if type(got) is not str or _lines(got) != _lines(expected):
            remote.verdict("failed", f"printed {got!r:.100}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _check_function(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """A checker ``check(candidate)``: ``preamble``, ``test``, ``entry_point``, ``function``."""
    remote.load(source)
    space = _namespace(data["preamble"])
    # Before and after: the test may use the program under its own name, or define something of that name.
    space[data["entry_point"]] = candidate = remote.proxy(data["entry_point"])
    exec(compile(data["test"], "<test>", "exec"), space)
    random.seed(0)

    def counted(*args: Any, **kwargs: Any) -> Any:
        remote.test = remote.calls
        return candidate(*args, **kwargs)

    counted.__name__ = data["entry_point"]
    space[data["function"]](counted)


def _check_asserts(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Assert statements: ``imports`` for both sides, ``setup`` after the solution, ``asserts``, ``names`` of the
    solution's.
    """
    remote.load(f"{data['imports']}\n{source}\n")
    space = _namespace(data["imports"])
    if data["setup"].strip():
        remote.load(data["setup"])
    space["__remote__"] = remote.evaluate
    on_both_sides = set(space)
    for remote.test, text in enumerate(data["asserts"]):
        tree = ast.parse(text)
        # What earlier tests have assigned is here, and only here.
        bound = _bound_names(tree) | (set(space) - on_both_sides)
        calls = _OutermostCalls(set(space) | set(dir(builtins)), set(data["names"]), bound)
        changed = calls.visit(tree)
        if calls.needs_proxies:
            changed = ast.parse(text)
            space.update((name, remote.proxy(name)) for name in calls.foreign_names(changed))
        exec(compile(ast.fix_missing_locations(changed), "<test>", "exec"), space)


def _bound_names(tree: ast.AST) -> set[str]:
    """Names that the test binds itself: loop variables, arguments of a lambda."""
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


class _OutermostCalls(ast.NodeTransformer):
    """Puts ``__remote__("source")`` in place of what only the program can evaluate; what is around it stays here.

    ``abs(f(Pair(1, 2)) - 0.5) < 1e-6`` becomes ``abs(__remote__("f(Pair(1, 2))") - 0.5) < 1e-6``: arguments that are
    no plain data never leave the program, expected values never reach it.
    """

    def __init__(self, known: set[str], names: set[str], bound: set[str]) -> None:
        self._known, self._names, self._bound = known, names, bound
        self.needs_proxies = False

    def _is_foreign(self, name: str) -> bool:
        return name in self._names or not (name in self._known or name in self._bound)

    def foreign_names(self, tree: ast.AST) -> set[str]:
        """The names in the test that the program defines."""
        return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and self._is_foreign(node.id)}

    def _ask(self, node: ast.expr) -> ast.expr:
        inside = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
        if inside & self._bound:
            self.needs_proxies = True  # the program knows no loop variable of the test's
        return ast.Call(ast.Name("__remote__", ast.Load()), [ast.Constant(ast.unparse(node))], [])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        root: ast.expr = node
        while isinstance(root, (ast.Call, ast.Attribute, ast.Subscript)):
            root = root.func if isinstance(root, ast.Call) else root.value
        if isinstance(root, ast.Name) and self._is_foreign(root.id):
            return self._ask(node)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._ask(node) if self._is_foreign(node.id) else node


CHECKS: dict[str, Callable[[Remote, str, dict[str, Any]], None]] = {
    "cases": _check_cases,
    "stdio": _check_stdio,
    "function": _check_function,
    "asserts": _check_asserts,
}
