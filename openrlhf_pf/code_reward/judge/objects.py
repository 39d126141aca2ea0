"""A test's objects as the program sees them, and a program's objects as the test sees them.

A test's functions, and the methods of its objects, stay here: the program asks for them by number. A program's objects
stay there: a :class:`RemoteObject` asks for what they say. No comparison is ever left to one of them.
"""

import builtins
import contextlib
import functools
import importlib
import operator
import types
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from openrlhf_pf.code_reward.judge import codec, values

if TYPE_CHECKING:
    from openrlhf_pf.code_reward.judge.remote import Remote

_PUBLIC_MODULES = ("builtins", "math", "operator", "functools", "itertools", "string")
_KINDS = {"generator": types.GeneratorType, "function": types.FunctionType, "map": map, "filter": filter, "zip": zip}
_LONGEST_ITERATOR = 100_000
_ONE_BY_ONE, _AT_A_TIME = 32, 1024  # elements of an iterator: most tests take a few, or all
_METHODS_OF_DATA = {
    name
    for kind in (str, bytes, list, tuple, dict, set, int, float, complex, range)
    for name in dir(kind)
    if not name.startswith("_")
} | {"all", "any", "equals", "item", "tolist", "most_common", "elements", "appendleft", "isoformat", "is_integer"}


