"""What a program does, without a verdict on it: the test's inputs are asked, and the answers become a fingerprint.

Two programs with one fingerprint have answered every input alike. Expected values take no part: of calls and of whole
programs only the inputs come here, and of test code every comparison is evaluated and none is heeded
(:func:`disarmed`). Where the fingerprint is missing, the verdict names the reason: ``failed`` (an exception on every
input, or an answer that cannot be compared), ``timeout``, ``memory``, ``crashed``, ``syntax_error``.
"""

import ast
import hashlib
import inspect
import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from numbers import Rational
from typing import Any

from openrlhf_pf.code_reward.judge import values
from openrlhf_pf.code_reward.judge.objects import RemoteObject, raised_by_program
from openrlhf_pf.code_reward.judge.programs import Outcome, Runs, printed_lines
from openrlhf_pf.code_reward.judge.remote import Question, Remote
from openrlhf_pf.code_reward.judge.script import cached_by_size
from openrlhf_pf.code_reward.results import Problem

FUNCTIONS, PROGRAMS = "observe", "observe_stdio"
_MOST_ELEMENTS = 10_000  # of an iterator that a program returns
_ANSWERS = ("call", "change", "await")


def observation_of(problem: Problem) -> Problem:
    """The problem whose result's ``detail``, if it is a pass, is the fingerprint of a program's answers."""
    data = problem.data
    limits = {"limits": data["limits"]} if data.get("limits") else {}
    if problem.kind == "stdio":
        return Problem(PROGRAMS, {"inputs": [text for text, _ in data["cases"]], **limits})
    if problem.kind == "cases":
        cases = [(args, kwargs, None) for args, kwargs, _ in data["cases"]]
        found = {"path": data["path"], "cases": cases, "tolerance": 0.0, "json": bool(data.get("json"))}
        return Problem(FUNCTIONS, {"of": "cases", **found, **limits})
    return Problem(FUNCTIONS, {**data, "of": problem.kind})


# ── Answers ──


class NotComparable(Exception):
    """The answer is an object of the program's own, of which only the program could say what it equals."""


def canonical(value: Any, as_json: bool = False) -> str:
    """One text for all values that ``==`` takes for equal, in which sets and dicts have an order; floats by ``repr``.

    Args:
        value: what a program answered, as :mod:`codec` rebuilt it.
        as_json: as JSON has it: one kind of sequence, only strings as keys.

    Raises:
        NotComparable: see there.
    """
    if value is None:
        return "null"
    if isinstance(value, (int, float, complex)) or values.known_name(type(value)) in ("Decimal", "Fraction"):
        return _number(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, (bytes, bytearray)):
        return f"bytes {value.hex()}"
    if isinstance(value, dict):
        named = {_key(key) if as_json else canonical(key): canonical(item, as_json) for key, item in value.items()}
        return f"{{{', '.join(f'{key}: {named[key]}' for key in sorted(named))}}}"
    if isinstance(value, (set, frozenset)):
        items = sorted(value, key=_order)
        return _sequence("[" if as_json else "set[", items, as_json)
    return _rarer(value, as_json)


def _rarer(value: Any, as_json: bool) -> str:
    kind = values.known_name(type(value))
    if isinstance(value, values.ProgramEnum):
        return f"enum {type(value).__name__}.{value.name}"
    if isinstance(value, (list, tuple)) or kind == "ndarray":
        listed = as_json or not isinstance(value, tuple)
        return _sequence("[" if listed else "tuple[", value.tolist() if kind == "ndarray" else value, as_json)
    if kind in ("date", "datetime", "time"):
        return json.dumps(str(value)) if as_json else f"{kind} {value.isoformat()}"
    if kind == "timedelta":
        return f"timedelta {value!r}"
    if kind or isinstance(value, RemoteObject):  # a range, a deque, a dict's keys; an iterator of the program's
        if isinstance(value, RemoteObject) and value._remote_ability != values.ITERATES:
            raise NotComparable(f"it returns a {value._remote_name}, which only the program can compare")
        return _sequence("[" if as_json else f"{kind or 'iterator'}[", islice(value, _MOST_ELEMENTS), as_json)
    if inspect.iscoroutine(value):  # what it comes to, is asked for by itself
        value.close()
        return "coroutine"
    raise NotComparable(f"it returns a {type(value).__name__}, which cannot be compared")


def _sequence(opening: str, items: Iterable[Any], as_json: bool) -> str:
    return f"{opening}{', '.join(canonical(item, as_json) for item in items)}]"


