"""The tested program as the trusted side sees it: questions go out, plain data comes back.

A tested program has no way to the trusted side but its answers, which :mod:`codec` rebuilds from exact built-in types.
"""

import builtins
import enum
import os
import random
import re
import select
import socket
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from typing import Any, NoReturn

from openrlhf_pf.code_reward.judge import codec, objects, values

MAX_MESSAGE = 300
GONE = "gone"  # internal verdict: the program closed its socket; how it ended decides
# What a program may reasonably want: without one of these, its answer cannot be measured here.
_WELL_KNOWN = frozenset("""
aiohttp attr bs4 Crypto cryptography cv2 cvxpy cython dateutil django docx faker flask gensim geopandas gmpy2 gym h5py
httpx hypothesis jax joblib keras lightgbm lxml matplotlib more_itertools mpmath networkx nltk numba numpy openpyxl
ortools pandas PIL plotly polars prettytable psutil pulp pydantic pytest pytz regex requests rsa scipy seaborn shapely
six skimage sklearn sortedcontainers spacy sqlalchemy statsmodels sympy tabulate tensorflow toolz torch torchvision
tqdm transformers wordcloud xgboost xmltodict yaml
""".split())
NOT_OFFERED = "which is not among OPENRLHF_PF_CODE_PACKAGES"
_MISSING = re.compile(r"(?:ModuleNotFoundError: )?No module named '(\w+)")


def error_verdict(kind: str, text: str, loading: bool = False) -> tuple[str, str]:
    """Return the verdict, and its detail, on an exception that ended a program; ``loading``: while it was loaded."""
    missing = _MISSING.match(text) if kind == "ModuleNotFoundError" else None
    # Programs can import what can be imported here, but for the modules that tests import and that we have made up.
    if missing and missing[1] in _WELL_KNOWN and not PathFinder.find_spec(missing[1]):
        return "infrastructure", f"the program needs the package {missing[1]!r}, {NOT_OFFERED}"
    if kind == "MemoryError":
        return "memory", text
    return "syntax_error" if loading and kind in ("SyntaxError", "IndentationError", "TabError") else "failed", text


Question = tuple[Any, ...]  # an operation of candidate.py and its arguments
END: Question = ("end",)
_FORESEEN_BYTES = 1 << 16
_MOST_CALLS_BACK = 1_000_000
_MOST_LENT = 8  # containers of the program's that a test sees and may change
_ASKED_BY_LENDING = ("overwrite", "value", "end")
_MOMENT = 0.005  # seconds, until the first of many answers is judged: a wrong one ends the program


def _poll(file: int) -> "select.poll":
    made = select.poll()
    made.register(file, select.POLLIN)
    return made


def _is_public(name: str, kind: Any) -> bool:
    if name[0] == "_" or not isinstance(kind, type):
        return False
    return (issubclass(kind, Exception) and name[:4] != "Stop") or not issubclass(kind, BaseException)


# Values and classes that a program may answer with; not what would end a loop of the test, or the checker.
_PUBLIC = {name: kind for name, kind in vars(builtins).items() if _is_public(name, kind)}
_PUBLIC |= {"Ellipsis": ..., "NotImplemented": NotImplemented}


def _encoded(value: Any) -> bytes:
    """Plain data, such as a question that may be foreseen; nothing for what has objects in it."""
    try:
        return codec.encode_plain(value)
    except ValueError:
        return b""


class Decided(BaseException):
    """There is a verdict: the test ends here."""


