"""Modules of test functions and classes, as pytest and unittest run them (KodCode, BigCodeBench), and flat code."""

import ast
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks import statements
from openrlhf_pf.code_reward.tasks.task import Task, as_code, defined_names, name_field, options, parse, text_field


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether it has a test that is no function ``check``."""
    if not isinstance(row.get("test"), str):
        return False
    try:
        return "check" not in defined_names(row["test"]) and (_has_tests(row["test"]) or _is_flat(row["test"]))
    except SyntaxError:
        return False


def row_task(row: Mapping[str, Any]) -> Task:
    """The task of such a row.

    Raises:
        ValueError: a field is missing or wrong.
    """
    test = text_field(row, "test")
    tree = parse(test, "test")
    entry_point = name_field(row, "entry_point") if row.get("entry_point") else _imported(tree)
    if not _has_tests(test):
        return statements.row_task({"asserts": [test], "entry_point": entry_point, "task_id": row.get("task_id", "")})
    first = entry_point.split(".")[0]
    problem = Problem("functions", {"test": test, "entry_point": first, **options(row)})
    prompt = str(row.get("complete_prompt") or row.get("code_prompt") or row.get("prompt") or "")
    code = as_code(prompt)
    completes = bool(code) and bool(first) and first in defined_names(code)
    return Task(str(row.get("task_id", "")), problem, prompt if completes else "", first, completes=completes)


def _has_tests(test: str) -> bool:
    return any(_is_test(node) for node in ast.parse(test).body)


def _is_test(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        unit = any("TestCase" in ast.unparse(base) for base in node.bases)
        return unit or node.name.startswith("Test")
    if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
        return False
    required = len(node.args.args) - len(node.args.defaults)
    return not required or any("parametrize" in ast.unparse(mark) for mark in node.decorator_list)


def _is_flat(test: str) -> bool:
    return any(isinstance(node, (ast.Assert, ast.For, ast.With, ast.Try)) for node in ast.parse(test).body)


def _imported(tree: ast.Module) -> str:
    """What the test takes from the program: the last name, for helpers come first."""
    names = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "solution"
        for alias in node.names
    ]
    return names[-1] if names and names[-1] != "*" else ""
