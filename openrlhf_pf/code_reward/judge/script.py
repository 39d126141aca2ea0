"""Test code on the trusted side: it runs here, and only calls of the program's own functions and classes leave.

What a test names and neither it, its imports nor Python defines is the program's, unless it is a name that everybody
takes from the standard library or numpy (``math``, ``np``, ``Counter``): those are ours.
"""

import ast
import builtins
import importlib
import importlib.util
import re
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple

from openrlhf_pf.code_reward.judge import pytest_stand_in
from openrlhf_pf.code_reward.judge.empty_arrays import GUARD, guarded_operation, guarded_tree
from openrlhf_pf.code_reward.judge.objects import (
    ASKED_FOR,
    KINDS,
    ProgramStopIteration,
    RemoteObject,
    attribute_of,
    library_exception,
    raised_by_program,
    text_of,
)
from openrlhf_pf.code_reward.judge.remote import NOT_OFFERED, Proxy, Remote
from openrlhf_pf.code_reward.judge.values import CALLABLE, Attributed, ProgramEnum

_USUAL_SHORT = {"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot"}
_USUAL_SOURCES = (
    "math collections itertools functools copy decimal fractions datetime statistics typing string".split()
)
_BUILTINS = frozenset(dir(builtins))
_SMALL = 1 << 14  # characters or bytes
_NAMELESS = {ast.Constant, ast.Load, ast.Store, int, str, type(None)}
_AN_EXCEPTION = re.compile(r"\w*(?:Error|Exception|Warning)")


