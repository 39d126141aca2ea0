"""The trusted side of one program: sends inputs, takes plain data back, compares, and alone says whether it passed.

It runs in a confined process of its own, since test code of a data set is code too and may hang on what it gets; one
such process checks many programs, one after the other. A tested program has no way to it but its answers, which
:mod:`codec` rebuilds from exact built-in types.
"""

import ast
import builtins
import contextlib
import os
import random
import re
import secrets
import select
import signal
import socket
import sys
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any, NoReturn

from openrlhf_pf.code_reward import codec
from openrlhf_pf.code_reward.control import Control

MAX_MESSAGE = 300
KILLED = "killed"  # beside the verdicts of results.py: somebody has killed the program, and it was not us
_GONE = "gone"  # the program closed its socket; how it ended decides what that means

_ERROR_VERDICTS = {"MemoryError": "memory"}
_SYNTAX_ERRORS = {"SyntaxError", "IndentationError", "TabError"}


class CandidateError(Exception):
    """The tested program raised an exception, or returned what is not plain data."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


Question = tuple[Any, ...]  # an operation of candidate.py and its arguments
END: Question = ("end",)
_FORESEEN_BYTES = 1 << 16
_MOMENT = 0.005  # seconds, after which we look at the first of many answers: a wrong one ends the program


def _poll(file: int) -> "select.poll":
    made = select.poll()
    made.register(file, select.POLLIN)
    return made


class _Decided(BaseException):
    """There is a verdict; no test goes on after it."""


class Remote:
    """The tested program, seen from outside.

    What it cannot answer decides the verdict. The first verdict stands, and every later question raises again: no
    test can swallow that.
    """

    def __init__(self, talk: socket.socket, bell: int, wall_seconds: float) -> None:
        self._talk, self._bell = talk, bell
        self._answers = codec.Receiver(self._read)
        self._answered, self._rung = _poll(talk.fileno()), _poll(bell)
        self._will_ring = False
        talk.settimeout(wall_seconds)
        self._wall_seconds = wall_seconds
        self._deadline = time.monotonic() + wall_seconds
        self.calls = 0
        self.test: int | None = None
        self.decision: tuple[str, int | None, str] | None = None
        self._foreseen: deque[Question] = deque()  # questions that are sent, their answers not yet read
        self._number, self._place = "", 0

    def verdict(self, verdict: str, detail: str = "") -> NoReturn:
        """Decide, unless it is decided."""
        if self.decision is None:
            self.decision = verdict, self.test if verdict != "passed" else None, detail[:MAX_MESSAGE]
        raise _Decided

    def foresee(self, questions: Iterable[Question]) -> None:
        """Send questions that will be asked next, in this order, so that the program need not wait for each.

        Of exact built-in types, as literals are. Only the first ones, as far as they are small; the others are sent
        when they are asked.
        """
        if self._foreseen:
            return
        room, sent = _FORESEEN_BYTES, []
        for question in questions:
            room -= len(codec.encode_plain(question))
            if room < 0:
                break
            sent.append(question)
        if len(sent) > 1:
            self._send(sent)
            self._foreseen.extend(sent)

    def request(self, question: Question) -> Any:
        """One question, one answer."""
        if self.decision:
            raise _Decided
        if self._foreseen:
            foreseen = self._foreseen.popleft()
            if foreseen is question or repr(foreseen) == repr(question):
                return self._answer()
            self._answer(needed=False)
            while self._foreseen:
                self._foreseen.popleft()
                self._answer(needed=False)
        try:
            question = codec.plain(question)
        except codec.NotPlain as error:
            self.verdict("failed", f"an argument of the test's: {error}")
        self._send([question])
        return self._answer()

    def _send(self, questions: list[Question]) -> None:
        # Not to be guessed, so that no answer can be prepared or given twice.
        self._number, self._place = secrets.token_hex(8), 0
        self._will_ring = len(questions) > 1
        self._exchange(codec.send_encoded, self._talk, codec.encode_plain((self._number, questions)))

    def _answer(self, needed: bool = True) -> Any:
        answer = self._exchange(self._answers.receive)
        expected = (self._number, self._place)
        self._place += 1
        if type(answer) is tuple and answer[:2] == expected:
            if len(answer) == 4 and answer[2] == "value":
                return answer[3]
            if len(answer) == 5 and answer[2] == "error":
                if not needed:
                    return None
                raise CandidateError(str(answer[3])[:80], str(answer[4])[:MAX_MESSAGE])
        self.verdict("crashed", "an answer to another question")

    def _read(self, count: int) -> bytes:
        """What the program has answered by now, or will answer next.

        To be woken by every one of many answers, in the middle of the others, would cost both sides more than the
        answers themselves: then the program rings a bell after the last one, and we look from time to time.
        """
        while True:
            try:
                return os.read(self._talk.fileno(), count)
            except BlockingIOError:
                pass
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if not self._will_ring:
                self._answered.poll(1000 * left)
            elif self._rung.poll(1000 * min(left, _MOMENT)):
                os.read(self._bell, 1)  # or it is gone: then this end of the conversation tells
                self._will_ring = False

    def _exchange(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except codec.Closed:
            self.verdict(_GONE, "the program ended before it answered")
        except TimeoutError:
            self.verdict("timeout", f"no end within {self._wall_seconds} seconds")
        except codec.NotPlain as error:
            self.verdict("crashed", f"an answer that is none: {error}")

    def load(self, source: str) -> None:
        """Have the program's top level run."""
        try:
            self.request(("load", source))
        except CandidateError as error:
            if error.kind in _SYNTAX_ERRORS or _is_syntax(source):
                self.verdict("syntax_error", str(error))
            self.verdict(_ERROR_VERDICTS.get(error.kind, "failed"), str(error))

    def evaluate(self, source: str) -> Any:
        """The value of an expression inside the program."""
        self.calls += 1
        return self.request(("eval", source))

    def call(self, question: Question) -> Any:
        """What a call of the program's function returns, see :func:`call_of`."""
        self.calls += 1
        return self.request(question)

    def proxy(self, *path: str) -> Callable[..., Any]:
        """A function that calls the program's function, or the method of a fresh instance of its class."""

        def candidate(*args: Any, **kwargs: Any) -> Any:
            return self.call(call_of(path, args, kwargs))

        candidate.__name__ = candidate.__qualname__ = path[-1]
        return candidate


