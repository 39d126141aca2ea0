"""Rows of EvalPlus's own files, HumanEval+ and MBPP+: inputs, and a reference solution that says what is expected."""

from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks.task import Task, as_code, name_field, parse, text_field

# As EvalPlus compares: exactly, and floats within atol, or 1e-6 where the reference returns floats.
_TEST = """
import copy, math

def _floats(value):
    return isinstance(value, float) or (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, float) for item in value)
    )

def _close(got, expected, atol):
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        return len(got) == len(expected) and all(_close(a, b, atol) for a, b in zip(got, expected))
    return got == expected or math.isclose(got, expected, rel_tol=1e-7, abs_tol=atol)

def check(candidate):
    for arguments in INPUTS:
        expected = REFERENCE(*copy.deepcopy(arguments))
        got = candidate(*copy.deepcopy(arguments))
        if got != expected:
            atol = ATOL or (1e-6 if _floats(expected) else 0)
            assert atol and _close(got, expected, atol)
"""


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether these fields are such a row's."""
    return "base_input" in row or "plus_input" in row


def evalplus(row: Mapping[str, Any]) -> Task:
    """The task of such a row.

    Raises:
        ValueError: a field is missing or wrong.
    """
    entry_point, prompt = name_field(row, "entry_point"), text_field(row, "prompt")
    reference = prompt + text_field(row, "canonical_solution")
    parse(reference, "prompt with canonical_solution")
    inputs = [*(row.get("base_input") or []), *(row.get("plus_input") or [])]
    if not inputs or not all(isinstance(arguments, list) for arguments in inputs):
        raise ValueError("base_input and plus_input have to be lists of lists of arguments")
    atol = row.get("atol") or 0
    if isinstance(atol, bool) or not isinstance(atol, (int, float)):
        raise ValueError(f"atol is {atol!r:.40}, and has to be a number")
    preamble = (
        f"{reference}\nREFERENCE = {entry_point}\nfrom math import inf, nan\nINPUTS = {inputs!r}\nATOL = {atol!r}\n"
    )
    data = {"preamble": preamble, "test": _TEST, "entry_point": entry_point, "function": "check"}
    completes = str(row.get("task_id", "")).startswith("HumanEval")
    task_id, shown = str(row.get("task_id", "")), prompt if as_code(prompt) else ""
    return Task(task_id, Problem("function", data), shown, entry_point, completes=completes)
