"""Labels of assert statements: MBPP and its relatives, our own form, AceCoder, verl's ``assert_case``."""

import ast
import builtins
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.script import is_usual, names_in
from openrlhf_pf.code_reward.results import Problem
from openrlhf_pf.code_reward.tasks.task import (
    Task,
    code_field,
    list_field,
    name_field,
    only_one,
    options,
    parse,
    text_field,
)

_FORMS = ("asserts", "stdin", "inputs", "test")


def is_mbpp(row: Mapping[str, Any]) -> bool:
    """Whether these fields are those of MBPP, sanitized MBPP or MBPP+ as the Hub has it."""
    return "test_list" in row


def mbpp(row: Mapping[str, Any]) -> Task:
    """The task of assert statements about the functions of ``code``; raises ``ValueError`` for a wrong field."""
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


def is_asserts(row: Mapping[str, Any]) -> bool:
    """Whether these fields are our own form's."""
    return "asserts" in row


def is_verl(row: Mapping[str, Any]) -> bool:
    """Whether these fields are verl's."""
    return bool(row.get("assert_case"))


def is_list(label: Any) -> bool:
    """Whether it is a list of statements."""
    return isinstance(label, list) and bool(label) and all(isinstance(item, str) for item in label)


def asserts_task(row: Mapping[str, Any]) -> Task:
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
    return asserts_task(
        {"asserts": [cases] if isinstance(cases, str) else cases, "imports": row.get("import_prefix", "")}
    )


def list_task(label: list[str]) -> Task:
    """The task of a list of statements."""
    return asserts_task({"asserts": label})


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
