"""Rows of HumanEval, of HumanEval+ as the Hub has it, and of LeetCodeDataset: a function ``check(candidate)``."""

from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks.task import Task, as_code, code_field, defined_names, defines, name_field, options


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether these fields are such a row's."""
    return "test" in row and "entry_point" in row


def humaneval(row: Mapping[str, Any]) -> Task:
    """The task of such a row.

    Raises:
        ValueError: a field is missing or wrong.
    """
    entry_point, test = name_field(row, "entry_point"), code_field(row, "test")
    if "check" not in defined_names(test):
        raise ValueError("test defines no function check(candidate)")
    prompt = str(row.get("prompt") or "")
    code = as_code(prompt)
    data = {"preamble": code, "test": test, "entry_point": entry_point, "function": "check", **options(row)}
    first = entry_point.split(".")[0]
    task_id, problem = str(row.get("task_id", "")), Problem("function", data)
    if code and code == prompt and not defines(code, first):  # imports and helpers, and no beginning to be continued
        return Task(task_id, problem, prompt, first, preamble=f"{code}\n")
    return Task(task_id, problem, prompt if code else "", first, completes=bool(code))
