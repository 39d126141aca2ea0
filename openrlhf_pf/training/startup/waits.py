"""What training would wait for without end: stale locks of compiled extensions, and GPUs that the Ray cluster lacks.

PyTorch compiles C++ extensions on first use, such as DeepSpeed's operators. The process that compiles holds a file
called ``lock`` in the extension's folder; the others wait until it is gone. A process that is killed while compiling
leaves it behind, and every later run would wait for it for ever. OpenRLHF waits for GPUs in the same way.
"""

import contextlib
import glob
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from openrlhf_pf.training.startup import say

#: File systems that no other machine writes to.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs"}
#: Seconds after which a lock that no process here has open counts as stale, not as one of another container's.
STALE_AFTER = 600
#: Seconds without a new GPU after which training stops waiting for a cluster to grow, and between two messages.
PATIENCE, PAUSE = 600.0, 60.0


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
    for descriptor in glob.glob("/proc/[0-9]*/fd/*"):  # Path.glob raises if a process ends during it
        if file := _stat(Path(descriptor)):
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


# ── GPUs ──


def requested_gpus(args: SimpleNamespace) -> dict[str, int]:
    """Return how many GPUs OpenRLHF's ``train`` takes, by the models that share them."""

    def gpus(model: SimpleNamespace) -> int:
        return model.num_nodes * model.num_gpus_per_node

    train = args.train
    has_critic, has_ref = bool(args.critic.model_name_or_path), args.algo.kl.init_coef > 0
    wanted = {"actor": gpus(args.actor)}
    if has_ref and not (train.colocate_all or train.colocate_actor_ref):
        wanted["ref"] = gpus(args.ref)
    if has_critic and train.colocate_critic_reward:
        wanted["critic and reward"] = gpus(args.critic)
    elif not train.colocate_all:
        wanted |= {"critic": gpus(args.critic)} if has_critic else {}
        wanted |= {} if args.reward.remote_url else {"reward": gpus(args.reward)}
    if not train.colocate_all or train.async_enable:
        wanted["vllm"] = (args.vllm.num_engines or 0) * args.vllm.tensor_parallel_size
    return wanted


def wait_for_gpus(wanted: Mapping[str, int]) -> None:
    """Return when the Ray cluster has the wanted GPUs.

    A cluster that this process has started cannot grow. Any other may, by an autoscaler: what is missing is printed
    every minute.

    Raises:
        SystemExit: the cluster cannot grow, or has not grown for ten minutes.
    """
    import ray

    wanted = {name: number for name, number in wanted.items() if number}
    total, since, has = sum(wanted.values()), time.monotonic(), -1
    can_grow = not getattr(ray._private.worker._global_node, "head", False)
    while True:
        had, has = has, int(ray.cluster_resources().get("GPU", 0))
        if has >= total:
            return
        since = time.monotonic() if has != had else since
        parts = ", ".join(f"{number} {name}" for name, number in wanted.items())
        sentence = f"the flags ask for {total} GPUs ({parts}), and the Ray cluster has {has}"
        if not can_grow or time.monotonic() - since > PATIENCE:
            say(
                f"{sentence}: lower --actor, --critic, --ref or --reward.num_gpus_per_node or --vllm.num_engines, "
                f"share GPUs with --train.colocate_all, or add {total - has} GPUs."
            )
            raise SystemExit(2)
        say(f"{sentence}: waiting for {total - has} more.")
        time.sleep(PAUSE)