def cached_by_size(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keep what a function makes of tests: of many small ones, and of few large ones, of megabytes each."""
    small, large = lru_cache(maxsize=512)(function), lru_cache(maxsize=8)(function)
    return wraps(function)(lambda source: (small if len(source) < _SMALL else large)(source))


_TYPE = "__type_of__"


class _Typed(ast.NodeTransformer):
    """``type(value)`` as :func:`_type_of`."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) == 1:
            node.func.id = _TYPE
        return node


@cached_by_size
def compiled(source: str) -> types.CodeType:
    """Test code; the samples of one prompt come one after the other, and have the same."""
    is_numeric, tree = "numpy" in source or "np." in source, None
    for module, functions in _ASKED.items():
        if module in source:
            _guard_library(module, functions)
    if is_numeric or "type(" in source:
        tree = guarded_tree(source) if is_numeric else ast.parse(source)
        tree = tree if "type" in names_of(source).bound else _Typed().visit(tree)
    return compile(source if tree is None else tree, "<test>", "exec")


# What a library says of a program's objects and classes, the program says.
_ASKED = {"dataclasses": "asdict astuple replace is_dataclass fields", "operator": "length_hint"}


@lru_cache(maxsize=2)
def _guard_library(module: str, functions: str) -> None:
    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def asked(value: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(value, ForeignClass):
                value = value._itself()
            if type(value) is not RemoteObject:
                return function(value, *args, **kwargs)
            return value._remote_asks.ask("library", module, function.__name__, (value, *args), kwargs)

        return asked

    library = importlib.import_module(module)
    for name in functions.split():
        setattr(library, name, guarded(getattr(library, name)))


# What stands for a program's object has all methods that there are: whether the object has them, the program says.


def _ask_builtin(function: Callable[..., Any], value: RemoteObject, *args: Any) -> bool:
    return value._remote_asks.ask("library", "builtins", function.__name__, (value, *args), {}) is True


def _callable(value: Any) -> bool:
    return _ask_builtin(callable, value) if type(value) is RemoteObject else callable(value)


def _hasattr(value: Any, name: str) -> bool:
    is_asked = type(value) is RemoteObject and name[:2] == "__"
    return _ask_builtin(hasattr, value, name) if is_asked else hasattr(value, name)


def _isinstance(value: Any, kinds: Any) -> bool:
    if type(value) is not RemoteObject:
        return isinstance(value, kinds)
    for kind in kinds if type(kinds) is tuple else (kinds,):
        kind = getattr(kind, "__origin__", kind)
        is_abstract = getattr(kind, "__module__", "") == "collections.abc"
        if _ask_builtin(isinstance, value, kind) if is_abstract else isinstance(value, kind):
            return True
    return False


@lru_cache(maxsize=2)
def parsed(source: str) -> ast.Module:
    """Its tree, not to be changed. Only two are cached, for every garbage collection walks them."""
    return ast.parse(source)


def usual(name: str) -> Any:
    """What everybody means by a name that a test does not import, or None."""
    if _is_usual_module(name):
        return importlib.import_module(_USUAL_SHORT.get(name, name))
    for source in _USUAL_SOURCES:
        module = importlib.import_module(source)
        if not name.startswith("_") and name in getattr(module, "__all__", dir(module)):
            return getattr(module, name)
    return None


@lru_cache(maxsize=2048)
def is_usual(name: str) -> bool:
    """Whether :func:`usual` knows the name."""
    return _is_usual_module(name) or usual(name) is not None


def _is_usual_module(name: str) -> bool:
    if name in sys.stdlib_module_names:
        return importlib.util.find_spec(name) is not None  # not "nt", of another system
    return name in _USUAL_SHORT or name in ("numpy", "pandas", "pytest")


class Names(NamedTuple):
    """The names that code reads, binds and calls, anywhere in it, and those of exceptions that it expects."""

    read: frozenset[str]
    bound: frozenset[str]
    called: frozenset[str]
    expected: frozenset[str]


@cached_by_size
def foreign_exceptions(source: str) -> set[str]:
    """The names of exceptions in test code that only the program can define."""
    expected = names_of(source).expected
    return {name for name in undefined_names(source) if name in expected or _AN_EXCEPTION.fullmatch(name)}


@cached_by_size
def undefined_names(source: str) -> frozenset[str]:
    """The names that code reads and that neither it nor Python defines."""
    read, bound, *_ = names_of(source)
    return read - bound - _BUILTINS


@cached_by_size
def names_of(source: str) -> Names:
    """As :func:`names_in`."""
    return names_in(parsed(source))


def names_in(tree: ast.AST) -> Names:
    """The names in code, in one pass: a checker that is new has it all to do again."""
    read, bound, called, expected = set(), set(), set(), set()
    for node in walk(tree):
        kinds: list[ast.expr] = []
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            called |= {name} if isinstance(node.func, ast.Name) else set()
            kinds = node.args[:1] if name in ("raises", "assertRaises", "assertRaisesRegex", "suppress") else []
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
            called |= {mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)}
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler):
            bound |= {node.name} if node.name else set()
            kinds = [node.type] if node.type else []
        for part in (part for kind in kinds for part in ast.walk(kind)):
            if isinstance(part, (ast.Name, ast.Attribute)):  # solution.Error, too
                expected.add(part.id if isinstance(part, ast.Name) else part.attr)
    return Names(frozenset(read), frozenset(bound), frozenset(called), frozenset(expected))


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """As ``ast.walk``, in another order, without most nodes that have no name in them, and in half the time."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for value in vars(node).values():
            if type(value) is list:
                waiting += [item for item in value if type(item) not in _NAMELESS and isinstance(item, ast.AST)]
            elif type(value) not in _NAMELESS and isinstance(value, ast.AST):
                waiting.append(value)


@cached_by_size
def _tested_alone(source: str) -> frozenset[str]:
    """The functions that asserts call without another name, and that nothing else uses: ``assert gcd(4, 6) == 2``."""
    alone, others = set(), set()
    for node in parsed(source).body:
        read, _, called, _ = names_in(node)
        is_alone = isinstance(node, ast.Assert) and len(called - _BUILTINS) == 1 and read - _BUILTINS <= called
        (alone if is_alone else others).update(called - _BUILTINS if is_alone else read)
    return frozenset(alone - others)


@cached_by_size
def required_modules(source: str) -> tuple[str, ...]:
    """The modules that code imports at any place but in a ``try`` that may do without them."""
    if "import" not in source:  # spares most sources their parsing, which every new checker does again
        return ()
    found, waiting = [], list(parsed(source).body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module)
        elif not isinstance(node, ast.Try):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return tuple(found)


@lru_cache(maxsize=512)
def guarded_imports(code: str) -> str:
    """The imports in code, without anything else, as far as they are there: pytest is for tests alone."""
    kinds = (ast.Import, ast.ImportFrom)
    try:
        lines = [ast.unparse(node) for node in parsed(code).body if isinstance(node, kinds)]
        return "".join(f"try: {line}\nexcept ImportError: pass\n" for line in lines)
    except (SyntaxError, ValueError):
        return ""


@lru_cache(maxsize=512)
def _is_there(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


class ForeignException(type):
    """A class of exceptions of the program's, as a test sees it; of its bases, each is one of these or a builtin."""

    remote: Remote

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """An exception that the program has made."""
        try:
            cls.remote.calls += 1
            cls.remote.request(("raise", cls.__name__, args, kwargs))
        except Exception as error:
            if not isinstance(error, cls):
                raise
            del error._raised_by_program
            return error
        raise TypeError(f"{cls.__name__} is no class of exceptions")

    def __subclasscheck__(cls, kind: type) -> bool:
        cls.remote.calls += 1
        if isinstance(kind, ForeignClass):
            return cls.remote.ask("subclass", kind.__name__, cls.__name__) is True
        return super().__subclasscheck__(kind)


