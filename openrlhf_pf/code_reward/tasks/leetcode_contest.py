"""Rows of LeetCode Contest: flat test code around ``my_solution = Solution()``."""

import ast
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks.task import USUAL_IMPORTS, Task, code_field, parse, text_field


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether these fields are such a row's."""
    return "prompt" in row and isinstance(row.get("test"), str) and "my_solution" in row["test"]


def leetcode(row: Mapping[str, Any]) -> Task:
    """The task of such a row.

    Raises:
        ValueError: a field is missing or wrong.
    """
    test, prompt = code_field(row, "test"), text_field(row, "prompt")
    classes = _prompt_classes(prompt)
    problem = _leetcode_cases(test) or _leetcode_asserts(test, classes)
    return Task(str(row.get("task_id", "")), problem, prompt, "Solution", USUAL_IMPORTS + classes, completes=True)


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


def _leetcode_asserts(test: str, classes: str) -> Problem:
    """Linked lists: they are built and read by the test's own two helpers, here, of the prompt's classes."""
    tree = parse(test, "test")
    setup, asserts, arguments = ["from typing import *", classes], [], ""
    for node in tree.body:
        text = ast.unparse(node)
        if isinstance(node, ast.Assert):
            asserts.append(f"{arguments}\n{text}".replace("my_solution.", "Solution()."))
        elif text.startswith("test_input = "):
            arguments = text
        elif not text.startswith("my_solution = "):
            setup.append(text)
    if not asserts:
        raise ValueError("test has no assert")
    data = {"imports": "", "setup": "\n".join(setup), "asserts": asserts, "names": ["Solution"]}
    return Problem("asserts", data)
