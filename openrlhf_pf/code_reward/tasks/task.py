"""A problem with what a program for it starts with, and how fields of a label are read."""

import ast
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from openrlhf_pf.code_reward.results import Problem
from openrlhf_pf.code_reward.tasks.answers import defines_name, extract_code, with_body
from openrlhf_pf.registry import did_you_mean

# What authors of call-based problems take for granted.
USUAL_IMPORTS = """
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
OPTIONS = {
    "tolerance": "a number of 0 or more: how far a float may be from the expected one, relative and absolute",
    "checker": "Python code that defines checker(input, output, expected)",
    "cpu_seconds": "a number above 0: CPU time of a program with all its tests",
    "test_cpu_seconds": "a number above 0: CPU time of a whole program in one test",
    "memory_mb": "a number above 0: memory that a program may add",
    "output_mb": "a number above 0: what a whole program may print in one test",
}
# Fields with code that data sets run before a test, and the modules that they take a program for.
SETUPS = ("setup_code", "test_setup", "import_prefix")
_FROM_PROGRAM = re.compile(
    r"(?P<before>^[ \t]*from[ \t]+)(?P<module>code|main|your_module|my_module|answer|submission|program)[ \t]+import"
    r"[ \t]+(?P<names>\(?[\w, \t*]+)",
    re.M,
)


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
        code, preamble = extract_code(answer, self.entry_point), self.preamble
        if self.entry_point == "Solution" and USUAL_IMPORTS not in preamble:  # as on LeetCode
            preamble = USUAL_IMPORTS + preamble
        if not self.completes:
            is_indented = code.lstrip("\n")[:1].isspace()
            return f"{preamble}{textwrap.dedent(code) if is_indented else code}\n"
        if self.entry_point and defines_name(code, self.entry_point):
            # A prompt that parses (its own body is a docstring) gives its imports and helpers.
            helpers = f"{self.prompt}\n\n" if self.entry_point in defined_names(self.prompt) else ""
            return f"{preamble}{helpers}{code}\n"
        return f"{preamble}{with_body(self.prompt, code)}\n"


def defined_names(code: str, with_variables: bool = True) -> list[str]:
    """Return the functions, classes and variables that a label's code defines at its top level; none if it does not
    parse.
    """
    try:
        body = parse(code, "it").body
    except ValueError:
        return []
    named = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    if not with_variables:
        return named
    assigned = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return named + [target.id for target in assigned if isinstance(target, ast.Name)]


def as_code(prompt: str) -> str:
    """A prompt that is code, with a body where it ends at a function's head; nothing if it is prose."""
    for text in (prompt, f"{prompt.rstrip()}\n        pass\n", f"{prompt.rstrip()}\n    pass\n"):
        try:
            ast.parse(text)
            return text
        except (SyntaxError, ValueError):
            continue
    return ""