def _foreign_exception(remote: Remote, name: str) -> Any:
    """What stands for a class of exceptions, with the builtin and library's ones that it is derived from."""
    if name not in remote.exceptions:
        try:
            kinds = [str(kind) for kind in remote.ask("kinds", name)[:20]]
        except Exception:  # the program does not define it
            kinds = []
        bases = [_foreign_exception(remote, kind) for kind in kinds[1:] if not library_exception(kind)]
        bases += [base for kind in kinds if (base := library_exception(kind))][:1] or [Exception]
        bases = [one for one in bases if not any(one is not base and issubclass(base, one) for base in bases)]
        members = {"__str__": text_of, "__getattr__": attribute_of, "remote": remote}
        try:
            made = ForeignException(name, tuple(dict.fromkeys(bases)), members)
        except TypeError:  # two of them have no common layout
            made = ForeignException(name, (Exception,), members)
        remote.exceptions[name] = made
    return remote.exceptions[name]


class ForeignClass(type):
    """A class of the program's, as a test sees it."""

    remote: Remote

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance, which stays with the program."""
        found = cls.remote.call([cls.__name__], args, kwargs)
        if isinstance(found, RemoteObject):
            found._remote_set("_remote_made", True)
        return found

    def __instancecheck__(cls, instance: Any) -> bool:
        if isinstance(instance, (tuple, ProgramEnum)):
            return type(instance).__name__ == cls.__name__
        if not isinstance(instance, RemoteObject):
            return False
        return (
            instance._remote_name == cls.__name__
            or cls.remote.ask("instance", instance._remote_number, cls.__name__) is True
        )

    def __subclasscheck__(cls, kind: type) -> bool:
        if not isinstance(kind, ForeignClass):
            return super().__subclasscheck__(kind)
        cls.remote.calls += 1
        return kind is cls or cls.remote.ask("subclass", kind.__name__, cls.__name__) is True

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name not in ASKED_FOR and name not in vars(RemoteObject):
            raise AttributeError(name)
        if name.startswith("__") and name not in ASKED_FOR:
            return cls._unbound(name)
        found = cls._itself()
        return found.__getattr__(name) if isinstance(found, RemoteObject) else getattr(found, name)

    def _unbound(cls, name: str) -> Any:
        return lambda instance, *args: getattr(instance, name)(*args)

    def __setattr__(cls, name: str, value: Any) -> None:
        setattr(cls._itself(), name, value)

    def __dir__(cls) -> list[str]:
        return dir(cls._itself())

    @property
    def __doc__(cls) -> Any:  # type: ignore[override]
        return cls._itself().__doc__

    def _itself(cls) -> Any:
        cls.remote.calls += 1
        found = cls.remote.ask("name", cls.__name__)
        if isinstance(found, RemoteObject):
            found._remote_set("_remote_known", True)
        return found

    def __getitem__(cls, key: Any) -> Any:
        return cls._itself()[key]

    def __iter__(cls) -> Iterator[Any]:
        return iter(cls._itself())

    def __len__(cls) -> int:
        return len(cls._itself())

    def __bool__(cls) -> bool:
        return True


def _foreign_class(remote: Remote, name: str) -> Any:
    remote.classes.add(name)
    return remote.class_of(name)


def _type_of(remote: Remote, value: Any) -> Any:
    """``type(value)``; of an object of the program's, what stands for its class."""
    if type(value) is RemoteObject:
        return KINDS.get(value._remote_name) or remote.class_of(value._remote_name)
    if isinstance(value, Attributed):
        return remote.class_of(type(value).__name__)
    return types.FunctionType if type(value) is Proxy else type(value)


