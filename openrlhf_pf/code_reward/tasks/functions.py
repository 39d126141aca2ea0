"""Labels of test code: HumanEval, EvalPlus, KodCode, BigCodeBench, LeetCode Contest; and of assert statements: MBPP
and its relatives, our own form, AceCoder, verl's ``assert_case``.
"""

import ast
import builtins
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.script import guarded_imports
from openrlhf_pf.code_reward.results import Problem
from openrlhf_pf.code_reward.tasks import refusals
from openrlhf_pf.code_reward.tasks import task as fields
from openrlhf_pf.code_reward.tasks.task import (
    USUAL_IMPORTS,
    Task,
    as_code,
    code_field,
    defined_names,
    given,
    parse,
    setup_of,
)


def humaneval(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
    entry_point, test = fields.name_field(row, "entry_point"), code_field(row, "test")
    if "check" not in defined_names(test):
        raise ValueError("test defines no function check(candidate)")
    prompt, setup, test = str(row.get("prompt") or ""), setup_of(row), fields.with_solution_imports(test)
    code, first = as_code(prompt), entry_point.split(".")[0]
    _check_test(row, f"{code}\n{setup}", test, first)
    data = {"preamble": f"{code}\n{setup}", "test": test, "entry_point": entry_point, "function": "check"}
    data |= fields.options(row, of_values=False)
    task_id, problem, imports = str(row.get("task_id", "")), Problem("function", data), guarded_imports(setup)
    if code and code == prompt and first not in defined_names(code):  # imports and helpers, no beginning
        return Task(task_id, problem, prompt, first, preamble=f"{imports}{code}\n")
    return Task(task_id, problem, prompt if code else "", first, preamble=imports, completes=bool(code))


def _check_test(row: Mapping[str, Any], around: str, test: str, entry_point: str) -> None:
    """Raise ``ValueError`` if a test of ``check(candidate)`` needs the program's process or leaves it the verdict."""
    tree = parse(test, "test")
    strange = refusals.programs_names(parse(around, "setup_code"), tree) - {entry_point}
    refusals.refuse_shared_process(tree)
    solution = str(row.get("prompt") or "") + str(row.get("canonical_solution") or row.get("solution") or "")
    refusals.refuse_undefined([tree], strange, defined_names(solution))
    functions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    parameters = {node.args.args[0].arg for node in functions if node.name == "check" and node.args.args}
    refusals.refuse_unknown_judges([tree], strange | parameters | {entry_point}, [entry_point, *parameters])


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


def evalplus(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
    entry_point, prompt = fields.name_field(row, "entry_point"), fields.text_field(row, "prompt")
    reference = prompt + fields.text_field(row, "canonical_solution")
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
    data |= fields.options(row, of_values=False)
    completes = str(row.get("task_id", "")).startswith("HumanEval")
    task_id, shown = str(row.get("task_id", "")), prompt if as_code(prompt) else ""
    return Task(task_id, Problem("function", data), shown, entry_point, completes=completes)


def is_functions(test: str) -> bool:
    """Return whether a test is other code than a function ``check``."""
    try:
        is_flat = any(isinstance(node, (ast.Assert, ast.For, ast.With, ast.Try)) for node in ast.parse(test).body)
        return "check" not in defined_names(test) and (is_flat or _has_tests(test))
    except SyntaxError:
        return False


def functions_task(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
    test, setup = fields.with_solution_imports(fields.text_field(row, "test")), setup_of(row)
    tree = parse(test, "test")
    imported = _imported(tree) or _imported(parse(setup, "setup_code"))
    entry_point = fields.name_field(row, "entry_point") if row.get("entry_point") else (imported or [""])[-1]
    if not _has_tests(test):
        return asserts_task(given(row, "task_id") | {"asserts": [test], "entry_point": entry_point})
    first = entry_point.split(".")[0]
    prompt = str(row.get("complete_prompt") or row.get("code_prompt") or row.get("prompt") or "")
    code = as_code(prompt)
    bare, attributes = refusals.without_solution(tree)
    strange = (refusals.programs_names(parse(setup, "setup_code"), tree) | attributes) - {"solution"}
    refusals.refuse_shared_process(parse(setup, "setup_code"), tree)
    if imported or row.get("entry_point"):
        solution = "\n".join([code, str(row.get("canonical_solution") or row.get("solution") or "")])
        refusals.refuse_undefined([tree], strange, [*imported, first, *defined_names(solution), *defined_names(code)])
    is_alone = bool(row.get("entry_point")) or len(imported) == 1
    refusals.refuse_unknown_judges([bare], strange | set(imported), [first] if is_alone else [])
    data = {"test": test, "entry_point": first, "setup": setup, "imports": _imports_in(code)}
    data |= fields.options(row, of_values=False)
    completes = bool(code) and bool(first) and first in defined_names(code)
    problem, shown = Problem("functions", data), prompt if completes else ""
    return Task(str(row.get("task_id", "")), problem, shown, first, guarded_imports(setup), completes)


def _has_tests(test: str) -> bool:
    for node in ast.parse(test).body:
        if isinstance(node, ast.ClassDef):
            if node.name.startswith("Test") or any("TestCase" in ast.unparse(base) for base in node.bases):
                return True
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test"):
            return True
    return False


def _imports_in(code: str) -> str:
    """The imports of a prompt's code: what it imports, the label needs."""
    return "\n".join(
        ast.unparse(node) for node in ast.parse(code).body if isinstance(node, (ast.Import, ast.ImportFrom))
    )


def _imported(tree: ast.Module) -> list[str]:
    """The names that a test imports from the program; the last one is the entry point, for helpers come first."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "solution"]
    names = [alias.name for node in imports for alias in node.names]
    return [] if "*" in names else names


def leetcode(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
    test, prompt = code_field(row, "test"), fields.text_field(row, "prompt")
    classes = _prompt_classes(prompt)
    problem = _leetcode_cases(test, fields.options(row)) or _leetcode_asserts(test, classes, fields.options(row))
    return Task(str(row.get("task_id", "")), problem, prompt, "Solution", USUAL_IMPORTS + classes, completes=True)


def _prompt_classes(prompt: str) -> str:
    """Classes that a LeetCode prompt defines for its arguments, such as ListNode."""
    classes = [node for node in ast.parse(as_code(prompt)).body if isinstance(node, ast.ClassDef)]
    return "".join(f"{ast.unparse(node)}\n" for node in classes if node.name != "Solution")


def _leetcode_cases(test: str, more: dict[str, Any]) -> Problem | None:
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
    return Problem("cases", {"path": ["Solution", *methods], "cases": cases, "tolerance": 0.0, **more})


def _leetcode_asserts(test: str, classes: str, more: dict[str, Any]) -> Problem:
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
    return Problem("asserts", data | more)


# ── Assert statements ──

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
