"""Locks of C++ extensions that PyTorch compiles when they are first used, as DeepSpeed has its operators compiled.

Whoever compiles holds a file called ``lock`` in the extension's folder; the others wait until it is gone. A process
that was killed meanwhile leaves it behind, and every later run waits for it, without a word and without an end.
"""

import contextlib
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


def _file_of(path: Path) -> os.stat_result | None:
    """None where there is none any more, or where it is another user's."""
    try:
        return path.stat()
    except OSError:
        return None


def unheld_locks() -> list[Path]:
    """The locks that no process on this machine has open (Linux): PyTorch keeps its lock open while it compiles."""
    folder = extensions_folder()
    locks = [lock for pattern in ("*/lock", "*/*/lock") for lock in folder.glob(pattern)]
    found = {(file.st_dev, file.st_ino): lock for lock in locks if (file := _file_of(lock))}
    if not found:  # the usual case, and looking through all open files takes a moment
        return []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        if file := _file_of(descriptor):
            found.pop((file.st_dev, file.st_ino), None)
    return list(found.values())


def is_dead(lock: Path) -> bool:
    """Whether nobody waits for an unheld lock: it is gone, or ours, old, and where no other machine could hold it."""
    file = _file_of(lock)
    if file is None:
        return True
    device = f"{os.major(file.st_dev)}:{os.minor(file.st_dev)}"
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    systems = {right.split()[0] for left, right in mounts if left.split()[2] == device}
    old = time.time() - file.st_mtime > DEAD_AFTER
    return old and file.st_uid == os.getuid() and bool(systems) and systems <= _LOCAL


def release_dead_locks() -> None:
    """Remove the locks that were left behind, and name those that may be, before a training waits for them."""
    for lock in unheld_locks():
        if is_dead(lock):
            with contextlib.suppress(FileNotFoundError):  # released meanwhile
                lock.unlink()
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
