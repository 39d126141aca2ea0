"""The inside of a conversation: calls of the program's functions, and the objects that stay here while the other side
asks for their attributes and results.

Nothing here is trusted, see :mod:`candidate`.
"""

import builtins
import contextlib
import functools
import importlib
import marshal
import operator
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from openrlhf_pf.code_reward.judge import codec, values

MAX_MESSAGE = 300
_MUTABLE = {list, dict, set, bytearray}
# What Python does where a class does not have the method itself: of a sequence, or of a generic class.
_PROTOCOLS = {"__iter__": iter, "__reversed__": reversed, "__contains__": operator.contains, "__len__": len}
_PROTOCOLS |= {"__getitem__": operator.getitem}
_FIXED = {type(None), bool, int, float, complex, str, bytes}


def kinds_of(error: BaseException) -> list[str]:
    """The names of an exception's class and of those that it is derived from, without the last two or three."""
    if not isinstance(error, Exception):
        return [f"exit:{type(error).__name__}"]
    names = [kind.__name__ for kind in type(error).__mro__ if kind not in (Exception, BaseException, object)]
    return names or [type(error).__name__]


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
    return found | vars(error)


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
            "attribute": lambda kind, place, name: getattr(self._member(kind, place), name),
            "truth": lambda number: bool(self._objects[number]),
        }
        self._objects: list[Any] = []
        self._kept: dict[int, int] = {}  # id of an object, its number
        self._raised: dict[int, Exception] = {}  # by an iterator, after elements that were not sent yet
        self._transferred: dict[int, int] = {}  # id of an object that came from the other side, its number there
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
        return codec.encode(answer, codec.MAX_BYTES, self._tagger.other)

    def _error(self, number: str, place: int, error: BaseException) -> bytes:
        kinds, text = kinds_of(error), text_of(error)
        for attributes in (_attributes_of(error), {}):
            with contextlib.suppress(Exception):
                answer = (number, place, "error", kinds, text, list(error.args), attributes)
                return codec.encode(answer, 4 * MAX_MESSAGE)
        return codec.encode((number, place, "error", kinds, text, [text], {}))

    def _handle(self, value: Any, depth: int) -> Any:
        if id(value) in self._transferred:
            return {"o": [self._transferred[id(value)]]}
        if id(value) not in self._kept:
            self._kept[id(value)] = len(self._objects)
            self._objects.append(value)
        ability = values.ITERATES if hasattr(type(value), "__next__") else ""
        ability = ability or (values.CALLABLE if callable(value) else "")
        return {"h": [self._kept[id(value)], str(type(value).__name__), ability]}

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
        known = {id(container): place for place, container in enumerate(places)}
        if before is not None and id(value) not in known and before == _photograph(args, kwargs):
            return value
        return _Left(self, value, places)

    def _received(self, objects: list[list], data: bytes) -> Any:
        for number, name, methods, shared in objects:
            if number not in self._by_number:
                self._by_number[number] = made = self._empty(name, methods, shared)
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
            except StopIteration:
                return [found, True]
            except Exception as error:
                if not found:
                    raise
                self._raised[number] = error
                break
        return [found, False]

    def _special(self, tag: str, content: Any) -> Any:
        if tag == "x":
            own = iter(content[1]) if content[0] == "iterator" else self._own_value(content)
            return own or values.rebuild(content)
        if tag == "h":
            return self._objects[content[0]]
        if tag == "g":
            return getattr(importlib.import_module(content[0]), content[1])
        if tag == "q":
            return self._callback(*content)
        if tag == "o":
            return self._by_number[content[0]]
        raise codec.NotPlain(f"unknown tag {tag!r}")

    def _own_value(self, content: Any) -> Any:
        """The program's own named tuple or member of an enum that a tag stands for; None for other values."""
        if content[0] not in ("namedtuple", "enum"):
            return None
        name, _, place, *_ = content[1]
        return self._member(name, place) if isinstance(getattr(self.module, name, None), type) else None

    def _member(self, name: str, place: Any) -> Any:
        """The member of an enum of that name, or a named tuple with these items."""
        kind = getattr(self.module, name)
        return kind(*place) if issubclass(kind, tuple) else kind[place]

    def _callback(self, number: int, name: str) -> Callable[..., Any]:
        """A function of the other side."""

        def function(*args: Any, **kwargs: Any) -> Any:
            return self._ask(number, args, kwargs)

        function.__name__ = function.__qualname__ = name
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
            error = getattr(builtins, value[0], RuntimeError)
            raise error(*value[1]) if isinstance(error, type) and issubclass(error, Exception) else RuntimeError(value)

    def _empty(self, name: str, methods: list[list], shared: dict[str, Any]) -> Any:
        """An object of the program's class of that name, or else of one whose methods the other side has."""
        kind = getattr(self.module, name, None)
        if isinstance(kind, type):
            return kind.__new__(kind)

        def method(callback: int, called: str) -> Callable[..., Any]:
            asks = self._callback(callback, called)
            return lambda self, *args, **kwargs: asks(*args, **kwargs)

        made = {called: method(callback, called) for called, callback in methods}
        return object.__new__(type(name, (), {**shared, "__module__": "test object", **made}))


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
