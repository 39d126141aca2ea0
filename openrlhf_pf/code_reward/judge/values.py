"""Values of library types that both sides rebuild, and references to objects that only one side has.

A tag is a dict with one key. ``{"x": [name, content]}`` is a value of a type that both sides know (:data:`KNOWN`);
``{"h": [number, name, ability]}`` an object that stays with the tested program, and ``{"h": [number]}`` the same one
on its way back; ``{"r": place}`` an argument of the call that is answered (:func:`containers`); ``{"o": [number]}`` an
object of the test's, ``{"q": [number, name]}`` a function of the test's, ``{"g": [module, name]}`` a public one.
"""

import collections
import functools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

from openrlhf_pf.code_reward.judge import codec

ITERATES, CALLABLE = "iterates", "callable"


def _array(value: Any) -> list:
    if value.dtype.kind not in "biufcU":
        raise codec.NotPlain(f"an array of {value.dtype}")
    return [value.dtype.str, list(value.shape), value.ravel().tolist()]


def _to_array(_: Any, content: list) -> Any:
    kind, shape, items = content
    if type(kind) is not str or kind[1:2] not in "biufcU" or type(items) is not list:
        raise codec.NotPlain("no array")
    return __import__("numpy").array(items, dtype=kind).reshape([int(size) for size in shape])


def _pairs(value: dict) -> list:
    return [list(pair) for pair in dict.items(value)]


def _call(kind: Any, content: Any) -> Any:
    return kind(content)


def _spread(kind: Any, content: list) -> Any:
    return kind(*content)


def _isoformat(value: Any) -> str:
    return value.isoformat()


def _from_isoformat(kind: Any, content: str) -> Any:
    return kind.fromisoformat(content)


def _to_stream(kind: Any, content: list) -> Any:
    made = kind(content[0])
    made.seek(min(content[1], len(content[0])))
    return made


_FACTORIES = {kind.__name__: kind for kind in (int, float, str, list, dict, set)}
# Where a type is defined and its name: what stands for a value, and the value again, from the type and that. All
# contents are plain data, and are checked by the constructors that they are given to.
KNOWN: dict[tuple[str, str], tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    ("decimal", "Decimal"): (str, _call),
    ("fractions", "Fraction"): (lambda value: [value.numerator, value.denominator], _spread),
    ("datetime", "date"): (_isoformat, _from_isoformat),
    ("datetime", "datetime"): (_isoformat, _from_isoformat),
    ("datetime", "time"): (_isoformat, _from_isoformat),
    ("datetime", "timedelta"): (lambda value: [value.days, value.seconds, value.microseconds], _spread),
    ("uuid", "UUID"): (str, _call),
    ("pathlib", "PosixPath"): (str, _call),
    ("pathlib", "PurePosixPath"): (str, _call),
    ("array", "array"): (lambda value: [value.typecode, value.tolist()], _spread),
    ("_io", "StringIO"): (lambda value: [value.getvalue(), value.tell()], _to_stream),
    ("_io", "BytesIO"): (lambda value: [value.getvalue(), value.tell()], _to_stream),
    ("builtins", "slice"): (lambda value: [value.start, value.stop, value.step], _spread),
    ("builtins", "range"): (lambda value: [value.start, value.stop, value.step], _spread),
    ("builtins", "dict_keys"): (list, lambda _, content: dict.fromkeys(content).keys()),
    ("builtins", "dict_values"): (list, lambda _, content: dict(enumerate(content)).values()),
    ("builtins", "dict_items"): (lambda value: [list(pair) for pair in value], lambda _, pairs: dict(pairs).items()),
    ("collections", "deque"): (lambda value: [list(value), value.maxlen], _spread),
    ("collections", "Counter"): (_pairs, lambda kind, content: kind(dict(content))),
    ("collections", "OrderedDict"): (_pairs, _call),
    ("collections", "defaultdict"): (
        lambda value: [getattr(value.default_factory, "__name__", ""), _pairs(value)],
        lambda kind, content: kind(_FACTORIES.get(content[0]), content[1]),
    ),
    ("numpy", "ndarray"): (_array, _to_array),
}


# ── Named tuples and enums, of whatever class ──


class Attributed:
    """A rebuilt value whose further attributes, of the program's class, are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_asks" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return vars(self)["_asks"].ask("attribute", self, name)


class ProgramEnum(Attributed):
    """A member of an enum that only the other side has: equal to the member of that class and name."""

    name: str
    value: Any

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

    def __str__(self) -> str:
        if "_asks" not in vars(self):
            return f"{type(self).__name__}.{self.name}"
        return str(self._ask("builtins", "str", self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def _ask(self, module: str, function: str, *arguments: Any) -> Any:
        return vars(self)["_asks"].ask("library", module, function, arguments, {})


class ProgramFlag(ProgramEnum):
    """A member of a ``Flag``, or several: equal to what has its class and value, combined here."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ProgramEnum) or not isinstance(self, int):
            return type(self) is type(other) and self.value == other.value  # type: ignore[attr-defined]
        return bool(self.value == other)

    def __hash__(self) -> int:
        return hash(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __contains__(self, other: Any) -> bool:
        return type(self) is type(other) and other.value & self.value == other.value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask("builtins", "list", self))

    def __len__(self) -> int:
        return self.value.bit_count()

    def __invert__(self) -> Any:
        return self._ask("operator", "invert", self)


