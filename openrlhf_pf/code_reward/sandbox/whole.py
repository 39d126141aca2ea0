"""A whole program inside: the interpreter looks to it as ``python3 program < input`` would.

Nothing here is trusted by anybody, see :mod:`candidate`.
"""

import atexit
import builtins
import contextlib
import io
import os
import sys
import types
from typing import Any, NoReturn

from openrlhf_pf.code_reward.judge import codec

_NAMES = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_NAMES |= {f"{folder}/{file}": file for folder in ("/dev/fd", "/proc/self/fd") for file in range(3)}


def run(source: str, talk: codec.Connection, standard_input: int, standard_output: int) -> NoReturn:
    """Run it to its end, which is this process's."""
    os.dup2(standard_input, 0)
    os.dup2(standard_output, 1)
    os.closerange(standard_input, standard_output + 1)
    _look_like_an_interpreter()
    status = _execute(source, talk)
    status = _finish() or status
    os._exit(status)


def _look_like_an_interpreter() -> None:
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
        _say(talk, "SyntaxError", error)
        return 1
    try:
        exec(code, module.__dict__)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        return 1
    except BaseException as error:
        _say(talk, type(error).__name__, error)
        return 1
    return 0


def _say(talk: codec.Connection, kind: str, error: BaseException) -> None:
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
