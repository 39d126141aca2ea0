"""Run OpenRLHF's own ``train_ppo_ray`` or ``train_rm`` with our flags in its parser and our trainers in their place.

OpenRLHF builds its parser under ``if __name__ == "__main__"``. That part runs twice: alone, so that a bad argument is
refused in a second or two (preflight), and then with the whole module as it stands, where the one call of
``parse_args`` on its parser is where our flags are added and our classes put in place.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

from openrlhf_pf.training import warm_workers
from openrlhf_pf.training.argument_checks import check_arguments
from openrlhf_pf.training.arguments import add_arguments, is_active, resolve
from openrlhf_pf.training.code_labels import check_code_labels
from openrlhf_pf.training.compatibility import check_all_parameters, check_interface, check_version
from openrlhf_pf.training.extensions import release_dead_locks
from openrlhf_pf.training.preflight import Refused, nested, preflight

_parse_args = argparse.ArgumentParser.parse_args


@dataclass(frozen=True)
class Host:
    """An entry module of OpenRLHF.

    Attributes:
        module: its name.
        marker: an argument by which its parser is known.
        expected: what we override or call, as ``compatibility.EXPECTED_PARAMETERS``; None for all of PPO's.
        uses_ray: it trains by PPO, in Ray's workers.
        settle: fills in what some of our flags leave to others; raises ValueError, one sentence, where that cannot be.
    """

    module: str
    marker: str
    expected: Mapping[str, tuple[str, ...]] | None = None
    uses_ray: bool = True
    settle: Callable[[argparse.Namespace], None] = resolve

    def check_interface(self) -> None:
        """Raises ImportError if the installed OpenRLHF has not what we build on."""
        if self.expected is None:
            check_interface()
        else:
            check_all_parameters(self.expected)


PPO = Host("openrlhf.cli.train_ppo_ray", "rollout.n_samples_per_prompt")


def main() -> None:
    """Train with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    run(add_arguments, check_arguments, install_trainers)


def run(
    add_flags: Callable[[argparse.ArgumentParser], None],
    check: Callable[[SimpleNamespace], None],
    prepare: Callable[[SimpleNamespace, Any], None],
    host: Host = PPO,
) -> None:
    """Run OpenRLHF's entry module with more flags.

    Args:
        add_flags: adds them to OpenRLHF's parser.
        check: called with the nested arguments before anything of OpenRLHF is imported; raises ValueError to refuse
            them.
        prepare: called before Ray starts with the nested arguments and the entry module as it runs; may rebind what
            the module looks up.
        host: the entry module.
    """
    checked = False

    def check_once(args: SimpleNamespace) -> None:
        nonlocal checked
        if not checked:
            check(args)
        checked = True

    def check_and_prepare(args: SimpleNamespace) -> None:
        check_once(args)  # again only where preflight could not get as far as the parser
        if host.uses_ray:
            check_code_labels(args)
        prepare(args, sys.modules["__main__"])

    try:
        check_version()
        preflight(host.module, _parser_with(host, add_flags, check_once))
        # With a running cluster, it is that which starts the workers.
        if host.uses_ray and os.environ.get("RAY_ADDRESS", "local") == "local":
            warm_workers.start()  # before OpenRLHF's first import
        host.check_interface()
    except ImportError as error:
        _refuse(f"{str(error).rstrip('.')}; python -m openrlhf_pf.cli.doctor looks at all that training needs.")
    except Refused as error:
        _refuse(error)
    release_dead_locks()
    argparse.ArgumentParser.parse_args = _parser_with(host, add_flags, check_and_prepare)
    try:
        runpy.run_module(host.module, run_name="__main__", alter_sys=True)
    finally:
        argparse.ArgumentParser.parse_args = _parse_args


def _parser_with(
    host: Host, add_flags: Callable[[argparse.ArgumentParser], None], then: Callable[[SimpleNamespace], None]
) -> Callable[..., argparse.Namespace]:
    """A ``parse_args`` that adds our flags to OpenRLHF's parser, parses, and hands the nested arguments on, once.

    A ValueError on the way is the arguments' fault: its sentence is printed, and the exit status is 2.
    """

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        if parser.get_default(host.marker) is None:  # a parser of some other library
            return _parse_args(parser, *args, **kwargs)
        argparse.ArgumentParser.parse_args = _parse_args
        add_flags(parser)
        flat = _parse_args(parser, *args, **kwargs)
        try:
            host.settle(flat)
            then(nested(flat))
        except ValueError as error:
            _refuse(error)
        return flat

    return parse_args


def install_trainers(args: SimpleNamespace, entry: Any) -> None:
    """Put our trainers in place if the arguments ask for any of ours."""
    if is_active(args):
        from openrlhf_pf.training import faults, trainer

        trainer.install(args, entry)
        entry.train = faults.guarded(entry.train)


def _refuse(reason: Exception | str) -> NoReturn:
    print(f"openrlhf_pf: {reason}", file=sys.stderr)
    raise SystemExit(2) from None
