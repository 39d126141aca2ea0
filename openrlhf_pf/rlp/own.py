"""Clusters by a function of the user's."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from openrlhf_pf import registry
from openrlhf_pf.rlp.clusters import Groups
from openrlhf_pf.rlp.samples import Prompt


class Own:
    """Calls ``function(prompt, responses, label) -> list[int]`` for each prompt.

    It gets a text, N texts and a text or None, and returns N whole numbers, equal for answers of one meaning; a
    negative one stands alone.

    Args:
        name: ``file.py:function``.

    Raises:
        ValueError: the file does not import, or has no such function.
    """

    def __init__(self, name: str) -> None:
        self.notes: list[str] = []
        self._name = name
        file, _, function = name.rpartition(":")
        self._function = registry.load_function(
            file, function, f"--cluster {name}", "a function of (prompt, responses, label), and name that, too"
        )
        content = hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest()
        self.settings = f"{function} of a file {content}"

    def check(self, prompts: Sequence[Prompt]) -> None:
        """What it wants of a prompt, the function knows."""

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """As in the protocol."""
        for prompt in prompts:
            yield self._checked(prompt)

    def _checked(self, prompt: Prompt) -> list[int]:
        where = f"--cluster {self._name}, called with the prompt {prompt.text!r:.60},"
        try:
            found = list(self._function(prompt.text, list(prompt.responses), prompt.label))
        except Exception as error:  # whatever a user's function raises
            raise ValueError(
                f"{where} raised {type(error).__name__}: {' '.join(str(error).split())[:200]}."
            ) from error
        n = len(prompt.responses)
        if len(found) != n or not all(_is_whole(number) for number in found):
            raise ValueError(
                f"{where} returned {found!r:.60}: it must return {n} whole numbers, the group of each response."
            )
        return [int(number) for number in found]


def _is_whole(number: object) -> bool:
    return hasattr(number, "__index__") and not isinstance(number, bool)
