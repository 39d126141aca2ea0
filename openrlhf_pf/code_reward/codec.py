"""Plain data between the tested process and the trusted side: the only thing that crosses.

``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``, ``bytes``, ``list``, ``tuple``, ``dict``, ``set`` and
``frozenset``, as JSON with tags: what comes out of :func:`decode` consists of exact built-in types, so that nothing
in it can bring an ``__eq__``, a ``__bool__`` or any other code of the sender's. Standard library only.
"""

import json
import math
import socket
import struct
from typing import Any

MAX_BYTES = 4 << 20  # of one value: the largest LeetCode inputs take a few hundred kilobytes
MAX_DEPTH = 100
_SMALL = 1 << 63  # larger integers travel in hexadecimal, which has no quadratic conversion

_SCALARS = {type(None), bool, str, float}
_LENGTH = struct.Struct("<I")
_TEXT = json.JSONEncoder(separators=(",", ":"))


class NotPlain(ValueError):
    """The value is not plain data, or too large or too deep to be sent."""


class Closed(Exception):
    """The other side is gone, in the middle of a frame or before it."""


def _base(value: Any) -> Any:
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


def _tag(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlain(f"nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        return value if -_SMALL <= value < _SMALL else {"i": hex(value)}
    if kind is list:
        return value if set(map(type, value)) <= _SCALARS else [_tag(item, depth + 1) for item in value]
    if kind is tuple:
        return {"t": [_tag(item, depth + 1) for item in value]}
    if kind is dict:
        return {"d": [[_tag(key, depth + 1), _tag(item, depth + 1)] for key, item in value.items()]}
    if kind is set or kind is frozenset:
        return {"s" if kind is set else "f": [_tag(item, depth + 1) for item in value]}
    if kind is bytes or kind is bytearray:
        return {"b": value.hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    return _tag(_base(value), depth)


def _untag(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) != 1:
        raise NotPlain("a tag stands alone")
    tag, content = pairs[0]
    if tag == "i" and type(content) is str:
        return int(content, 16)
    if tag == "b" and type(content) is str:
        return bytes.fromhex(content)
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
    raise NotPlain(f"unknown tag {tag!r}")


_VALUE = json.JSONDecoder(object_pairs_hook=_untag)


def encode(value: Any, max_bytes: int = MAX_BYTES) -> bytes:
    """Plain data as bytes.

    Raises:
        NotPlain: the value holds something else, or is larger than ``max_bytes`` or deeper than ``MAX_DEPTH``.
    """
    try:
        data = _TEXT.encode(_tag(value, 0)).encode()
    except (TypeError, RecursionError, RuntimeError) as error:
        raise NotPlain(str(error)) from None
    if len(data) > max_bytes:
        raise NotPlain(f"{len(data)} bytes, more than {max_bytes}")
    return data


def decode(data: bytes) -> Any:
    """What :func:`encode` wrote, in exact built-in types, whoever wrote it.

    Raises:
        NotPlain: these bytes are nothing that ``encode`` writes.
    """
    try:
        return _VALUE.decode(data.decode("ascii"))
    except NotPlain:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise NotPlain(f"not our format: {type(error).__name__}") from None


def send(connection: socket.socket, value: Any, max_bytes: int = MAX_BYTES) -> None:
    """Send one value, see :func:`encode` and :func:`send_encoded`."""
    send_encoded(connection, encode(value, max_bytes))


def send_encoded(connection: socket.socket, data: bytes) -> None:
    """Send what :func:`encode` made as a frame: its length in 4 bytes, then the value.

    Raises:
        Closed: the other side is gone.
        TimeoutError: the connection's own time limit was over.
    """
    try:
        connection.sendall(_LENGTH.pack(len(data)) + data)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed(str(error)) from None


def receive(connection: socket.socket, max_bytes: int = MAX_BYTES) -> Any:
    """Receive one value.

    Raises:
        Closed: the other side is gone.
        NotPlain: it sent something else than one frame of plain data.
        TimeoutError: the connection's own time limit was over.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > max_bytes:
        raise NotPlain(f"a frame of {length} bytes, more than {max_bytes}")
    return decode(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            part = connection.recv(min(count - len(data), 1 << 16))
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from None
        if not part:
            raise Closed("end of file")
        if len(part) == count:
            return part
        data += part
    return bytes(data)


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two plain values are equal as ``==`` has it, floats (also inside lists, tuples and dicts) within a
    tolerance.
    """
    if not tolerance:
        return bool(left == right)
    if isinstance(left, float) or isinstance(right, float):
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        return numbers and (left == right or math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance))
    if type(left) is type(right) and isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b, tolerance) for a, b in zip(left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key], tolerance) for key in left)
    return bool(left == right)
