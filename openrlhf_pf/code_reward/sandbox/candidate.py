"""The inside: runs a program in this confined process and answers calls with plain data.

Nothing here is trusted. The program can replace all of it and still not learn an expected value, for none
comes here.
"""

import _sitebuiltins
import atexit
import builtins
import contextlib
import io
import os
import re
import sys
import types
from _socket import socketpair
from typing import Any, NoReturn

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.sandbox import objects

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
        conversation.operations["run"] = lambda source: run_whole(source, conversation.talk, *standard)
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
    module = sys.modules[objects.MODULE] = types.ModuleType(objects.MODULE)
    conversation = objects.Conversation(module)
    conversation.operations["load"] = lambda source: exec(compile_checked(_futures_first(source)), module.__dict__)
    conversation.operations["end"] = lambda: None
    return conversation


# A typical program, run before forking to fill the interpreter's caches.
_TYPICAL_PROGRAM = """
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


def warm_up() -> None:
    """Serve a program of our own, here where all programs are forked: the interpreter specialises the code that they
    have in common and fills its caches once, instead of in every child, in pages that each has to copy for that.
    """
    questions = [
        ("load", _TYPICAL_PROGRAM),
        ("call", ["f"], ([1, 2, 3], "y"), {}),
        ("call", ["f"], ([1.5, 2],), {"word": "z"}),
        ("change", ["f"], ([1, 2], "x"), {}),
        ("change", ["g"], (["a", "b"],), {}),
        ("change", ["g"], ("ab",), {}),
        ("call", ["f"], ([],), {}),
        ("end",),
    ]
    ours, theirs = socketpair()
    codec.send_encoded(ours, codec.encode_plain(("0" * 16, questions)))
    serve(theirs.fileno(), ours.fileno())
    ours.close()
    theirs.close()
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
        SyntaxError: it does not parse, whatever the parser raises.
    """
    try:
        return compile(source, "<solution>", "exec")
    except SyntaxError:
        raise
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from None


# ── A whole program: the interpreter behaves as ``python3 program < input`` would ──

_NAMES = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_NAMES |= {f"{folder}/{file}": file for folder in ("/dev/fd", "/proc/self/fd") for file in range(3)}


def run_whole(source: str, talk: codec.Connection, standard_input: int, standard_output: int) -> NoReturn:
    """Run it to its end, which is this process's."""
    os.dup2(standard_input, 0)
    os.dup2(standard_output, 1)
    os.closerange(standard_input, standard_output + 1)
    _imitate_interpreter()
    status = _execute(source, talk)
    status = _finish() or status
    os._exit(status)


def _imitate_interpreter() -> None:
    sys.argv[:] = ["program.py"]
    encoding = {"encoding": "utf-8", "errors": "surrogateescape"}
    sys.stdin = sys.__stdin__ = open(0, closefd=False, **encoding)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False, **encoding)
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace")
    for stream, name in ((sys.stdin, "<stdin>"), (sys.stdout, "<stdout>"), (sys.stderr, "<stderr>")):
        stream.buffer.raw.name = name
    _open, _os_open = io.open, os.open

    def known(path: Any) -> int | None:
        return None if isinstance(path, (int, bytes)) else _NAMES.get(os.fspath(path))

    def open_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        found = known(file)
        return _open(file if found is None else os.dup(found), *args, **kwargs)

    def open_descriptor(path: Any, *args: Any, **kwargs: Any) -> int:
        found = known(path)
        return _os_open(path, *args, **kwargs) if found is None else os.dup(found)

    builtins.open = io.open = open_file
    os.open = open_descriptor


def _execute(source: str, talk: codec.Connection) -> int:
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__="program.py", __annotations__={})
    sys.modules["__main__"] = module
    try:
        code = compile(source, "program.py", "exec")
    except BaseException as error:
        _send_error(talk, "SyntaxError", error)
        return 1
    try:
        exec(code, module.__dict__)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        return 1
    except BaseException as error:
        _send_error(talk, type(error).__name__, error)
        return 1
    return 0


def _send_error(talk: codec.Connection, kind: str, error: BaseException) -> None:
    with contextlib.suppress(BaseException):
        codec.send(talk, (kind, f"{type(error).__name__}: {error}"[:300]))


def _finish() -> int:
    """What the interpreter does at its end: wait for threads, call what was registered, write what is not written."""
    with contextlib.suppress(BaseException):
        if threading := sys.modules.get("threading"):
            threading._shutdown()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except AttributeError:
            continue
        except BaseException:
            return 120
    return 0
