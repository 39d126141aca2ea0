"""``python -m openrlhf_pf.cli.collect``: sample a policy and score the samples, with OpenRLHF's training flags."""

import argparse
from types import SimpleNamespace
from typing import Any

from openrlhf_pf.training import arguments, collect_arguments, launch


def _add_flags(parser: argparse.ArgumentParser) -> None:
    arguments.add_arguments(parser)
    collect_arguments.add_arguments(parser)


def _prepare(args: SimpleNamespace, entry: Any) -> None:
    # Imported when called: it needs an OpenRLHF that launch has found to be a supported one.
    from openrlhf_pf.training.collect import collect

    entry.train = collect


def main() -> None:
    """Collect with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    launch.run(_add_flags, collect_arguments.check_arguments, _prepare)


if __name__ == "__main__":
    main()