class RemoteObject:
    """An object that stays with the program.

    Its attributes, elements, length and what its calls return are asked for. It is equal to nothing but itself:
    otherwise it would judge itself. Only an object of a class that the test itself names (``known``) has methods
    that plain data has too, comparisons with its like, and arithmetic.
    """

    def __init__(self, asks: "Remote", number: int, name: str, ability: str, known: bool) -> None:
        vars(self).update(_asks=asks, _number=number, _name=name, _ability=ability, _known=known)

    def __repr__(self) -> str:
        return str(self._method("__repr__")) if self._known else f"<{self._name} of the program>"

    @property
    def __class__(self) -> type:  # what isinstance asks for, of the kinds that a test may expect
        return _KINDS.get(self._name, RemoteObject)

    def __str__(self) -> str:
        return str(self._method("__str__"))

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._asks.call((self._number, name), args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name in _METHODS_OF_DATA and not self._known:
            raise AttributeError(f"the program returned a {self._name}, which is no plain data: no {name}")
        found = self._asks.ask("get", self._number, name)
        if isinstance(found, RemoteObject) and found._ability == values.CALLABLE:
            method = lambda *args, **kwargs: self._method(name, *args, **kwargs)  # noqa: E731
            method.__name__ = name
            return method
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method("", *args, **kwargs)

    def _elements(self) -> list[Any]:
        """All its elements, asked for once: a second answer could be another one."""
        if "_listed" not in vars(self):
            vars(self)["_listed"] = list(islice(self._method("__iter__"), _LONGEST_ITERATOR))
        return vars(self)["_listed"]

    def __iter__(self) -> Iterator[Any]:
        if self._ability != values.ITERATES:
            yield from self._elements() if "_listed" in vars(self) else self._method("__iter__")
            return
        while True:
            try:
                yield next(self)
            except StopIteration:
                return

    def __next__(self) -> Any:
        """One element after the other, and many at once where many are wanted."""
        waiting = vars(self).setdefault("_waiting", [])
        if not waiting and not vars(self).get("_over"):
            taken = vars(self).get("_taken", 0)
            count = 1 if taken < _ONE_BY_ONE else _AT_A_TIME
            found, over = self._asks.ask("next", self._number, count)
            waiting[:] = list(found)[::-1]
            vars(self).update(_over=bool(over), _taken=taken + count)
        if not waiting:
            raise StopIteration
        return waiting.pop()

    def __len__(self) -> int:
        if self._ability == values.ITERATES:
            raise TypeError(f"a {self._name} has no length")
        try:
            if not self._known:  # the number of elements that a loop over it finds
                return len(self._elements())
        except TypeError:  # it has none
            pass
        return operator.index(self._method("__len__"))

    def __contains__(self, item: Any) -> bool:
        if self._known:
            return bool(self._method("__contains__", item))
        return any(item is found or item == found for found in self)

    def __abs__(self) -> Any:
        found = self._method("__abs__") if self._known else None
        if not isinstance(found, RemoteObject):  # a number would judge itself: abs(f(x) - 7) < 1e-6
            raise TypeError(f"a {self._name} of the program has no absolute value")
        return found

    def __bool__(self) -> bool:
        return bool(self._asks.ask("truth", self._number))

    def __exit__(self, *_: Any) -> None:
        self._method("__exit__", None, None, None)

    async def __anext__(self) -> Any:
        try:
            return self._asks.ask("await", self._method("__anext__")._number)
        except ProgramStopIteration:
            raise StopAsyncIteration from None

    def __hash__(self) -> int:
        if not self._known:
            return hash((RemoteObject, self._number))
        self._asks.relies_on_the_program()
        return hash(self._method("__hash__"))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return self._compared("__eq__", other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _compared(self, name: str, other: object) -> Any:
        if not (self._known and isinstance(other, RemoteObject) and other._known):
            return NotImplemented
        self._asks.relies_on_the_program()
        found = self._method(name, other)
        return found if type(found) is bool else NotImplemented


def _operate(name: str) -> Callable[..., Any]:
    """Arithmetic of an object of a class that the test names."""

    def operate(self: RemoteObject, *others: Any) -> Any:
        if not self._known or any(isinstance(other, RemoteObject) and not other._known for other in others):
            return NotImplemented
        found = self._method(name, *others)
        # A number for what is perhaps the expected one would judge itself: abs(f(x) - 7) < 1e-6.
        judges = any(not isinstance(other, RemoteObject) for other in others) and not isinstance(found, RemoteObject)
        return NotImplemented if judges else found

    return operate


for _name in "add sub mul truediv floordiv mod pow and or xor matmul radd rsub rmul neg pos invert".split():
    setattr(RemoteObject, f"__{_name}__", _operate(f"__{_name}__"))
for _name in ("__setattr__", "__getitem__", "__setitem__", "__delitem__", "__enter__", "__aiter__", "__reversed__"):
    setattr(RemoteObject, _name, lambda self, *args, name=_name: self._method(name, *args))
for _name in ("__lt__", "__le__", "__gt__", "__ge__"):
    setattr(RemoteObject, _name, lambda self, other, name=_name: self._compared(name, other))


class Sender:
    """Tags of what a test hands to the program.

    Attributes:
        objects: the test's own objects that the program knows by number.
        functions: the test's functions that the program knows by number.
    """

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.functions: list[Callable[..., Any]] = []
        self._numbers: dict[int, int] = {}
        self._shells: dict[int, list] = {}

    def encode(self, value: Any) -> tuple[list[list], bytes]:
        """A value with all that is in it: number, class and methods of each object, then their attributes and it.

        Raises:
            NotPlain: it is too large, or not to be handed out.
        """
        self._shells, tagger = {}, values.Tagger(self._tag)
        tag, attributes, done = tagger.tag(value, 0), [], 0
        while done < len(self._shells):  # attributes of objects lead to objects
            number = list(self._shells)[done]
            attributes.append([number, tagger.tag(dict(vars(self.objects[number])), 0)])
            done += 1
        return list(self._shells.values()), values.encode_tag([attributes, tag], codec.MAX_TASK_BYTES)

    def _tag(self, value: Any, depth: int) -> Any:
        if isinstance(value, RemoteObject):
            return {"h": [value._number]}
        home, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
        public = isinstance(home, str) and home in _PUBLIC_MODULES and isinstance(name, str)
        if public and getattr(importlib.import_module(home), name, None) is value:
            return {"g": [home, name]}
        if is_own(value):
            return self._object(value)
        if callable(value):
            return self._function(value)
        if isinstance(value, Iterator):
            items = list(islice(value, _LONGEST_ITERATOR))
            return {"x": ["iterator", values.Tagger(self._tag).tag(items, depth + 1)]}
        raise codec.NotPlain(f"a {type(value).__name__} cannot be handed to the program")

    def _number(self, kept: list[Any], value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(kept)
            kept.append(value)  # for as long as the program may ask for it
        return self._numbers[id(value)]

    def _function(self, value: Any) -> Any:
        name = getattr(value, "__name__", type(value).__name__)
        return {"q": [self._number(self.functions, value), name]}

    def _object(self, value: Any) -> Any:
        number = self._number(self.objects, value)
        if number not in self._shells:
            members = [pair for kind in reversed(type(value).__mro__[:-1]) for pair in vars(kind).items()]
            methods = [
                [name, self._function(getattr(value, name))["q"][0]]
                for name, member in members
                if isinstance(member, types.FunctionType) and name not in _OF_CONSTRUCTION
            ]
            shared = {name: member for name, member in members if not name.startswith("__") and codec.is_exact(member)}
            self._shells[number] = [number, type(value).__name__, methods, shared]
        return {"o": [number]}


_OF_CONSTRUCTION = {"__init__", "__new__", "__post_init__", "__getattr__", "__setattr__", "__getattribute__"}


def is_own(value: Any) -> bool:
    """Whether it is an object of a class that the test has written."""
    return type(value).__module__ == "checker" and type(getattr(value, "__dict__", None)) is dict


class ProgramStopIteration(Exception):
    """A StopIteration of the program: a real one would end a loop of the test as if all had been compared."""


def exception_of(
    kinds: Any, text: str, arguments: Any, attributes: Any, table: dict[str, type[Exception]]
) -> Exception:
    """An exception as the program raised it: of the first of its classes that is one of ``table`` or a builtin one,
    with its attributes.
    """
    names = [str(name)[:80] for name in kinds][:20] if type(kinds) is list else []
    builtin = next((kind for name in names if (kind := _builtin_exception(name))), Exception)
    kinds_found = [*dict.fromkeys([*(table[name] for name in names if name in table), builtin])]
    bases = [one for one in kinds_found if not any(one is not kind and issubclass(kind, one) for kind in kinds_found)]
    kind = bases[0]
    if len(bases) > 1 or (names and names[0] not in (kind.__name__, "StopIteration", "StopAsyncIteration")):
        kind = _named(names[0], tuple(bases))
    arguments = tuple(arguments) if type(arguments) is list else (text,)
    try:
        made = kind(*arguments)
    except Exception:
        made = Exception(*arguments)
    made.args = arguments
    for name, value in attributes.items() if type(attributes) is dict else ():
        if type(name) is str and name.isidentifier() and not name.startswith("__"):
            with contextlib.suppress(Exception):
                setattr(made, name, value)
    made._raised_by_program = ((names or ["Exception"])[0], text)  # type: ignore[attr-defined]
    return made


def text_of(error: Exception) -> str:
    """The ``__str__`` of a class of the program's: what it said there."""
    raised = raised_by_program(error)
    return raised[1] if raised else Exception.__str__(error)


def raised_by_program(error: BaseException) -> tuple[str, str] | None:
    """The class and the text of an exception that the program raised; None for one of the test's own."""
    return getattr(error, "_raised_by_program", None)


def _builtin_exception(name: str) -> type[Exception] | None:
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    return ProgramStopIteration if issubclass(kind, (StopIteration, StopAsyncIteration)) else kind


@functools.lru_cache(maxsize=512)
def _named(name: str, bases: tuple[type[Exception], ...]) -> type[Exception]:
    try:
        return type(name, bases, {"__str__": text_of}) if name.isidentifier() else bases[0]
    except TypeError:  # two of them have no common layout
        return bases[0]
