"""The inside of a conversation: calls of the program's functions, and the objects that stay here while the other side
asks for their attributes and results.

Nothing here is trusted, see :mod:`candidate`.
"""

import builtins
import contextlib
import copy
import functools
import importlib
import marshal
import math
import operator
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from openrlhf_pf.code_reward.judge import codec, values

MODULE = "solution"
MAX_MESSAGE = 300
_MOST_OF_AN_ERROR = 1 << 16
_LINKS = ("__cause__", "__context__", "__suppress_context__")
_MUTABLE = {list, dict, set, bytearray}
# What Python does with an operator, where a class may not have the method itself.
_PROTOCOLS = {"__iter__": iter, "__reversed__": reversed, "__dir__": dir, "__format__": format}
_PROTOCOLS |= {"__len__": len, "__abs__": abs, "__float__": float, "__int__": int, "__round__": round}
_PROTOCOLS |= {"__delattr__": delattr, "__setattr__": setattr}
_PROTOCOLS |= {"__divmod__": divmod, "__rdivmod__": lambda right, left: divmod(left, right), "__complex__": complex}
_PROTOCOLS |= {f"__{name}__": getattr(math, name) for name in ("trunc", "floor", "ceil")}
_PROTOCOLS |= {"__copy__": copy.copy, "__deepcopy__": copy.deepcopy}
_PROTOCOLS |= {f"__{name}__": getattr(operator, f"__{name}__") for name in ("contains", "getitem", "index")}
for _name in "add sub mul truediv floordiv mod pow and or xor matmul lshift rshift".split():
    _operate = getattr(operator, f"__{_name}__")
    _PROTOCOLS[f"__{_name}__"], _PROTOCOLS[f"__i{_name}__"] = _operate, getattr(operator, f"__i{_name}__")
    _PROTOCOLS[f"__r{_name}__"] = lambda right, left, operate=_operate: operate(left, right)
_PROTOCOLS["__pow__"] = pow
_FIXED = {type(None), bool, int, float, complex, str, bytes}


def kinds_of(kind: type[BaseException]) -> list[str]:
    """The names of an exception's class and of those that it is derived from, without the last two or three; with the
    module where that is one of the standard library.
    """
    if not issubclass(kind, Exception):
        return [f"exit:{kind.__name__}"]
    kinds = [one for one in kind.__mro__ if one not in (Exception, BaseException, object)]
    return [_full_name(one) for one in kinds or [kind]]


def _full_name(kind: type) -> str:
    package = str(kind.__module__).split(".")[0]
    is_librarys = package != "builtins" and (package in sys.stdlib_module_names or package == "numpy")
    return f"{kind.__module__}:{kind.__name__}" if is_librarys else kind.__name__


def text_of(error: BaseException) -> str:
    """The message of an exception; empty where it raises another one."""
    try:
        return str(error)[:MAX_MESSAGE]
    except BaseException:
        return ""


def _attributes_of(error: BaseException) -> dict[str, Any]:
    """What an exception and its classes have, in plain data."""
    members = {name: item for kind in reversed(type(error).__mro__[:-3]) for name, item in vars(kind).items()}
    found = {name: item for name, item in members.items() if name[:1] != "_" and codec.is_exact(item)}
    with contextlib.suppress(Exception):
        found |= {name: getattr(error, name) for name, item in members.items() if type(item) is property}
    found |= {name: item for name in _LINKS if (item := getattr(error, name))}
    if found.get("__context__") is found.get("__cause__"):
        found.pop("__context__", None)
    return found | vars(error)


def _has_methods(kind: type) -> bool:
    """Whether a class of exceptions has methods that the program has written."""
    written = [item for one in kind.__mro__ if one.__module__ == MODULE for item in vars(one).items()]
    return any(name[:1] != "_" and hasattr(item, "__get__") and type(item) is not property for name, item in written)