def _combine(name: str) -> Callable[[Any, Any], Any]:
    """An operator of two flags of one class, or of an ``IntFlag`` and a number."""

    def combined(self: ProgramFlag, other: Any) -> Any:
        is_number = isinstance(self, int) and type(other) is int
        if not (is_number or type(other) is type(self)):
            return NotImplemented
        value = getattr(operator, name)(self.value, other if is_number else other.value)
        made = _to_enum(None, [type(self).__name__, "intflag" if isinstance(self, int) else "flag", None, value])
        vars(made).update({name: asks for name, asks in vars(self).items() if name == "_asks"})
        return made

    return combined


for _name in ("or", "and", "xor"):
    setattr(ProgramFlag, f"__{_name}__", _combine(f"__{_name}__"))
    setattr(ProgramFlag, f"__r{_name}__", _combine(f"__{_name}__"))

_MIXINS: dict[str, tuple[type, ...]] = {
    "intflag": (ProgramFlag, int),
    "flag": (ProgramFlag,),
    "int": (ProgramEnum, int),
    "str": (ProgramEnum, str),
    "": (ProgramEnum,),
}
_enum_class = functools.lru_cache(maxsize=256)(lambda name, mixin: type(name, _MIXINS[mixin], {}))
_MOST_MEMBERS = 1000
_members: dict[tuple[str, str, str, str], Any] = {}  # one object per member, for tests compare with "is"


def forget_members() -> None:
    """Forget the members of another program's enums."""
    _members.clear()


def _to_enum(_: Any, content: list) -> Any:
    class_name, mixin, name, value = content
    is_flag = mixin in ("flag", "intflag")
    is_member = type(value) is int if is_flag else type(name) is str
    if not (type(class_name) is str and class_name.isidentifier() and is_member):
        raise codec.NotPlain("no enum")
    if len(_members) >= _MOST_MEMBERS:
        _members.clear()
    key = class_name, mixin, "" if is_flag else name, repr(value)
    if key not in _members:
        kind = _enum_class(class_name, mixin)
        _members[key] = made = kind(value) if issubclass(kind, (int, str)) else kind()
        made.value = value
    if name is not None:  # else the program is asked, see Attributed
        _members[key].name = name
    return _members[key]


@functools.lru_cache(maxsize=256)
def _tuple_class(name: str, fields: tuple[str, ...]) -> type:
    fields_alone = collections.namedtuple(name, fields, rename=True)  # type: ignore[misc]
    return type(name, (fields_alone, Attributed), {"_replace": _replaced})


def _replaced(self: Any, **kwargs: Any) -> Any:
    made = super(type(self), self)._replace(**kwargs)
    vars(made).update(vars(self))
    return made


def _to_named_tuple(_: Any, content: list) -> Any:
    name, fields, items = content
    if len(fields) != len(items) or len(fields) > 100 or not all(type(field) is str for field in [name, *fields]):
        raise codec.NotPlain("no named tuple")
    return _tuple_class(name, tuple(fields))(*items)


def named_parts(value: Any) -> tuple[str, list] | None:
    """What stands for a named tuple or an enum's member; None for other values."""
    kind = type(value)
    if isinstance(value, tuple) and type(getattr(kind, "_fields", None)) is tuple:
        return "namedtuple", [kind.__name__, list(kind._fields), list(tuple.__iter__(value))]
    enums = sys.modules.get("enum")
    if isinstance(value, ProgramEnum):
        mixin = next(name for name, bases in _MIXINS.items() if all(issubclass(kind, base) for base in bases))
        return "enum", [kind.__name__, mixin, vars(value).get("name"), value.value]
    if enums and isinstance(value, enums.Enum):
        mixin = next((name for name, base in (("int", int), ("str", str)) if isinstance(value, base)), "")
        if isinstance(value, enums.Flag):
            return "enum", [kind.__name__, mixin + "flag", value.name, value.value]
        if type(value.name) is str:
            return "enum", [kind.__name__, mixin, value.name, value.value]
    return None


KNOWN["", "namedtuple"] = list, _to_named_tuple
KNOWN["", "enum"] = list, _to_enum
_NAMES = {key[1]: key for key in KNOWN}
_ATOMS = {type(None), bool, int, float, complex, str, bytes}
_MUTABLE_KNOWN = {"deque", "Counter", "OrderedDict", "defaultdict", "ndarray", "StringIO", "BytesIO"}


