"""Run OpenRLHF's own ``train_ppo_ray`` with our flags in its parser and our trainers in place of its own.

OpenRLHF builds its parser under ``if __name__ == "__main__"``. That part runs twice: alone, so that a bad argument is
refused in a second or two (preflight), and then with the whole module. Each time, its one call of ``parse_args`` is
where our flags are added and our classes are installed.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

from openrlhf_pf.registry import explain_flags
from openrlhf_pf.training import flags
from openrlhf_pf.training.flags import data, sample_filter
from openrlhf_pf.training.startup import say
from openrlhf_pf.training.startup.compatibility import check_interface, check_version
from openrlhf_pf.training.startup.waits import remove_stale_locks, requested_gpus, wait_for_gpus

ENTRY_MODULE = "openrlhf.cli.train_ppo_ray"
_MARKER = "rollout.n_samples_per_prompt"  # an argument by which its parser is recognized
_NESTING = "openrlhf.utils.config"  # OpenRLHF's hierarchize, in a package that imports torch and transformers
_parse_args = argparse.ArgumentParser.parse_args


def main() -> None:
    """Train with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    run(flags.add_arguments, flags.check_arguments, install_trainers)


def run(
    add_flags: Callable[[argparse.ArgumentParser], None],
    check: Callable[[SimpleNamespace], None],
    prepare: Callable[[SimpleNamespace, Any], None],
) -> None:
    """Run OpenRLHF's entry module with more flags.

    Args:
        add_flags: adds them to OpenRLHF's parser.
        check: called with the nested arguments before anything of OpenRLHF is imported; raises ValueError to refuse
            them.
        prepare: called before Ray starts with the nested arguments and the running entry module; may rebind what the
            module looks up.
    """
    checked = False

    def check_once(args: SimpleNamespace) -> None:
        nonlocal checked
        if not checked:
            check(args)
        checked = True

    def check_and_prepare(args: SimpleNamespace) -> None:
        check_once(args)  # a second time only if preflight could not reach the parser
        data.check_code_labels(args)
        prepare(args, sys.modules["__main__"])

    try:
        check_version()
        preflight(ENTRY_MODULE, _parser_with(add_flags, check_once))
        check_interface()
    except ImportError as error:
        refuse(f"{str(error).rstrip('.')}; openrlhf-pf doctor checks everything that training needs.")
    except Refused as error:
        refuse(error)
    remove_stale_locks()
    argparse.ArgumentParser.parse_args = _parser_with(add_flags, check_and_prepare)
    try:
        runpy.run_module(ENTRY_MODULE, run_name="__main__", alter_sys=True)
    finally:
        argparse.ArgumentParser.parse_args = _parse_args


def _parser_with(
    add_flags: Callable[[argparse.ArgumentParser], None], then: Callable[[SimpleNamespace], None]
) -> Callable[..., argparse.Namespace]:
    """Return a ``parse_args`` that adds our flags to OpenRLHF's parser, parses, and calls ``then`` once.

    A ValueError from ``then`` is printed as one sentence, and the exit status is 2.
    """

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        if parser.get_default(_MARKER) is None:  # a parser of some other library
            return _parse_args(parser, *args, **kwargs)
        argparse.ArgumentParser.parse_args = _parse_args
        add_flags(parser)
        parser.error = lambda message: refuse(explain_flags(parser, message))
        flat = _parse_args(parser, *args, **kwargs)
        try:
            sample_filter.resolve(flat)
            then(nest(flat))
        except ValueError as error:
            refuse(error)
        return flat

    return parse_args


def install_trainers(args: SimpleNamespace, entry: Any) -> None:
    """Replace OpenRLHF's trainers by ours if the arguments ask for anything of ours."""
    if sample_filter.is_active(args):
        data.check_task_labels(args)
        data.check_prompt_count(args)
        from openrlhf_pf.training import trainer
        from openrlhf_pf.training.startup import faults

        trainer.install(args, entry)
        entry.train, get_strategy = faults.guard(entry.train), entry.get_strategy

        def get_strategy_on_gpus(args: SimpleNamespace) -> Any:
            wait_for_gpus(requested_gpus(args))  # OpenRLHF calls this when it has started Ray
            return get_strategy(args)

        entry.get_strategy = get_strategy_on_gpus


def refuse(reason: Exception | str, status: int = 2) -> NoReturn:
    """Print one sentence and exit."""
    say(reason)
    raise SystemExit(status) from None


# ── Preflight: answer ``--help`` and refuse bad arguments before OpenRLHF, vLLM and DeepSpeed are imported ──


class Refused(Exception):
    """The arguments cannot train; the message is one sentence."""


def preflight(entry: str, parse_args: Callable[..., argparse.Namespace]) -> None:
    """Run the entry module's own parsing and checks without its imports, which take seconds.

    They are under ``if __name__ == "__main__"``: statements that need the standard library and nothing else. They are
    run from the module's source, with its ``train`` left out.

    Args:
        entry: OpenRLHF's entry module.
        parse_args: replaces ``argparse.ArgumentParser.parse_args`` during the call.

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
def _replaced(parse_args: Callable[..., argparse.Namespace]) -> Iterator[None]:
    """Replace the parsing, and let ``from openrlhf.utils.config import hierarchize`` import that module alone."""
    own, is_imported = argparse.ArgumentParser.parse_args, _NESTING in sys.modules
    if not is_imported:
        sys.modules[_NESTING] = _load_nesting()
    argparse.ArgumentParser.parse_args = parse_args
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = own
        if not is_imported:
            del sys.modules[_NESTING]


def _load_nesting() -> ModuleType:
    folder = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location(_NESTING, folder / "utils" / "config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nest(flat: argparse.Namespace) -> SimpleNamespace:
    """Return OpenRLHF's nested arguments."""
    return _load_nesting().hierarchize(flat)