class Conversation:
    """One side of it: what was asked, and which objects the other side knows by number.

    It begins when ``talk`` has its file.
    """

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module
        self.talk = codec.Connection()
        self.questions = codec.Receiver(self.talk.recv, 2 * codec.MAX_TASK_BYTES, codec.decode_plain)
        self.operations: dict[str, Callable[..., Any]] = {
            "call": lambda target, args, kwargs: self._target(target)(*args, **kwargs),
            "change": self._change,
            # Another operation, whose arguments are no plain data.
            "rich": lambda operation, *received: self.operations[operation](*self._received(*received)),
            "get": lambda number, name: getattr(self._objects[number], name),
            "next": self._next,
            "await": lambda number: _awaited(self._objects[number]),
            "name": lambda name: getattr(module, name),
            "instance": lambda number, name: isinstance(self._objects[number], getattr(module, name)),
            "subclass": lambda name, other: issubclass(getattr(module, name), getattr(module, other)),
            "random": _set_random_states,
            "attribute": getattr,
            "truth": lambda number: bool(self._objects[number]),
            "plain": lambda number: codec.to_base(self._objects[number]),
            "kinds": lambda name: kinds_of(getattr(module, name)),
            "raise": lambda name, args, kwargs: _raise(getattr(module, name)(*args, **kwargs)),
            "exit": lambda number, error: bool(self._objects[number].__exit__(type(error), error, None)),
            "overwrite": lambda number, name, new: values.overwrite(self._value(number, name), new),
            "value": self._value,
            "keep": self._keep,
            "library": lambda module, name, args, kwargs: getattr(importlib.import_module(module), name)(
                *args, **kwargs
            ),
        }
        self._objects: list[Any] = []
        self._places: list[Any] = []  # what the last call could change of its arguments
        self._kept: dict[int, int] = {}  # id of an object, its number
        self._raised: dict[int, Exception] = {}  # by an iterator, after elements that were not sent yet
        self._transferred: dict[int, int] = {}  # id of an object that came from the other side, its number there
        self._callbacks: dict[int, Callable[..., Any]] = {}  # functions and classes that came from there, by number
        self._numbers: dict[int, int] = {}  # id of one of them, its number
        self._classes: dict[str, type] = {}  # those that are classes
        self._by_number: dict[int, Any] = {}
        self._tagger = values.Tagger(self._handle)
        self._decode = codec.decoder(self._special)
        self._asked: tuple[str, int] = "", 0

    @property
    def has_objects(self) -> bool:
        """Whether the other side knows objects that stay here."""
        return bool(self._objects)

    def serve(self, number: str, asked: list[tuple]) -> str:
        """Answer the questions of one message; the last operation."""
        operation, operations, talk = "", self.operations, self.talk
        for place, (operation, *arguments) in enumerate(asked):
            self._asked = number, place
            try:
                value = operations[operation](*arguments)
                left = value if type(value) is _Left else None
                parts = ("left", left.value, left.contents) if left else ("value", value)
                answer = left.encode(number, place) if left else self._encode((number, place, *parts))
            except BaseException as error:
                answer = self._error(number, place, error)
            codec.send_encoded(talk, answer)
        return operation

    def _encode(self, answer: tuple) -> bytes:
        return codec.encode(answer, codec.MAX_BYTES, self._other)

    def _error(self, number: str, place: int, error: BaseException) -> bytes:
        try:
            return values.encode_tag({"t": [number, place, "error", self._exception_tag(error, 0)]}, _MOST_OF_AN_ERROR)
        except Exception:
            text = text_of(error)
            tag = {"e": [kinds_of(type(error)), text, [text], {"d": []}, None]}
            return values.encode_tag({"t": [number, place, "error", tag]}, codec.MAX_BYTES)

    def _exception_tag(self, error: BaseException, depth: int) -> Any:
        """An exception by its classes, text, arguments and attributes; and by number, if it has methods."""
        kinds, text, tag = kinds_of(type(error)), text_of(error), self._tagger.tag
        itself = self._numbered(error) if _has_methods(type(error)) else None
        for attributes in (_attributes_of(error), {}):
            with contextlib.suppress(Exception):
                return {"e": [kinds, text, tag(list(error.args), depth + 1), tag(attributes, depth + 1), itself]}
        return {"e": [kinds, text, [text], {"d": []}, itself]}

    def _handle(self, value: Any, depth: int) -> Any:
        if id(value) in self._transferred:
            return {"o": [self._transferred[id(value)]]}
        if isinstance(value, BaseException):
            return self._exception_tag(value, depth)
        if id(value) in self._numbers:
            return {"q": [self._numbers[id(value)]]}
        if type(value) is type and value.__module__ == "builtins" and getattr(builtins, value.__name__, None) is value:
            return {"g": [value.__name__]}
        return {"g": [repr(value)]} if value is ... or value is NotImplemented else self._numbered(value)

    def _numbered(self, value: Any) -> Any:
        if id(value) not in self._kept:
            self._kept[id(value)] = len(self._objects)
            self._objects.append(value)
        ability = values.ITERATES if hasattr(type(value), "__next__") else ""
        ability = ability or (values.CALLABLE if callable(value) else "")
        return {"h": [self._kept[id(value)], str(type(value).__name__), ability]}

    def _other(self, value: Any, depth: int) -> Any:
        """The tag of what is no plain data; of an instance of a class that is derived from one of plain data, also
        its data, for a test that does not know the class.
        """
        if isinstance(value, _DERIVED) and type(value).__module__ == MODULE and not values.named_parts(value):
            handle, base = self._numbered(value)["h"], codec.to_base(value)
            return {"k": [handle, self._tagger.tag(base, depth + 1)]}
        return self._tagger.other(value, depth)

    def _target(self, target: Any) -> Callable[..., Any]:
        """``[function]``; ``[class, method]``, of an instance of its own; ``(number, method)`` of an object."""
        if type(target) is tuple:
            number, name = target
            if name in _PROTOCOLS:
                return functools.partial(_PROTOCOLS[name], self._objects[number])
            return getattr(self._objects[number], name) if name else self._objects[number]
        name, solution = target[0], getattr(self.module, "Solution", None)
        if not hasattr(self.module, name) and hasattr(solution, name):
            return getattr(solution(), name)  # many data sets take either
        found = getattr(self.module, name)
        for name in target[1:]:
            found = getattr(found(), name)
        return found

    def _change(self, target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call, and what it left of its arguments."""
        if not self._transferred and {type(value) for value in (*args, *kwargs.values())} <= _FIXED:
            return self._target(target)(*args, **kwargs)
        places = values.containers(lambda value: id(value) in self._transferred, args, kwargs)
        before = _photograph(args, kwargs)
        value = self._target(target)(*args, **kwargs)
        self._places = places
        known = {id(container): place for place, container in enumerate(places)}
        if before is not None and id(value) not in known and before == _photograph(args, kwargs):
            return value
        return _Left(self, value, places)

    def _received(self, objects: list[list], data: bytes) -> Any:
        for number, known in objects:
            if number not in self._by_number:
                own = getattr(self.module, known[1], None)
                kind = own if isinstance(own, type) else self._callback(*known)
                self._by_number[number] = made = kind.__new__(kind)
                self._transferred[id(made)] = number
        attributes, value = self._decode(data)
        for number, found in attributes:
            for attribute, item in found.items():
                object.__setattr__(self._by_number[number], attribute, item)
        return value

    def _next(self, number: int, count: int) -> Any:
        """The next elements of an iterator, and whether it is over; what it raises comes after those before it."""
        if number in self._raised:
            raise self._raised.pop(number)
        found: list[Any] = []
        iterator = self._objects[number]
        if not hasattr(type(iterator), "__next__"):
            iterator = self._objects[number] = iter(iterator)
        for _ in range(count):
            try:
                found.append(next(iterator))
            except StopIteration as end:
                return [found, True, end.value]
            except Exception as error:
                if not found:
                    raise
                self._raised[number] = error
                break
        return [found, False, None]

    def _special(self, tag: str, content: Any) -> Any:
        if tag == "x":
            own = iter(content[1]) if content[0] == "iterator" else self._own_value(content)
            return values.rebuild(content) if own is None else own
        if tag == "e":
            return self._exception(*content)
        if tag == "h":
            return self._objects[content[0]]
        if tag == "g":
            return getattr(importlib.import_module(content[0]), content[1])
        if tag == "n":
            return getattr(self.module, content[0])
        if tag == "q":
            return self._callback(*content)
        if tag == "o":
            return self._by_number[content[0]]
        raise codec.NotPlain(f"unknown tag {tag!r}")

    def _own_value(self, content: Any) -> Any:
        """The program's own named tuple or member of an enum that a tag stands for; None for other values."""
        if content[0] not in ("namedtuple", "enum"):
            return None
        name, mixin, place, *value = content[1]
        kind = getattr(self.module, name, None)
        if not isinstance(kind, type):
            return None
        if mixin in ("flag", "intflag"):
            return kind(*value)
        return kind(*place) if issubclass(kind, tuple) else kind[place]

    def _value(self, number: int, name: str) -> Any:
        """An attribute of an object, or of the module; without a name, the object."""
        if not name:
            return self._objects[number]
        return getattr(self.module if number < 0 else self._objects[number], name)

    def _keep(self, place: int) -> int:
        """The number of an argument of the last call."""
        self._objects.append(self._places[place])
        return len(self._objects) - 1

    def _exception(self, kind: str, args: list[Any]) -> Any:
        """An exception of the test's."""
        made = getattr(self.module, kind, None) or self._classes.get(kind) or getattr(builtins, kind, RuntimeError)
        return type.__call__(made, *args) if isinstance(made, _OfTest) else made(*args)

    def _callback(self, number: int, name: str, doc: str | None = None, *of_class: Any) -> Callable[..., Any]:
        """A function of the other side, or a class of it: an instance is made there."""
        if number in self._callbacks:
            return self._callbacks[number]

        def function(*args: Any, **kwargs: Any) -> Any:
            return self._ask(number, args, kwargs)

        function.__name__ = function.__qualname__ = name
        function.__doc__ = doc
        if of_class:
            bases, builtin, methods, shared = of_class
            made = {called: self._callback(method, called) for called, method in methods}
            made |= {**shared, "__module__": "test object", "_make": staticmethod(function)}
            derived = [self._callback(*base) for base in bases] or ([getattr(builtins, builtin)] if builtin else [])
            function = self._classes[name] = _OfTest(name, tuple(derived), made)
        self._callbacks[number] = function
        self._numbers[id(function)] = number
        return function

    def _ask(self, number: int, args: tuple, kwargs: dict[str, Any]) -> Any:
        asked = self._asked
        codec.send_encoded(self.talk, self._encode((*asked, "ask", number, args, kwargs)))
        while True:
            message = self.questions.receive()
            if message[0] != "reply":
                self.serve(*message)  # the function calls the program
                continue
            self._asked = asked
            _, kind, *data = message
            value = self._received(*data)
            if kind == "value":
                return value
            kind, text = value
            raise type.__call__(kind if isinstance(kind, type) else _exception_class(*kind), text)


class _OfTest(type):
    """The class of the test's classes."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._make(*args, **kwargs)


class _Left:
    """A value, and containers as they are after a call."""

    def __init__(self, conversation: Conversation, value: Any, places: list[Any]) -> None:
        self.value, self.contents = value, places
        self._handle = conversation._handle

    def encode(self, number: str, place: int) -> bytes:
        """The answer with the value and the containers."""
        tagger = values.Tagger(self._handle, {id(item): index for index, item in enumerate(self.contents)})
        contents = []
        for item in self.contents:
            plain = type(item) in _MUTABLE or values.known_name(type(item))
            contents.append(tagger.tag(item, 0, True) if plain else tagger.tag(dict(vars(item)), 0, True))
        answer = {"t": [number, place, "left", tagger.tag(self.value, 0), contents]}
        return values.encode_tag(answer, codec.MAX_BYTES)


@functools.lru_cache(maxsize=256)
def _exception_class(name: str, base: str) -> type[Exception]:
    """A builtin class of exceptions, or what stands for one of the test's."""
    return getattr(builtins, base) if name == base else type(name, (getattr(builtins, base),), {})


_DERIVED = (list, dict, str, int, float, tuple, set)


def _raise(error: Exception) -> None:
    raise error


def _set_random_states(state: Any, state_of_numpy: Any) -> None:
    random.setstate(state)
    if state_of_numpy and "numpy" in sys.modules:
        sys.modules["numpy"].random.set_state(state_of_numpy)


def _awaited(awaitable: Any) -> Any:
    """The result, from the one loop that asynchronous generators stay in."""
    import asyncio

    async def result() -> Any:
        return await awaitable

    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0].run_until_complete(result())


_loops: list[Any] = []


def _photograph(*parts: Any) -> bytes | None:
    """Plain data as it is now; nothing if it is no plain data."""
    without_references = 2
    try:
        return marshal.dumps(parts, without_references)
    except ValueError:
        return None
