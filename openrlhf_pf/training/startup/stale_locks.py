"""Stale locks of C++ extensions that PyTorch compiles on first use, such as DeepSpeed's operators.

The process that compiles holds a file called ``lock`` in the extension's folder; the others wait until it is gone. A
process that is killed while compiling leaves it behind, and every later run would wait for it for ever.
"""

import contextlib
import os
import time
from pathlib import Path

from openrlhf_pf.training.startup import say

#: File systems that no other machine writes to.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs"}
#: Seconds after which a lock that no process here has open counts as stale, not as one of another container's.
STALE_AFTER = 600


def extensions_folder() -> Path:
    """Return where PyTorch keeps compiled extensions: each has a folder one or two levels down."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(cache, "torch_extensions"))


def _stat(path: Path) -> os.stat_result | None:
    """Return None if the file is gone or belongs to another user."""
    try:
        return path.stat()
    except OSError:
        return None


def find_unheld_locks() -> list[Path]:
    """Return the locks that no process on this machine has open (Linux): PyTorch keeps its lock open."""
    folder = extensions_folder()
    locks = [lock for pattern in ("*/lock", "*/*/lock") for lock in folder.glob(pattern)]
    found = {(file.st_dev, file.st_ino): lock for lock in locks if (file := _stat(lock))}
    if not found:  # the usual case, and going through all open files takes a moment
        return []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        if file := _stat(descriptor):
            found.pop((file.st_dev, file.st_ino), None)
    return list(found.values())


def is_stale(lock: Path) -> bool:
    """Return True if an unheld lock is stale: gone, or ours, older than 10 minutes, on a local file system."""
    file = _stat(lock)
    if file is None:
        return True
    device = f"{os.major(file.st_dev)}:{os.minor(file.st_dev)}"
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    systems = {right.split()[0] for left, right in mounts if left.split()[2] == device}
    old = time.time() - file.st_mtime > STALE_AFTER
    return old and file.st_uid == os.getuid() and bool(systems) and systems <= _LOCAL


def remove_stale_locks() -> None:
    """Remove stale locks, and name those that may be stale, before training waits for them."""
    for lock in find_unheld_locks():
        if is_stale(lock):
            with contextlib.suppress(FileNotFoundError):  # released in between
                lock.unlink()
                say(f"removed {lock}, left behind by a process that was killed while it compiled.")
        else:
            say(
                f"no process on this machine holds {lock}, and the run waits until it is gone: if none on another "
                "machine or in another container is compiling there, remove the file."
            )
