"""Plain data between the tested process and the trusted side: the only thing that crosses.

``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``, ``bytes``, ``list``, ``tuple``, ``dict``, ``set`` and
``frozenset``, as JSON with tags: what comes out of :func:`decode` consists of exact built-in types, so that nothing
in it can bring an ``__eq__``, a ``__bool__`` or any other code of the sender's. Questions, which come from the trusted
side, take a faster form of the same data. Standard library only.
"""

import functools
import json
import marshal
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

MAX_BYTES = 4 << 20  # of one value: the largest LeetCode inputs take a few hundred kilobytes
MAX_TASK_BYTES = 4 * MAX_BYTES  # of a program, and of a problem
MAX_DEPTH = 100
_SMALL = 1 << 63  # larger integers travel in hexadecimal, which has no quadratic conversion

_SCALARS = {type(None), bool, str, float}
_ATOMS = _SCALARS | {int, bytes, bytearray, complex}
_AT_ONCE = 1 << 16
_LENGTH = struct.Struct("<I")
_read, _write = os.read, os.write  # a program may replace them
_CONTAINERS = frozenset("tdsfciab")
# The encoder in C by itself: what is around it in Python asks builtins, which a program may have replaced.
_pieces = json.encoder.c_make_encoder(
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


class NotPlain(ValueError):
    """The value is not plain data, or too large or too deep to be sent."""


class Closed(Exception):
    """The other side is gone, in the middle of a frame or before it."""


def to_base(value: Any) -> Any:
    """The plain part of an instance of a subclass: a Counter is a dict, a named tuple is a tuple."""
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, int):
        return int.__add__(value, 0)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return dict(dict.items(value))
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(kind.__iter__(value))
    raise NotPlain(f"a {type(value).__name__} is not plain data")


