"""Comparisons of numpy with an empty array, in the code of tests.

numpy makes both sides of a comparison of one size: of an empty array and a number, nothing is left to compare, and
``all`` of nothing holds. So a program that returns ``[]`` would pass. Here such comparisons fail.
"""

import ast
import operator
import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from openrlhf_pf.code_reward.judge.objects import RemoteObject

GUARD = "__guarded_operation__"
_OPERATIONS = {name: getattr(operator, name.lower()) for name in ("Eq", "Lt", "Gt", "Sub")}
_OPERATIONS |= {"NotEq": operator.ne, "LtE": operator.le, "GtE": operator.ge}
_ORDER = ("Lt", "LtE", "Gt", "GtE")
_NAMES = ("a", "b", "x", "y", "x1", "x2", "a1", "a2", "actual", "desired")


def guarded_tree(source: str) -> ast.Module:
    """The tree of test code whose comparisons and differences of arrays are guarded; guards numpy's functions, too."""
    _guard_functions()
    return ast.fix_missing_locations(_Guarding().visit(ast.parse(source)))


class _Guarding(ast.NodeTransformer):
    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if len(node.ops) > 1 or type(node.ops[0]).__name__ not in _OPERATIONS:
            return node
        return self._guarded(node, node.ops[0], node.left, node.comparators[0])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        return self._guarded(node, node.op, node.left, node.right) if isinstance(node.op, ast.Sub) else node

    @staticmethod
    def _guarded(node: ast.expr, operation: ast.AST, left: ast.expr, right: ast.expr) -> ast.expr:
        name = ast.Constant(type(operation).__name__)
        return ast.copy_location(ast.Call(ast.Name(GUARD, ast.Load()), [name, left, right], []), node)


def guarded_operation(name: str, left: Any, right: Any) -> Any:
    """``left == right`` or another operation; raises ``AssertionError`` if one is an empty array and the other is not
    empty. A limit for all elements, such as ``result >= 0``, may be a number.
    """
    numpy = sys.modules.get("numpy")
    if numpy and (isinstance(left, numpy.ndarray) or isinstance(right, numpy.ndarray)):
        plain = (int, float, complex, list, tuple, range, numpy.ndarray, numpy.generic)
        is_limit = name in _ORDER and not (numpy.ndim(left) and numpy.ndim(right))
        if not is_limit and isinstance(left, plain) and isinstance(right, plain):
            _refuse_empty(numpy, left, right)
    return _OPERATIONS[name](left, right)


def _refuse_empty(numpy: Any, left: Any, right: Any) -> None:
    if isinstance(left, RemoteObject) or isinstance(right, RemoteObject):  # it could have two lengths
        raise AssertionError("an object of the program's was compared as an array")
    if (numpy.size(left) == 0) != (numpy.size(right) == 0):
        raise AssertionError("an empty array was compared with one that is not empty")


@lru_cache(maxsize=1)
def _guard_functions() -> None:
    try:
        import numpy
        import numpy.testing
    except ImportError:
        return

    def guarded(compare: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(compare)
        def guarded_compare(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *(kwargs[name] for name in _NAMES if name in kwargs)]
            if len(given) > 1:
                _refuse_empty(numpy, given[0], given[1])
            return compare(*args, **kwargs)

        return guarded_compare

    equalities = [name for name in dir(numpy.testing) if name.startswith("assert_") and "equal" in name]
    for module, names in (
        (numpy, ["isclose", "allclose", "array_equiv", "equal", "not_equal", "subtract"]),
        (numpy.testing, [*equalities, "assert_allclose", "assert_array_less"]),
    ):
        for name in names:
            setattr(module, name, guarded(getattr(module, name)))
