"""Answer ``--help`` and refuse bad arguments before OpenRLHF, vLLM and DeepSpeed are imported, which takes seconds.

OpenRLHF's entry module builds its parser, and checks what it was given, under ``if __name__ == "__main__"``:
statements that need the standard library and nothing else. They are run here from the module's source, with its
``train`` left out.
"""

import ast
import contextlib
import importlib.util
import io
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

_NESTING = "openrlhf.utils.config"  # OpenRLHF's hierarchize, in a package that imports torch and transformers


class Refused(Exception):
    """The arguments cannot train; the message is one sentence."""


def preflight(entry: str, parse_args: Callable[..., Namespace]) -> None:
    """Run the entry module's own parsing and checks without its imports.

    Args:
        entry: OpenRLHF's entry module.
        parse_args: replaces ``ArgumentParser.parse_args`` during the call.

    Raises:
        Refused: OpenRLHF would stop at an assertion.
        SystemExit: the parser answered ``--help`` or refused an argument.
    """
    source = Path(importlib.util.find_spec(entry).origin)
    namespace: dict[str, Any] = {"__name__": "__main__", "train": lambda args: None}
    output = io.StringIO()
    try:
        with _replaced(parse_args), contextlib.redirect_stdout(output):
            exec(compile(_light_part(source), str(source), "exec"), namespace)
    except AssertionError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        raise Refused(f"OpenRLHF refuses these arguments: {str(error) or line}") from error
    except (NameError, ImportError):
        # The checks of this OpenRLHF need more than the standard library: they run when it has been imported.
        return
    except SystemExit:
        print(output.getvalue(), end="")  # the help; warnings are printed later, by the run itself
        raise


def _light_part(source: Path) -> ast.Module:
    """Return the imports of the standard library and the body of ``if __name__ == "__main__"``."""
    statements: list[ast.stmt] = []
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            packages = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages = {(node.module or "").split(".")[0]}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            statements += node.body
            continue
        else:
            continue
        if packages <= sys.stdlib_module_names:
            statements.append(node)
    return ast.Module(statements, type_ignores=[])


@contextlib.contextmanager
def _replaced(parse_args: Callable[..., Namespace]) -> Iterator[None]:
    """Replace the parsing, and let ``from openrlhf.utils.config import hierarchize`` import that module alone."""
    own, is_imported = ArgumentParser.parse_args, _NESTING in sys.modules
    if not is_imported:
        sys.modules[_NESTING] = _load_nesting()
    ArgumentParser.parse_args = parse_args
    try:
        yield
    finally:
        ArgumentParser.parse_args = own
        if not is_imported:
            del sys.modules[_NESTING]


def _load_nesting() -> ModuleType:
    folder = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location(_NESTING, folder / "utils" / "config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nest(flat: Namespace) -> SimpleNamespace:
    """Return OpenRLHF's nested arguments."""
    return _load_nesting().hierarchize(flat)
