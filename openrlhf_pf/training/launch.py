"""Run OpenRLHF's own ``train_ppo_ray`` with our flags in its parser and our trainers in their place.

OpenRLHF builds its parser under ``if __name__ == "__main__"``, so the module is run as it stands, and the one call of
``parse_args`` on its parser is where our flags are added and checked, before Ray starts or a model is loaded.
"""

import argparse
import runpy
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from openrlhf_pf.training.arguments import add_arguments, check_arguments, is_active, resolve
from openrlhf_pf.training.compatibility import check_openrlhf

ENTRY_MODULE = "openrlhf.cli.train_ppo_ray"


def main() -> None:
    """Train with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    run(add_arguments, prepare_training)


def run(add_flags: Callable[[argparse.ArgumentParser], None], prepare: Callable[[SimpleNamespace, Any], None]) -> None:
    """Run OpenRLHF's entry module with more flags.

    Args:
        add_flags: adds them to OpenRLHF's parser.
        prepare: called before Ray starts with the nested arguments and the entry module as it runs; may rebind what
            the module looks up, and raises ValueError to refuse the arguments.
    """
    try:
        check_openrlhf()
    except ImportError as error:
        _refuse(f"{str(error).rstrip('.')}; python -m openrlhf_pf.cli.doctor looks at all that training needs.")
    parse_args = argparse.ArgumentParser.parse_args

    def parse_with_more_flags(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        if parser.get_default("rollout.n_samples_per_prompt") is None:  # a parser of some other library
            return parse_args(parser, *args, **kwargs)
        argparse.ArgumentParser.parse_args = parse_args
        add_flags(parser)
        flat = parse_args(parser, *args, **kwargs)
        from openrlhf.utils.config import hierarchize

        try:
            resolve(flat)
            prepare(hierarchize(flat), sys.modules["__main__"])
        except ValueError as error:
            _refuse(error)
        return flat

    argparse.ArgumentParser.parse_args = parse_with_more_flags
    try:
        runpy.run_module(ENTRY_MODULE, run_name="__main__", alter_sys=True)
    finally:
        argparse.ArgumentParser.parse_args = parse_args


def prepare_training(args: SimpleNamespace, entry: Any) -> None:
    """Check the arguments, and put our trainers in place if they ask for any of ours."""
    check_arguments(args)
    if is_active(args):
        from openrlhf_pf.training import trainer

        trainer.install(args, entry)


def _refuse(error: Exception | str) -> None:
    print(f"openrlhf_pf: {error}", file=sys.stderr)
    raise SystemExit(2) from None
