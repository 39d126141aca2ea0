"""From a label to its task: which form it has, and the tasks that are read already.

To add a form, write a file beside this one with ``is_row`` and what makes its task, and name them in :data:`FORMS`.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.tasks import (
    calls,
    evalplus,
    examples,
    functions,
    human_eval,
    leetcode_contest,
    mbpp_family,
    programs,
    statements,
)
from openrlhf_pf.code_reward.tasks.task import Task

Read = Callable[[Any], Task]

# The first that recognises a label reads it.
FORMS: dict[str, tuple[Callable[[Mapping[str, Any]], bool], Read]] = {
    "EvalPlus": (evalplus.is_row, evalplus.evalplus),
    "MBPP": (mbpp_family.is_row, mbpp_family.mbpp),
    "LeetCode": (leetcode_contest.is_row, leetcode_contest.leetcode),
    "test functions": (functions.is_row, functions.row_task),
    "HumanEval": (human_eval.is_row, human_eval.humaneval),
    "asserts": (statements.is_row, statements.row_task),
    "assert_case": (statements.is_verl, statements.verl_task),
    "calls": (calls.is_own, calls.own),
    "APPS calls": (calls.is_apps, calls.apps),
    "programs": (programs.is_own, programs.own),
    "APPS programs": (programs.is_apps, programs.apps),
    "code_contests": (programs.is_contest, programs.contest),
    "LiveCodeBench": (examples.is_row, examples.row_task),
}
BENCHMARKS: dict[str, Callable[[Mapping[str, Any]], Task]] = {
    "humaneval": human_eval.humaneval,
    "mbpp": mbpp_family.mbpp,
    "mbpp_sanitized": mbpp_family.mbpp,
    "leetcode": leetcode_contest.leetcode,
}
# Fields in which data sets put a whole label.
_WRAPPERS = ("ground_truth", "input_output", "verification_info", "test_cases", "tests")
_CACHE_BYTES = 64 << 20
_COPIES = 4  # what a label's text costs as objects and as bytes to be sent, in its own lengths


def _read(label: Any, depth: int = 0) -> Task:
    if isinstance(label, str):
        label = _loads(label)
    if statements.is_list(label):
        return statements.list_task(label)
    if examples.is_list(label):
        return examples.list_task(label)
    if not isinstance(label, Mapping):
        raise ValueError("it is neither an object nor a list of tests")
    for recognises, read in FORMS.values():
        if recognises(label):
            return read(label)
    for name in _WRAPPERS:
        if label.get(name) and depth < 3:
            inner = _loads(label[name]) if isinstance(label[name], str) else label[name]
            if examples.is_list(inner):
                return examples.list_task(inner, label)
            return _read(inner, depth + 1)
    if "test" in label:
        raise ValueError("test has neither a function check(candidate), with entry_point, nor functions test_...()")
    raise ValueError(f"none of its fields ({', '.join(map(str, label))[:80]}) are those of a form")


def _loads(text: str) -> Any:
    return json.loads(text, parse_int=_integer)


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
    """The task of a label, an object or a list, or its text in JSON, told by its fields.

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
