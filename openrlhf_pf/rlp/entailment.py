"""Clusters of responses that entail each other, by a local NLI checkpoint (Kuhn et al. 2023, Algorithm 1).

The first response without a group opens one. Every later response without a group is compared with it, with the
prompt before both, and joins if entailment is the likeliest class in both directions. Equal texts are one response.
The groups depend on the order of responses, which :mod:`samples` fixes, and not on the batch.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrlhf_pf.rlp.clusters import Clustering, Groups
from openrlhf_pf.rlp.samples import Prompt

#: A premise and a hypothesis.
Pair = tuple[str, str]


class Entailment(Clustering):
    """Responses are equal if each entails the other.

    Args:
        folder: of a checkpoint for sequence classification whose classes have names.
        batch: pairs of texts per forward pass.

    Raises:
        ValueError: there is no such checkpoint, or its classes are not those of NLI; one sentence.
    """

    def __init__(self, folder: str | None, batch: int = 32) -> None:
        super().__init__()
        self._folder = _check_folder(folder)
        if batch < 1:
            raise ValueError(f"--entailment_batch must be 1 or more, got {batch}.")
        self._batch = batch
        self._entails = _find_class(self._folder, "entailment")
        _find_class(self._folder, "contradiction")  # other classifiers may have a class entailment
        self._loaded: tuple[Any, Any] | None = None
        self._n_cut = 0
        self.settings = f"entailment {_fingerprint(self._folder)}"

    def groups_of(self, prompt: Prompt) -> Groups:
        """Compare the different texts; see the module."""
        texts = list(dict.fromkeys(prompt.responses))
        group: dict[str, int] = {}
        while remaining := [text for text in texts if text not in group]:
            first, others = f"{prompt.text} {remaining[0]}", [f"{prompt.text} {text}" for text in remaining[1:]]
            entailed = iter(self.entails([pair for other in others for pair in ((first, other), (other, first))]))
            both = [next(entailed) & next(entailed) for _ in others]
            joined = [text for text, is_equal in zip(remaining[1:], both) if is_equal]
            group |= dict.fromkeys([remaining[0], *joined], len(set(group.values())))
        return [group[response] for response in prompt.responses]

    def entails(self, pairs: Sequence[Pair]) -> list[bool]:
        """Return whether entailment is the likeliest class of each pair."""
        found: list[bool] = []
        for start in range(0, len(pairs), self._batch):
            logits = self.logits(pairs[start : start + self._batch])
            found += (logits.argmax(-1) == self._entails).tolist()
        return found

    def logits(self, pairs: Sequence[Pair]) -> Any:
        """Return (P, classes) logits of P pairs in one batch."""
        import torch

        tokenizer, model = self._loaded = self._loaded or _load(self._folder)
        most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        premises, hypotheses = map(list, zip(*pairs))
        lengths = [len(ids) for ids in tokenizer(premises, hypotheses)["input_ids"]]
        if n_cut := sum(length > most for length in lengths):
            self._n_cut += n_cut
            self.notes[:] = [
                f"{self._n_cut} pairs of responses are longer than the {most} tokens of the NLI checkpoint"
            ]
        tokens = tokenizer(
            premises, hypotheses, padding=True, truncation="longest_first", max_length=most, return_tensors="pt"
        )
        with torch.inference_mode():
            return model(**tokens.to(model.device)).logits.float().cpu()


def _check_folder(folder: str | None) -> Path:
    if folder is None:
        raise ValueError("--cluster entailment needs --entailment_model, the folder of an NLI checkpoint.")
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"--entailment_model {folder} is no checkpoint: give a folder with config.json, weights and tokenizer; "
            "nothing is downloaded."
        )
    return path


def _find_class(folder: Path, name: str) -> int:
    """Return the number of a class of the checkpoint."""
    classes = json.loads((folder / "config.json").read_text()).get("id2label") or {}
    found = [int(number) for number, label in classes.items() if str(label).lower() == name]
    if len(found) != 1:
        raise ValueError(
            f"--entailment_model {folder} is no NLI checkpoint: its id2label needs one class of the name {name}, and "
            f"has {', '.join(map(str, classes.values())) or 'none'}."
        )
    return found[0]


def _fingerprint(folder: Path) -> str:
    """Return a hash that changes with the files of the checkpoint."""
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
    logging.disable_progress_bar()
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
