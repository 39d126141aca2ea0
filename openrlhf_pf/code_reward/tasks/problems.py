"""From a data set's row, or a label of one's own, to a problem, and from a model's answer to the program that is
tested.

A label is a row of HumanEval, MBPP, sanitized MBPP or LeetCode Contest as it stands in the data file, or one of

    {"entry_point": "f", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}     function calls; "tolerance" for floats
    {"stdin": ["1 2\\n", ...], "stdout": ["3\\n", ...]}                       whole programs
    {"asserts": ["assert f(1, 2) == 3", ...], "imports": "...", "setup": "..."}
"""

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks.extract import extract_code

LEETCODE_IMPORTS = """
import math, re, sys, copy, datetime, itertools, collections, heapq, functools, hashlib, string
import bisect, operator, random
from typing import *
from collections import *
from functools import *
from itertools import *
from heapq import *
from bisect import *
from math import *
try:
    import numpy
    import numpy as np
except ImportError:
    pass
del pow
"""


@dataclass(frozen=True)
class Task:
    """One problem with what a program for it starts with.

    Attributes:
        task_id: the data set's name for it.
        prompt: what the model saw, as far as it is code.
        entry_point: the function or class that an answer must define, if known.
        preamble: code before the program: imports that the data set's authors take for granted.
        completes: the prompt is code that an answer may continue in the middle.
    """

    task_id: str
    problem: Problem
    prompt: str = ""
    entry_point: str = ""
    preamble: str = ""
    completes: bool = False

    def program(self, answer: str) -> str:
        """The whole program for a model's answer, be it chat, code or the continuation of the prompt's code."""
        code = extract_code(answer, self.entry_point)
        if not self.completes:
            return f"{self.preamble}{code}\n"
        if self.entry_point and defines(code, self.entry_point):
            # A prompt that parses (its own body is a docstring) gives its imports and helpers.
            helpers = f"{self.prompt}\n\n" if defines(self.prompt, self.entry_point) else ""
            return f"{self.preamble}{helpers}{code}\n"
        return f"{self.preamble}{self.prompt}{code}\n"


def defines(code: str, name: str) -> bool:
    """Whether code that parses defines the name at its top level."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    named = {node.name for node in body if isinstance(node, functions)}
    assigned = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return name in named | {target.id for target in assigned if isinstance(target, ast.Name)}


def humaneval(row: Mapping[str, Any]) -> Task:
    """A row of HumanEval, or of HumanEval+."""
    data = {"preamble": row["prompt"], "test": row["test"], "entry_point": row["entry_point"], "function": "check"}
    problem = Problem("function", data)
    return Task(str(row["task_id"]), problem, row["prompt"], row["entry_point"], completes=True)


def mbpp(row: Mapping[str, Any]) -> Task:
    """A row of MBPP (``text``, ``test_setup_code``) or of sanitized MBPP (``prompt``, ``test_imports``)."""
    code = _unix(row.get("code", ""))
    names = _defined(code)
    data = {
        "imports": "\n".join(row.get("test_imports") or []),
        "setup": _unix(row.get("test_setup_code") or ""),
        "asserts": [_unix(line) for line in row["test_list"]],
        "names": names,
    }
    entry_point = _called(data["asserts"], names)
    return Task(str(row["task_id"]), Problem("asserts", data), row.get("text") or row.get("prompt", ""), entry_point)


def leetcode(row: Mapping[str, Any]) -> Task:
    """A row of LeetCode Contest: flat test code around ``my_solution = Solution()``."""
    problem = _leetcode_cases(row["test"]) or _leetcode_asserts(row["test"])
    preamble = LEETCODE_IMPORTS + _prompt_classes(row["prompt"])
    return Task(str(row["task_id"]), problem, row["prompt"], "Solution", preamble, completes=True)


def own(row: Mapping[str, Any]) -> Task:
    """A label of one's own, see the head of this module."""
    task_id = str(row.get("task_id", ""))
    entry_point = row.get("entry_point", "")
    if "stdin" in row:
        cases = _paired(row["stdin"], row.get("stdout", []))
        return Task(task_id, Problem("stdio", {"cases": cases, "max_output": 1 << 20}))
    if "inputs" in row:
        cases = [(args, {}, expected) for args, expected in _paired(row["inputs"], row.get("outputs", []))]
        tolerance = float(row.get("tolerance", 0.0))
        data = {"path": entry_point.split("."), "cases": cases, "tolerance": tolerance}
        return Task(task_id, Problem("cases", data), entry_point=entry_point.split(".")[0])
    asserts = list(row["asserts"])
    data = {"imports": row.get("imports", ""), "setup": row.get("setup", ""), "asserts": asserts, "names": []}
    return Task(task_id, Problem("asserts", data), entry_point=entry_point or _called(asserts, []))


