"""When a process of the training dies or fails: one sentence at the end, and an end within bounds."""

import atexit
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from types import SimpleNamespace

from openrlhf_pf.training import checkpoints

#: Seconds that Ray may take to end what is left of a training that has failed.
END_WITHIN = 60.0

#: What OpenRLHF's Ray actors are, by class.
_ROLES = {
    "RolloutRayActor": "a vLLM engine",
    "PolicyModelActor": "a worker of the actor",
    "CriticModelActor": "a worker of the critic",
    "ReferenceModelActor": "a worker of the reference model",
    "RewardModelActor": "a worker of the reward model",
    "EnsembleRewardModelActor": "a worker of the reward models",
}
_DEAD = re.compile(r"class_name: (\w+)\n.*?(?:pid: (\d+)\n.*?)?(?:ip: (\S+)\n|$)", re.DOTALL)
_UNBORN = re.compile(r"error raised in its creation task, \S*ray::(\w+)\.__init__")


def guarded(train: Callable[[SimpleNamespace], None]) -> Callable[[SimpleNamespace], None]:
    """OpenRLHF's ``train(args)``, which starts from a whole checkpoint, and ends with one sentence where it fails.

    The traceback stands before the sentence, and the exit status is 1; it is 2 where nothing was begun.
    """

    def train_guarded(args: SimpleNamespace) -> None:
        try:
            checkpoints.settle(args)
        except ValueError as error:
            _say(str(error))
            raise SystemExit(2) from None
        try:
            train(args)
        except Exception as error:
            traceback.print_exc()
            _say(f"training ended: {reason(error, args)}; {what_next(args)}.")
            atexit.register(_end_in_time)
            raise SystemExit(1) from error

    return train_guarded


#: What torch's writer of archives and the operating system say of a disk that is full.
_NOT_WRITTEN = ("PytorchStreamWriter", ". unexpected pos ", "No space left")


def reason(error: BaseException, args: SimpleNamespace) -> str:
    """What has failed, of Ray's nested exceptions the innermost, without a full stop."""
    unborn = _UNBORN.findall(str(error))
    if unborn:
        cause = str(error).strip().splitlines()[-1].strip()
        return f"{_role(unborn[-1])} could not start ({cause.rstrip('. ')})"
    dead = _DEAD.findall(str(error))
    if dead:
        kind, process, node = dead[-1]
        place = f" (process {process} on {node})" if process and node else ""
        return f"{_role(kind)}{place} died"
    while getattr(error, "cause", None) is not None:
        error = error.cause
    name = type(error).__name__
    if name == "EngineDeadError":
        return "a vLLM engine's process died"
    lines = str(error).strip().splitlines() or [""]
    if name == "NoRewards":
        return lines[0]
    if any(words in lines[0] for words in _NOT_WRITTEN):
        return f"a file could not be written ({lines[0].strip()}): is there room in {args.ckpt.path}?"
    return f"{name}: {lines[0].strip()}".rstrip(":. ")


def _role(kind: str) -> str:
    return _ROLES.get(kind, f"the process of {kind}")


def what_next(args: SimpleNamespace) -> str:
    """How training goes on, without a full stop."""
    try:
        models = checkpoints.models_of(args)
        tag = checkpoints.newest(models)[0] if models else None
    except OSError:  # the disk may be what has failed
        tag = None
    if tag is None:
        return f"there is no checkpoint in {args.ckpt.path} (--ckpt.save_steps) to go on from"
    return f"the same command with --ckpt.load_enable goes on from {tag} in {args.ckpt.path}"


def _end_in_time() -> None:
    """The last to be registered, this is the first that Python does at the end, before Ray's own."""
    timer = threading.Timer(END_WITHIN, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _say(text: str) -> None:
    print(f"openrlhf_pf: {text}", file=sys.stderr, flush=True)
