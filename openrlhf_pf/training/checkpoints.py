"""Which checkpoint a resumed run starts from: the newest that every model has, and has whole.

DeepSpeed loads what the file ``latest`` of a model's folder names. A run that was killed while it saved, or whose disk
was full, can leave that file empty, or naming another step in the critic's folder than in the actor's, and OpenRLHF,
which keeps its best checkpoints, may have removed the folder that it names.
"""

import math
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

_STEP = re.compile(r"global_step(\d+)")  # also the best ones: best_global_step3
_SHARD = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_LATEST = "latest"


class Model:
    """The checkpoints of one model.

    Args:
        folder: where DeepSpeed keeps them.
        shards: files that ZeRO cuts the optimizer's state of one checkpoint into.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder, self.shards = folder, shards

    @property
    def latest(self) -> str:
        """The tag that DeepSpeed would load; empty where there is none."""
        file = self.folder / _LATEST
        return file.read_text().strip() if file.exists() else ""

    @latest.setter
    def latest(self, tag: str) -> None:
        unfinished = self.folder / f".{_LATEST}.{os.getpid()}.tmp"
        unfinished.write_text(tag)
        os.replace(unfinished, self.folder / _LATEST)

    def tags(self) -> set[str]:
        """All checkpoints, whole or not."""
        return {path.name for path in self.folder.iterdir() if path.is_dir() and _STEP.search(path.name)}

    def fault(self, tag: str) -> str | None:
        """What is wrong with a checkpoint; None where it can be loaded.

        A file that ends early is found by its end, without reading it; a bit that has flipped is not.
        """
        place = f"{self.folder.name}/{tag}"
        if not (self.folder / tag).is_dir():
            return f"{place} is not there"
        files = sorted((self.folder / tag).glob("*.pt"))
        for file in files:
            if not _is_whole(file):
                return f"{file.name} of {place} is torn"
        if not any(file.name.endswith("model_states.pt") for file in files):
            return f"{place} has no model"
        shards = sum(_SHARD.search(file.name) is not None for file in files)
        return f"{place} has {shards} of {self.shards} shards" if shards < self.shards else None


def _is_whole(file: Path) -> bool:
    with open(file, "rb") as stream:
        start = stream.read(2)
    # PyTorch writes Zip archives, whose table of contents comes last; its older format has no such mark.
    return len(start) == 2 and (start != b"PK" or zipfile.is_zipfile(file))


def models_of(args: SimpleNamespace) -> list[Model]:
    """The models that have checkpoints; the actor, which has the run's own state in it, first."""
    models = []
    for name, settings in (("_actor", args.actor), ("_critic", args.critic)):
        folder = Path(args.ckpt.path, name)
        if settings.model_name_or_path and folder.is_dir():
            ranks = settings.num_nodes * settings.num_gpus_per_node // args.ds.tensor_parallel_size
            models.append(Model(folder, ranks if args.ds.zero_stage else 0))
    return models if models and models[0].folder.name == "_actor" else []


def newest(models: list[Model]) -> tuple[str | None, Mapping[str, str]]:
    """The newest checkpoint that all these models have whole, None where there is none.

    Returns:
        Its tag, and what is wrong with each newer one.
    """
    named = {model.latest for model in models}
    tags = set.union(*(model.tags() for model in models)) | named - {""}
    # Of two of a step, one of which is the best so far, the one that DeepSpeed would load.
    order = sorted(tags, key=lambda tag: (_step(tag), tag in named, tag), reverse=True)
    if len(named) == 1:  # usually: what all of them name, even where there are others
        order = [*(tag for tag in order if tag in named), *(tag for tag in order if tag not in named)]
    faults: dict[str, str] = {}
    for tag in order:
        fault = next((fault for model in models if (fault := model.fault(tag))), None)
        if fault is None:
            return tag, faults
        faults[tag] = fault
    return None, faults


def _step(tag: str) -> int:
    found = _STEP.search(tag)
    return int(found[1]) if found else -1


def settle(args: SimpleNamespace) -> None:
    """Have all models load the same checkpoint, the newest that can be loaded, before a run is resumed.

    What is done otherwise than DeepSpeed would do by itself is said. Where not even the first checkpoint was finished,
    ``args.ckpt.load_enable`` is switched off: OpenRLHF fails where there is a folder with nothing to load.

    Args:
        args: OpenRLHF's nested arguments.

    Raises:
        ValueError: there were checkpoints, and none can be loaded; one sentence.
    """
    if args.ckpt.max_num < 2 and 0 < args.ckpt.save_steps < math.inf and not args.ckpt.disable_ds:
        _say(
            f"with --ckpt.max_num {args.ckpt.max_num}, OpenRLHF removes the only checkpoint before it writes the next "
            "one, and a run that ends in between has none: give 2 or more."
        )
    models = models_of(args) if args.ckpt.load_enable else []
    if not models:
        return
    tag, faults = newest(models)
    why = "; ".join(faults.values())
    if tag is not None:
        if any(model.latest != tag for model in models):
            _say(
                f"training resumes from {tag}, the newest checkpoint in {args.ckpt.path} that is whole and there for "
                f"every model{f' ({why})' if why else ''}."
            )
        for model in models:
            if model.latest != tag:
                model.latest = tag
    elif all(model.latest for model in models):
        raise ValueError(
            f"no checkpoint in {args.ckpt.path} can be loaded ({why}): put one back from elsewhere, or leave out "
            "--ckpt.load_enable to start from the beginning."
        )
    else:
        _say(f"no checkpoint in {args.ckpt.path} was ever finished: training starts from the beginning.")
        args.ckpt.load_enable = False


def _say(text: str) -> None:
    print(f"openrlhf_pf: {text}", file=sys.stderr, flush=True)
