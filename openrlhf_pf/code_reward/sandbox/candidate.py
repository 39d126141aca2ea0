"""The inside: runs a program in this confined process and answers calls with plain data.

Nothing here is trusted by anybody. The program can replace all of it and still not learn an expected value, for none
comes here.
"""

import contextlib
import io
import os
import re
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

from openrlhf_pf.code_reward.judge import codec

MODULE = "solution"
_FUTURE = re.compile(r"^from __future__ import [\w, ]+$", re.M)
MAX_MESSAGE = 300


def serve(connection: int, bell: int) -> None:
    """Answer messages ``(number, [(operation, *arguments), ...])``, each question by a message of its own, ``(number,
    place, "value", value)`` or ``(number, place, "error", kind, text)``; ring the bell after the last one of several.
    """
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    operations: dict[str, Callable[..., Any]] = {
        "load": lambda source: _load(source, module),
        "call": lambda path, args, kwargs: _call(module, path, args, kwargs),
        "eval": lambda source: eval(compile(source, "<test>", "eval"), module.__dict__),
        "run": _run,
        "end": lambda: None,
    }
    talk = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, connection)
    questions = codec.Receiver(talk.recv, 2 * codec.MAX_TASK_BYTES, codec.decode_plain)
    operation = None
    while operation != "end":
        number, asked = questions.receive()
        for place, (operation, *arguments) in enumerate(asked):
            try:
                answer = codec.encode((number, place, "value", operations[operation](*arguments)))
            except BaseException as error:
                answer = codec.encode((number, place, "error", _kind(error), _text(error)))
            codec.send_encoded(talk, answer)
        if len(asked) > 1:
            os.write(bell, b".")


# What most programs do, so that what it takes is at hand.
_REHEARSED = """
from typing import List

def f(numbers: List[int], word: str = "") -> float:
    \"\"\"A program like many.\"\"\"
    for place, number in enumerate(numbers):
        if number > 2 and word != "x":
            return sum(sorted(numbers)) / len(numbers)
    return max(numbers, key=lambda number: -number)
"""


def rehearse() -> None:
    """Serve a program of our own, here where all programs are forked: the interpreter specialises the code that they
    have in common and fills its caches once, instead of in every child, in pages that each has to copy for that.
    """
    questions = [
        ("load", _REHEARSED),
        ("call", ["f"], ([1, 2, 3], "y"), {}),
        ("call", ["f"], ([1.5, 2],), {"word": "z"}),
        ("call", ["f"], ([],), {}),
        ("end",),
    ]
    ours, theirs = socket.socketpair()
    with ours:
        codec.send_encoded(ours, codec.encode_plain(("0" * 16, questions)))
        serve(theirs.detach(), ours.fileno())
    del sys.modules[MODULE]


def _kind(error: BaseException) -> str:
    return type(error).__name__ if isinstance(error, Exception) else f"exit:{type(error).__name__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_MESSAGE]
    except BaseException:
        return ""


def _futures_first(source: str) -> str:
    """``from __future__`` has to come first, also where imports were put before the program."""
    if "__future__" not in source:
        return source
    return "\n".join([*_FUTURE.findall(source), _FUTURE.sub("", source)])


def _load(source: str, module: types.ModuleType) -> None:
    exec(compile(_futures_first(source), "<solution>", "exec"), module.__dict__)


def _call(module: types.ModuleType, path: list[str], args: Any, kwargs: dict[str, Any]) -> Any:
    """Call ``path``: ``[function]``, or ``[class, method]``, which gets an instance of its own."""
    target = getattr(module, path[0])
    for name in path[1:]:
        target = getattr(target(), name)
    return target(*args, **kwargs)


class _Bounded(io.StringIO):
    """What a program prints, up to a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(newline="")
        self.room = limit

    def write(self, text: str) -> int:
        self.room -= len(text)
        if self.room < 0:
            raise OSError("the program prints too much")
        return super().write(text)


def _run(source: str, text: str, limit: int) -> str:
    """Run a whole program on standard input; what it printed. A program may well end itself here: its output is the
    answer.
    """
    code = compile(source, "<solution>", "exec")
    standard_input = io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogatepass")), "utf-8", "surrogatepass")
    output = _Bounded(limit)
    previous, sys.stdin = sys.stdin, standard_input
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            exec(code, {"__name__": "__main__", "__builtins__": __builtins__})
    finally:
        sys.stdin = previous
    return output.getvalue()
