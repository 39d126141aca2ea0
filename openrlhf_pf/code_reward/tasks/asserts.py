"""Labels of assert statements: MBPP and its relatives, our own form, AceCoder, verl's ``assert_case``."""

import ast
import builtins
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.results import Problem
from openrlhf_pf.code_reward.tasks import refusals
from openrlhf_pf.code_reward.tasks import task as fields
from openrlhf_pf.code_reward.tasks.task import Task, code_field, defined_names, given, parse, setup_of

_FORMS = ("asserts", "stdin", "inputs", "test")


def mbpp(row: Mapping[str, Any]) -> Task:
    """The task of assert statements about the functions of ``code``; raises ``ValueError`` for a wrong field."""
    code = fields.text_field(row, "code", "")
    asserts = [line.replace("\r\n", "\n").replace("\r", "\n") for line in fields.list_field(row, "test_list", str)]
    if row.get("test"):  # MBPP+: all inputs in one loop
        asserts.append(code_field(row, "test"))
    trees = [parse(text, f"test_list[{place}]") for place, text in enumerate(asserts)]
    imports = "\n".join([*(row.get("test_imports") or []), setup_of(row)])
    setup = code_field(row, "test_setup_code", "")
    defined = defined_names(code, with_variables=False)
    # The reference's functions that tests compare with: assert same(f(1), 2).
    judges = {name for tree in trees for name in refusals.judges_in(tree, set(defined), set(defined))}
    helpers = sorted(name for name in judges & set(defined) if not name[:1].isupper())
    names = [name for name in defined if name not in helpers]
    around = [parse(imports, "test_imports"), parse(setup, "test_setup_code")]
    strange = refusals.programs_names(*around, *trees)
    refusals.refuse_shared_process(*around, *trees)
    if defined:
        refusals.refuse_undefined(trees, strange, defined_names(code))
    refusals.refuse_unknown_judges(trees, strange - set(helpers), defined)
    data = {"imports": imports, "setup": setup, "asserts": asserts, "names": names}
    data |= {"helpers": helpers, "reference": code} if helpers else {}
    data |= fields.options(row, of_values=False)
    called = [name for name in _called(*trees) if name in strange.union(defined) and not hasattr(builtins, name)]
    # The reference defines its helpers before what uses them.
    known = [name for name in names if name in called]
    functions = [name for name in known if not name[:1].isupper()] or known
    entry_point = functions[-1] if functions else next(iter(called), "")
    problem = Problem("asserts", data | {"entry_point": entry_point})
    prompt = row.get("text") or row.get("prompt") or ""
    return Task(str(row.get("task_id", "")), problem, str(prompt), entry_point)


def _called(*trees: ast.AST) -> list[str]:
    """Return the names that are called, one for each call."""
    calls = [node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call.id for call in calls if isinstance(call, ast.Name)]


def is_list(label: Any) -> bool:
    """Whether it is a list of statements."""
    return isinstance(label, list) and bool(label) and all(isinstance(item, str) for item in label)


def asserts_task(row: Mapping[str, Any]) -> Task:
    """The task of ``asserts``, with ``imports`` and ``setup``.

    Raises:
        ValueError: a field is missing or wrong, or the tests leave the verdict to the program.
    """
    fields.only_one(row, _FORMS)
    asserts = fields.list_field(row, "asserts", str)
    imports = "\n".join([code_field(row, "imports", ""), setup_of(row)])
    setup = fields.with_solution_imports(code_field(row, "setup", ""))
    asserts = [fields.with_solution_imports(text) for text in asserts]
    trees = [parse(text, f"asserts[{place}]") for place, text in enumerate(asserts)]
    entry_point = fields.name_field(row, "entry_point") if row.get("entry_point") else ""
    around = [parse(imports, "imports"), parse(setup, "setup")]
    strange = refusals.programs_names(*around, *trees)
    if entry_point:
        strange.add(entry_point.split(".")[0])
    refusals.refuse_shared_process(*around, *trees)
    refusals.refuse_unknown_judges(trees, strange, [entry_point])
    calls = [name for name in _called(*trees) if name in strange]
    called = next(iter([name for name in calls if not name[:1].isupper()] or calls), "")
    data = {"imports": imports, "setup": setup, "asserts": asserts, "names": [], "entry_point": entry_point or called}
    data |= {"compares_own": True} if _compares_own(trees, strange) else {}
    data |= fields.options(row, of_values=False)
    return Task(str(row.get("task_id", "")), Problem("asserts", data), "", entry_point or called)


def verl_task(row: Mapping[str, Any]) -> Task:
    """The task of ``assert_case``, a statement or a list of them."""
    cases = row["assert_case"]
    return asserts_task(given(row) | {"asserts": [cases] if isinstance(cases, str) else cases})


def _compares_own(trees: list[ast.Module], strange: set[str]) -> bool:
    """Whether an answer is compared with an object of the program's own class: ``f(1) == Point(3)``."""
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.Is)):
            for one, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
                made = one.func.id if isinstance(one, ast.Call) and isinstance(one.func, ast.Name) else ""
                asks = any(name in strange and not name[:1].isupper() for name in _called(other))
                if made in strange and made[:1].isupper() and asks:
                    return True
    return False
