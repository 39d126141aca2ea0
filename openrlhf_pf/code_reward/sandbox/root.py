"""The file system of a worker: an empty one that shows what Python needs, read-only, and one private directory."""

import contextlib
import os
import sys
from typing import Any

from openrlhf_pf.code_reward.sandbox import kernel

NULL = "/dev/null"
_BELOW_HOME = "/.below"  # in a new root: what that directory shows in addition to a program's own files
HOME = "/tmp"  # the one directory that can be written to, inside the jail

# As sysconfig has it, whose tables every program would have to carry.
_PLATFORM = os.path.join(sys.exec_prefix, sys.platlibdir, "python{}.{}".format(*sys.version_info))
STANDARD_LIBRARY = sorted({os.path.dirname(os.__file__), _PLATFORM})
_SYSTEM_LIBRARIES = "/lib /lib64 /usr/lib /usr/lib64 /usr/local/lib /etc/ld.so.cache /usr/share/zoneinfo".split()


class Root:
    """What is to be seen in it, and its private directory."""

    def __init__(self, packages: list[str], disk_bytes: int) -> None:
        self.packages = packages
        self.readable = [*STANDARD_LIBRARY, *_SYSTEM_LIBRARIES, *packages]  # what Python needs to import
        self._real = {path: os.path.realpath(path) for path in self.readable}
        self._options = f"size={disk_bytes},nr_inodes=1024,mode=700"
        self._state_of_home: tuple[Any, ...] = ()

    def build(self, user: int | None) -> None:
        """Replace the file system of this process, which is in a mount namespace of its own; to be called once all is
        imported.

        Args:
            user: whom the private directory belongs to, if not to us.

        Raises:
            OSError: the kernel refuses.
        """
        if user is not None:
            self._options += f",uid={user},gid={user}"
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        base, old = "/tmp", "/.old"
        kernel.mount("jail", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
        os.mkdir(base + old)
        os.mkdir(base + "/dev")
        os.close(os.open(base + NULL, os.O_CREAT | os.O_WRONLY))
        os.chdir(base)
        kernel.pivot_root(base, base + old)
        os.chdir("/")
        for path in self.readable:
            if path not in self.packages:
                _show(old, path, self._real[path])
        # Folders inside the readable ones in which packages lie that no program was promised.
        standard = os.path.dirname(os.__file__)
        parents = [standard, "/usr/lib/python3", "/usr/local/lib/" + os.path.basename(standard)]
        others = [f"{parent}/{name}-packages" for parent in parents for name in ("site", "dist")]
        for folder in filter(os.path.isdir, map(_place, others)):
            kernel.mount("hidden", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
        for package in self.packages:
            _show(old, package, self._real[package])
        if os.path.exists(old + NULL):
            kernel.mount(old + NULL, NULL, flags=kernel.MS_BIND)
        os.makedirs(HOME, exist_ok=True)
        os.makedirs(_BELOW_HOME, exist_ok=True)
        kernel.unmount(old)
        os.rmdir(old)
        read_only = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.set_mount_attributes("/", wanted=read_only, recursive=True)
        with contextlib.suppress(OSError):
            kernel.set_mount_attributes(NULL, unwanted=kernel.MS_NODEV)
        self._mount_home()

    def renew_home(self) -> None:
        """Give the private directory to the next program as the first one found it."""
        if _state_of_home() != self._state_of_home:
            kernel.unmount(HOME)
            self._mount_home()
            os.chdir(HOME)

    def _mount_home(self) -> None:
        kernel.mount("home", HOME, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, self._options)
        for name in os.listdir(_BELOW_HOME):
            os.mkdir(f"{HOME}/{name}")
            kernel.mount(f"{_BELOW_HOME}/{name}", f"{HOME}/{name}", flags=kernel.MS_BIND | kernel.MS_REC)
        self._state_of_home = _state_of_home()


def _place(path: str) -> str:
    """Where a path is put first: what lies below the programs' own directory is brought there whenever that is new."""
    return _BELOW_HOME + path[len(HOME) :] if path.startswith(f"{HOME}/") else path


def _show(old: str, path: str, real: str) -> None:
    """Make a file or folder of the old root visible in the new one, under its own path.

    ``real`` is the same without links: an absolute one would lead into the new root, where nothing is yet.
    """
    source, path = old + path, _place(path)
    if os.path.islink(path):
        return
    link = os.readlink(source) if os.path.islink(source) else "/"
    if link[:1] != "/":  # /lib is a link to usr/lib on most systems
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(link, path)
        return
    source = old + real
    if not os.path.exists(source):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    kernel.mount(source, path, flags=kernel.MS_BIND | kernel.MS_REC)


def _state_of_home() -> tuple[Any, ...]:
    """What a program changes that changes the private directory."""
    found = os.stat(HOME)
    return os.listdir(HOME), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_ctime_ns
