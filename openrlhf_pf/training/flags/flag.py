"""A flag, and how flags are added to OpenRLHF's parser."""

import argparse
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any


class Flag:
    """A flag as the help shows it (``--sample_filter_keep K``), and the settings of ``add_argument``."""

    def __init__(self, usage: str, help: str, **settings: Any) -> None:
        self.name, *values = usage.split()
        metavar = {"metavar": tuple(values) if len(values) > 1 else values[0]} if values else {}
        self.settings = {"help": help, **metavar, **settings}


def add_group(parser: argparse.ArgumentParser, title: str, description: str, flags: Iterable[Flag]) -> None:
    """Add flags to OpenRLHF's parser, in a group of their own."""
    group = parser.add_argument_group(title, description)
    for flag in flags:
        group.add_argument(flag.name, **flag.settings)


def first_given(args: SimpleNamespace, prefix: str, names: Iterable[str]) -> str | None:
    """Return the first flag ``--<prefix>_<name>`` that was given, None if none was."""
    return next((f"--{prefix}_{name}" for name in names if getattr(args, f"{prefix}_{name}") is not None), None)
