"""Find a user's class or function by name, and read the options of a class from ``KEY=VALUE`` texts.

Callers decide which base class and methods are required. Every refusal is one sentence.
"""

import argparse
import ast
import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def load_function(file: str, name: str, given: str, wanted: str) -> Callable:
    """Return the function ``name`` of a Python file.

    Args:
        file: the file.
        name: the function.
        given: what the user wrote, for the error.
        wanted: what the file has to define, for the error.

    Raises:
        ValueError: the file does not import, or has no such function; the message is one sentence.
    """
    try:
        found = getattr(_module_of_file(Path(file)), name)
        if not callable(found):
            raise TypeError(f"{name} is no function")
    except (Exception, SystemExit) as error:
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
    sys.modules[name] = module  # first, because dataclasses and pickle import a class's module by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _cause(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})"
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


def find_named(name: str, known: Mapping[str, type], what: str) -> Any:
    """Return the class called ``name``: a key of ``known``, ``package.module:Class`` or ``path/to/file.py:Class``.

    What a path leads to is not checked, and None if its module has no such name: see :func:`check_class`.

    Raises:
        ValueError: there is no such ``what``, or a path cannot be imported; the message is one sentence.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        if name in known:
            return known[name]
        hint = did_you_mean(name, known) or "choose one of them, or give path/to/file.py:Class."
        raise ValueError(f"there is no {what} '{name}'; there are {', '.join(known)}: {hint}")
    if not place or not attribute.isidentifier():
        raise ValueError(f"'{name}' does not name a class: write package.module:Class or path/to/file.py:Class.")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{place} cannot be imported ({_cause(error)}): fix the error, or give another path."
        ) from error
    return getattr(module, attribute, None)


def explain_flags(parser: argparse.ArgumentParser, message: str) -> str:
    """Return the parser's error as one sentence, with the most similar flag for one that does not exist."""
    prefix = "unrecognized arguments: "
    unknown = [word.partition("=")[0] for word in message.removeprefix(prefix).split() if word.startswith("--")]
    if not message.startswith(prefix) or not unknown:
        return f"{message}; --help lists all flags."
    hint = did_you_mean(unknown[0], parser._option_string_actions) or "--help lists all flags."
    return f"there is no flag {unknown[0]}: {hint}"


def check_class(cls: Any, path: str, base: type, methods: dict[str, tuple[str, ...]], advice: str) -> None:
    """Check the base class and the methods of a class.

    Args:
        cls: the object that was found.
        path: what the user wrote.
        base: the base class that is required.
        methods: parameters of its methods, ``self`` included; ``__init__`` may take more, by name.
        advice: what to write if an abstract method is missing.

    Raises:
        ValueError: it is no such class, or its methods take other parameters; the message is one sentence.
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
    """Return the constructor's parameters other than ``self`` and the ``common`` ones."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: p for name, p in parameters.items() if name not in ("self", *common)}


def parse_options(cls: type, what: str, pairs: Sequence[str], common: Collection[str]) -> dict[str, Any]:
    """Read ``key=value`` texts by the types that the constructor declares.

    A sequence is comma-separated. For a parameter without a type, the text is a Python literal if it can be read as
    one.

    Args:
        cls: the class.
        what: its name in errors.
        pairs: the texts.
        common: parameters that are no options.

    Raises:
        ValueError: no ``=``, an option that the class does not take, one that is given twice, or text that is not of
            the declared type.
    """
    takes = options_of(cls, common)
    try:
        declared = typing.get_type_hints(cls.__init__) if pairs else {}
    except NameError:  # a type that is imported for type checkers only
        declared = {}
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"an option is written key=value, got '{pair}'.")
        if key not in takes:
            hint = did_you_mean(key, takes) or "leave it out."
            raise ValueError(f"{what} takes no {key}; it takes {', '.join(takes) or 'no options'}: {hint}")
        if key in options:
            raise ValueError(f"{what} is given {key} twice: leave one out.")
        kind = declared.get(key, Any)
        try:
            options[key] = _read_text(text, kind)
        except ValueError:
            name = kind.__name__ if inspect.isclass(kind) else str(kind).replace("typing.", "")
            raise ValueError(f"option {key} of {what} must be {name}, got '{text}'.") from None
    return options


def _read_text(text: str, declared: Any) -> Any:
    from pydantic import PydanticUserError, TypeAdapter  # a tenth of a second

    is_union = typing.get_origin(declared) in (typing.Union, types.UnionType)
    members = typing.get_args(declared) if is_union else (declared,)
    if text == "None" and type(None) in members:
        return None
    origins = [typing.get_origin(member) or member for member in members]
    is_sequence = any(inspect.isclass(o) and issubclass(o, Sequence) and not issubclass(o, str) for o in origins)
    if Any not in members:
        with contextlib.suppress(PydanticUserError):  # a type of the user's own, that pydantic cannot read
            return TypeAdapter(declared).validate_python(text.split(",") if is_sequence else text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text
