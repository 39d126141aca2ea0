"""What the machine offers: a GPU, room for Ray, a compiler for DeepSpeed, walls for the code sandbox."""

import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from openrlhf_pf.doctor import Finding
from openrlhf_pf.training.extensions import extensions_folder, is_dead, unheld_locks

GIB = 1 << 30
#: In a process of its own: torch may be broken, and imports while other things are looked at.
ASK_TORCH = """if True:
    import json, torch
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(json.dumps({"built_for": torch.version.cuda or torch.version.hip, "gpus": names}))"""
TORCH_SECONDS = 120

MEMINFO, MEMORY_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")

#: Ray's own numbers: it takes this share of memory for its object store, but puts it on disk where /dev/shm holds
#: less, up to this many bytes; it makes no objects on a disk that is fuller than this; a socket's path has 107 bytes.
RAY_MEMORY_SHARE, RAY_SHM_BYTES, RAY_FULL_DISK, SOCKET_PATH = 0.3, 10**10, 0.95, 107
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"


class TorchQuestion:
    """Ask torch for GPUs; the answer is waited for when it is needed."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", "-c", ASK_TORCH]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def answer(self) -> dict[str, Any]:
        """``built_for``: CUDA's or ROCm's version or None, ``gpus``: their names; or ``error``: why not."""
        try:
            out, errors = self._process.communicate(timeout=TORCH_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return {"error": f"import torch took more than {TORCH_SECONDS} s"}
        if self._process.returncode == 0:
            return json.loads(out.splitlines()[-1])
        return {"error": (errors.strip().splitlines() or [f"exit status {self._process.returncode}"])[-1]}


def device(torch: dict[str, Any], patch: str, patched: bool) -> Finding:
    """A GPU that torch sees, or the CPU patch.

    Args:
        torch: see :meth:`TorchQuestion.answer`.
        patch: what ``openrlhf_pf.cli.patch status`` says.
        patched: the CPU patch is applied.
    """
    if "error" in torch:
        return Finding("FAILED", "device", f"torch does not import ({torch['error']}): install it anew.")
    if torch["gpus"]:
        names = ", ".join(f"{torch['gpus'].count(name)} x {name}" for name in dict.fromkeys(torch["gpus"]))
        return Finding("ok", "device", f"{names}, torch built for {torch['built_for']}")
    if patched:
        return Finding("ok", "device", "no GPU, and the CPU patch is applied")
    why = "is built for a CPU" if torch["built_for"] is None else f"is built for {torch['built_for']}, but sees none"
    return Finding(
        "FAILED",
        "device",
        f"no GPU (torch {why}) and no CPU patch ({patch.rstrip('.')}): where there is a GPU, mend torch, the driver "
        "or CUDA_VISIBLE_DEVICES, or ask on a worker node; without one, python -m openrlhf_pf.cli.patch apply.",
    )


def sandbox() -> Finding:
    """What the code sandbox will be made of; only code rewards need it."""
    from openrlhf_pf.code_reward import Pool, Unavailable

    logger = logging.getLogger("openrlhf_pf.code_reward")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it warns of is said here
    try:
        with Pool(1, packages=()) as pool:
            weaknesses = pool.weaknesses
    except (Unavailable, OSError, ValueError) as error:
        return Finding("note", "code sandbox", f"does not start ({error}): code rewards will not work here.")
    finally:
        logger.setLevel(level)
    if weaknesses:
        return Finding(
            "note",
            "code sandbox",
            f"weaker than it should be ({'; '.join(weaknesses)}): allow the container namespaces, seccomp and "
            "Landlock, or refuse code rewards here with OPENRLHF_PF_CODE_REQUIRE_ISOLATION=1.",
        )
    return Finding("ok", "code sandbox", "whole: namespaces, seccomp, Landlock and limits as designed")


def ray_directory() -> Finding:
    """Room for Ray's sessions: sockets, logs, what does not fit into memory."""
    subject = "Ray's files"
    place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    below = RAY_SOCKET.format(pid=os.getpid())
    if len(place + below) > SOCKET_PATH:
        return Finding(
            "FAILED",
            subject,
            f"{place} is too long for Ray's sockets, whose path has {SOCKET_PATH} characters: set RAY_TMPDIR to a "
            f"folder of at most {SOCKET_PATH - len(below)}.",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("FAILED", subject, f"{place} cannot be written: set RAY_TMPDIR to a folder that can.")
    size = shutil.disk_usage(place)
    room = f"{size.free / GIB:.1f} GiB free of {size.total / GIB:.0f} in {place}"
    if size.used / (size.used + size.free) > RAY_FULL_DISK:
        return Finding(
            "note",
            subject,
            f"{room}: Ray makes no new objects on disk above {RAY_FULL_DISK:.0%}, so make room or set RAY_TMPDIR.",
        )
    return Finding("ok", subject, room)


def shared_memory() -> Finding:
    """Room for Ray's object store, through which samples go from process to process."""
    shm = os.statvfs("/dev/shm")
    free, wanted = shm.f_bavail * shm.f_frsize, min(RAY_MEMORY_SHARE * available_memory(), RAY_SHM_BYTES)
    room = f"{free / GIB:.1f} GiB free"
    if free < wanted:
        return Finding(
            "note",
            "/dev/shm",
            f"{room}, and Ray wants {wanted / GIB:.1f} GiB ({RAY_MEMORY_SHARE:.0%} of memory), else its object store "
            "goes to disk and is slow: remove files from /dev/shm, or start the container with a larger --shm-size.",
        )
    return Finding("ok", "/dev/shm", f"{room}, Ray wants {wanted / GIB:.1f}")


def available_memory() -> int:
    """Bytes that the machine has left, or the container may use at all, whichever is less."""
    lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    left = int(lines["MemAvailable"].split()[0]) * 1024
    text = MEMORY_LIMIT.read_text().strip() if MEMORY_LIMIT.exists() else "max"
    return left if text == "max" else min(left, int(text))


def compiler(gpu: bool) -> Finding:
    """What DeepSpeed compiles its operators with when they are first used; on a CPU, the patch has it use none."""
    subject, ninja = "compiler", shutil.which("ninja")
    if not gpu:
        return Finding("ok", subject, "nothing is compiled on a CPU")
    missing = []
    beside = Path(sys.prefix, "bin", "ninja")
    if ninja is None:
        missing.append(f"ninja is in {beside.parent}, which PATH lacks" if beside.exists() else "there is no ninja")
    name = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(name) is None:
        missing.append(f"there is no C++ compiler ({name})")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("Python has no headers (python3-dev)")
    if shutil.which("nvcc") is None and not os.environ.get("CUDA_HOME"):
        missing.append("there is no nvcc in PATH and no CUDA_HOME")
    if not missing:
        return Finding("ok", subject, "what DeepSpeed needs is there")
    hint = "activate the environment" if beside.exists() and len(missing) == 1 and ninja is None else "install it"
    return Finding(
        "note",
        subject,
        f"DeepSpeed compiles operators at first use unless they are built in, and {', '.join(missing)}: {hint} first.",
    )


def locks() -> Finding:
    """Locks on operators: torch waits in silence, and for ever where the process that made one is dead."""
    doubtful = [str(lock) for lock in unheld_locks() if not is_dead(lock)]
    if doubtful:
        return Finding(
            "FAILED",
            "build locks",
            f"no process of this machine holds {', '.join(doubtful)}, and training would wait for it: remove it, "
            "unless another machine or container that shares this folder is compiling.",
        )
    return Finding("ok", "build locks", f"none in {extensions_folder()} that training would wait for")
