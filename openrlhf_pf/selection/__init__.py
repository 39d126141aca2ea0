"""Prompt selection: which prompts the next rollout samples.

``SELECTIONS`` maps the name that a user types to the class that does it. One of your own is a ``PromptSelection``
subclass, named ``package.module:Class`` or ``path/to/file.py:Class``. On numpy; nothing here imports torch.
"""

from collections.abc import Sequence

from openrlhf_pf import registry
from openrlhf_pf.selection.base import Posterior, PromptSelection
from openrlhf_pf.selection.strategies import Target, Uniform, Vade, expected_gain

SELECTIONS: dict[str, type[PromptSelection]] = {"uniform": Uniform, "vade": Vade, "target": Target}

__all__ = ["SELECTIONS", "Posterior", "PromptSelection", "build_selection", "expected_gain", "selection_class"]

_COMMON = ("n_prompts",)


def selection_class(name: str) -> type[PromptSelection]:
    """Return the class ``name``: a key of ``SELECTIONS``, ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ValueError: there is none; the message is one sentence.
    """
    cls = registry.find_named(name, SELECTIONS, "prompt selection")
    methods = {"__init__": ("self", *_COMMON), "priorities": ("self", "generator")}
    advice = "write priorities(self, generator), which returns a number for each prompt."
    registry.check_class(cls, name, PromptSelection, methods, advice)
    return cls


def build_selection(name: str, n_prompts: int, texts: Sequence[str] = ()) -> PromptSelection:
    """Build the selection called ``name``.

    Args:
        name: see :func:`selection_class`.
        n_prompts: P, prompts of the data set.
        texts: options as ``key=value`` texts, read by the types that the class declares.

    Raises:
        ValueError: unknown name, an option that this selection does not take, or numbers that do not fit; the message
            is one sentence.
    """
    cls = selection_class(name)
    return cls(n_prompts, **registry.parse_options(cls, f"prompt selection '{name}'", texts, _COMMON))
