"""The tested program as the trusted side sees it: questions go out, plain data comes back.

A tested program has no way to the trusted side but its answers, which :mod:`codec` rebuilds from exact built-in types.
"""

import ast
import os
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from openrlhf_pf.code_reward.judge import codec

MAX_MESSAGE = 300
GONE = "gone"  # beside the verdicts of results.py: the program closed its socket; how it ended decides what that means
ERROR_VERDICTS = {"MemoryError": "memory"}
SYNTAX_ERRORS = {"SyntaxError", "IndentationError", "TabError"}


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


class Decided(BaseException):
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
        raise Decided

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
            raise Decided
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
        message = codec.encode_plain((self._number, questions))
        if len(message) > 2 * _FORESEEN_BYTES:  # what does not fit into the socket's buffer has to wait
            self._talk.settimeout(max(0.001, self._deadline - time.monotonic()))
        self._exchange(codec.send_encoded, self._talk, message)

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
            self.verdict(GONE, "the program ended before it answered")
        except TimeoutError:
            self.verdict("timeout", f"no end within {self._wall_seconds} seconds")
        except codec.NotPlain as error:
            self.verdict("crashed", f"an answer that is none: {error}")

    def load(self, source: str) -> None:
        """Have the program's top level run."""
        try:
            self.request(("load", source))
        except CandidateError as error:
            if error.kind in SYNTAX_ERRORS or _is_syntax(source):
                self.verdict("syntax_error", str(error))
            self.verdict(ERROR_VERDICTS.get(error.kind, "failed"), str(error))

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
