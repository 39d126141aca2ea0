"""The inside: runs a program in this confined process and answers calls with plain data.

Nothing here is trusted by anybody. The program can replace all of it and still not learn an expected value, for none
comes here.
"""

import _sitebuiltins
import builtins
import os
import re
import socket
import sys
import types

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.sandbox import objects, whole

MODULE = "solution"
# What an interpreter has that was started with its site module.
builtins.exit, builtins.quit = _sitebuiltins.Quitter("exit", ""), _sitebuiltins.Quitter("quit", "")
_FUTURE = re.compile(r"^from __future__ import [\w, ]+$", re.M)


def serve(connection: int, bell: int, *standard: int) -> None:
    """Answer messages ``(number, [(operation, *arguments), ...])``, each question by a message of its own, ``(number,
    place, "value", value)`` or ``(number, place, "error", kinds, text, arguments)``; ring the bell after the last one
    of several.

    Args:
        connection: the socket of the conversation.
        bell: a pipe that the other side listens to.
        standard: input and output of a whole program, which is all that is asked for then.
    """
    conversation = _prepared.pop() if _prepared else _prepare()
    conversation.talk.file = connection
    if standard:
        conversation.operations["run"] = lambda source: whole.run(source, conversation.talk, *standard)
    while True:
        number, asked = conversation.questions.receive()
        # "end" may have been foreseen before anybody knew that an answer is an object that will be asked for more.
        if conversation.serve(number, asked) == "end" and (len(asked) == 1 or not conversation.has_objects):
            return
        if len(asked) > 1:
            os.write(bell, b".")


_prepared: list[objects.Conversation] = []  # one, for the next program


def _prepare() -> objects.Conversation:
    """What every program has, made before it is forked: to make it in each would touch a hundred pages, which the
    kernel has to copy.
    """
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    conversation = objects.Conversation(module)
    conversation.operations["load"] = lambda source: _load(source, module)
    conversation.operations["end"] = lambda: None
    return conversation


# What most programs do, so that what it takes is at hand.
_REHEARSED = """
from typing import List

def f(numbers: List[int], word: str = "") -> float:
    \"\"\"A program like many.\"\"\"
    for place, number in enumerate(numbers):
        if number > 2 and word != "x":
            return sum(sorted(numbers)) / len(numbers)
    return max(numbers, key=lambda number: -number)

def g(words):
    return [word for word in words]
"""


def rehearse() -> None:
    """Serve a program of our own, here where all programs are forked: the interpreter specialises the code that they
    have in common and fills its caches once, instead of in every child, in pages that each has to copy for that.
    """
    questions = [
        ("load", _REHEARSED),
        ("call", ["f"], ([1, 2, 3], "y"), {}),
        ("call", ["f"], ([1.5, 2],), {"word": "z"}),
        ("change", ["f"], ([1, 2], "x"), {}),
        ("change", ["g"], (["a", "b"],), {}),
        ("change", ["g"], ("ab",), {}),
        ("call", ["f"], ([],), {}),
        ("end",),
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        codec.send_encoded(ours, codec.encode_plain(("0" * 16, questions)))
        serve(theirs.fileno(), ours.fileno())
    _prepared[:] = [_prepare()]


def _futures_first(source: str) -> str:
    """``from __future__`` has to come first, also where imports were put before the program."""
    if "__future__" not in source:
        return source
    try:
        return compile_checked(source) and source
    except SyntaxError:
        return "\n".join([*_FUTURE.findall(source), _FUTURE.sub("", source)])


def compile_checked(source: str) -> types.CodeType:
    """The code of a program.

    Raises:
        SyntaxError: it is none, whatever the parser says to that.
    """
    try:
        return compile(source, "<solution>", "exec")
    except SyntaxError:
        raise
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from None


def _load(source: str, module: types.ModuleType) -> None:
    exec(compile_checked(_futures_first(source)), module.__dict__)
