"""Choose the checkpoint that a resumed run starts from: the newest that is complete for every model.

DeepSpeed loads the checkpoint that the file ``latest`` of a model's folder names. A run that was killed while it saved
can leave that file empty, or naming different steps for actor and critic; so can a full disk. OpenRLHF keeps its best
checkpoints, and may have removed the folder that the file names.
"""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from openrlhf_pf.files import replace_file
from openrlhf_pf.training.startup import say

_STEP = re.compile(r"global_step(\d+)")  # also the best ones: best_global_step3
_SHARD = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")


class Model(NamedTuple):
    """The checkpoints of one model.

    Attributes:
        folder: where DeepSpeed keeps them.
        shards: files that ZeRO splits the optimizer's state of one checkpoint into.
    """

    folder: Path
    shards: int

    @property
    def latest(self) -> str:
        """The tag that DeepSpeed would load; empty if there is none."""
        file = self.folder / "latest"
        return file.read_text().strip() if file.exists() else ""

    def tags(self) -> set[str]:
        """Return the tags of all checkpoints, complete or not."""
        return {path.name for path in self.folder.iterdir() if path.is_dir() and _STEP.search(path.name)}

    def find_fault(self, tag: str) -> str | None:
        """Return what is wrong with a checkpoint; None if it can be loaded.

        A truncated file is found by its end, without reading it; a flipped bit is not found.
        """
        place = f"{self.folder.name}/{tag}"
        if not (self.folder / tag).is_dir():
            return f"{place} is not there"
        files = sorted((self.folder / tag).glob("*.pt"))
        for file in files:
            if not _is_complete(file):
                return f"{file.name} of {place} is damaged"
        if not any(file.name.endswith("model_states.pt") for file in files):
            return f"{place} has no model"
        shards = sum(_SHARD.search(file.name) is not None for file in files)
        return f"{place} has {shards} of {self.shards} shards" if shards < self.shards else None


def _is_complete(file: Path) -> bool:
    with open(file, "rb") as stream:
        start = stream.read(2)
    # PyTorch writes Zip archives, which end with their table of contents; its older format has no such mark.
    return len(start) == 2 and (start != b"PK" or zipfile.is_zipfile(file))


def find_models(args: SimpleNamespace) -> list[Model]:
    """Return the models that have checkpoints, the actor first, which also holds the state of the run."""
    models = []
    for name, settings in (("_actor", args.actor), ("_critic", args.critic)):
        folder = Path(args.ckpt.path, name)
        if settings.model_name_or_path and folder.is_dir():
            ranks = settings.num_nodes * settings.num_gpus_per_node // args.ds.tensor_parallel_size
            models.append(Model(folder, ranks if args.ds.zero_stage else 0))
    return models if models and models[0].folder.name == "_actor" else []


def find_newest(models: list[Model]) -> tuple[str | None, Mapping[str, str]]:
    """Return the tag of the newest checkpoint that is complete for all models, or None, and the fault of each newer
    one.
    """
    named = {model.latest for model in models}
    tags = set.union(*(model.tags() for model in models)) | named - {""}
    # If a step has two, one of which is the best so far, the one that DeepSpeed would load.
    order = sorted(tags, key=lambda tag: (_step_of(tag), tag in named, tag), reverse=True)
    if len(named) == 1:  # the usual case: the one that all models name, even if there are newer ones
        order.sort(key=lambda tag: tag not in named)
    faults: dict[str, str] = {}
    for tag in order:
        fault = next((fault for model in models if (fault := model.find_fault(tag))), None)
        if fault is None:
            return tag, faults
        faults[tag] = fault
    return None, faults


def _step_of(tag: str) -> int:
    found = _STEP.search(tag)
    return int(found[1]) if found else -1


def choose_checkpoint(args: SimpleNamespace) -> None:
    """Make all models load the same checkpoint, the newest complete one, before a run is resumed.

    Prints what differs from DeepSpeed's own choice. If no checkpoint was ever finished, switches
    ``args.ckpt.load_enable`` off: OpenRLHF fails on a folder with nothing to load.

    Args:
        args: OpenRLHF's nested arguments.

    Raises:
        ValueError: there were checkpoints, and none can be loaded; one sentence.
    """
    if args.ckpt.max_num < 2 and 0 < args.ckpt.save_steps < math.inf and not args.ckpt.disable_ds:
        say(
            f"with --ckpt.max_num {args.ckpt.max_num}, OpenRLHF removes the only checkpoint before it writes the next "
            "one, and a run that ends in between has none: give 2 or more."
        )
    models = find_models(args) if args.ckpt.load_enable else []
    if not models:
        return
    tag, faults = find_newest(models)
    why = "; ".join(faults.values())
    if tag is None and all(model.latest for model in models):
        raise ValueError(
            f"no checkpoint in {args.ckpt.path} can be loaded ({why}): put one back from elsewhere, or leave out "
            "--ckpt.load_enable to start from the beginning."
        )
    if tag is None:
        say(f"no checkpoint in {args.ckpt.path} was ever finished: training starts from the beginning.")
        args.ckpt.load_enable = False
        return
    changed = [model for model in models if model.latest != tag]
    if changed:
        say(
            f"training resumes from {tag}, the newest checkpoint in {args.ckpt.path} that is complete for every "
            f"model{f' ({why})' if why else ''}."
        )
    for model in changed:
        with replace_file(model.folder / "latest") as file:
            file.write(tag)