def tag(value: Any, depth: int, other: Callable[[Any, int], Any]) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlain(f"nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        return value if -_SMALL <= value < _SMALL else {"i": hex(value)}
    if kind is list:
        kinds = set(map(type, value))
        small = kinds == {int} and min(value) >= -_SMALL and max(value) < _SMALL
        if (small or kinds <= _SCALARS) and depth < MAX_DEPTH:
            return value
        return [tag(item, depth + 1, other) for item in value]
    if kind is tuple:
        return {"t": [tag(item, depth + 1, other) for item in value]}
    if kind is dict:
        return {"d": [[tag(key, depth + 1, other), tag(item, depth + 1, other)] for key, item in value.items()]}
    if kind is set or kind is frozenset:
        return {"s" if kind is set else "f": [tag(item, depth + 1, other) for item in value]}
    if kind is bytes or kind is bytearray:
        return {"b" if kind is bytes else "a": value.hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    return other(value, depth)


def _tag_base(value: Any, depth: int) -> Any:
    return tag(to_base(value), depth, _tag_base)


def _unknown(tag: str, content: Any) -> Any:
    raise NotPlain(f"unknown tag {tag!r}")


def _untag(pairs: list[tuple[str, Any]], special: Callable[[str, Any], Any] = _unknown) -> Any:
    if len(pairs) != 1:
        raise NotPlain("a tag stands alone")
    tag, content = pairs[0]
    if tag == "i" and type(content) is str:
        return int(content, 16)
    if tag in ("a", "b") and type(content) is str:
        return bytes.fromhex(content) if tag == "b" else bytearray.fromhex(content)
    if tag not in _CONTAINERS:
        return special(tag, content)
    if type(content) is not list:
        raise NotPlain("a tag without its list")
    if tag == "t":
        return tuple(content)
    if tag == "d":
        return {key: item for key, item in content}
    if tag == "s":
        return set(content)
    if tag == "f":
        return frozenset(content)
    if tag == "c" and len(content) == 2 and all(type(part) is float for part in content):
        return complex(*content)
    raise NotPlain(f"a tag {tag!r} with something else in it")


_VALUE = json.JSONDecoder(object_pairs_hook=_untag)


def encode(value: Any, max_bytes: int = MAX_BYTES, other: Callable[[Any, int], Any] = _tag_base) -> bytes:
    """Plain data as bytes.

    Args:
        value: the data.
        max_bytes: how long it may become.
        other: makes of a value that is no plain data, and its depth, what stands for it: a dict with one key.

    Raises:
        NotPlain: the value holds something else, or is larger than ``max_bytes`` or deeper than ``MAX_DEPTH``.
    """
    try:
        data = "".join(_pieces(tag(value, 0, other), 0)).encode()
    except (TypeError, RecursionError, RuntimeError) as error:
        raise NotPlain(str(error)) from None
    if len(data) > max_bytes:
        raise NotPlain(f"{len(data)} bytes, more than {max_bytes}")
    return data


def decoder(special: Callable[[str, Any], Any]) -> Callable[[bytes], Any]:
    """As :func:`decode`, where tags that are not ours mean what ``special`` makes of them and their content."""
    scanner = json.JSONDecoder(object_pairs_hook=functools.partial(_untag, special=special))
    return lambda data: decode(data, scanner)


def decode(data: bytes, scanner: json.JSONDecoder = _VALUE) -> Any:
    """What :func:`encode` wrote, in exact built-in types, whoever wrote it.

    Raises:
        NotPlain: these bytes are nothing that ``encode`` writes.
    """
    try:
        text = data.decode("ascii")
        value, end = scanner.scan_once(text, 0)  # without a search for blanks, of which we write none
    except NotPlain:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError, StopIteration) as error:
        raise NotPlain(f"not our format: {type(error).__name__}") from None
    if end != len(text):
        raise NotPlain("not our format: trailing data")
    return value


def is_exact(value: Any, depth: int = 0) -> bool:
    """Return whether a value consists of exact built-in types, at most ``MAX_DEPTH`` deep."""
    kind = type(value)
    if depth > MAX_DEPTH:
        return False
    if kind in (list, tuple, set, frozenset):
        for item in value:  # noqa: SIM110 - faster than all() on large arguments
            if type(item) not in _ATOMS and not is_exact(item, depth + 1):
                return False
        return True
    if kind is dict:
        return all(is_exact(pair, depth) for pair in value.items())
    return kind in _ATOMS


def encode_plain(value: Any) -> bytes:
    """As :func:`encode`, ten times as fast: for exact built-in types, and for a reader who can trust the sender."""
    without_references = 2  # what is one list here would be one list there, and change with every call
    return marshal.dumps(value, without_references)


def decode_plain(data: bytes) -> Any:
    """What :func:`encode_plain` wrote; never to be called with what a tested program has sent."""
    return marshal.loads(data)


class Connection:
    """A stream by its file's number, which may be set later: what is needed of a ``socket.socket``."""

    def __init__(self, file: int = -1) -> None:
        self.file = file

    def recv(self, count: int) -> bytes:
        """At most ``count`` bytes; none at the end."""
        return _read(self.file, count)

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        while data:
            data = data[_write(self.file, data) :]


def send(connection: "socket.socket | Connection", value: Any, max_bytes: int = MAX_BYTES) -> None:
    """Send one value, see :func:`encode` and :func:`send_encoded`."""
    send_encoded(connection, encode(value, max_bytes))


def send_encoded(connection: "socket.socket | Connection", *values: bytes) -> None:
    """Send what :func:`encode` made, each as a frame: its length in 4 bytes, then the value.

    Raises:
        Closed: the other side is gone.
        TimeoutError: the connection's own time limit was over.
    """
    try:
        connection.sendall(b"".join(_LENGTH.pack(len(value)) + value for value in values))
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed(str(error)) from None


class Receiver:
    """Takes values out of a stream of frames; what arrives together is read together.

    Args:
        read: at most the given number of bytes of the stream, none at its end; may raise ``TimeoutError``.
        max_bytes: the longest frame.
        decode: :func:`decode`, or :func:`decode_plain` of what a trusted side sends.
    """

    def __init__(
        self, read: Callable[[int], bytes], max_bytes: int = MAX_BYTES, decode: Callable[[bytes], Any] = decode
    ) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._decode = decode
        self._data = bytearray()

    def receive(self) -> Any:
        """One value.

        Raises:
            Closed: the other side is gone.
            NotPlain: it sent something else than one frame of plain data.
            TimeoutError: from ``read``.
        """
        return self._decode(self.frame())

    def frame(self) -> bytes:
        """One value, as it was encoded; raises as :meth:`receive`."""
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > self._max_bytes:
            raise NotPlain(f"a frame of {length} bytes, more than {self._max_bytes}")
        return self._take(length)

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            try:
                part = self._read(_AT_ONCE)
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed(str(error)) from None
            if not part:
                raise Closed("end of file")
            self._data += part
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken
