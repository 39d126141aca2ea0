"""A user's own class or function, found by name, and a class's options, read from text; refused in one sentence when
they cannot work.

What a class or function has to be like is for the room that wants it; nothing here knows any of them.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any


def load(path: str) -> Any:
    """What ``package.module:Class`` or ``path/to/file.py:Class`` names; None if its module has nothing of that name.

    Raises:
        ValueError: it cannot be imported; the message is one sentence.
    """
    place, _, name = path.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"'{path}' does not name a class: write package.module:Class or path/to/file.py:Class.")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise ValueError(f"{place} does not import ({_cause(error)}): mend it, or give another path.") from error
    return getattr(module, name, None)


def load_function(file: str, name: str, given: str, wanted: str) -> Callable:
    """The function ``name`` of a Python file.

    Args:
        file: the file.
        name: the function.
        given: how a sentence names what the user wrote.
        wanted: what the file has to define, for the sentence.

    Raises:
        ValueError: the file does not import, or has no such function; the message is one sentence.
    """
    try:
        found = getattr(_module_of_file(Path(file)), name)
        if not callable(found):
            raise TypeError(f"{name} is no function")
    except Exception as error:
        raise ValueError(
            f"{given} gives no {name or 'function'} ({_cause(error)}): name a Python file that defines {wanted}."
        ) from error
    return found


def _module_of_file(file: Path) -> types.ModuleType:
    file = file.resolve()
    name = f"openrlhf_pf_user_{file.stem}"  # its own name space: a file called random.py must not shadow a module
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


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``did you mean 'best_worst'?`` with the known name most similar to ``name``; "" if none is similar.

    Args:
        name: what the user wrote.
        known: the names there are.
        cutoff: the lowest similarity that counts, between 0 and 1.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean '{close[0]}'?" if close else ""


def check_class(cls: Any, path: str, base: type, methods: dict[str, tuple[str, ...]], advice: str) -> None:
    """Check what can be seen of a class without using it.

    Args:
        cls: what was found.
        path: what the user wrote.
        base: what it has to be a subclass of.
        methods: parameters of its methods, ``self`` included; ``__init__`` may take more, by name.
        advice: what to write where an abstract method is missing.

    Raises:
        ValueError: it is none, or its methods take other parameters; the message is one sentence.
    """
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        found = "nothing of that name" if cls is None else f"a {type(cls).__name__}"
        if inspect.isclass(cls):
            found = "another class"
        raise ValueError(f"{path} must be a subclass of openrlhf_pf.{base.__name__}, found {found}.")
    if inspect.isabstract(cls):
        raise ValueError(f"{path} has no {', '.join(sorted(cls.__abstractmethods__))}: {advice}")
    for method, expected in methods.items():
        taken = tuple(inspect.signature(getattr(cls, method)).parameters.values())
        names = tuple(p.name for p in taken)
        takes_all = names[: len(expected)] == expected if method == "__init__" else len(names) == len(expected)
        if not takes_all or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in taken):
            raise ValueError(
                f"{path}: {method} takes ({', '.join(names)}), but must take ({', '.join(expected)}"
                f"{', then options by name' if method == '__init__' else ''})."
            )


def options_of(cls: type, common: Collection[str]) -> dict[str, inspect.Parameter]:
    """What the constructor takes beyond the ``common`` parameters."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: p for name, p in parameters.items() if name not in ("self", *common)}


def parse_options(cls: type, what: str, pairs: Sequence[str], common: Collection[str]) -> dict[str, Any]:
    """Read ``key=value`` texts by the types that the constructor declares.

    A parameter without a type takes a Python literal, or else the text as it stands. A sequence is comma-separated.

    Args:
        cls: the class.
        what: how a sentence names it.
        pairs: the texts.
        common: parameters that are no options.

    Raises:
        ValueError: no ``=``, an option that the class does not take, one that is given twice, or text that is not of
            the declared type.
    """
    takes = options_of(cls, common)
    hints = _declared_types(cls) if pairs else {}
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"an option is written key=value, got '{pair}'.")
        if key not in takes:
            raise ValueError(f"{what} takes no {key}; it takes {', '.join(takes) or 'no options'}: leave it out.")
        if key in options:
            raise ValueError(f"{what} is given {key} twice: leave one out.")
        try:
            options[key] = _typed(text, hints.get(key, Any))
        except ValueError:
            raise ValueError(f"option {key} of {what} must be {_type_name(hints[key])}, got '{text}'.") from None
    return options


def _declared_types(cls: type) -> dict[str, Any]:
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
