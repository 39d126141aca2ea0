"""A user's own filter: found by name, its options read from text, refused in one sentence when it cannot work."""

import inspect
from collections.abc import Sequence
from typing import Any

from openrlhf_pf import registry
from openrlhf_pf.filters.base import SampleFilter

#: Parameters of every filter's constructor; what else it takes are its options.
COMMON = ("n_samples", "keep")


def load_filter(path: str) -> type[SampleFilter]:
    """Import a filter class.

    Args:
        path: ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ValueError: it cannot be imported, or is not a filter; the message is one sentence.
    """
    cls = registry.load(path)
    methods = {"__init__": ("self", *COMMON), "weigh": ("self", "batch")}
    registry.check_class(cls, path, SampleFilter, methods, "write weigh(self, batch), which returns the weights.")
    if cls.scope not in ("group", "batch"):
        raise ValueError(f"{path} has the scope {cls.scope!r}: set it to 'group' or 'batch'.")
    return cls


def options_of(cls: type[SampleFilter]) -> dict[str, inspect.Parameter]:
    """What the constructor takes beyond n_samples and keep."""
    return registry.options_of(cls, COMMON)


def parse_options(cls: type[SampleFilter], name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` texts; see :func:`openrlhf_pf.registry.parse_options`."""
    return registry.parse_options(cls, f"sample filter '{name}'", pairs, COMMON)
