"""Test code that cannot be judged from another process: it needs the program's own process, or leaves the verdict to
the program.
"""

import ast
import builtins
import copy
import importlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from openrlhf_pf.code_reward.judge.script import is_usual, names_in, walk

_MODULES = set("subprocess multiprocessing threading concurrent runpy tempfile shutil inspect socket".split())
_FIXTURES = set("""
capsys capfd capsysbinary capfdbinary caplog tmp_path tmpdir tmp_path_factory tmpdir_factory monkeypatch mocker recwarn
doctest_namespace cache pytestconfig testdir pytester
""".split())
_USES = {
    "opens a file": "open",
    "patches an object": "patch",
    "captures what the program prints": "redirect_stdout redirect_stderr",
    "captures the program's log": "assertLogs assertNoLogs",
    "captures the program's warnings": "assertWarns assertWarnsRegex warns catch_warnings deprecated_call",
    "writes a file": "write_text write_bytes",
    "reads a file": "read_text read_bytes",
    "starts a process": "system popen",
}
_CALLS = {name: reason for reason, names in _USES.items() for name in names.split()}
# Where these are methods, whose they are: a class under test may have a method of such a name.
_OWNERS = {"open": {"io", "os", "codecs", "gzip"}, "patch": {"mock", "unittest"}, "system": {"os"}, "popen": {"os"}}
_STARRED = set("math cmath string operator statistics heapq bisect random datetime decimal fractions typing".split())
_OF_OS = set("environ getenv putenv mkdir makedirs remove unlink rmdir listdir rename chdir getcwd walk stat".split())
_MOCKS = set("Mock MagicMock AsyncMock NonCallableMock".split())
# What a mock has as a function, which the program may have: it calls it here.
_OF_A_MOCK = set("return_value side_effect called call_count call_args call_args_list mock_calls reset_mock".split())
_OF_PATH = set("exists isfile isdir getsize getmtime".split())


def refuse_shared_process(*trees: ast.Module) -> None:
    """Raise ``ValueError`` if tests use what only a test in the program's own process can: files, patches, captured
    output, environment variables, processes, threads.
    """
    for tree in trees:
        if reason := next(_shared_uses(tree), ""):
            raise ValueError(
                f"the test {reason}, which needs the program in its own process; programs run apart from their tests"
            )


def _shared_uses(tree: ast.Module) -> Iterator[str]:
    modules = _imports_in(tree).names
    mocks = _mocks_in(tree) if "unittest" in _imports_in(tree).modules else set()
    for node in walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = "" if isinstance(node.func, ast.Name) else _root(node.func)
            if name in _CALLS and (not owner or owner in _OWNERS.get(name, {owner})):
                yield _CALLS[name]
            if name == "setattr" and node.args and _root(node.args[0]) in modules:
                yield "changes a module"
        elif isinstance(node, ast.Attribute):
            is_plain = node.attr in _OF_A_MOCK or node.attr.startswith("assert_")
            if mocks and not is_plain and ast.unparse(node.value) in mocks:
                yield f"uses the attribute {node.attr} of a mock"
            if _root(node) in ("patch", "mock") and node.attr in ("patch", "object", "dict"):
                yield "patches an object"
            if isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in _OF_OS:
                yield f"uses os.{node.attr}"
            if isinstance(node.value, ast.Attribute) and node.value.attr == "path" and node.attr in _OF_PATH:
                yield f"uses os.path.{node.attr}"
            if isinstance(node.ctx, (ast.Store, ast.Del)) and _root(node) in modules:
                yield f"changes {_root(node)}.{node.attr}"
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)) and _root(node) in modules:
            yield f"changes {_root(node)}"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            takes = node.name.startswith("test") or any("fixture" in ast.unparse(mark) for mark in node.decorator_list)
            names = [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs] if takes]
            yield from (f"uses the fixture {name}" for name in names if name in _FIXTURES)
    yield from (f"imports {name}" for name in sorted(_imports_in(tree).modules & _MODULES))


def _mocks_in(tree: ast.AST) -> set[str]:
    """The variables that hold mocks."""
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    made = [node for node in assigned if ast.unparse(node.value.func).rpartition(".")[2] in _MOCKS]
    return {ast.unparse(target) for node in made for target in node.targets}


