"""Rows of MBPP, sanitized MBPP and MBPP+ as the Hub has it: assert statements around the functions of ``code``."""

import ast
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks.task import Task, code_field, list_field, options, parse, text_field


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether these fields are such a row's."""
    return "test_list" in row


def mbpp(row: Mapping[str, Any]) -> Task:
    """The task of such a row.

    Raises:
        ValueError: a field is missing or wrong.
    """
    code = text_field(row, "code", "")
    asserts = [line.replace("\r\n", "\n").replace("\r", "\n") for line in list_field(row, "test_list", str)]
    if row.get("test"):  # MBPP+: all inputs in one loop
        asserts.append(code_field(row, "test"))
    trees = [parse(text, f"test_list[{place}]") for place, text in enumerate(asserts)]
    defined = _defined(code)
    helpers = _comparing(trees, defined)
    names = [name for name in defined if name not in helpers]
    data = {
        "imports": "\n".join(row.get("test_imports") or []),
        "setup": code_field(row, "test_setup_code", ""),
        "asserts": asserts,
        "names": names,
        **({"helpers": helpers, "reference": code} if helpers else {}),
        **options(row),
    }
    parse(data["imports"], "test_imports")
    called = _called(trees)
    # The reference defines its helpers before what uses them.
    known = [name for name in names if name in called]
    functions = [name for name in known if not name[:1].isupper()] or known
    entry_point = functions[-1] if functions else next(iter(called), "")
    problem = Problem("asserts", data | {"entry_point": entry_point})
    prompt = row.get("text") or row.get("prompt") or ""
    return Task(str(row.get("task_id", "")), problem, str(prompt), entry_point)


def _defined(code: str) -> list[str]:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError):
        return []
    return [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]


def _called(trees: list[ast.Module]) -> list[str]:
    """The names that are called and no builtins."""
    import builtins

    calls = [node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call.id for call in calls if isinstance(call, ast.Name) and not hasattr(builtins, call.id)]


def _comparing(trees: list[ast.Module], defined: list[str]) -> list[str]:
    """The reference's functions that tests compare with: ``assert same(f(1), 2)``, where only the truth counts."""
    return sorted({outer for tree in trees for outer, _ in truths_about(tree, set(defined))})


def truths_about(tree: ast.AST, names: set[str]) -> list[tuple[str, str]]:
    """Of names that only the program defines, the pairs ``outer``, ``inner`` in asserts that ``outer(... inner(...))``
    is true or false.
    """
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assert):
            continue
        for call in _truth_of(node.test):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names:
                inner = [
                    inside.func.id
                    for part in [*call.args, *call.keywords]
                    for inside in ast.walk(part)
                    if isinstance(inside, ast.Call) and isinstance(inside.func, ast.Name)
                ]
                inner = [name for name in inner if name in names and not name[:1].isupper()]
                if inner and not call.func.id[:1].isupper():
                    found.append((call.func.id, inner[0]))
    return found


def _truth_of(node: ast.expr) -> list[ast.expr]:
    """The expressions whose truth decides an assert."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _truth_of(node.operand)
    if isinstance(node, ast.BoolOp):
        return [part for value in node.values for part in _truth_of(value)]
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = node.comparators[0]
        if isinstance(other, ast.Constant) and isinstance(other.value, bool):
            return _truth_of(node.left)
    return [node]