@functools.lru_cache(maxsize=512)
def known_name(kind: type) -> str:
    """The name of a type of :data:`KNOWN`, or nothing."""
    key = (kind.__module__, kind.__qualname__)
    if key not in KNOWN:
        return ""
    defined = sys.modules.get(key[0])
    return key[1] if getattr(defined, key[1], kind) is kind else ""


def rebuild(content: Any) -> Any:
    """The value of a tag ``x``, whoever wrote it.

    Raises:
        NotPlain: it is no such value.
    """
    if type(content) is not list or len(content) != 2 or content[0] not in _NAMES:
        raise codec.NotPlain("no known value")
    try:
        module, name = _NAMES[content[0]]
        kind = getattr(__import__(module), name, None) if module else None
        return KNOWN[module, name][1](kind, content[1])
    except codec.NotPlain:
        raise
    except Exception as error:
        raise codec.NotPlain(f"no {content[0]}: {error}") from None


class Tagger:
    """Makes tags of any value.

    Args:
        handle: the tag of a value that is of no known type, given the value and its depth.
        places: of objects that are to be spoken of by their place: their ``id`` and it.
    """

    def __init__(self, handle: Callable[[Any, int], Any], places: dict[int, int] | None = None) -> None:
        self._handle = handle
        self._places = places or {}

    def other(self, value: Any, depth: int) -> Any:
        """What stands for a value that is no plain data of an exact built-in type."""
        if name := known_name(type(value)):
            content = KNOWN[_NAMES[name]][0](value)
            return {"x": [name, self.tag(content, depth + 1)]}
        if parts := named_parts(value):
            return {"x": [parts[0], self.tag(parts[1], depth + 1)]}
        try:
            base = codec.to_base(value)
        except codec.NotPlain:
            return self._handle(value, depth)
        return self.tag(base, depth)

    def tag(self, value: Any, depth: int, shallow: bool = False) -> Any:
        """The tag of a value; ``shallow``: of what is in it, even where the value has a place."""
        if depth > codec.MAX_DEPTH:
            raise codec.NotPlain(f"nested more than {codec.MAX_DEPTH} deep")
        if not shallow and id(value) in self._places:
            return {"r": self._places[id(value)]}
        kind = type(value)
        if kind is list:
            return [self.tag(item, depth + 1) for item in value]
        if kind in (tuple, set, frozenset):
            return {"tsf"[(tuple, set, frozenset).index(kind)]: [self.tag(item, depth + 1) for item in value]}
        if kind is dict:
            return {"d": [[self.tag(key, depth + 1), self.tag(item, depth + 1)] for key, item in value.items()]}
        return codec.tag(value, depth, self.other)


class _Tagged:
    """What is a tag already."""

    def __init__(self, tag: Any) -> None:
        self.tag = tag


def encode_tag(tag: Any, max_bytes: int) -> bytes:
    """As :func:`codec.encode`, for what is a tag already."""
    return codec.encode(_Tagged(tag), max_bytes, lambda value, _: value.tag)


def containers(transferred: Callable[[Any], bool], *values: Any) -> list[Any]:
    """Everything in these values that a function can change, in an order that both sides share.

    ``transferred`` tells the objects whose attributes the other side has too.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = list(reversed(values))
    while waiting:  # not by recursion: a linked list is long
        value = waiting.pop()
        kind, inside = type(value), ()
        if kind in _ATOMS:
            continue
        if kind in (tuple, frozenset):
            inside = tuple(value)
        elif kind in (list, dict, set, bytearray) or known_name(kind) in _MUTABLE_KNOWN:
            found.append(value)
            items = dict.values(value) if isinstance(value, dict) else value if kind is list else ()
            inside = tuple(item for item in items if type(item) not in _ATOMS)
        elif transferred(value) and id(value) not in seen:
            seen.add(id(value))
            found.append(value)
            inside = tuple(vars(value).values())
        waiting += reversed(inside)
    return found


def overwrite(old: Any, new: Any) -> None:
    """Give a container of :func:`containers` the content of another one of its kind."""
    if isinstance(old, (list, bytearray)):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)
    elif known_name(type(old)) == "deque":
        old.clear()
        old.extend(new)
    elif known_name(type(old)) in ("StringIO", "BytesIO"):
        old.seek(0)
        old.truncate()
        old.write(new.getvalue())
        old.seek(new.tell())
    elif known_name(type(old)) == "ndarray":
        if new.shape != old.shape:
            old.resize(new.shape, refcheck=False)
        old[...] = new
    else:
        # A method stays the test's own, whatever the program has put in its place.
        kept = {name: value for name, value in new.items() if not callable(getattr(type(old), name, None))}
        vars(old).clear()
        vars(old).update(kept)


def is_close(left: Any, right: Any, tolerance: float) -> bool:
    """Whether two numbers are equal within a tolerance; a NaN equals a NaN."""
    try:
        if left == right or (left != left and right != right):
            return True
        # Without a tolerance, whole numbers beyond 2**53 must not be rounded to floats.
        return bool(tolerance) and math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    except (TypeError, ValueError, OverflowError):
        return False
