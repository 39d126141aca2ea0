"""End a failed training with one sentence, and within bounded time."""

import atexit
import os
import re
import threading
import traceback
from collections.abc import Callable
from types import SimpleNamespace

from openrlhf_pf.training.startup import checkpoints, say

#: Seconds that Ray may take to shut down after a failure.
SHUTDOWN_TIMEOUT = 60.0

#: OpenRLHF's Ray actors, by class.
_ROLES = {
    "RolloutRayActor": "a vLLM engine",
    "PolicyModelActor": "a worker of the actor",
    "CriticModelActor": "a worker of the critic",
    "ReferenceModelActor": "a worker of the reference model",
    "RewardModelActor": "a worker of the reward model",
    "EnsembleRewardModelActor": "a worker of the reward models",
    "CorrectedRewardModelActor": "a worker of the reward models",
}
_ACTOR_DIED = re.compile(r"class_name: (\w+)\n.*?(?:pid: (\d+)\n.*?)?(?:ip: (\S+)\n|$)", re.DOTALL)
_ACTOR_INIT_FAILED = re.compile(r"error raised in its creation task, \S*ray::(\w+)\.__init__")
#: What PyTorch's archive writer and the operating system say when a disk is full.
_NOT_WRITTEN = ("PytorchStreamWriter", ". unexpected pos ", "No space left")


def guard(train: Callable[[SimpleNamespace], None]) -> Callable[[SimpleNamespace], None]:
    """Return OpenRLHF's ``train(args)`` that starts from a complete checkpoint and reports a failure in one sentence.

    The traceback precedes the sentence, and the exit status is 1; it is 2 if nothing was begun.
    """

    def train_guarded(args: SimpleNamespace) -> None:
        try:
            checkpoints.choose_checkpoint(args)
        except ValueError as error:
            say(str(error))
            raise SystemExit(2) from None
        try:
            train(args)
        except Exception as error:
            traceback.print_exc()
            say(f"training ended: {find_reason(error, args)}; {resume_hint(args)}.")
            atexit.register(_limit_shutdown)
            raise SystemExit(1) from error

    return train_guarded


def find_reason(error: BaseException, args: SimpleNamespace) -> str:
    """Return what has failed, from the innermost of Ray's nested exceptions, without a full stop."""
    failed = _ACTOR_INIT_FAILED.findall(str(error))
    if failed:
        cause = str(error).strip().splitlines()[-1].strip()
        return f"{_role_of(failed[-1])} could not start ({cause.rstrip('. ')})"
    died = _ACTOR_DIED.findall(str(error))
    if died:
        kind, process, node = died[-1]
        place = f" (process {process} on {node})" if process and node else ""
        return f"{_role_of(kind)}{place} died"
    while getattr(error, "cause", None) is not None:
        error = error.cause
    name = type(error).__name__
    if name == "EngineDeadError":
        return "a vLLM engine's process died"
    lines = str(error).strip().splitlines() or [""]
    if name == "NoRewards":
        return lines[0]
    if any(words in lines[0] for words in _NOT_WRITTEN):
        return f"a file could not be written ({lines[0].strip()}): is there space in {args.ckpt.path}?"
    return f"{name}: {lines[0].strip()}".rstrip(":. ")


def _role_of(kind: str) -> str:
    return _ROLES.get(kind, f"the process of {kind}")


def resume_hint(args: SimpleNamespace) -> str:
    """Return how training can continue, without a full stop."""
    try:
        models = checkpoints.find_models(args)
        tag = checkpoints.find_newest(models)[0] if models else None
    except OSError:  # the disk may be what has failed
        tag = None
    if tag is None:
        return f"there is no checkpoint in {args.ckpt.path} (--ckpt.save_steps) to resume from"
    return f"the same command with --ckpt.load_enable resumes from {tag} in {args.ckpt.path}"


def _limit_shutdown() -> None:
    """End the process after a while, whatever Ray does; registered last, Python runs it before Ray's own exit code."""
    timer = threading.Timer(SHUTDOWN_TIMEOUT, os._exit, (1,))
    timer.daemon = True
    timer.start()
