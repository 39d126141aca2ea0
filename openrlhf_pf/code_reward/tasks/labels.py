"""From a label to its task: which form it has, and a cache of the tasks that were read.

To add a form, write a function that recognises it and one that makes its task, and name them in :data:`FORMS`.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.tasks import functions, pairs
from openrlhf_pf.code_reward.tasks.task import Task, check_option_names, given

Read = Callable[[Any], Task]

# The first that recognises a label reads it.
FORMS: dict[str, tuple[Callable[[Mapping[str, Any]], bool], Read]] = {
    "EvalPlus": (lambda row: "base_input" in row or "plus_input" in row, functions.evalplus),
    "MBPP": (lambda row: "test_list" in row, functions.mbpp),
    "LeetCode": (lambda row: "prompt" in row and "my_solution" in _text(row, "test"), functions.leetcode),
    "test functions": (lambda row: functions.is_functions(_text(row, "test")), functions.functions_task),
    "HumanEval": (lambda row: "test" in row and "entry_point" in row, functions.humaneval),
    "asserts": (lambda row: "asserts" in row, functions.asserts_task),
    "assert_case": (lambda row: bool(row.get("assert_case")), functions.verl_task),
    "calls": (lambda row: "inputs" in row and "entry_point" in row and "fn_name" not in row, pairs.own_calls),
    "APPS calls": (lambda row: "inputs" in row and bool(row.get("fn_name")), pairs.apps_calls),
    "programs": (lambda row: "stdin" in row or "stdout" in row, pairs.own_programs),
    "APPS programs": (
        lambda row: "outputs" in row and "inputs" in row and "entry_point" not in row,
        pairs.apps_programs,
    ),
    "code_contests": (lambda row: any(name in row for name in pairs.PARTS), pairs.contest),
    "LiveCodeBench": (lambda row: any(name in row for name in pairs.HIDDEN), pairs.live_code_bench),
}
BENCHMARKS: dict[str, Callable[[Mapping[str, Any]], Task]] = {
    "humaneval": functions.humaneval,
    "mbpp": functions.mbpp,
    "mbpp_sanitized": functions.mbpp,
    "leetcode": functions.leetcode,
}
# Other names of the same fields: rStar-Coder's, Skywork-OR1's, Code-R1's, those of Codeforces.
_USUAL_NAMES = {"func_name": "fn_name", "test_code": "test", "pytest": "test", "functional": "assert_case"}
_USUAL_NAMES |= {"official_tests": "tests"}
# Fields in which data sets put a whole label.
_WRAPPERS = "ground_truth input_output verification_info verifier_metadata unit_tests test_cases tests".split()
_CACHE_BYTES = 64 << 20
_COPIES = 4  # what a label's text costs as objects and as bytes to be sent, in its own lengths


def _text(row: Mapping[str, Any], name: str) -> str:
    return row[name] if isinstance(row.get(name), str) else ""


def _read(label: Any, depth: int = 0) -> Task:
    if isinstance(label, str):
        label = _loads(label, "it")
    if functions.is_list(label):
        return functions.asserts_task({"asserts": label})
    if pairs.is_list(label):
        return pairs.list_task(label)
    if not isinstance(label, Mapping):
        raise ValueError("it is neither an object nor a list of tests")
    check_option_names(label)
    label = {_USUAL_NAMES.get(str(key), key): value for key, value in label.items() if value} | dict(label)
    for recognises, read in FORMS.values():
        if recognises(label):
            return read(label)
    for name in _WRAPPERS:
        if label.get(name) and depth < 3:
            inner = _loads(label[name], name) if isinstance(label[name], str) else label[name]
            return _read_inner(inner, label, depth)
    if "test" in label:
        raise ValueError("test has neither a function check(candidate), with entry_point, nor functions test_...()")
    raise ValueError(f"none of its fields ({', '.join(map(str, label))[:80]}) are those of a form")


def _read_inner(inner: Any, label: Mapping[str, Any], depth: int) -> Task:
    """The task of a label that stands in a field of another one, whose options hold for it."""
    if pairs.is_list(inner):
        return pairs.list_task(inner, label)
    tests = inner if isinstance(inner, list) else []
    if tests and all(isinstance(test, Mapping) and "assert_code" in test for test in tests):
        return _read(_roll_label(inner, label), depth + 1)
    around = given(label, "fn_name")
    if functions.is_list(inner):
        return functions.asserts_task(around | {"asserts": inner})
    return _read({**around, **inner} if isinstance(inner, Mapping) else inner, depth + 1)


def _roll_label(tests: list[Mapping[str, Any]], label: Mapping[str, Any]) -> dict[str, Any]:
    """ROLL's tests ``{assert_code, entry_point, import_prefix}`` as a label of another form."""
    codes = [str(test["assert_code"]) for test in tests]
    if any("{response}" in code for code in codes):
        raise ValueError("its tests are of the text of a response (case_type text), and these judge programs")
    first, made = tests[0], given(label)
    made |= {"import_prefix": first["import_prefix"]} if first.get("import_prefix") else {}
    name = first.get("entry_point") or label.get("entry_point") or label.get("test_case_function")
    made |= {"entry_point": name} if name and name != "None" else {}
    if any("def check(" in code or "def test" in code for code in codes):
        return {**made, "test": "\n\n".join(codes)}
    return {**made, "asserts": codes}


def _loads(text: str, name: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no JSON, from character {error.pos} on") from None


def _integer(text: str) -> int:
    """As ``int``, for any number of digits."""
    if len(text) < 4000:
        return int(text)
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text)
    half = len(digits) // 2
    return sign * (_integer(digits[:half]) * 10 ** (len(digits) - half) + _integer(digits[half:]))


class _Cache:
    """Tasks by their labels' texts: the ones used last, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str, read: Callable[[], Task]) -> Task:
        """The task of this text, read if it is not here."""
        with self._lock:
            if text in self._tasks:
                self._tasks.move_to_end(text)
                return self._tasks[text]
        task = read()
        with self._lock:
            if text not in self._tasks:
                self._tasks[text] = task
                self._bytes += _COPIES * len(text)
            while self._bytes > self._most:
                self._bytes -= _COPIES * len(self._tasks.popitem(last=False)[0])
        return task


_cache = _Cache(_CACHE_BYTES)


def from_label(label: str | Mapping[str, Any] | list[Any]) -> Task:
    """The task of a label, an object or a list, or its text in JSON, recognised by its fields.

    Raises:
        ValueError: it is no label of any form, or something is wrong with it.
    """
    try:
        text = label if isinstance(label, str) else json.dumps(label)
        return _cache.get(text, lambda: _sendable(_read(label)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"no tests in the label {label!r:.80} ({reason}): give a row of HumanEval, MBPP, LeetCode or another form "
            "of docs/code_reward.md, or entry_point with inputs and outputs, or stdin and stdout, or asserts, as JSON."
        ) from error


def _sendable(task: Task) -> Task:
    try:
        task.problem.encoded  # noqa: B018
    except codec.NotPlain as error:
        raise ValueError(f"its tests are too large or too deep: {error}") from None
    return task
