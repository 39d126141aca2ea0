"""``python -m openrlhf_pf.cli.collect``: sample a policy and score the samples, with OpenRLHF's training flags."""

import argparse
from types import SimpleNamespace
from typing import Any

from openrlhf_pf.training import arguments, launch


# Imported when called: collecting needs an OpenRLHF that launch has found to be a supported one.
def _add_flags(parser: argparse.ArgumentParser) -> None:
    from openrlhf_pf.training import collect

    arguments.add_arguments(parser)
    collect.add_arguments(parser)


def _prepare(args: SimpleNamespace, entry: Any) -> None:
    from openrlhf_pf.training import collect

    collect.check_arguments(args)
    entry.train = collect.collect


def main() -> None:
    """Collect with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    launch.run(_add_flags, _prepare)


if __name__ == "__main__":
    main()