def code_field(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A field that holds Python code; raises ``ValueError`` if it is missing, no string, or does not parse."""
    text = text_field(row, name, default)
    parse(text, name)
    return text


def parse(text: str, name: str) -> ast.Module:
    """The tree of a label's code; raises ``ValueError`` if it does not parse."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{name} is no Python code ({error})") from None


def text_field(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A field that holds a string, with Unix line ends; raises ``ValueError`` if it is missing or no string."""
    value = row.get(name, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_shown(value)}, and has to be a string")
    return value.replace("\r\n", "\n").replace("\r", "\n")


def list_field(row: Mapping[str, Any], name: str, of: type | tuple[type, ...] = object) -> list[Any]:
    """A field that holds a list of one kind, not empty; raises ``ValueError`` otherwise."""
    value = row.get(name)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is {_shown(value)}, and has to be a list with an entry for each test")
    for place, item in enumerate(value):
        if not isinstance(item, of):
            what = "a string" if of is str else "a list of arguments" if of is list else "of another type"
            raise ValueError(f"{name}[{place}] is {_shown(item)}, and has to be {what}")
    if not value:
        raise ValueError(f"{name} is empty")
    return list(value)


def paired(inputs: list[Any], outputs: list[Any]) -> list[tuple[Any, Any]]:
    """Inputs with their outputs; raises ``ValueError`` if their numbers differ."""
    if len(inputs) != len(outputs):
        raise ValueError(f"there are {len(inputs)} inputs and {len(outputs)} outputs")
    return list(zip(inputs, outputs))


def name_field(row: Mapping[str, Any], name: str) -> str:
    """A field that names a function, ``f``, or a method, ``Solution.f`` or ``Solution().f``, or ``ValueError``."""
    value = row.get(name)
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*(?:(?:\(\))?\.[A-Za-z_]\w*)?", value):
        raise ValueError(f"{name} is {_shown(value)}, and has to name the function that the tests call")
    return value.replace("()", "")


def check_option_names(row: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a key looks like an option and is none."""
    for key in row:
        if key not in OPTIONS and (hint := did_you_mean(str(key), OPTIONS, 0.85)):
            raise ValueError(f"there is no {key!r}: {hint.rstrip('?')}")


def options(row: Mapping[str, Any], of_values: bool = True) -> dict[str, Any]:
    """A label's tolerance, checker and limits, in the form of a problem's data.

    Args:
        row: the label.
        of_values: the test compares values or printed text; otherwise it is code that compares by itself.

    Raises:
        ValueError: a value is out of its range, or an option has no effect.
    """
    check_option_names(row)
    if ignored := [key for key in ("tolerance", "checker") if row.get(key) is not None and not of_values]:
        raise ValueError(f"{ignored[0]} has no effect on a test that is code: have the test compare so")
    data: dict[str, Any] = {}
    if row.get("tolerance") is not None:
        data["tolerance"] = _number(row, "tolerance", least=0.0)
    if row.get("checker") is not None:
        if "checker" not in defined_names(code_field(row, "checker")):
            raise ValueError("checker does not define a function checker(input, output, expected)")
        data["checker"] = row["checker"]
    limits: dict[str, Any] = {}
    if row.get("cpu_seconds") is not None:
        limits["cpu_seconds"] = max(1, round(_number(row, "cpu_seconds")))
        limits["wall_seconds"] = 4.0 * limits["cpu_seconds"]
    if row.get("test_cpu_seconds") is not None:
        limits["test_cpu_seconds"] = _number(row, "test_cpu_seconds")
    for key, name in (("memory_mb", "memory_bytes"), ("output_mb", "output_bytes")):
        if row.get(key) is not None:
            limits[name] = max(1, round(_number(row, key) * (1 << 20)))
    return data | ({"limits": limits} if limits else {})


def given(row: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """Return the options and set-up code of a label, and more of its fields, as far as it has them."""
    return {key: row[key] for key in (*OPTIONS, *SETUPS, *more) if row.get(key) is not None}


def setup_of(row: Mapping[str, Any]) -> str:
    """The code that data sets run before a test: ``setup_code``, ``test_setup`` and ``import_prefix``."""
    return "\n".join(with_solution_imports(code_field(row, name)) for name in SETUPS if row.get(name))


def with_solution_imports(code: str) -> str:
    """Test code that imports from the program under one name, ``solution``."""

    def renamed(match: re.Match[str]) -> str:
        names = set(re.findall(r"\w+", match["names"]))
        standard = match["module"] == "code" and names & {"interact", "InteractiveConsole", "compile_command"}
        return match[0] if standard else f"{match['before']}solution import {match['names']}"

    return _FROM_PROGRAM.sub(renamed, code)


def _number(row: Mapping[str, Any], name: str, least: float = 1e-9) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
        raise ValueError(f"{name} is {_shown(value)}, and has to be {OPTIONS[name]}")
    return float(value)


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.40}"


def only_one(row: Mapping[str, Any], forms: Iterable[str]) -> None:
    """Raises ``ValueError`` if a label has fields of several forms, of which all but one would be left out."""
    found = [name for name in forms if row.get(name) is not None]
    if len(found) > 1:
        raise ValueError(f"it has both {found[0]} and {found[1]}: give one of them")