def _root(node: ast.expr, through_calls: bool = False) -> str:
    """Return ``a`` of ``a.b[0]``; through calls, ``Checker`` of ``Checker().near``."""
    while isinstance(node, (ast.Attribute, ast.Subscript)) or (through_calls and isinstance(node, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


class _Imports(NamedTuple):
    """The modules that code imports, the names that stand for modules, and the modules of star imports."""

    modules: frozenset[str]
    names: frozenset[str]
    starred: frozenset[str]


@lru_cache(maxsize=8)  # a label's trees are read by several functions in turn
def _imports_in(tree: ast.AST) -> _Imports:
    modules, names, starred = set(), set(), set()
    for node in walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").split(".")[0])
            starred |= {str(node.module)} if node.names[0].name == "*" else set()
    return _Imports(frozenset(modules), frozenset(names), frozenset(starred))


_names_in = lru_cache(maxsize=8)(names_in)


def programs_names(*trees: ast.AST) -> set[str]:
    """The names that neither the tests nor Python define, and that are not usual names of a library."""
    names = [_names_in(tree) for tree in trees]
    read, bound = (frozenset().union(*(getattr(one, kind) for one in names)) for kind in ("read", "bound"))
    starred = frozenset().union(*(_imports_in(tree).starred for tree in trees)) & _STARRED
    bound |= {name for module in starred for name in dir(importlib.import_module(module))}
    unknown = read - bound - frozenset(dir(builtins)) - {"__name__", "__file__"}
    strange = {name for name in unknown if not is_usual(name)}
    return strange or set(unknown)


def refuse_unknown_judges(trees: Sequence[ast.AST], strange: set[str], known: Iterable[str]) -> None:
    """Raise ``ValueError`` if tests leave the verdict to a function or a class that only the program defines.

    Args:
        trees: the tests.
        strange: names that only the program defines.
        known: those of them that the label says the program is to define; nothing if it does not say.
    """
    known = {name.split(".")[0] for name in known} - {""}
    for tree in trees:
        for node in walk(tree) if strange & _names_in(tree).read else ():
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                if isinstance(base, ast.Name) and base.id in strange:
                    raise ValueError(
                        f"the test's class {node.name} is derived from the program's class {base.id}, which stays in "
                        "another process: test the program's own class"
                    )
        for outer in judges_in(tree, strange - known, strange, bool(known)):
            raise ValueError(
                f"{outer}(...) judges the program's answer, and nothing defines it but the program: define it in setup"
            )


def refuse_undefined(trees: Sequence[ast.AST], strange: set[str], known: Iterable[str]) -> None:
    """Raise ``ValueError`` if tests call a function that nothing defines, where the label says what the program is to
    define.
    """
    if any(_imports_in(tree).starred - _STARRED for tree in trees):
        return
    called = {name for tree in trees for name in _names_in(tree).called}
    for name in sorted((called & strange) - set(known)):
        if not name[:1].isupper():
            raise ValueError(f"nothing defines {name}(...), which the test calls: define it in setup")


def _answers_in(tree: ast.AST, strange: set[str]) -> set[str]:
    """The variables that hold answers of the program."""
    found: set[str] = set()
    for _ in range(2):  # what is computed from a variable may come before it in a loop
        for node in ast.walk(tree):
            pairs: list[tuple[ast.expr, ast.expr]] = []
            if isinstance(node, ast.Assign):
                pairs = [(target, node.value) for target in node.targets]
            elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
                pairs = [(node.target, node.value)]
            elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
                pairs = [(node.target, node.iter)]
            for target, value in pairs:
                if _holds_answer(value, strange, found):
                    found |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def _holds_answer(node: ast.AST, strange: set[str], answers: set[str]) -> bool:
    """Whether an expression is computed from an answer of the program's functions."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in answers:
            return True
        if not isinstance(part, ast.Call):
            continue
        name, made = _root(part.func), getattr(part.func, "value", None)  # Solution().f(...)
        asked = name in strange and not name[:1].isupper()
        asked = asked or (isinstance(made, ast.Call) and _root(made.func) in strange)
        if asked or any(_root(argument) in strange for argument in part.args[:1]):  # map(f, ...)
            return True
    return False


class _Bare(ast.NodeTransformer):
    """``solution.f`` as ``f``."""

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        is_programs = isinstance(node.value, ast.Name) and node.value.id in self._modules
        return ast.copy_location(ast.Name(node.attr, node.ctx), node) if is_programs else node


def without_solution(tree: ast.Module) -> tuple[ast.Module, set[str]]:
    """A copy of a test in which ``solution.f`` is ``f``, and these names."""
    imports = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules = {alias.asname or alias.name for alias in imports if alias.name == "solution"}
    if not modules:
        return tree, set()
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _root(node.value) in modules]
    return _Bare(modules).visit(copy.deepcopy(tree)), {node.attr for node in attributes}


def judges_in(tree: ast.AST, candidates: set[str], strange: set[str], strict: bool = False) -> Iterator[str]:
    """The functions among ``candidates`` whose result for an answer of the ``strange`` functions decides a test.

    Args:
        tree: the test.
        candidates: names of functions and classes.
        strange: all names that only the program defines.
        strict: a function that gets the answer and something else decides by any constant result, too.
    """
    if not candidates & _names_in(tree).read:
        return
    answers = _answers_in(tree, strange)
    for node in ast.walk(tree):
        for expression, how in _decisive(node):
            name = _root(expression.func, through_calls=True) if isinstance(expression, ast.Call) else ""
            if name not in candidates or not isinstance(expression, ast.Call):
                continue
            given = [*expression.args, *(keyword.value for keyword in expression.keywords)]
            is_class = name[:1].isupper()
            if (is_class and isinstance(expression.func, ast.Name)) or (how != _TRUTH and len(given) < 2):
                continue
            others = strange - {name} if is_class else strange  # a class under test may compare its own objects
            if (strict or how != _CONSTANT) and any(_holds_answer(part, others, answers) for part in given):
                yield ast.unparse(expression.func)


_TRUTH, _LIMIT, _CONSTANT = range(3)  # how an expression decides a test: by its truth, a limit, another constant
_AROUND = ("abs", "round", "float", "int", "max", "min", "sum")


def _decisive(node: ast.AST) -> Iterator[tuple[ast.expr, int]]:
    """The expressions that decide a test, and how."""
    if isinstance(node, (ast.Assert, ast.If, ast.While, ast.IfExp)):
        yield from _truths(node.test)
    elif isinstance(node, ast.Return) and node.value:
        yield from ((part, max(how, _LIMIT)) for part, how in _truths(node.value))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        name = node.func.attr
        if name in ("assertTrue", "assertFalse", "assertIs", "assertIsNone", "assertIsNotNone"):
            yield from _truths(node.args[0])
        elif name in ("assertEqual", "assertAlmostEqual") and len(node.args) > 1:
            yield from _truths(ast.Compare(node.args[0], [ast.Eq()], [node.args[1]]))
        elif name.startswith(("assertLess", "assertGreater")):
            yield from ((argument, _LIMIT) for argument in node.args[:2])


def _truths(node: ast.expr) -> Iterator[tuple[ast.expr, int]]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _truths(node.operand)
    elif isinstance(node, ast.BoolOp):
        yield from (part for value in node.values for part in _truths(value))
    elif isinstance(node, ast.Compare):
        yield from _compared(node)
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("all", "any", "bool") and node.args:
        inner = node.args[0]
        if isinstance(inner, (ast.GeneratorExp, ast.ListComp, ast.SetComp)):
            yield from _truths(inner.elt)
        elif isinstance(inner, (ast.List, ast.Tuple)):
            yield from (part for item in inner.elts for part in _truths(item))
        elif isinstance(inner, ast.Call) and inner.args and isinstance(inner.args[0], ast.Lambda):
            yield from _truths(inner.args[0].body)
        elif isinstance(inner, ast.Call) and getattr(inner.func, "id", "") == "map" and inner.args:
            yield ast.Call(inner.args[0], inner.args[1:], []), _TRUTH
        else:
            yield from _truths(inner)
    else:
        yield node, _TRUTH


def _compared(node: ast.Compare) -> Iterator[tuple[ast.expr, int]]:
    sides = [node.left, *node.comparators]
    constants = [side.value for side in sides if isinstance(side, ast.Constant)]
    if any(constant is None or isinstance(constant, bool) for constant in constants):
        yield from (part for side in sides for part in _truths(side))
    elif any(isinstance(one, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for one in node.ops) or 0 in constants:
        yield from ((part, _LIMIT) for side in sides for part in _unwrapped(side))
    elif constants:
        yield from ((part, _CONSTANT) for side in sides for part in _unwrapped(side))


def _unwrapped(node: ast.expr) -> Iterator[ast.expr]:
    """An expression, and what stands in calls of builtins around it: ``abs(f(x))``, ``round(f(x), 3)``."""
    yield node
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _AROUND:
        for argument in node.args:
            yield from _unwrapped(argument)
