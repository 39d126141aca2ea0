"""Answers of one meaning: the clusters G of the paper's Equation 4.

A clustering gives each answer of a prompt the number of its group; a negative number stands alone. To add one, write a
class with ``settings``, ``check`` and ``groups``, and name it in :data:`CLUSTERINGS`.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from openrlhf_pf.rlp.samples import Prompt

#: The group of an answer that means the same as no other, as a program that fails everywhere.
ALONE = -1
#: (N,) the group of each answer; None where none could be found out, which says nothing about the answers.
Groups = list[int] | None


class Clustering(Protocol):
    """One way to find answers of the same meaning.

    Attributes:
        settings: all that decides the groups, as text: what is found under other settings is not taken up again.
        notes: what a user should know of what went wrong, a sentence each.
    """

    settings: str
    notes: list[str]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Look for what is wrong with prompts before any of the work.

        Raises:
            ValueError: one sentence.
        """

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """The groups of each prompt's answers, in the order of prompts.

        Raises:
            ValueError: one sentence.
        """


class Exact:
    """Answers are equal if their texts are, but for blanks at the ends."""

    settings = "exact"

    def __init__(self) -> None:
        self.notes: list[str] = []

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text will do."""

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """As in the protocol."""
        for prompt in prompts:
            yield numbered([response.strip() for response in prompt.responses])


def numbered(meanings: Sequence[Any]) -> list[int]:
    """(N,) a number for each different meaning, from 0 in the order of appearance; None stands alone."""
    known: dict[Any, int] = {}
    return [ALONE if meaning is None else known.setdefault(meaning, len(known)) for meaning in meanings]


def _behaviour(**options: Any) -> Clustering:
    from openrlhf_pf.rlp.behaviour import Behaviour

    return Behaviour()


def _entailment(entailment_model: str | None = None, entailment_batch: int = 32, **options: Any) -> Clustering:
    from openrlhf_pf.rlp.entailment import Entailment

    return Entailment(entailment_model, entailment_batch)


#: Name to what makes the clustering from the options of the command line.
CLUSTERINGS: dict[str, Callable[..., Clustering]] = {
    "exact": lambda **options: Exact(),
    "behaviour": _behaviour,
    "entailment": _entailment,
}


def build(name: str, **options: Any) -> Clustering:
    """The clustering of that name, or of the function that ``file.py:function`` names.

    Args:
        name: a key of :data:`CLUSTERINGS`, or a file and a function in it.
        options: ``entailment_model``, a checkpoint's folder, and ``entailment_batch``, pairs at a time.

    Raises:
        ValueError: there is no such clustering, or its options are wrong; one sentence.
    """
    if name in CLUSTERINGS:
        return CLUSTERINGS[name](**options)
    if ".py:" in name:
        from openrlhf_pf.rlp.own import Own

        return Own(name)
    meant = difflib.get_close_matches(name, CLUSTERINGS, 1)
    raise ValueError(
        f"--cluster {name!r} is none of {', '.join(CLUSTERINGS)}{f' (did you mean {meant[0]!r}?)' if meant else ''}: "
        "choose one, or give file.py:function, which gets (prompt, responses, label) and returns a group number for "
        "each response."
    )