def _number(value: Any) -> str:
    """True, 1, 1.0 and Fraction(2, 2) are equal, and so are their texts."""
    if isinstance(value, complex):
        return _number(value.real) if value.imag == 0 else f"{_number(value.real)} + {_number(value.imag)}j"
    if isinstance(value, int):
        return f"{int(value):x}"  # in hexadecimal, which has no quadratic conversion
    if not math.isfinite(value):
        return repr(float(value))
    if value == (whole := int(value)):
        return f"{whole:x}"
    return repr(float(value)) if float(value) == value or not isinstance(value, Rational) else f"fraction {value}"


def _key(key: Any) -> str:
    text = json.dumps(key) if key is None or isinstance(key, (bool, int, float)) else key
    return json.dumps(text) if isinstance(text, str) else canonical(text, True)


def _order(item: Any) -> tuple[bool, Any, str]:
    number = isinstance(item, (int, float)) and item == item
    return not number, item if number else 0, canonical(item)


class RecordingRemote(Remote):
    """A program seen from outside, all of whose answers are written down."""

    records = True

    def __init__(self, *arguments: Any, as_json: bool) -> None:
        super().__init__(*arguments)
        self._as_json = as_json
        self._answers_given: list[str] = []
        self._answered_once, self._incomparable = False, ""

    def request(self, question: Question, foreseen_as: Question | None = None) -> Any:
        """As in the parent."""
        if question[0] not in _ANSWERS:
            return super().request(question, foreseen_as)
        try:
            answer = super().request(question, foreseen_as)
            text = canonical(answer, self._as_json)
            self._answered_once = self._answered_once or text != "coroutine"
        except NotComparable as error:
            text, self._incomparable = "", str(error)
        except Exception as error:
            self._answers_given.append(f"raised {(raised_by_program(error) or ['?'])[0]}")
            raise
        self._answers_given.append(text)
        return answer

    def heeded(self, test: str) -> str:
        """As in the parent: nothing that the test says is heeded."""
        return disarmed(test)

    def fingerprint(self) -> str:
        """The fingerprint of all its answers."""
        if self._incomparable:
            self.verdict("failed", self._incomparable)
        if self._answers_given and not self._answered_once:
            self.verdict("failed", "it fails on every input")
        return hash_answers(self._answers_given)


def hash_answers(answers: Iterable[str]) -> str:
    """32 hex digits that stand for canonical answers in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for answer in answers:
        data = answer.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


# ── Questions ──


@cached_by_size
def disarmed(test: str) -> str:
    """The test code with asserts that never fail, so that everything after them is asked as well."""
    tree = ast.parse(test)  # a tree of its own, for it is changed
    return ast.unparse(ast.fix_missing_locations(_Disarming().visit(tree)))


class _Disarming(ast.NodeTransformer):
    _STEPS = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.With, ast.If, ast.Raise)

    def visit(self, node: ast.AST) -> Any:
        """Each statement in a ``try`` of its own; of an assert, each part whose truth decides."""
        self.generic_visit(node)
        if isinstance(node, ast.Assert):
            return [self._safe(ast.Expr(part)) for part in _parts(node.test)]
        return self._safe(node) if isinstance(node, self._STEPS) else node

    @staticmethod
    def _safe(step: ast.stmt) -> ast.stmt:
        (safe,) = ast.parse("try:\n    pass\nexcept Exception:\n    pass").body
        assert isinstance(safe, ast.Try)
        safe.body = [step]
        return safe


def _parts(node: ast.expr) -> list[ast.expr]:
    """Expressions that are evaluated to the end whatever the ones before them are: no ``and`` leaves one out."""
    if isinstance(node, ast.BoolOp):
        return [part for value in node.values for part in _parts(value)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _parts(node.operand)
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        return [node.left, *node.comparators]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("all", "any"):
        return [ast.Call(ast.Name("list", ast.Load()), node.args, [])]
    return [node]


def check_programs(runs: Runs, data: dict[str, Any]) -> Iterator[tuple[int, Outcome | None]]:
    """As :func:`programs.check_programs`: of each of the ``inputs``, what is printed, or how the program fails."""
    answers: list[str] = []
    answered = False
    for test, text in enumerate(data["inputs"]):
        verdict, detail, printed = runs.run(text)
        verdict = "failed" if verdict == "infrastructure" else verdict  # it lacks a package: it has no answers
        if verdict not in ("passed", "failed"):
            yield test, (verdict, test, detail[:300])
            return
        answered = answered or verdict == "passed"
        answers.append(json.dumps(printed_lines(printed)) if verdict == "passed" else f"raised {detail.split(':')[0]}")
        if test < len(data["inputs"]) - 1:
            yield test, None
        else:
            failed = "failed", None, "it fails on every input"
            yield test, ("passed", None, hash_answers(answers)) if answered else failed
