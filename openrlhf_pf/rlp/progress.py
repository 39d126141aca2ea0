"""Clusters that are found already: a line a prompt, from which a command that was ended goes on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from openrlhf_pf.rlp.clusters import Clustering, Groups
from openrlhf_pf.rlp.samples import Prompt


class Progress:
    """The groups of prompts in a file of JSON lines, each there as soon as it is found.

    Args:
        path: of the file, which need not exist.
        clustering: finds what is not there; lines of other settings are passed over.

    Raises:
        ValueError: the file cannot be written.
    """

    def __init__(self, path: Path, clustering: Clustering) -> None:
        self.path = path
        self._clustering = clustering
        self._settings = hashlib.blake2b(clustering.settings.encode(), digest_size=8).hexdigest()
        try:
            self._known = self._read()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
        except OSError as error:
            raise ValueError(
                f"{str(path)!r} cannot be written ({error.strerror}): give an --output in a folder that can."
            ) from error

    def _read(self) -> dict[str, list[int]]:
        """What an earlier run has found out; a line that it did not finish is none."""
        found = {}
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else ():
            try:
                row = json.loads(line)
                if row["settings"] == self._settings:
                    found[row["prompt"]] = [int(number) for number in row["groups"]]
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def known(self, prompts: Sequence[Prompt]) -> int:
        """How many of the prompts are there."""
        return sum(prompt.digest in self._known for prompt in prompts)

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """(N,) the groups of each prompt's answers, in the order of prompts; None where they could not be found out,
        which the next run tries again.
        """
        new = [prompt for prompt in prompts if prompt.digest not in self._known]
        new = list({prompt.digest: prompt for prompt in new}.values())
        coming = zip((prompt.digest for prompt in new), self._clustering.groups(new))
        lost: set[str] = set()
        with self.path.open("a", encoding="utf-8") as file:
            # Whatever an unfinished line says, ours begins on a line of its own.
            file.write("\n" if self.path.stat().st_size else "")
            for prompt in prompts:
                while prompt.digest not in self._known and prompt.digest not in lost:
                    digest, groups = next(coming)
                    if groups is None:
                        lost.add(digest)
                        continue
                    self._known[digest] = groups
                    row = {"prompt": digest, "settings": self._settings, "groups": groups}
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                yield self._known.get(prompt.digest)
