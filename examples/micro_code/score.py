"""The true score: does a candidate return on every hidden test what the reference returns?

This guards against the accidents of a small model (endless loops, huge values, imports), not against an attacker. It
accepts only a small subset of Python (``_ALLOWED_NODES``); anything else is a failure.
"""

import ast
import contextlib
import resource
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

from .families import INPUTS

# Of CPU time, so that a busy machine does not fail a candidate; one needs well under a millisecond for all its tests.
TIME_LIMIT = 0.2  # seconds
MEMORY_LIMIT = 1 << 30  # bytes of address space in a worker
MAX_SOURCE = 400  # characters
MAX_NUMBER = 999  # larger constants have no use here and make huge ranges and powers
MAX_MULTIPLICATIONS = 3  # "x * 9" on a list repeats it

_ALLOWED_NODES = tuple(
    getattr(ast, name)
    for name in (
        "Module FunctionDef arguments arg Return Assign AugAssign Expr If For Name Load Store Constant BinOp UnaryOp "
        "BoolOp Compare IfExp Call keyword Subscript Slice List Tuple ListComp GeneratorExp comprehension "
        "Add Sub Mult FloorDiv Div Mod USub UAdd Not And Or Eq NotEq Lt LtE Gt GtE In NotIn"
    ).split()
)
_BUILTINS = {
    f.__name__: f
    for f in (abs, bool, enumerate, int, len, list, max, min, reversed, sorted, str, sum, tuple, zip, range)
}


class _TimeOut(BaseException):
    """A BaseException, so that no handler takes it for a candidate's own error."""


def _refuse(tree: ast.AST) -> bool:
    """Return whether the program leaves the allowed subset."""
    multiplications = 0
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED_NODES):
            return True
        if isinstance(node, ast.Name) and node.id.startswith("_"):
            return True
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > MAX_NUMBER:
            return True
        multiplications += isinstance(node, ast.Mult)
    return multiplications > MAX_MULTIPLICATIONS


@contextlib.contextmanager
def _time_limit(seconds: float):
    def on_alarm(*_):
        raise _TimeOut

    previous = signal.signal(signal.SIGVTALRM, on_alarm)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def _same(got: Any, expected: Any) -> bool:
    """Return equality of values and types, inside lists, too."""
    if type(got) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(_same, got, expected))
    return got == expected


def run(source: str, inputs: Sequence[tuple]) -> list | None:
    """Return the outputs of the function ``f`` of ``source``; None if it is refused, fails or takes too long."""
    if len(source) > MAX_SOURCE:
        return None
    try:
        tree = ast.parse(source)
        if _refuse(tree):
            return None
        scope: dict[str, Any] = {"__builtins__": _BUILTINS}
        with _time_limit(TIME_LIMIT):
            exec(compile(tree, "<candidate>", "exec"), scope)
            return [scope["f"](*arguments) for arguments in inputs]
    except (Exception, _TimeOut):
        return None


@lru_cache(maxsize=65536)
def behaviour(solution: str, kind: str) -> str:
    """Return a function's outputs on all hidden tests of its kind, as text; the same text is the same task."""
    outputs = run(solution, INPUTS[kind])
    if outputs is None:
        raise ValueError(f"the reference solution fails on its own test inputs: {solution!r}")
    return repr(outputs)


def passes(candidate: str, solution: str, kind: str) -> bool:
    """Return whether the candidate returns what the reference returns, on every hidden test."""
    outputs = run(candidate, INPUTS[kind])
    expected = run(solution, INPUTS[kind])
    return outputs is not None and expected is not None and _same(outputs, expected)


def limit_memory() -> None:
    """Let huge values raise MemoryError in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def _score_chunk(chunk: list[tuple[str, str, str]]) -> list[bool]:
    return [passes(*item) for item in chunk]


def score_all(items: Iterable[tuple[str, str, str]], workers: int = 2, chunk_size: int = 500) -> list[bool]:
    """Return scores of ``(candidate, solution, kind)`` triples; workers with a memory limit run equal ones once."""
    items = list(items)
    unique = list(dict.fromkeys(items))
    chunks = [unique[i : i + chunk_size] for i in range(0, len(unique), chunk_size)]
    # spawn: a fork would inherit torch's threads and its address space, which the memory limit counts.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=limit_memory) as pool:
        futures = [pool.submit(_score_chunk, chunk) for chunk in chunks]
        # Each candidate stops at TIME_LIMIT; the outer limit turns a bug of ours into an error instead of a hang.
        scores = [
            score for chunk, future in zip(chunks, futures) for score in future.result(60 + TIME_LIMIT * len(unique))
        ]
    by_item = dict(zip(unique, scores))
    return [by_item[item] for item in items]
