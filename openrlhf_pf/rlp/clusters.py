"""Responses of one meaning: the clusters G of the paper's Equation 4.

To add a clustering, write a subclass of :class:`Clustering` and name it in ``rlp.build_clustering``.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from openrlhf_pf import registry
from openrlhf_pf.code_reward import AnyPool, Result, Verdict
from openrlhf_pf.code_reward.judge.observe import observation_of
from openrlhf_pf.code_reward.tasks import from_label
from openrlhf_pf.rlp.samples import Prompt

#: The group of a response that means the same as no other, as a program that fails everywhere.
ALONE = -1
#: (N,) the group of each response; None if the responses could not be clustered.
Groups = list[int] | None
_AHEAD = 64  # prompts whose programs are in the sandbox at a time


class Clustering:
    """A way to find responses of the same meaning; subclasses have ``groups_of``, or ``cluster``.

    Attributes:
        settings: everything that decides the groups, as text; groups found with other settings are not reused.
        notes: sentences for the user about what went wrong.
    """

    settings: str

    def __init__(self) -> None:
        self.notes: list[str] = []

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ValueError, one sentence, if the prompts lack what the clustering needs."""

    def groups_of(self, prompt: Prompt) -> Groups:
        """Return the groups of a prompt's responses."""
        raise NotImplementedError

    def cluster(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """Yield the groups of each prompt's responses, in the order of prompts."""
        yield from map(self.groups_of, prompts)


class ExactText(Clustering):
    """Responses are equal if their texts are, ignoring whitespace at both ends."""

    settings = "exact"

    def groups_of(self, prompt: Prompt) -> Groups:
        """Number the different texts."""
        return number_groups([response.strip() for response in prompt.responses])


class UserClustering(Clustering):
    """Calls the user's ``function(prompt, responses, label) -> list[int]`` for each prompt.

    The function gets a text, N texts and a text or None, and returns N whole numbers, equal for responses of one
    meaning; a negative number forms no group.

    Args:
        name: ``file.py:function``.

    Raises:
        ValueError: the file cannot be imported or has no such function.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        file, _, function = name.rpartition(":")
        self._function = registry.load_function(
            file, function, f"--cluster {name}", "a function of (prompt, responses, label), and name that, too"
        )
        content = hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest()
        self.settings = f"{function} of a file {content}"

    def groups_of(self, prompt: Prompt) -> Groups:
        """Call the function.

        Raises:
            ValueError: the function raised, or returned no N whole numbers.
        """
        where = f"--cluster {self._name}, called with the prompt {prompt.text!r:.60},"
        try:
            groups = list(self._function(prompt.text, list(prompt.responses), prompt.label))
        except (Exception, SystemExit) as error:  # whatever a user's function raises
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(f"{where} raised {cause}.") from error
        n = len(prompt.responses)
        if len(groups) != n or not all(hasattr(x, "__index__") and not isinstance(x, bool) for x in groups):
            raise ValueError(
                f"{where} returned {groups!r:.60}: it must return {n} whole numbers, the group of each response."
            )
        return [int(number) for number in groups]


class Behaviour(Clustering):
    """Responses are equal if the programs in them have the same outputs on the inputs of the prompt's label.

    The sandbox runs each; expected values are not used (:mod:`openrlhf_pf.code_reward.judge.observe`). A program that
    fails on every input, that does not end, or whose outputs only itself could compare, is in no group.

    Args:
        pool: the sandboxes; by default those of the code reward, with its settings from the environment.
    """

    def __init__(self, pool: AnyPool | None = None) -> None:
        super().__init__()
        self._pool = pool
        self._failed = 0

    @property
    def settings(self) -> str:
        """Return the limits and packages that decide the outputs."""
        return f"behaviour {self.pool.limits} {os.environ.get('OPENRLHF_PF_CODE_PACKAGES')}"

    @property
    def pool(self) -> AnyPool:
        """Return the sandboxes, started on first use."""
        if self._pool is None:
            from openrlhf_pf.code_reward.reward import shared_pool

            self._pool = shared_pool()
        return self._pool

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ValueError, one sentence, if a label has no tests, whose inputs the programs run on."""
        bad: list[str] = []
        for prompt in prompts:
            try:
                if prompt.label is None:
                    raise ValueError("it is missing, and comes with --data.label_key when samples are collected.")
                from_label(prompt.label)
            except ValueError as error:
                bad.append(f"the first is that of the prompt {prompt.text!r:.60}: {error}")
        if bad:
            raise ValueError(
                f"--cluster behaviour needs tests in every label, and {len(bad)} of {len(prompts)} have none; {bad[0]}"
            )

    def cluster(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """As in the protocol."""
        waiting: deque[tuple[Prompt, dict[str, Future[Result]]]] = deque()
        for prompt in prompts:
            task = from_label(prompt.label or "")
            observation = observation_of(task.problem)
            programs = {response: task.program(response) for response in prompt.responses}
            running = {text: self.pool.submit(text, observation) for text in dict.fromkeys(programs.values())}
            waiting.append((prompt, {response: running[text] for response, text in programs.items()}))
            while len(waiting) > _AHEAD or (waiting and all(f.done() for f in waiting[0][1].values())):
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def _collect(self, prompt: Prompt, running: dict[str, "Future[Result]"]) -> Groups:
        results = {response: future.result() for response, future in running.items()}
        failed = [result for result in results.values() if result.verdict is Verdict.INFRASTRUCTURE]
        if failed:
            self._failed += 1
            self.notes[:] = [f"{self._failed} prompts could not be clustered; the last reason: {failed[0].detail}"]
            return None
        return number_groups([results[r].detail if results[r].passed else None for r in prompt.responses])


def number_groups(meanings: Sequence[Any]) -> list[int]:
    """Return (N,) a number for each different meaning, from 0 in order of appearance; ``ALONE`` for None."""
    known: dict[Any, int] = {}
    return [ALONE if meaning is None else known.setdefault(meaning, len(known)) for meaning in meanings]


class ClusterFile:
    """The groups of prompts in a file of JSON lines, written as they are found, so that a killed command can resume.

    Args:
        path: the file, which need not exist.
        clustering: finds the groups that the file lacks; lines with other settings are ignored.

    Raises:
        ValueError: the file cannot be written.
    """

    def __init__(self, path: Path, clustering: Clustering) -> None:
        self.path = path
        self._clustering = clustering
        self._settings = hashlib.blake2b(clustering.settings.encode(), digest_size=8).hexdigest()
        self._known: dict[str, list[int]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
            lines = path.read_text("utf-8").splitlines()
        except OSError as error:
            raise ValueError(
                f"{str(path)!r} cannot be written ({error.strerror}): give an --output in a folder that can."
            ) from error
        for line in lines:
            try:
                row = json.loads(line)
                if row["settings"] == self._settings:
                    self._known[row["prompt"]] = [int(number) for number in row["groups"]]
            except (ValueError, KeyError, TypeError):
                continue  # an earlier run was killed while it wrote this line

    def count_known(self, prompts: Sequence[Prompt]) -> int:
        """Return how many of the prompts the file has."""
        return sum(prompt.digest in self._known for prompt in prompts)

    def cluster(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """Yield (N,) the groups of each prompt's responses, in the order of prompts; None where clustering failed,
        which the next run tries again.
        """
        new = list({prompt.digest: prompt for prompt in prompts if prompt.digest not in self._known}.values())
        found = zip((prompt.digest for prompt in new), self._clustering.cluster(new))
        failed: set[str] = set()
        with self.path.open("a", encoding="utf-8") as file:
            # After an unfinished line, ours begins on a line of its own.
            file.write("\n" if self.path.stat().st_size else "")
            for prompt in prompts:
                while prompt.digest not in self._known and prompt.digest not in failed:
                    digest, groups = next(found)
                    if groups is None:
                        failed.add(digest)
                        continue
                    self._known[digest] = groups
                    file.write(json.dumps({"prompt": digest, "settings": self._settings, "groups": groups}) + "\n")
                    file.flush()
                yield self._known.get(prompt.digest)
