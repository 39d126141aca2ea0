"""Locks of C++ extensions that PyTorch compiles when they are first used, as DeepSpeed has its operators compiled.

Whoever compiles holds a file called ``lock`` in the extension's folder; the others wait until it is gone. A process
that was killed meanwhile leaves it behind, and every later run waits for it, without a word and without an end.
"""

import os
import sys
import time
from pathlib import Path

#: File systems that no other machine writes to.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs"}
#: Seconds after which a lock that no process here has open is taken for dead, and not for one of another container's.
DEAD_AFTER = 600


def extensions_folder() -> Path:
    """Where PyTorch puts what it compiles: an extension has a folder there, one level down or two."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(cache, "torch_extensions"))


def unheld_locks() -> list[Path]:
    """The locks that no process on this machine has open (Linux): PyTorch keeps its lock open while it compiles."""
    folder = extensions_folder()
    found = [lock for pattern in ("*/lock", "*/*/lock") for lock in folder.glob(pattern)]
    if not found:  # the usual case, and looking through all open files takes a moment
        return []
    held = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            file = descriptor.stat()
        except OSError:  # closed meanwhile, or another user's
            continue
        held.add((file.st_dev, file.st_ino))
    return [lock for lock in found if (lock.stat().st_dev, lock.stat().st_ino) not in held]


def is_dead(lock: Path) -> bool:
    """Whether an unheld lock is certainly left behind: ours, old, and where no other machine could hold it."""
    file = lock.stat()
    device = f"{os.major(file.st_dev)}:{os.minor(file.st_dev)}"
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    systems = {right.split()[0] for left, right in mounts if left.split()[2] == device}
    old = time.time() - file.st_mtime > DEAD_AFTER
    return old and file.st_uid == os.getuid() and bool(systems) and systems <= _LOCAL


def release_dead_locks() -> None:
    """Remove the locks that were left behind, and name those that may be, before a training waits for them."""
    for lock in unheld_locks():
        if is_dead(lock):
            lock.unlink(missing_ok=True)
            print(
                f"openrlhf_pf: removed {lock}, left behind by a process that was killed while it compiled.",
                file=sys.stderr,
            )
        else:
            print(
                f"openrlhf_pf: no process on this machine holds {lock}, and the run waits until it is gone: if none "
                "on another machine or in another container is compiling there, remove the file.",
                file=sys.stderr,
            )