def _foreign(remote: Remote, name: str, expected: frozenset[str], called: frozenset[str]) -> Any:
    """What stands for a name of the program's in a test that expects these exceptions and calls these names."""
    if name in expected or _AN_EXCEPTION.fullmatch(name):
        return _foreign_exception(remote, name)
    if name.isupper() and name not in called:  # a constant, or a class whose members are used
        value = remote.ask("name", name)
        if not (isinstance(value, RemoteObject) and value._remote_ability == CALLABLE):
            remote.calls += 1
            remote.lend(-1, name, value)
            return value
    if name[:1].isupper():
        return _foreign_class(remote, name)
    if name not in called:  # perhaps no function
        with suppress(Exception):
            value = remote.ask("name", name)
            if not isinstance(value, RemoteObject):
                remote.calls += 1
                remote.lend(-1, name, value)
                return value
    return Proxy(remote, name)


class Space:
    """The module in which the code of a test runs, and what is known of the program's names."""

    def __init__(self, remote: Remote, own: set[str]) -> None:
        """``own``: names that are the program's, even where they have another meaning."""
        self.remote, self._own = remote, own
        remote.new_class = lambda name: ForeignClass(name, (), {"remote": remote})
        module = sys.modules["checker"] = types.ModuleType("checker")
        self.names = module.__dict__
        self.names.update(callable=_callable, hasattr=_hasattr, isinstance=_isinstance)
        self.names[GUARD] = guarded_operation
        self.names[_TYPE] = partial(_type_of, remote)
        self.names["__file__"] = "/test_solution.py"
        self._bound: set[str] = set()
        self._expected: frozenset[str] = frozenset()
        self._called: frozenset[str] = frozenset()
        # Modules that tests import and that are not what they seem: the program, and pytest.
        solution = types.ModuleType("solution")
        solution.__getattr__ = self.foreign  # type: ignore[method-assign]
        solution.__all__ = []  # type: ignore[attr-defined]
        sys.modules["solution"] = solution
        sys.modules["pytest"] = pytest_stand_in
        unittest.case.isinstance = _isinstance  # type: ignore[attr-defined]
        unittest.main = pytest_stand_in.main  # type: ignore[assignment]  # a test is run by us

    def foreign(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _foreign(self.remote, name, self._expected, self._called)

    def prepare(self, source: str, also_bound: frozenset[str] = frozenset()) -> None:
        """Give the names that code reads and that nothing defines their meaning; other code binds ``also_bound``."""
        read, bound, called, expected = names_of(source)
        self._bound |= bound | also_bound
        self._expected |= expected
        if "SystemExit" in expected:
            self.remote.exceptions["exit:SystemExit"] = SystemExit  # type: ignore[assignment]
        self.remote.shares_seeds = self.remote.shares_seeds or ".seed(" in source
        self._called |= called
        if "StopIteration" in expected and "raise StopIteration" not in source:
            self.names["StopIteration"] = (StopIteration, ProgramStopIteration)
        missing = undefined_names(source) - self.names.keys() | read & self._own
        missing -= self._bound
        strange = {name for name in missing if name in self._own or not is_usual(name)}
        strange |= _tested_alone(source) & missing if strange else set()
        for name in sorted(missing):
            if name in strange - self._own - called - expected and name.islower() and self._own:
                continue  # nothing that only the program can define: the test will say that it is not there
            mine = not strange and not self._own  # only usual names: then they are what the program is to define
            if name in strange or mine:
                self.names[name] = self.foreign(name)
            else:
                self.names[name] = self.trusted(lambda name=name: usual(name))

    def refuse_missing(self, *sources: str) -> None:
        """Decide that a test is at fault whose code imports a package that is not there."""
        for module in (module for source in sources for module in required_modules(source)):
            package = module.split(".")[0]
            if not self.trusted(lambda package=package: _is_there(package)):
                self.remote.fault(f"it needs the package {package!r}, {NOT_OFFERED}")

    def trusted(self, step: Any) -> Any:
        """Do what no program has a part in; an error is the test's own."""
        try:
            return step()
        except Exception as error:
            self.remote.fault(f"{type(error).__name__}: {error}")

    def run(self, source: str) -> None:
        """Execute code, whose own faults are distinguished from the program's."""
        exec(compiled(source), self.names)

    def judge(self, error: BaseException) -> None:
        """Decide that the test is at fault, if this error of its code shows it."""
        if raised_by_program(error):
            return
        if isinstance(error, NameError) and type(error) is NameError and error.name not in self._bound:
            self.remote.fault(f"NameError: {error}")
        if isinstance(error, (ImportError, SyntaxError)):
            self.remote.fault(f"{type(error).__name__}: {error}")
        if isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType):
            self.remote.fault(f"AttributeError: {error}")
        if not self.remote.calls:
            self.remote.fault(f"{type(error).__name__} before the program was asked: {error}")
