"""A user's own filter: found by name, its options read from text, refused in one sentence when it cannot work."""

import ast
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrlhf_pf.filters.base import SampleFilter

#: Parameters of every filter's constructor; what else it takes are its options.
COMMON = ("n_samples", "keep")


def load_filter(path: str) -> type[SampleFilter]:
    """Import a filter class.

    Args:
        path: ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ValueError: it cannot be imported, or is not a filter; the message is one sentence.
    """
    place, _, name = path.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"'{path}' does not name a class: write package.module:Class or path/to/file.py:Class.")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise ValueError(f"{place} does not import ({_cause(error)}): mend it, or give another path.") from error
    cls = getattr(module, name, None)
    check_class(cls, path)
    return cls


def _module_of_file(file: Path) -> types.ModuleType:
    file = file.resolve()
    name = f"openrlhf_pf_filter_{file.stem}"  # its own name space: a file called random.py must not shadow a module
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file):
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # first, because dataclasses and pickle look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _cause(error: Exception) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def check_class(cls: Any, path: str) -> None:
    """Check what can be seen of a filter class without using it.

    Raises:
        ValueError: it is not a filter, or its methods take other parameters; the message is one sentence.
    """
    if not (inspect.isclass(cls) and issubclass(cls, SampleFilter)):
        found = "nothing of that name" if cls is None else f"a {type(cls).__name__}"
        if inspect.isclass(cls):
            found = "another class"
        raise ValueError(f"{path} must be a subclass of openrlhf_pf.SampleFilter, found {found}.")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise ValueError(f"{path} has no {missing}: write weigh(self, batch), which returns the weights.")
    for method, expected in (("__init__", ("self", *COMMON)), ("weigh", ("self", "batch"))):
        taken = tuple(inspect.signature(getattr(cls, method)).parameters.values())
        names = tuple(p.name for p in taken)
        takes_all = names[: len(expected)] == expected if method == "__init__" else len(names) == len(expected)
        if not takes_all or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in taken):
            raise ValueError(
                f"{path}: {method} takes ({', '.join(names)}), but must take ({', '.join(expected)}"
                f"{', then options by name' if method == '__init__' else ''})."
            )
    if cls.scope not in ("group", "batch"):
        raise ValueError(f"{path} has the scope {cls.scope!r}: set it to 'group' or 'batch'.")


def options_of(cls: type[SampleFilter]) -> dict[str, inspect.Parameter]:
    """What the constructor takes beyond n_samples and keep."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: p for name, p in parameters.items() if name not in ("self", *COMMON)}


def parse_options(cls: type[SampleFilter], name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` texts by the types that the constructor declares.

    A parameter without a type takes a Python literal, or else the text as it stands. A sequence is comma-separated.

    Raises:
        ValueError: no ``=``, an option that the filter does not take, one that is given twice, or text that is not of
            the declared type.
    """
    takes = options_of(cls)
    hints = _declared_types(cls) if pairs else {}
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"an option is written key=value, got '{pair}'.")
        if key not in takes:
            raise ValueError(
                f"sample filter '{name}' takes no {key}; it takes {', '.join(takes) or 'no options'}: leave it out."
            )
        if key in options:
            raise ValueError(f"sample filter '{name}' is given {key} twice: leave one out.")
        try:
            options[key] = _typed(text, hints.get(key, Any))
        except ValueError:
            raise ValueError(
                f"option {key} of sample filter '{name}' must be {_type_name(hints[key])}, got '{text}'."
            ) from None
    return options


def _declared_types(cls: type[SampleFilter]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)
    except NameError:  # a type that is imported for type checkers only
        return {}


def _typed(text: str, declared: Any) -> Any:
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (typing.Union, types.UnionType):
        return None if text == "None" else _typed(text, next(a for a in arguments if a is not type(None)))
    if origin is typing.Literal:
        return arguments[[str(argument) for argument in arguments].index(text)]
    if origin is not None and issubclass(origin, Sequence):
        return [_typed(part, arguments[0] if arguments else Any) for part in text.split(",")]
    if declared is bool:
        return ("false", "true").index(text.lower()) == 1
    if declared in (int, float, str):
        return declared(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def _type_name(declared: Any) -> str:
    return declared.__name__ if inspect.isclass(declared) else str(declared).replace("typing.", "")
