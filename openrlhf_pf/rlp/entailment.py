"""Clusters of answers that entail each other, by a local NLI checkpoint (Kuhn et al. 2023, Section 3.2; Algorithm 1).

The first answer without a group opens one, and every later answer without a group is compared with it, the question
put in front of both; it joins if entailment is the likeliest class in both directions. Equal texts are one answer. So
the groups depend on the order of answers, which is that of :mod:`samples`, and not on the batch.
"""

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from openrlhf_pf.rlp.clusters import Groups
from openrlhf_pf.rlp.samples import Prompt

_AT_ONCE = 32  # prompts whose pairs share batches

#: A premise and a hypothesis.
Pair = tuple[str, str]


class Entailment:
    """Answers are equal if each entails the other.

    Args:
        folder: of a checkpoint for sequence classification whose classes have names.
        batch: pairs of texts at a time.

    Raises:
        ValueError: there is no such checkpoint, or its classes are not those of NLI; one sentence.
    """

    def __init__(self, folder: str | None, batch: int = 32) -> None:
        self.notes: list[str] = []
        self._folder = _checked(folder)
        if batch < 1:
            raise ValueError(f"--entailment_batch must be 1 or more, got {batch}.")
        self._batch = batch
        self._entails = _class_of(self._folder, "entailment")
        _class_of(self._folder, "contradiction")  # a classifier of something else may have the one by chance
        self._loaded: tuple[Any, Any] | None = None
        self._cut = 0
        self.settings = f"entailment {_identity(self._folder)}"

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text will do."""

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """As in the protocol."""
        coming = iter(prompts)
        while window := list(islice(coming, _AT_ONCE)):
            yield from self._of_window(window)

    def _of_window(self, prompts: Sequence[Prompt]) -> list[Groups]:
        """Ask for what all of these prompts want to know next, until none wants more."""
        found: list[Groups] = [None] * len(prompts)
        running = {place: _grouping(prompt) for place, prompt in enumerate(prompts)}
        answers: dict[int, list[bool] | None] = dict.fromkeys(running)
        while running:
            asked: dict[int, list[Pair]] = {}
            for place, grouping in list(running.items()):
                try:
                    asked[place] = grouping.send(answers[place])
                except StopIteration as end:
                    found[place] = end.value
                    del running[place]
            entailed = iter(self.entails([pair for pairs in asked.values() for pair in pairs]))
            answers = {place: list(islice(entailed, len(pairs))) for place, pairs in asked.items()}
        return found

    def entails(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether entailment is the likeliest class of each pair."""
        found: list[bool] = []
        for start in range(0, len(pairs), self._batch):
            logits = self.logits(pairs[start : start + self._batch])
            found += (logits.argmax(-1) == self._entails).tolist()
        return found

    def logits(self, pairs: Sequence[Pair]) -> Any:
        """(P, classes) of P pairs at once."""
        import torch

        tokenizer, model = self._loaded = self._loaded or _load(self._folder)
        most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        premises, hypotheses = map(list, zip(*pairs))
        lengths = [len(ids) for ids in tokenizer(premises, hypotheses)["input_ids"]]
        if cut := sum(length > most for length in lengths):
            self._cut += cut
            self.notes[:] = [f"{self._cut} pairs of answers are longer than the {most} tokens of the NLI checkpoint"]
        tokens = tokenizer(
            premises, hypotheses, padding=True, truncation="longest_first", max_length=most, return_tensors="pt"
        )
        with torch.inference_mode():
            return model(**tokens.to(model.device)).logits.float().cpu()


def _grouping(prompt: Prompt) -> Generator[list[Pair], list[bool], list[int]]:
    """Asks which pairs are entailed, and returns the groups."""
    texts = list(dict.fromkeys(prompt.responses))
    group: dict[str, int] = {}
    while left := [text for text in texts if text not in group]:
        first, others = left[0], left[1:]
        number = group[first] = len(set(group.values()))
        if not others:
            break
        one, several = f"{prompt.text} {first}", [f"{prompt.text} {other}" for other in others]
        entailed = yield [pair for other in several for pair in ((one, other), (other, one))]
        group |= {other: number for place, other in enumerate(others) if all(entailed[2 * place : 2 * place + 2])}
    return [group[response] for response in prompt.responses]


def _checked(folder: str | None) -> Path:
    if folder is None:
        raise ValueError("--cluster entailment needs --entailment_model, the folder of an NLI checkpoint.")
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"--entailment_model {folder} is no checkpoint: give a folder with config.json, weights and tokenizer; "
            "nothing is downloaded."
        )
    return path


def _class_of(folder: Path, name: str) -> int:
    """The number of a class of the checkpoint."""
    classes = json.loads((folder / "config.json").read_text()).get("id2label") or {}
    found = [int(number) for number, label in classes.items() if str(label).lower() == name]
    if len(found) != 1:
        raise ValueError(
            f"--entailment_model {folder} is no NLI checkpoint: its id2label needs one class of the name {name}, and "
            f"has {', '.join(map(str, classes.values())) or 'none'}."
        )
    return found[0]


def _identity(folder: Path) -> str:
    """What tells this checkpoint from another one in the same place."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    about = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(repr(about).encode(), digest_size=8).hexdigest()


def _load(folder: Path) -> tuple[Any, Any]:
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise ValueError(f"--cluster entailment needs {error.name}: pip install transformers.") from error
    logging.disable_progress_bar()  # loading takes no time
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--entailment_model {folder} cannot be loaded ({' '.join(str(error).split())[:200]}): give a folder with "
            "config.json, weights and tokenizer."
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return tokenizer, model.to(device).eval()
