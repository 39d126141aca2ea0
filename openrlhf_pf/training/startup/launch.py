"""Run OpenRLHF's own ``train_ppo_ray`` with our flags in its parser and our trainers in place of its own.

OpenRLHF builds its parser under ``if __name__ == "__main__"``. That part runs twice: alone, so that a bad argument is
refused in a second or two (preflight), and then with the whole module. Each time, its one call of ``parse_args`` is
where our flags are added and our classes are installed.
"""

import argparse
import runpy
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

from openrlhf_pf.registry import explain_flags
from openrlhf_pf.training import flags
from openrlhf_pf.training.flags import data, sample_filter
from openrlhf_pf.training.startup import say
from openrlhf_pf.training.startup.compatibility import check_interface, check_version
from openrlhf_pf.training.startup.preflight import Refused, nest, preflight
from openrlhf_pf.training.startup.stale_locks import remove_stale_locks

ENTRY_MODULE = "openrlhf.cli.train_ppo_ray"
_MARKER = "rollout.n_samples_per_prompt"  # an argument by which its parser is recognized
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
        from openrlhf_pf.training.startup import faults, placement

        trainer.install(args, entry)
        entry.train, get_strategy = faults.guard(entry.train), entry.get_strategy

        def get_strategy_on_gpus(args: SimpleNamespace) -> Any:
            placement.wait_for_gpus(placement.requested_gpus(args))  # OpenRLHF calls this when it has started Ray
            return get_strategy(args)

        entry.get_strategy = get_strategy_on_gpus


def refuse(reason: Exception | str, status: int = 2) -> NoReturn:
    """Print one sentence and exit."""
    say(reason)
    raise SystemExit(status) from None