class Remote:
    """The tested program, seen from outside.

    What it cannot answer decides the verdict. The first verdict stands, and every later question raises again: no
    test can swallow that.
    """

    records = False  # what it answers is written down, and nothing compared

    def __init__(self, talk: socket.socket, bell: int, wall_seconds: float) -> None:
        self._talk, self._bell = talk, bell
        self._answers = codec.Receiver(self._read, decode=self._decoded)
        self._decode: Callable[[bytes], Any] | None = None
        self._answered, self._rung = _poll(talk.fileno()), _poll(bell)
        self._will_ring = False
        talk.settimeout(wall_seconds)
        self._wall_seconds = wall_seconds
        self._deadline = time.monotonic() + wall_seconds
        values.forget_members()
        self.calls = self.asked = 0
        self.test: int | None = None
        self.decision: tuple[str, int | None, str] | None = None
        self._foreseen: deque[bytes] = deque()  # questions that are sent, their answers not yet read
        self._number, self._place = "", 0
        self.exceptions: dict[str, type[Exception]] = {}
        self._sender = objects.Sender(self.exceptions)
        self._objects: dict[int, objects.RemoteObject] = {}
        self._called: tuple[Any, ...] = ()  # the arguments of the call that is answered
        self._changeable: list[Any] | None = []  # what is in them that it may change, by place; see _arguments
        self._asked_for = 0
        self._target: Any = None
        self.classes: set[str] = set()  # those of the program that the test names
        self._foreign: dict[str, type] = {}  # what stands for the program's classes
        self.new_class: Callable[[str], type] = lambda name: type(name, (), {})
        self._lent: dict[tuple[int, str], tuple[Any, bytes]] = {}  # its containers, as they were seen last
        self.weaker = self.faulty = False
        self.compares_own = False  # the test compares answers with objects of the program's own classes
        self.shares_seeds = False  # the test seeds random numbers, which the program is to draw

    @classmethod
    def without_program(cls) -> "Remote":
        """For a label's checker of whole programs: decisions only, no program to ask."""
        made = cls.__new__(cls)
        made.calls, made.test, made.decision, made.weaker, made.faulty = 0, None, None, False, False
        made.classes, made.exceptions = set(), {}
        return made

    def heeded(self, test: str) -> str:
        """Return the code of a test as it is to be run."""
        return test

    def verdict(self, verdict: str, detail: str = "") -> NoReturn:
        """Decide, unless it is decided."""
        if self.decision is None:
            self.decision = verdict, self.test if verdict != "passed" else None, detail[:MAX_MESSAGE]
        raise Decided

    def error(self, error: BaseException, loading: bool = False) -> NoReturn:
        """Decide by an exception that the program raised."""
        kind, text = objects.raised_by_program(error) or ("", "")
        verdict, detail = error_verdict(kind, text, loading)
        if verdict != "infrastructure":
            self.verdict(verdict, f"{kind}: {text}")
        self.verdict("failed" if self.records else verdict, detail)  # no answers are no failure of the sandbox

    def fault(self, detail: str) -> NoReturn:
        """The test itself is at fault: no statement about the program."""
        if self.decision is None:
            self.faulty = True
        self.verdict("infrastructure", f"the label's test is at fault: {detail}")

    def foresee(self, questions: Iterable[Question]) -> None:
        """Send questions that will be asked next, in this order, so that the program need not wait for each.

        Of exact built-in types, as literals are. Only the first ones, as far as they are small; the others are sent
        when they are asked. Nothing is foreseen of a program that answers with objects: these are asked in between.
        """
        if self._foreseen or self._objects:
            return
        budget, sent, encoded = _FORESEEN_BYTES, [], []
        for question in questions:
            encoded.append(codec.encode_plain(question))
            budget -= len(encoded[-1])
            if budget < 0:
                break
            sent.append(question)
        if len(sent) > 1:
            self._send(sent)
            self._foreseen.extend(encoded[: len(sent)])

    def request(self, question: Question, foreseen_as: Question | None = None) -> Any:
        """One question, one answer; in another form if it was :meth:`foresee`-n. Raises what the program raises."""
        self.asked += 1
        if self.decision:
            raise Decided
        if self._foreseen:
            foreseen = self._foreseen.popleft()
            if foreseen == _encoded(foreseen_as or question):
                return self._answer()
            self._answer(needed=False)
            while self._foreseen:
                self._foreseen.popleft()
                self._answer(needed=False)
        if self._lent and question[0] not in _ASKED_BY_LENDING:
            return self._request_with_lent(question)
        self._send([self._sendable(question)])
        return self._answer()

    def lend(self, number: int, name: str, value: Any) -> None:
        """Keep a container of the program's, an attribute of an object or (-1) of its module, as it is there."""
        if type(value) in (list, dict, set) and len(self._lent) < _MOST_LENT and codec.is_exact(value):
            self._lent[number, name] = value, codec.encode_plain(value)

    def _request_with_lent(self, question: Question) -> Any:
        """One question; what the test has changed of lent containers goes first, what the program has comes after."""
        for (number, name), (value, before) in self._lent.items():
            if codec.is_exact(value) and before != codec.encode_plain(value):
                self.request(("overwrite", number, name, value))
        try:
            self._send([self._sendable(question)])
            return self._answer()
        finally:
            for (number, name), (value, _) in list(self._lent.items()) if not self.decision else ():
                with suppress(Exception):
                    values.overwrite(value, self.request(("value", number, name)))
                self._lent[number, name] = value, _encoded(value)

    def _sendable(self, question: Question) -> Question:
        """The question, as plain data."""
        if codec.is_exact(question):
            return question
        try:
            return "rich", question[0], *self._sender.encode(question[1:])
        except codec.NotPlain as error:
            self.fault(f"an argument: {error}")

    def _send(self, questions: list[Question]) -> None:
        # Not to be guessed, so that no answer can be prepared or given twice.
        self._number, self._place = os.urandom(8).hex(), 0
        self._will_ring = len(questions) > 1
        message = codec.encode_plain((self._number, questions))
        if len(message) > 2 * _FORESEEN_BYTES:  # what does not fit into the socket's buffer has to wait
            self._talk.settimeout(max(0.001, self._deadline - time.monotonic()))
        self._exchange(codec.send_encoded, self._talk, message)

    def _answer(self, needed: bool = True) -> Any:
        expected = (self._number, self._place)
        while True:
            answer = self._exchange(self._answers.receive)
            if type(answer) is not tuple or answer[:2] != expected or len(answer) < 4:
                break
            if answer[2] == "ask" and len(answer) == 6:
                self._reply(*answer[3:])
                continue
            self._place += 1
            if answer[2] == "value" and len(answer) == 4:
                return answer[3]
            if answer[2] == "left" and len(answer) == 5:
                return self._left(*answer[3:])
            if answer[2] == "error" and len(answer) == 4 and isinstance(answer[3], BaseException):
                if not needed:
                    return None
                raise answer[3]
            break
        self.verdict("crashed", "an answer to another question")

    def _decoded(self, data: bytes) -> Any:
        """Return an answer. The decoder of tags that are not plain data is made when the first one comes."""
        if self._decode:
            return self._decode(data)
        try:
            return codec.decode(data)
        except codec.NotPlain:
            self._decode = codec.decoder(self._special)
            return self._decode(data)

    def _arguments(self) -> list[Any]:
        """What the call that is answered may change, by place: looked for when an answer speaks of it, as few do, or
        before a function of the test may change it.
        """
        if self._changeable is None:
            self._changeable = values.containers(objects.is_own, *self._called)
        return self._changeable

    def _left(self, value: Any, contents: Any) -> Any:
        """A value, and what the call has left of its arguments."""
        arguments = self._arguments()
        if type(contents) is not list or len(contents) != len(arguments):
            self.verdict("crashed", "an invalid answer")
        try:
            for old, new in zip(arguments, contents):
                values.overwrite(old, new)
        except Exception as error:
            self.verdict("crashed", f"an invalid answer: {type(error).__name__}")
        return value

    def _special(self, tag: str, content: Any) -> Any:
        """What a tag of an answer stands for."""
        if tag == "x":
            found = values.rebuild(content)
            if isinstance(found, values.Attributed):
                kind = vars(sys.modules["checker"]).get(type(found).__name__)
                if isinstance(found, values.ProgramEnum) and isinstance(kind, enum.EnumMeta):
                    is_flag = isinstance(found, values.ProgramFlag)
                    return kind(found.value) if is_flag else kind[found.name]  # the test's own
                vars(found)["_asks"] = self
            return found
        if tag == "k" and type(content) is list and len(content) == 2:
            handle, base = content
            return self._handled(handle, (base,)) if handle[1] in self.classes else base
        if tag == "h":
            return self._handled(content)
        if tag == "e" and type(content) is list and len(content) == 5:
            return objects.exception_of(*content, self.exceptions)
        if tag == "g" and content and content[0] in _PUBLIC:
            return _PUBLIC[content[0]]
        sender = self._sender
        places = {"r": self._arguments, "o": lambda: sender.objects, "q": lambda: sender.functions}.get(tag, list)()
        number = content[0] if type(content) is list and content else content
        if places is not None and type(number) is int and 0 <= number < len(places):
            return places[number]
        raise codec.NotPlain(f"unknown tag {tag!r}")

    def class_of(self, name: str) -> type:
        """What stands for a class of the program's."""
        if name not in self._foreign:
            self._foreign[name] = self.new_class(name)
        return self._foreign[name]

    def _handled(self, handle: Any, plain: tuple[Any, ...] = ()) -> Any:
        """An object of the program's; of a class that is derived from one of plain data, with these, ``plain``."""
        if type(handle) is not list or [type(item) for item in handle] != [int, str, str]:
            raise codec.NotPlain("no handle")
        number, name, ability = handle
        if name == "coroutine":
            return self._coroutine(number)
        if name == "Solution" and self._target != ["Solution"]:  # an answer, and not what the test made
            return objects.RemoteObject(self, number, name, ability, False, ())
        if number not in self._objects:
            known = name in self.classes
            self._objects[number] = objects.RemoteObject(self, number, name[:80], ability, known, plain)
        return self._objects[number]

    async def _coroutine(self, number: int) -> Any:
        return self.ask("await", number)

    def _reply(self, number: Any, args: Any, kwargs: Any) -> None:
        """The program calls one of the test's functions."""
        functions = self._sender.functions
        if type(number) is not int or not 0 <= number < len(functions) or type(kwargs) is not dict:
            self.verdict("crashed", "an invalid question")
        self._asked_for += 1
        if self._asked_for > _MOST_CALLS_BACK:
            self.verdict("failed", f"more than {_MOST_CALLS_BACK} calls of the test's functions")
        state = self._number, self._place, self._called, self._arguments()
        try:
            reply, answer = "value", functions[number](*args, **kwargs)
        except Exception as error:
            names = [one.__name__ for one in type(error).__mro__ if one.__module__ == "builtins"]
            kind = type(error) if type(error).__module__ == "checker" else [type(error).__name__, names[0]]
            reply, answer = "error", [kind, str(error)[:MAX_MESSAGE]]
        self._number, self._place, self._called, self._changeable = state
        try:
            message = "reply", reply, *self._sender.encode(answer)
        except codec.NotPlain as error:
            self.fault(f"what a function of the test returns: {error}")
        self._exchange(codec.send_encoded, self._talk, codec.encode_plain(message))

    def _read(self, count: int) -> bytes:
        """What the program has answered by now, or will answer next.

        To be woken by every one of many answers, in the middle of the others, would cost both sides more than the
        answers themselves: then the program rings a bell after the last one, and this side polls from time to time.
        """
        while True:
            try:
                return os.read(self._talk.fileno(), count)
            except BlockingIOError:
                pass
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if not self._will_ring:
                self._answered.poll(1000 * left)
            elif self._rung.poll(1000 * min(left, _MOMENT)):
                os.read(self._bell, 1)  # or it is gone: then this end of the conversation tells
                self._will_ring = False

    def _exchange(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except codec.Closed:
            self.verdict(GONE, "the program ended before it answered")
        except TimeoutError:
            self.verdict("timeout", f"no end within {self._wall_seconds} seconds")
        except codec.NotPlain as error:
            self.verdict("crashed", f"an invalid answer: {error}")

    def load(self, source: str) -> None:
        """Have the program's top level run."""
        try:
            self.request(("load", source))
        except Exception as error:
            self.error(error, loading=True)

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The answer of an object of the program."""
        return self.request((operation, *arguments))

    def relies_on_the_program(self) -> None:
        """Note that the program's own comparison decides a test; whose label must not leave it that, is at fault."""
        self.weaker = True
        if self.compares_own:
            self.fault("the program's own class decides whether its answer is right: compare attributes")

    def call(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What a call returns: of ``[function]``, of ``[class, method]``, or of ``(number, method)`` of an object."""
        if type(target) is list:
            self.calls += 1
        self._target = target
        if self.shares_seeds:
            self.request(("random", *random_states()))
        self._called, self._changeable = (tuple(args), kwargs), None
        # What an object is to fill, later on: Logger(lines).
        empty = [one for one in (*args, *kwargs.values()) if type(one) in (list, dict, set) and not one]
        is_foreseen = bool(self._foreseen)
        found = self.request(("change", target, tuple(args), kwargs), ("call", target, tuple(args), kwargs))
        if empty and type(found) is objects.RemoteObject and not is_foreseen:
            places = {id(one): place for place, one in enumerate(self._arguments())}
            for one in empty:
                self.lend(self.ask("keep", places[id(one)]), "", one)
        return found


class Proxy:
    """Calls the program's function, or the method of a fresh instance of its class."""

    def __init__(self, remote: Remote, *path: str) -> None:
        self._remote, self._path = remote, path
        self.__name__ = self.__qualname__ = path[-1]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._remote.call(list(self._path), args, kwargs)

    @property
    def __class__(self) -> type:  # what isinstance asks for
        return types.FunctionType

    def __getattr__(self, name: str) -> Any:  # such as cache_clear
        if name.startswith("__") and name not in objects.ASKED_FOR:
            raise AttributeError(name)
        self._remote.calls += name in objects.ASKED_FOR
        return getattr(self._remote.ask("name", self._path[0]), name)


Proxy.__doc__ = property(lambda self: self.__getattr__("__doc__"))  # type: ignore[assignment]


def random_states() -> tuple[Any, Any]:
    """The states of the random generators of Python and of numpy, where it is loaded, as plain data."""
    numpy = sys.modules.get("numpy")
    if not numpy:
        return random.getstate(), None
    name, key, *rest = numpy.random.get_state()
    return random.getstate(), (name, key.tolist(), *rest)


def call_of(path: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> Question:
    """The question for what a call of the program's function returns."""
    return "call", list(path), tuple(args), kwargs
