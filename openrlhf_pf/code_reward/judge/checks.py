"""The kinds of tests: each is a function of a :class:`Remote`, the program's source and the test's data.

It returns if all tests were right. Otherwise it has the remote decide, or raises what the test raised.
"""

import ast
import builtins
import re
import sys
import types
from collections.abc import Callable
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from openrlhf_pf.code_reward.judge import codec
from openrlhf_pf.code_reward.judge.remote import END, SYNTAX_ERRORS, CandidateError, Question, Remote, call_of


@lru_cache(maxsize=512)
def _compiled(source: str) -> types.CodeType:
    """Test code; the samples of one prompt come one after the other, and have the same."""
    return compile(source, "<test>", "exec")


def _namespace(*sources: str) -> dict[str, Any]:
    """A module in which trusted sources have run."""
    module = types.ModuleType("checker")
    sys.modules["checker"] = module
    for source in sources:
        exec(_compiled(source), module.__dict__)
    return module.__dict__


def _check_cases(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Input/output pairs: ``path``, ``cases`` of (args, kwargs, expected), ``tolerance``."""
    path, cases = data["path"], data["cases"]
    calls = [call_of(path, args, kwargs) for args, kwargs, _ in cases]
    remote.foresee([("load", source), *calls, END])
    remote.load(source)
    for remote.test, (call, (_, _, expected)) in enumerate(zip(calls, cases)):
        remote.foresee(chain(islice(calls, remote.test, None), [END]))
        got = remote.call(call)
        if not codec.same(got, expected, data["tolerance"]):
            remote.verdict("failed", f"returned {got!r:.100}")


def _check_stdio(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Whole programs: ``cases`` of (standard input, standard output), compared line by line without trailing
    blanks.
    """
    for remote.test, (text, expected) in enumerate(data["cases"]):
        remote.calls += 1
        try:
            got = remote.request(("run", source, text, data["max_output"]))
        except CandidateError as error:
            if error.kind in SYNTAX_ERRORS:
                remote.verdict("syntax_error", str(error))
            raise
        if type(got) is not str or _lines(got) != _lines(expected):
            remote.verdict("failed", f"printed {got!r:.100}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _check_function(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """A checker ``check(candidate)``: ``preamble``, ``test``, ``entry_point``, ``function``."""
    remote.foresee([("load", source), *_questions_for_sure(data["test"], data["function"], data["entry_point"])])
    remote.load(source)
    space = _namespace(data["preamble"])
    # Before and after: the test may use the program under its own name, or define something of that name.
    space[data["entry_point"]] = candidate = remote.proxy(data["entry_point"])
    exec(_compiled(data["test"]), space)

    def counted(*args: Any, **kwargs: Any) -> Any:
        remote.test = remote.calls
        return candidate(*args, **kwargs)

    counted.__name__ = data["entry_point"]
    space[data["function"]](counted)


@lru_cache(maxsize=512)
def _questions_for_sure(test: str, function: str, entry_point: str) -> list[Question]:
    """What ``function(candidate)`` asks first, whatever the answers are: calls with literal arguments, in straight
    code; with the end of the conversation, if it asks nothing else.
    """
    found: list[Question] = []
    try:
        for definition in ast.parse(test).body:
            if isinstance(definition, ast.FunctionDef) and definition.name == function:
                (name,) = (argument.arg for argument in definition.args.args)
                for statement in definition.body:
                    if not isinstance(statement, (ast.Assert, ast.Expr, ast.Assign, ast.Import, ast.ImportFrom)):
                        return found
                    part = statement.test if isinstance(statement, ast.Assert) else statement
                    found += [call_of([entry_point], *call) for call in _literal_calls(part, name)]
                # What is in a text may call the program too, and by either name.
                words = re.findall(r"\w+", test)
                whole = words.count(name) == 1 + len(found) and entry_point not in words
                return [*found, END] if whole else found
    except (SyntaxError, ValueError):
        pass  # from here on, or about this test, nothing is sure
    return found


def _literal_calls(node: ast.AST, name: str) -> list[tuple[list[Any], dict[str, Any]]]:
    """The calls of a name in a piece of code, in the order in which they are made.

    Raises:
        ValueError: one of them has other arguments, or may be left out, or the name is used in another way.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("no literal")
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        return [([ast.literal_eval(argument) for argument in node.args], kwargs)]
    if isinstance(node, ast.Name) and node.id == name:
        raise ValueError("no call")
    found = [call for child in ast.iter_child_nodes(node) for call in _literal_calls(child, name)]
    maybe = (ast.BoolOp, ast.IfExp, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    if found and (isinstance(node, maybe) or (isinstance(node, ast.Compare) and len(node.ops) > 1)):
        raise ValueError("not for sure")
    return found


def _check_asserts(remote: Remote, source: str, data: dict[str, Any]) -> None:
    """Assert statements: ``imports`` for both sides, ``setup`` after the solution, ``asserts``, ``names`` of the
    solution's.
    """
    remote.load(f"{data['imports']}\n{source}\n")
    space = _namespace(data["imports"])
    if data["setup"].strip():
        remote.load(data["setup"])
    space["__remote__"] = remote.evaluate
    on_both_sides = set(space)
    for remote.test, text in enumerate(data["asserts"]):
        tree = ast.parse(text)
        # What earlier tests have assigned is here, and only here.
        bound = _bound_names(tree) | (set(space) - on_both_sides)
        calls = _OutermostCalls(set(space) | set(dir(builtins)), set(data["names"]), bound)
        changed = calls.visit(tree)
        if calls.needs_proxies:
            changed = ast.parse(text)
            space.update((name, remote.proxy(name)) for name in calls.foreign_names(changed))
        exec(compile(ast.fix_missing_locations(changed), "<test>", "exec"), space)


def _bound_names(tree: ast.AST) -> set[str]:
    """Names that the test binds itself: loop variables, arguments of a lambda."""
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


class _OutermostCalls(ast.NodeTransformer):
    """Puts ``__remote__("source")`` in place of what only the program can evaluate; what is around it stays here.

    ``abs(f(Pair(1, 2)) - 0.5) < 1e-6`` becomes ``abs(__remote__("f(Pair(1, 2))") - 0.5) < 1e-6``: arguments that are
    no plain data never leave the program, expected values never reach it.
    """

    def __init__(self, known: set[str], names: set[str], bound: set[str]) -> None:
        self._known, self._names, self._bound = known, names, bound
        self.needs_proxies = False

    def _is_foreign(self, name: str) -> bool:
        return name in self._names or not (name in self._known or name in self._bound)

    def foreign_names(self, tree: ast.AST) -> set[str]:
        """The names in the test that the program defines."""
        return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and self._is_foreign(node.id)}

    def _ask(self, node: ast.expr) -> ast.expr:
        inside = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
        if inside & self._bound:
            self.needs_proxies = True  # the program knows no loop variable of the test's
        return ast.Call(ast.Name("__remote__", ast.Load()), [ast.Constant(ast.unparse(node))], [])

    def _is_foreign_call(self, node: ast.AST) -> bool:
        root = node
        while isinstance(root, (ast.Call, ast.Attribute, ast.Subscript)):
            root = root.func if isinstance(root, ast.Call) else root.value
        return isinstance(node, ast.Call) and isinstance(root, ast.Name) and self._is_foreign(root.id)

    def _truth(self, node: ast.expr) -> ast.expr:
        """Where only its truth matters, only its truth is asked for: it may be a match of a regular expression."""
        if self._is_foreign_call(node):
            return self._ask(ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), node)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node.operand = self._truth(node.operand)
        elif isinstance(node, ast.BoolOp):
            node.values = [self._truth(value) for value in node.values]
        else:
            return self.visit(node)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.test = self._truth(node.test)
        node.msg = node.msg and self.visit(node.msg)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self._ask(node) if self._is_foreign_call(node) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._ask(node) if self._is_foreign(node.id) else node


Check = Callable[[Remote, str, dict[str, Any]], None]
CHECKS: dict[str, Check] = {
    "cases": _check_cases,
    "stdio": _check_stdio,
    "function": _check_function,
    "asserts": _check_asserts,
}
