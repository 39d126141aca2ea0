"""Labels of test code: HumanEval, EvalPlus, KodCode, BigCodeBench, LeetCode Contest."""

import ast
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.script import guarded_imports
from openrlhf_pf.code_reward.results import Problem
from openrlhf_pf.code_reward.tasks.asserts import asserts_task
from openrlhf_pf.code_reward.tasks.refusals import (
    programs_names,
    refuse_shared_process,
    refuse_undefined,
    refuse_unknown_judges,
    without_solution,
)
from openrlhf_pf.code_reward.tasks.task import (
    OPTIONS,
    SETUPS,
    USUAL_IMPORTS,
    Task,
    as_code,
    code_field,
    defined_names,
    defines,
    name_field,
    options,
    parse,
    setup_of,
    text_field,
    with_solution_imports,
)


def is_human_eval(row: Mapping[str, Any]) -> bool:
    """Whether these fields are such a row's."""
    return "test" in row and "entry_point" in row


def humaneval(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
    entry_point, test = name_field(row, "entry_point"), code_field(row, "test")
    if "check" not in defined_names(test):
        raise ValueError("test defines no function check(candidate)")
    prompt, setup, test = str(row.get("prompt") or ""), setup_of(row), with_solution_imports(test)
    code, first = as_code(prompt), entry_point.split(".")[0]
    _check_test(row, f"{code}\n{setup}", test, first)
    data = {"preamble": f"{code}\n{setup}", "test": test, "entry_point": entry_point, "function": "check"}
    data |= options(row, of_values=False)
    task_id, problem, imports = str(row.get("task_id", "")), Problem("function", data), guarded_imports(setup)
    if code and code == prompt and not defines(code, first):  # imports and helpers, and no beginning to be continued
        return Task(task_id, problem, prompt, first, preamble=f"{imports}{code}\n")
    return Task(task_id, problem, prompt if code else "", first, preamble=imports, completes=bool(code))


def _check_test(row: Mapping[str, Any], around: str, test: str, entry_point: str) -> None:
    """Raise ``ValueError`` if a test of ``check(candidate)`` needs the program's process or leaves it the verdict."""
    tree = parse(test, "test")
    strange = programs_names(parse(around, "setup_code"), tree) - {entry_point}
    refuse_shared_process(tree)
    solution = str(row.get("prompt") or "") + str(row.get("canonical_solution") or row.get("solution") or "")
    refuse_undefined([tree], strange, defined_names(solution))
    parameters = {
        node.args.args[0].arg
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == "check" and node.args.args
    }
    refuse_unknown_judges([tree], strange | parameters | {entry_point}, [entry_point, *parameters])


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


def is_evalplus(row: Mapping[str, Any]) -> bool:
    """Whether these fields are such a row's."""
    return "base_input" in row or "plus_input" in row


def evalplus(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
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
    data |= options(row, of_values=False)
    completes = str(row.get("task_id", "")).startswith("HumanEval")
    task_id, shown = str(row.get("task_id", "")), prompt if as_code(prompt) else ""
    return Task(task_id, Problem("function", data), shown, entry_point, completes=completes)


def is_functions(row: Mapping[str, Any]) -> bool:
    """Whether it has a test that is no function ``check``."""
    if not isinstance(row.get("test"), str):
        return False
    try:
        return "check" not in defined_names(row["test"]) and (_has_tests(row["test"]) or _is_flat(row["test"]))
    except SyntaxError:
        return False


def functions_task(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
    test, setup = with_solution_imports(text_field(row, "test")), setup_of(row)
    tree = parse(test, "test")
    imported = _imported(tree) or _imported(parse(setup, "setup_code"))
    entry_point = name_field(row, "entry_point") if row.get("entry_point") else (imported or [""])[-1]
    if not _has_tests(test):
        wanted = {key: row[key] for key in (*OPTIONS, *SETUPS, "task_id") if key in row}
        return asserts_task(wanted | {"asserts": [test], "entry_point": entry_point})
    first = entry_point.split(".")[0]
    prompt = str(row.get("complete_prompt") or row.get("code_prompt") or row.get("prompt") or "")
    code = as_code(prompt)
    bare, attributes = without_solution(tree)
    strange = (programs_names(parse(setup, "setup_code"), tree) | attributes) - {"solution"}
    refuse_shared_process(parse(setup, "setup_code"), tree)
    if imported or row.get("entry_point"):
        solution = "\n".join([code, str(row.get("canonical_solution") or row.get("solution") or "")])
        refuse_undefined([tree], strange, [*imported, first, *defined_names(solution), *defined_names(code)])
    is_alone = bool(row.get("entry_point")) or len(imported) == 1
    refuse_unknown_judges([bare], strange | set(imported), [first] if is_alone else [])
    data = {"test": test, "entry_point": first, "setup": setup, "imports": _imports_in(code)}
    data |= options(row, of_values=False)
    completes = bool(code) and bool(first) and first in defined_names(code)
    return Task(
        str(row.get("task_id", "")),
        Problem("functions", data),
        prompt if completes else "",
        first,
        guarded_imports(setup),
        completes=completes,
    )


def _has_tests(test: str) -> bool:
    return any(_is_test(node) for node in ast.parse(test).body)


def _is_test(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        unit = any("TestCase" in ast.unparse(base) for base in node.bases)
        return unit or node.name.startswith("Test")
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test")


def _is_flat(test: str) -> bool:
    return any(isinstance(node, (ast.Assert, ast.For, ast.With, ast.Try)) for node in ast.parse(test).body)


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


def is_leetcode(row: Mapping[str, Any]) -> bool:
    """Whether these fields are such a row's."""
    return "prompt" in row and isinstance(row.get("test"), str) and "my_solution" in row["test"]


def leetcode(row: Mapping[str, Any]) -> Task:
    """The task of such a row; raises ``ValueError`` for a wrong field."""
    test, prompt = code_field(row, "test"), text_field(row, "prompt")
    classes = _prompt_classes(prompt)
    problem = _leetcode_cases(test, options(row)) or _leetcode_asserts(test, classes, options(row))
    return Task(str(row.get("task_id", "")), problem, prompt, "Solution", USUAL_IMPORTS + classes, completes=True)


def _prompt_classes(prompt: str) -> str:
    """Classes that a LeetCode prompt defines for its arguments, such as ListNode."""
    try:
        body = ast.parse(prompt.rstrip() + "\n        pass\n").body
    except SyntaxError:
        return ""
    classes = [ast.unparse(node) for node in body if isinstance(node, ast.ClassDef) and node.name != "Solution"]
    return "".join(f"{text}\n" for text in classes)


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