BENCHMARKS: dict[str, Callable[[Mapping[str, Any]], Task]] = {
    "humaneval": humaneval,
    "mbpp": mbpp,
    "mbpp_sanitized": mbpp,
    "leetcode": leetcode,
}


@lru_cache(maxsize=4096)
def from_label(label: str) -> Task:
    """The task of a label in JSON, told by its fields.

    Raises:
        ValueError: it is no label of any form.
    """
    try:
        row = json.loads(label)
        if "test" in row and "entry_point" in row:
            return humaneval(row)
        if "test_list" in row:
            return mbpp(row)
        if "test" in row and "prompt" in row:
            return leetcode(row)
        return own(row)
    except (ValueError, TypeError, KeyError, AttributeError, SyntaxError) as error:
        raise ValueError(
            f"no tests in the label {label!r:.80} ({type(error).__name__}: {error}): give a row of HumanEval, MBPP or "
            "LeetCode, or entry_point with inputs and outputs, or stdin and stdout, or asserts, as JSON."
        ) from error


def _paired(inputs: list[Any], outputs: list[Any]) -> list[tuple[Any, Any]]:
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    return list(zip(inputs, outputs))


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _defined(code: str) -> list[str]:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError):
        return []
    return [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def _called(asserts: list[str], names: list[str]) -> str:
    """The function that the tests are about: the reference's one that the first test calls, or else what it calls
    that is no builtin.
    """
    import builtins

    calls = [
        node.func.id
        for text in asserts[:1]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    known = [name for name in calls if name in names] or [name for name in calls if not hasattr(builtins, name)]
    return known[0] if known else ""


def _prompt_classes(prompt: str) -> str:
    """Classes that a LeetCode prompt defines for its arguments, such as ListNode."""
    try:
        body = ast.parse(prompt.rstrip() + "\n        pass\n").body
    except SyntaxError:
        return ""
    classes = [ast.unparse(node) for node in body if isinstance(node, ast.ClassDef) and node.name != "Solution"]
    return "".join(f"{text}\n" for text in classes)


def _leetcode_cases(test: str) -> Problem | None:
    """Calls with literal arguments and results; None if a test has others."""
    cases, methods, arguments = [], set(), None
    for node in ast.parse(test).body:
        try:
            if isinstance(node, ast.Assert):
                call, expected = node.test.left, ast.literal_eval(node.test.comparators[0])
                if ast.unparse(call) != f"my_solution.{call.func.attr}(**test_input)":
                    return None
                if len(node.test.ops) != 1 or not isinstance(node.test.ops[0], ast.Eq):
                    return None
                methods.add(call.func.attr)
                cases.append(((), arguments, expected))
            elif ast.unparse(node.targets[0]) == "test_input":
                arguments = ast.literal_eval(node.value)
        except (AttributeError, ValueError, IndexError):
            return None
    if len(methods) != 1:
        return None
    return Problem("cases", {"path": ["Solution", *methods], "cases": cases, "tolerance": 0.0})


def _leetcode_asserts(test: str) -> Problem:
    """Linked lists: they are built and read by the test's own two helpers, which have to run beside the program.

    So a program can see and replace these helpers; expected values still stay outside.
    """
    setup, asserts, arguments = [], [], ""
    for node in ast.parse(test).body:
        text = ast.unparse(node)
        if isinstance(node, ast.Assert):
            text = text.replace("(**test_input)", f"(**{arguments})").replace("my_solution.", "Solution().")
            asserts.append(text)
        elif text.startswith("test_input = "):
            arguments = text.removeprefix("test_input = ")
        else:
            setup.append(text)
    return Problem("asserts", {"imports": "", "setup": "\n".join(setup), "asserts": asserts, "names": []})
