"""Labels of assert statements: MBPP and its relatives, our own form, AceCoder, verl's ``assert_case``."""

import ast
import builtins
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.results import Problem
from openrlhf_pf.code_reward.tasks.refusals import (
    judges_in,
    programs_names,
    refuse_shared_process,
    refuse_undefined,
    refuse_unknown_judges,
)
from openrlhf_pf.code_reward.tasks.task import (
    OPTIONS,
    SETUPS,
    Task,
    code_field,
    defined_names,
    list_field,
    name_field,
    only_one,
    options,
    parse,
    setup_of,
    text_field,
    with_solution_imports,
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
    imports, setup = "\n".join([*(row.get("test_imports") or []), setup_of(row)]), code_field(
        row, "test_setup_code", ""
    )
    defined = _defined(code)
    # The reference's functions that tests compare with: assert same(f(1), 2).
    helpers = sorted(
        {name for tree in trees for name in judges_in(tree, set(defined), set(defined)) if name in defined}
    )
    helpers = [name for name in helpers if not name[:1].isupper()]
    names = [name for name in defined if name not in helpers]
    around = [parse(imports, "test_imports"), parse(setup, "test_setup_code")]
    strange = programs_names(*around, *trees)
    refuse_shared_process(*around, *trees)
    if defined:
        refuse_undefined(trees, strange, defined_names(code))
    refuse_unknown_judges(trees, strange - set(helpers), defined)
    data = {
        "imports": imports,
        "setup": setup,
        "asserts": asserts,
        "names": names,
        **({"helpers": helpers, "reference": code} if helpers else {}),
        **options(row, of_values=False),
    }
    called = [name for name in _called(trees) if name in strange or name in defined]
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
    imports = "\n".join([code_field(row, "imports", ""), setup_of(row)])
    setup = with_solution_imports(code_field(row, "setup", ""))
    asserts = [with_solution_imports(text) for text in asserts]
    trees = [parse(text, f"asserts[{place}]") for place, text in enumerate(asserts)]
    entry_point = name_field(row, "entry_point") if row.get("entry_point") else ""
    around = [parse(imports, "imports"), parse(setup, "setup")]
    strange = programs_names(*around, *trees)
    if entry_point:
        strange.add(entry_point.split(".")[0])
    refuse_shared_process(*around, *trees)
    refuse_unknown_judges(trees, strange, [entry_point])
    called = _first_called(trees, strange)
    data = {"imports": imports, "setup": setup, "asserts": asserts, "names": [], "entry_point": entry_point or called}
    data |= {"compares_own": True} if _compares_own(trees, strange) else {}
    data |= options(row, of_values=False)
    return Task(str(row.get("task_id", "")), Problem("asserts", data), "", entry_point or called)


def verl_task(row: Mapping[str, Any]) -> Task:
    """The task of ``assert_case``, a statement or a list of them."""
    cases = row["assert_case"]
    wanted = {key: row[key] for key in (*OPTIONS, *SETUPS) if key in row}
    return asserts_task(wanted | {"asserts": [cases] if isinstance(cases, str) else cases})


def _compares_own(trees: list[ast.Module], strange: set[str]) -> bool:
    """Whether an answer is compared with an object of the program's own class: ``f(1) == Point(3)``."""
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.Is)):
            for one, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
                if _builds(one, strange) and _asks(other, strange):
                    return True
    return False


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
