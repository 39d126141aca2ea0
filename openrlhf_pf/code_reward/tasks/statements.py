"""Statements that a right program passes: a form of our own, AceCoder's list of asserts, verl's ``assert_case``."""

import ast
import builtins
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.judge.script import is_usual, names_in
from openrlhf_pf.code_reward.tasks.mbpp_family import truths_about
from openrlhf_pf.code_reward.tasks.task import Task, code_field, list_field, name_field, only_one, options, parse

_FORMS = ("asserts", "stdin", "inputs", "test")


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether these fields are our own form's."""
    return "asserts" in row


def is_verl(row: Mapping[str, Any]) -> bool:
    """Whether these fields are verl's."""
    return bool(row.get("assert_case"))


def is_list(label: Any) -> bool:
    """Whether it is a list of statements."""
    return isinstance(label, list) and bool(label) and all(isinstance(item, str) for item in label)


def row_task(row: Mapping[str, Any]) -> Task:
    """The task of ``asserts``, with ``imports`` and ``setup``.

    Raises:
        ValueError: a field is missing or wrong, or the tests leave the verdict to the program.
    """
    only_one(row, _FORMS)
    asserts = list_field(row, "asserts", str)
    imports, setup = code_field(row, "imports", ""), code_field(row, "setup", "")
    trees = [parse(text, f"asserts[{place}]") for place, text in enumerate(asserts)]
    entry_point = name_field(row, "entry_point") if row.get("entry_point") else ""
    whole = "\n".join([imports, setup, *asserts])
    strange = _programs_names(parse(whole, "asserts"))
    if entry_point:
        strange.add(entry_point.split(".")[0])
    _refuse_verdicts(trees, strange)
    called = _first_called(trees, strange)
    data = {"imports": imports, "setup": setup, "asserts": asserts, "names": [], "entry_point": entry_point or called}
    return Task(str(row.get("task_id", "")), Problem("asserts", data | options(row)), "", entry_point or called)


def verl_task(row: Mapping[str, Any]) -> Task:
    """The task of ``assert_case``, a statement or a list of them."""
    cases = row["assert_case"]
    return row_task({"asserts": [cases] if isinstance(cases, str) else cases, "imports": row.get("import_prefix", "")})


def list_task(label: list[str]) -> Task:
    """The task of a list of statements."""
    return row_task({"asserts": label})


def _programs_names(tree: ast.Module) -> set[str]:
    """The names that neither the test nor Python defines, and that are not what everybody takes from a library."""
    names = names_in(tree)
    unknown = names.read - names.bound - frozenset(dir(builtins))
    strange = {name for name in unknown if not is_usual(name)}
    return strange or set(unknown)


def _refuse_verdicts(trees: list[ast.Module], strange: set[str]) -> None:
    for tree in trees:
        for outer, inner in truths_about(tree, strange):
            raise ValueError(
                f"{outer}(...) judges {inner}(...), and nothing defines it but the program: define it in setup"
            )
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.Is)):
                for one, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
                    if _builds(one, strange) and _asks(other, strange):
                        name = one.func.id  # type: ignore[attr-defined]
                        raise ValueError(
                            f"the program's own class {name} would decide whether its answer equals {name}(...): "
                            "compare attributes"
                        )


def _builds(node: ast.expr, strange: set[str]) -> bool:
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in strange
    return named and node.func.id[:1].isupper()  # type: ignore[attr-defined]


def _asks(node: ast.expr, strange: set[str]) -> bool:
    calls = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    return any(isinstance(call, ast.Name) and call.id in strange and not call.id[:1].isupper() for call in calls)


def _first_called(trees: list[ast.Module], strange: set[str]) -> str:
    calls = [node.func.id for tree in trees for node in ast.walk(tree) if _is_call_of(node, strange)]
    functions = [name for name in calls if not name[:1].isupper()]
    return next(iter(functions or calls), "")


def _is_call_of(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