def call_of(path: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> Question:
    """The question for what a call of the program's function returns."""
    return "call", list(path), tuple(args), kwargs


def _is_syntax(source: str) -> bool:
    try:
        compile(source, "<solution>", "exec", flags=ast.PyCF_ONLY_AST)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return True
    return False


def serve(connection: int, *programs: int) -> None:
    """Take ``(source, limits, place)`` and an encoded problem from the caller, have ``programs[place]`` fork a process
    for the source, check it, and send ``(verdict, test, detail, calls, what it used)``, until the caller is gone.

    All arguments are file descriptors of connections.
    """
    caller = socket.socket(fileno=connection)
    controls = [Control(socket.socket(fileno=program), "the candidate worker") for program in programs]
    tasks = codec.Receiver(caller.recv, codec.MAX_TASK_BYTES)
    while True:
        try:
            source, limits, place = tasks.receive()
            problem = tasks.frame()
        except codec.Closed:
            return
        codec.send(caller, _check_one(controls[place], source, *_decoded(problem), limits))


@contextlib.contextmanager
def _closing(file: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(file)


@lru_cache(maxsize=256)
def _decoded(problem: bytes) -> tuple[str, dict[str, Any]]:
    """Its kind and data; the samples of one prompt come one after the other, and have the same."""
    return codec.decode(problem)


def _check_one(control: Control, source: str, kind: str, data: dict[str, Any], limits: dict[str, Any]) -> tuple:
    talk, their_talk = socket.socketpair()
    bell, their_bell = os.pipe()
    with talk, _closing(bell):
        with their_talk, _closing(their_bell):
            control.start(limits, [their_talk.fileno(), their_bell])
        remote = Remote(talk, bell, limits["wall_seconds"])
        # Ends this process where comparing takes for ever, even inside of C code, which no exception would.
        signal.setitimer(signal.ITIMER_PROF, limits["cpu_seconds"])
        verdict, test, detail = _decide(remote, CHECKS[kind], source, data)
        signal.setitimer(signal.ITIMER_PROF, 0)
    control.stop(gone=verdict == _GONE)
    report = control.report()
    if verdict == _GONE:
        verdict, detail = _how_it_ended(report, detail, limits["cpu_seconds"])
    used = {name: report[name] for name in ("cpu_seconds", "memory_bytes")}
    return verdict, test, detail, remote.calls, used


def _decide(remote: Remote, check: "Check", source: str, data: dict[str, Any]) -> tuple[str, int | None, str]:
    random.seed(0)  # the same program gets the same verdict twice
    try:
        try:
            check(remote, source, data)
        except CandidateError as error:
            remote.verdict(_ERROR_VERDICTS.get(error.kind, "failed"), str(error))
        except AssertionError as error:
            remote.verdict("failed", f"assertion failed in {_place(error)}")
        except _Decided:
            raise
        except BaseException as error:
            remote.verdict("failed", f"{type(error).__name__} in {_place(error)}: {_text(error)}")
        if not remote.calls:
            remote.test = None
            remote.verdict("infrastructure", "the tests never call the program")
        remote.request(END)  # an answer given twice would arrive here
        remote.verdict("passed")
    except (_Decided, CandidateError):
        # An error in answer to "end" is a program that has taken the place of our side of it.
        return remote.decision or ("crashed", None, "an answer to another question")


def _how_it_ended(report: dict[str, Any], detail: str, cpu_seconds: float) -> tuple[str, str]:
    """What it means that a program closed its socket."""
    if report["ended_itself"] and report["status"] == -signal.SIGKILL:
        if report["cpu_seconds"] >= cpu_seconds * 0.9:
            return "timeout", f"{cpu_seconds} seconds of CPU time are over"
        return KILLED, "the program was killed from outside"
    return "crashed", f"{detail} (status {report['status']})"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _place(error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    return f"line {lines[-1]} of the test" if lines else "the test"


@lru_cache(maxsize=512)
def _compiled(source: str) -> types.CodeType:
    """Test code; the samples of one prompt come one after the other, and have the same."""
    return compile(source, "<test>", "exec")


def _namespace(*sources: str) -> dict[str, Any]:
    """A module in which trusted sources have run."""
    module = types.ModuleType("checker")
    sys.modules["checker"] = module
    for source in sources:
        exec(_compiled(source), module.__dict__)
    return module.__dict__


def _check_cases(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Input/output pairs: ``path``, ``cases`` of (args, kwargs, expected), ``tolerance``."""
    path, cases = data["path"], data["cases"]
    calls = [call_of(path, args, kwargs) for args, kwargs, _ in cases]
    remote.foresee([("load", source), *calls, END])
    remote.load(source)
    for remote.test, (call, (_, _, expected)) in enumerate(zip(calls, cases)):
        remote.foresee(chain(islice(calls, remote.test, None), [END]))
        got = remote.call(call)
        if not codec.same(got, expected, data["tolerance"]):
            remote.verdict("failed", f"returned {got!r:.100}")


def _check_stdio(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Whole programs: ``cases`` of (standard input, standard output), compared line by line without trailing
    blanks.
    """
    for remote.test, (text, expected) in enumerate(data["cases"]):
        remote.calls += 1
        try:
            got = remote.request(("run", source, text, data["max_output"]))
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
    remote.foresee([("load", source), *_questions_for_sure(data["test"], data["function"], data["entry_point"])])
    remote.load(source)
    space = _namespace(data["preamble"])
    # Before and after: the test may use the program under its own name, or define something of that name.
    space[data["entry_point"]] = candidate = remote.proxy(data["entry_point"])
    exec(_compiled(data["test"]), space)

    def counted(*args: Any, **kwargs: Any) -> Any:
        remote.test = remote.calls
        return candidate(*args, **kwargs)

    counted.__name__ = data["entry_point"]
    space[data["function"]](counted)


@lru_cache(maxsize=512)
def _questions_for_sure(test: str, function: str, entry_point: str) -> list[Question]:
    """What ``function(candidate)`` asks first, whatever the answers are: calls with literal arguments, in straight
    code; with the end of the conversation, if it asks nothing else.
    """
    found: list[Question] = []
    try:
        for definition in ast.parse(test).body:
            if isinstance(definition, ast.FunctionDef) and definition.name == function:
                (name,) = (argument.arg for argument in definition.args.args)
                for statement in definition.body:
                    if not isinstance(statement, (ast.Assert, ast.Expr, ast.Assign, ast.Import, ast.ImportFrom)):
                        return found
                    part = statement.test if isinstance(statement, ast.Assert) else statement
                    found += [call_of([entry_point], *call) for call in _literal_calls(part, name)]
                # A test can also call the program by its own name.
                return found if re.search(rf"\b{re.escape(entry_point)}\b", test) else [*found, END]
    except (SyntaxError, ValueError):
        pass  # from here on, or about this test, nothing is sure
    return found


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

    def _is_foreign_call(self, node: ast.AST) -> bool:
        root = node
        while isinstance(root, (ast.Call, ast.Attribute, ast.Subscript)):
            root = root.func if isinstance(root, ast.Call) else root.value
        return isinstance(node, ast.Call) and isinstance(root, ast.Name) and self._is_foreign(root.id)

    def _truth(self, node: ast.expr) -> ast.expr:
        """Where only its truth matters, only its truth is asked for: it may be a match of a regular expression."""
        if self._is_foreign_call(node):
            return self._ask(ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), node)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node.operand = self._truth(node.operand)
        elif isinstance(node, ast.BoolOp):
            node.values = [self._truth(value) for value in node.values]
        else:
            return self.visit(node)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.test = self._truth(node.test)
        node.msg = node.msg and self.visit(node.msg)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self._ask(node) if self._is_foreign_call(node) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._ask(node) if self._is_foreign(node.id) else node


Check = Callable[[Remote, str, dict[str, Any]], None]
CHECKS: dict[str, Check] = {
    "cases": _check_cases,
    "stdio": _check_stdio,
    "function": _check_function,
    "asserts": _check_asserts,
}
