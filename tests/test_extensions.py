"""Locks of compiled extensions: one that is held stays, one that was left behind goes, and a doubtful one is named."""

import os
import subprocess
import sys

import pytest

from openrlhf_pf.training import extensions
from openrlhf_pf.training.extensions import release_dead_locks, unheld_locks


@pytest.fixture(params=["fused_adam", "py311_cpu/fused_adam"])
def lock(request, tmp_path, monkeypatch):
    """A lock that a killed process has left in an extension's folder an hour ago."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    folder = tmp_path / request.param
    folder.mkdir(parents=True)
    killed = (
        "import os, sys; from torch.utils import file_baton as f; f.FileBaton(sys.argv[1]).try_acquire(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", killed, str(folder / "lock")])
    os.utime(folder / "lock", (0, 0))
    return folder / "lock"


def test_a_lock_that_was_left_behind_is_removed_with_a_word(lock, capsys):
    assert unheld_locks() == [lock]
    release_dead_locks()
    assert not lock.exists()
    assert capsys.readouterr().err == (
        f"openrlhf_pf: removed {lock}, left behind by a process that was killed while it compiled.\n"
    )
    release_dead_locks()
    assert capsys.readouterr().err == ""


def test_a_lock_that_somebody_holds_stays(lock, capsys):
    with open(lock):
        assert unheld_locks() == []
        release_dead_locks()
    assert lock.exists() and capsys.readouterr().err == ""


@pytest.mark.parametrize("doubt", ["young", "another user's", "on a network file system"])
def test_a_lock_that_another_machine_or_container_may_hold_is_named_and_stays(lock, doubt, monkeypatch, capsys):
    if doubt == "young":
        os.utime(lock)
    elif doubt == "another user's":
        monkeypatch.setattr(os, "getuid", lambda: lock.stat().st_uid + 1)
    else:
        monkeypatch.setattr(extensions, "_LOCAL", {"nfs4"})
    release_dead_locks()
    assert lock.exists() and f"no process on this machine holds {lock}, and the run waits" in capsys.readouterr().err


def test_a_lock_that_is_released_meanwhile_is_no_matter(lock, monkeypatch, capsys):
    """Another process may finish compiling between two looks at the folder."""
    looked_at = extensions.Path.glob

    def glob_then_release(self, pattern):
        found = list(looked_at(self, pattern))
        if lock in found:
            lock.unlink()
        return found

    monkeypatch.setattr(extensions.Path, "glob", glob_then_release)
    assert unheld_locks() == []
    lock.touch()
    monkeypatch.setattr(extensions, "unheld_locks", lambda: [lock.with_name("gone")])
    release_dead_locks()
    assert capsys.readouterr().err == ""
