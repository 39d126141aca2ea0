"""A test's objects as the program sees them, and a program's objects as the test sees them.

A test's functions, and the methods of its objects, stay here: the program asks for them by number. A program's objects
stay there: a :class:`RemoteObject` asks for what they say. No comparison is ever left to one of them.
"""

import builtins
import contextlib
import copy
import dis
import enum
import functools
import importlib
import inspect
import operator
import sys
import types
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from openrlhf_pf.code_reward.judge import codec, values

if TYPE_CHECKING:
    from openrlhf_pf.code_reward.judge.remote import Remote

_PUBLIC_MODULES = ("builtins", "collections.abc", "math", "operator", "functools", "itertools", "string")
# What an object, a class or a function says of itself.
_OF_ITSELF = (
    "dict doc name qualname annotations defaults kwdefaults code wrapped members bases mro slots match_args".split()
)
ASKED_FOR = {f"__{name}__" for name in _OF_ITSELF}
_READING = {"__iter__", "__len__", "__getitem__", "__contains__", "__repr__", "__str__", "__format__"}
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
KINDS = {"generator": types.GeneratorType, "function": types.FunctionType, "method": types.MethodType}
KINDS |= {kind.__name__: kind for kind in (map, filter, zip, property, functools.partial)}
_LONGEST_ITERATOR = 100_000
_MAX_MESSAGE = 300
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

    # Named so that no attribute of a program's object is hidden: tests read obj._name.
    _OWN = tuple(
        f"_remote_{name}"
        for name in "asks number name ability known plain tainted read source waiting over taken made".split()
    )
    __slots__ = (*_OWN, "__weakref__")

    def __init__(
        self, asks: "Remote", number: int, name: str, ability: str, known: bool, plain: tuple[Any, ...] = ()
    ) -> None:
        values_of_slots = (asks, number, name, ability, known, plain, False, [], None, [], False, 0, False)
        for slot, value in zip(self._OWN, values_of_slots):
            object.__setattr__(self, slot, value)

    def __repr__(self) -> str:
        return str(self._remote_method("__repr__")) if self._remote_known else f"<{self._remote_name} of the program>"

    @property
    def __class__(self) -> type:  # what isinstance asks for, of the kinds that a test may expect
        if self._remote_plain:
            return type(self._remote_plain[0])
        return KINDS.get(self._remote_name) or self._remote_asks.class_of(self._remote_name)

    def __str__(self) -> str:
        return str(self._remote_method("__str__"))

    def _remote_set(self, slot: str, value: Any) -> None:
        object.__setattr__(self, slot, value)

    def _remote_method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name != "__iter__":  # which may change what it has
            self._remote_set("_remote_source", None)
        found = self._remote_asks.call((self._remote_number, name), args, kwargs)
        if self._remote_plain and name not in _READING:
            self._remote_set("_remote_plain", (self._remote_asks.ask("plain", self._remote_number),))
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in ASKED_FOR:
            raise AttributeError(name)
        if name in _METHODS_OF_DATA and not self._remote_known:
            raise AttributeError(f"the program returned a {self._remote_name}, which is no plain data: no {name}")
        found = self._remote_asks.ask("get", self._remote_number, name)
        if isinstance(found, RemoteObject) and found._remote_ability == values.CALLABLE:
            method = lambda *args, **kwargs: self._remote_method(name, *args, **kwargs)  # noqa: E731
            method.__name__ = name
            return method
        self._remote_asks.lend(self._remote_number, name, found)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._remote_method("", *args, **kwargs)

    def _remote_elements(self) -> Iterator[Any]:
        """Its elements, each asked for once: a second answer could be another one."""
        if self._remote_source is None:
            self._remote_set("_remote_source", iter(self._remote_method("__iter__")))
            self._remote_set("_remote_read", [])
        read, source = self._remote_read, self._remote_source
        for place in range(_LONGEST_ITERATOR):
            if place == len(read):
                try:
                    read.append(next(source))
                except StopIteration:
                    return
            yield read[place]

    def __iter__(self) -> Iterator[Any]:
        if self._remote_ability == values.ITERATES:
            return self
        return iter(self._remote_method("__iter__")) if self._remote_known else self._remote_elements()

    def __next__(self) -> Any:
        """One element after the other, and many at once where many are wanted."""
        waiting = self._remote_waiting
        if not waiting and not self._remote_over:
            count = 1 if self._remote_taken < _ONE_BY_ONE else _AT_A_TIME
            found, over, value = self._remote_asks.ask("next", self._remote_number, count)
            waiting[:] = list(found)[::-1]
            self._remote_set("_remote_over", [value] if over else [])
            self._remote_set("_remote_taken", self._remote_taken + count)
        if not waiting:
            raise StopIteration(*(self._remote_over.pop() for _ in self._remote_over[:1]))
        return waiting.pop()

    def __len__(self) -> int:
        if self._remote_ability == values.ITERATES:
            raise TypeError(f"a {self._remote_name} has no length")
        try:
            if not self._remote_known:  # the number of elements that a loop over it finds
                return sum(1 for _ in self._remote_elements())
        except TypeError:  # it has none
            pass
        return operator.index(self._remote_method("__len__"))

    def __contains__(self, item: Any) -> bool:
        if self._remote_known:
            return bool(self._remote_method("__contains__", item))
        return any(item is found or item == found for found in self)

    def __bool__(self) -> bool:
        return bool(self._remote_asks.ask("truth", self._remote_number))

    def __bytes__(self) -> bytes:
        return bytes(self._remote_method("__bytes__") if self._remote_known else list(self))

    def __format__(self, spec: str) -> str:
        return str(self._remote_method("__format__", spec)) if self._remote_known else format(str(self), spec)

    def __exit__(self, kind: Any, error: Any, place: Any) -> bool:
        """Whether the exception is over; one that the test did not raise on purpose never is: else an object could
        end a test before it has judged anything.
        """
        if error is None:
            self._remote_method("__exit__", None, None, None)
            return False
        is_over = self._remote_asks.ask("exit", self._remote_number, error) is True
        if not (is_over and _is_on_purpose(place) and self._remote_known) or isinstance(error, AssertionError):
            return False
        self._remote_asks.relies_on_the_program()
        return True

    async def __aexit__(self, kind: Any, error: Any, place: Any) -> bool:
        await self._remote_method("__aexit__", kind and None, error, None)
        return False

    def __copy__(self, name: str = "__copy__") -> Any:
        found = self._remote_method(name)
        if isinstance(found, RemoteObject):
            found._remote_set("_remote_tainted", self._remote_tainted)
        return found

    def __deepcopy__(self, _: Any) -> Any:
        return self.__copy__("__deepcopy__")

    def __reduce_ex__(self, _: Any) -> Any:
        _pickled.append(self)
        return copy.deepcopy, (_Pickled(len(_pickled) - 1),)

    async def __anext__(self) -> Any:
        try:
            found = self._remote_method("__anext__")
            return await found if inspect.iscoroutine(found) else self._remote_asks.ask("await", found._remote_number)
        except ProgramStopIteration:
            raise StopAsyncIteration from None

    def __hash__(self) -> int:
        if not self._remote_known:
            return hash((RemoteObject, self._remote_number))
        if self._remote_plain:
            return hash(self._remote_plain[0])
        self._remote_asks.relies_on_the_program()
        return hash(self._remote_method("__hash__"))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return self._remote_compared("__eq__", other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _remote_compared(self, name: str, other: object) -> Any:
        if self._remote_plain:  # as it was when it was answered, before the program could know the other one
            if isinstance(other, RemoteObject):
                self._remote_asks.relies_on_the_program()
            return getattr(operator, name)(self._remote_plain[0], _plain_part(other))
        if not (self._remote_known and isinstance(other, RemoteObject) and other._remote_known):
            return NotImplemented
        self._remote_asks.relies_on_the_program()
        found = self._remote_method(name, other)
        return found if type(found) is bool else NotImplemented


def _is_on_purpose(place: types.TracebackType) -> bool:
    """Whether a test raised on purpose, whatever the program answered: in straight code, by ``raise`` or by what has
    only constants and builtin types in it, such as ``1 / 0`` and ``int("x")``.
    """
    names = {**place.tb_frame.f_globals, **place.tb_frame.f_locals}
    code = list(dis.get_instructions(place.tb_frame.f_code))
    failed = next(one for one in code if one.offset == place.tb_lasti)
    before = [one for one in code if one.offset < failed.offset]
    start = max((one.offset for one in before if one.opname == "BEFORE_WITH"), default=0)
    for one in before:
        leaves = one.opcode in _JUMPS and not start < one.argval <= failed.offset
        if one.offset > start and (leaves or one.opname == "RETURN_VALUE"):  # the answer may decide what is raised
            return False
    if place.tb_next or failed.opname not in ("BINARY_OP", "BINARY_SUBSCR", "CALL"):
        return failed.opname == "RAISE_VARARGS" and not place.tb_next
    lines = range(failed.positions.lineno or 0, (failed.positions.end_lineno or 0) + 1)
    return all(
        one.opname == "LOAD_CONST"
        or (one.opname in ("LOAD_NAME", "LOAD_GLOBAL") and one.argval not in names and _is_builtin_type(one.argval))
        for one in code
        if one.opname[:4] == "LOAD" and (one.positions.lineno or lines.start) in lines
    )


def _is_builtin_type(name: str) -> bool:
    return isinstance(getattr(builtins, name, None), type)


def _plain_part(value: Any) -> Any:
    return value._remote_plain[0] if isinstance(value, RemoteObject) and value._remote_plain else value


def _operate(name: str) -> Callable[..., Any]:
    """Arithmetic of an object of a class that the test names."""

    def operate(self: RemoteObject, *others: Any) -> Any:
        if not self._remote_known or any(
            isinstance(other, RemoteObject) and not other._remote_known for other in others
        ):
            return NotImplemented
        if self._remote_plain and others and not isinstance(others[0], RemoteObject):
            return getattr(type(self._remote_plain[0]), name, lambda *_: NotImplemented)(
                self._remote_plain[0], *others
            )
        found = self._remote_method(name, *others)
        # A number for what is perhaps the expected one would judge itself: abs(f(x) - 7) < 1e-6.
        if isinstance(found, RemoteObject):
            found._remote_set("_remote_tainted", bool(others) or self._remote_tainted or found._remote_tainted)
        elif self._remote_tainted or any(not isinstance(other, RemoteObject) for other in others):
            if not self._remote_made:
                return NotImplemented
            if name in _DIFFERENCES:
                self._remote_asks.fault(
                    f"the program's own class has a {name} that says how far it is: compare attributes"
                )
        return found

    return operate


def _convert(name: str) -> Callable[..., Any]:
    """What a conversion makes of an object of a class that the test names, and that was not compared with anything."""

    def convert(self: RemoteObject, *args: Any) -> Any:
        found = self._remote_method(name, *args) if self._remote_known else None
        if isinstance(found, RemoteObject):
            found._remote_set("_remote_tainted", self._remote_tainted or found._remote_tainted)
        elif found is None or self._remote_tainted:
            raise TypeError(f"a {self._remote_name} of the program has no {name}")
        return found

    return convert


# What says how far, or whether, an answer is from what it is expected to be.
_DIFFERENCES = {"__sub__", "__rsub__", "__truediv__", "__rtruediv__", "__xor__", "__rxor__"}
_BINARY = "add sub mul truediv floordiv mod pow and or xor matmul divmod lshift rshift".split()
for _name in [*_BINARY, *(f"r{name}" for name in _BINARY), *(f"i{name}" for name in _BINARY), "neg", "pos", "invert"]:
    setattr(RemoteObject, f"__{_name}__", _operate(f"__{_name}__"))
for _name in "abs float int index round complex trunc floor ceil".split():
    setattr(RemoteObject, f"__{_name}__", _convert(f"__{_name}__"))
for _name in "setattr delattr getitem setitem delitem enter aenter aiter reversed dir".split():
    setattr(RemoteObject, f"__{_name}__", lambda self, *args, name=f"__{_name}__": self._remote_method(name, *args))
RemoteObject.__doc__ = property(lambda self: self._remote_asks.ask("get", self._remote_number, "__doc__"))  # type: ignore[assignment]
for _name in ("__lt__", "__le__", "__gt__", "__ge__"):
    setattr(RemoteObject, _name, lambda self, other, name=_name: self._remote_compared(name, other))


class Sender:
    """Tags of what a test hands to the program.

    Attributes:
        objects: the test's own objects that the program knows by number.
        functions: the test's functions and classes that the program knows by number.
    """

    def __init__(self, exceptions: dict[str, type[Exception]]) -> None:
        """``exceptions``: those that an exception of the program's may be one of, by name."""
        self._exceptions = exceptions
        self.objects: list[Any] = []
        self.functions: list[Callable[..., Any]] = []
        self._numbers: dict[int, int] = {}
        self._shells: dict[int, list] = {}

    def encode(self, value: Any) -> tuple[list[list], bytes]:
        """A value with all that is in it: number and class of each object, then their attributes and it.

        Raises:
            NotPlain: it is too large, or not to be handed out.
        """
        self._shells, tagger = {}, values.Tagger(self._tag)
        tag, attributes, done = tagger.tag(value, 0), [], 0
        while done < len(self._shells):  # attributes of objects lead to objects
            number = list(self._shells)[done]
            value = self.objects[number]
            known = dict(vars(value), args=value.args) if isinstance(value, Exception) else dict(vars(value))
            attributes.append([number, tagger.tag(known, 0)])
            done += 1
        return list(self._shells.values()), values.encode_tag([attributes, tag], codec.MAX_TASK_BYTES)

    def _tag(self, value: Any, depth: int) -> Any:
        if isinstance(value, RemoteObject):
            return {"h": [value._remote_number]}
        if isinstance(value, type) and "remote" in vars(value):
            return {"n": [value.__name__]}
        if isinstance(value, BaseException) and not is_own(value):
            if "_itself" in vars(value):
                return {"h": [vars(value)["_itself"]._remote_number]}
            return {"e": [type(value).__name__, values.Tagger(self._tag).tag(list(value.args), depth + 1)]}
        home, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
        public = isinstance(home, str) and home in _PUBLIC_MODULES and isinstance(name, str)
        if public and getattr(importlib.import_module(home), name, None) is value:
            return {"g": [home, name]}
        if is_own(value):
            return self._object(value)
        if isinstance(value, type) and home == "checker":
            return {"q": values.Tagger(self._tag).tag(self._class(value), depth + 1)}
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
        doc = getattr(value, "__doc__", None) if isinstance(value, types.FunctionType) else None
        return {"q": [self._number(self.functions, value), name, doc]}

    def _object(self, value: Any) -> Any:
        number = self._number(self.objects, value)
        if number not in self._shells:
            self._shells[number] = [number, self._class(type(value))]
        return {"o": [number]}

    def _class(self, kind: type) -> list[Any]:
        """A class of the test's: number, name, its bases of the test's and its builtin one, methods, other members."""
        members = dict(pair for one in reversed(kind.__mro__[:-1]) for pair in vars(one).items())
        methods = [
            [name, self._number(self.functions, member)]
            for name, member in members.items()
            if isinstance(member, types.FunctionType) and name not in _OF_CONSTRUCTION
        ]
        shared = {name: one for name, one in members.items() if not name.startswith("__") and codec.is_exact(one)}
        number = self._number(self.functions, kind)
        if issubclass(kind, Exception) and not issubclass(kind, (StopIteration, StopAsyncIteration)):  # end loops
            self._exceptions.setdefault(kind.__name__, kind)
        bases = [self._class(base) for base in kind.__bases__ if base.__module__ == "checker"]
        builtin = next(one.__name__ for one in kind.__mro__ if one.__module__ == "builtins")
        return [number, kind.__name__, None, bases, builtin if issubclass(kind, Exception) else "", methods, shared]


_OF_CONSTRUCTION = {"__init__", "__new__", "__post_init__", "__getattr__", "__setattr__", "__getattribute__"}


def is_own(value: Any) -> bool:
    """Whether it is an object of a class that the test has written."""
    has_attributes = type(value).__module__ == "checker" and type(getattr(value, "__dict__", None)) is dict
    return has_attributes and not isinstance(value, enum.Enum)


class ProgramStopIteration(Exception):
    """A StopIteration of the program: a real one would end a loop of the test as if all had been compared."""

    @property
    def value(self) -> Any:
        """What the generator has returned."""
        return self.args[0] if self.args else None


def exception_of(
    kinds: Any, text: str, arguments: Any, attributes: Any, itself: Any, table: dict[str, type[Exception]]
) -> Exception:
    """An exception as the program raised it: of the first of its classes that is one of ``table`` or a builtin one,
    with its attributes; its methods are those of ``itself``, an object of the program's.
    """
    text = str(text)[:_MAX_MESSAGE] if type(text) is str else ""
    full_names = [str(name)[:80] for name in kinds][:20] if type(kinds) is list else []
    names = [name.rpartition(":")[2] if name[:5] != "exit:" else name for name in full_names]
    builtin = next((kind for name in full_names if (kind := library_exception(name))), Exception)
    kinds_found = [*dict.fromkeys([*(table[name] for name in names if name in table), builtin])]
    bases = [one for one in kinds_found if not any(one is not kind and issubclass(kind, one) for kind in kinds_found)]
    kind = bases[0]
    if len(bases) > 1 or (names and names[0] not in (kind.__name__, "StopIteration", "StopAsyncIteration")):
        kind = _named(names[0], tuple(bases))
    arguments = tuple(arguments) if type(arguments) is list else (text,)
    try:
        made = type.__call__(kind, *arguments)
    except Exception:
        try:
            made = kind.__new__(kind)
        except TypeError:  # of a group without its exceptions
            made = Exception()
    made.args = arguments
    attributes = attributes if type(attributes) is dict else {}
    if isinstance(itself, RemoteObject):
        attributes["_itself"] = itself
    if attributes.get("__cause__") is not None:
        attributes.setdefault("__context__", attributes["__cause__"])
    for name, value in attributes.items():
        if type(name) is str and name.isidentifier() and (name[:2] != "__" or name in _SET_BY_RAISING):
            with contextlib.suppress(Exception):
                setattr(made, name, value)
    made._raised_by_program = ((names or ["Exception"])[0], text)  # type: ignore[attr-defined]
    return made


_SET_BY_RAISING = ("__cause__", "__context__", "__suppress_context__", "__notes__")


def attribute_of(error: Exception, name: str) -> Any:
    """The ``__getattr__`` of a class of the program's: its methods."""
    if name.startswith("_") or "_itself" not in vars(error):
        raise AttributeError(f"{type(error).__name__!r} object has no attribute {name!r}")
    return getattr(vars(error)["_itself"], name)


def text_of(error: Exception) -> str:
    """The ``__str__`` of a class of the program's: what it said there."""
    raised = raised_by_program(error)
    return raised[1] if raised else Exception.__str__(error)


class _Pickled:
    """The place of a program's object among those that a test has pickled: a copy of it is made from that."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __deepcopy__(self, _: Any) -> Any:
        return copy.deepcopy(_pickled[self.place])


_pickled: list[RemoteObject] = []


def raised_by_program(error: BaseException) -> tuple[str, str] | None:
    """The class and the text of an exception that the program raised; None for one of the test's own."""
    return getattr(error, "_raised_by_program", None)


def library_exception(name: str) -> type[Exception] | None:
    """A builtin exception, or one of a module of the standard library that the test has imported."""
    module, _, name = name.rpartition(":")
    if module and module.split(".")[0] not in sys.stdlib_module_names and not module.startswith("numpy."):
        return None
    kind = getattr(sys.modules.get(module) if module else builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    return ProgramStopIteration if issubclass(kind, (StopIteration, StopAsyncIteration)) else kind


@functools.lru_cache(maxsize=512)
def _named(name: str, bases: tuple[type[Exception], ...]) -> type[Exception]:
    try:
        return (
            type(name, bases, {"__str__": text_of, "__getattr__": attribute_of}) if name.isidentifier() else bases[0]
        )
    except TypeError:  # two of them have no common layout
        return bases[0]
