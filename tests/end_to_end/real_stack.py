"""Runs of the real stack: OpenRLHF's own entry point, Ray, DeepSpeed and vLLM on a tiny random model."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ray._raylet import GcsClient
from tiny_model import write_model, write_prompts

HERE = Path(__file__).parent
ENTRY = ("-m", "openrlhf.cli.train_ppo")
STEP = re.compile(r"Global step (\d+): (\{.*\})")


#: What only a machine without a GPU needs.
ON_A_CPU = {
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 16, "GPU": 16}',
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs the model itself instead of starting a worker for it
    "TORCHDYNAMO_DISABLE": "1",  # nothing here is worth compiling
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # Ray starts its workers at 15, behind everything else on the machine
}


def stack_environment(gpus: bool = False) -> dict[str, str]:
    """Environment in which the stack runs, with a Ray instance of its own unless RAY_ADDRESS is set later."""
    return {
        **os.environ,
        "RAY_ADDRESS": "local",
        **({} if gpus else ON_A_CPU),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "WANDB_MODE": "offline",
    }


def observing(folder: Path) -> dict[str, str]:
    """What has the workers record what they get, and W&B's record, in a folder."""
    # What the caller has there comes after it: a checkout that is not the installed one, for example.
    path = os.pathsep.join(filter(None, [str(HERE / "observer"), os.environ.get("PYTHONPATH")]))
    return {"OBSERVE_DIR": str(folder), "PYTHONPATH": path, "WANDB_DIR": str(folder)}


class Run:
    """One training run: its log, its steps' metrics, and what each model's workers saw."""

    def __init__(self, folder: Path, log: str, returncode: int) -> None:
        self.folder, self.log, self.returncode = folder, log, returncode
        plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
        # Ray now and then cuts a long line of a worker in two.
        plain = re.sub(r"(\(\w+ pid=\d+\) )([^\n]*Global step \d+: \{[^}\n]*)\n\1", r"\1\2", plain)
        # The console line is a Python dict of plain numbers, but for nan and inf.
        self.steps = {
            int(step): eval(status, {"nan": float("nan"), "inf": float("inf")}) for step, status in STEP.findall(plain)
        }

    def entries(self, model: str) -> list[dict]:
        """What the observer recorded of the workers of a model."""
        files = sorted((self.folder / "observed").glob("*.jsonl"))
        found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [entry for entry in found if entry["model"] == model]

    def rows(self, model: str, event: str) -> dict[int, list[int]]:
        """Rank to the number of samples of each call, e.g. ``rows("RewardModelActor", "forward")``."""
        rows: dict[int, list[int]] = defaultdict(list)
        for entry in self.entries(model):
            if entry["event"] == event:
                rows[entry["rank"]] += entry["rows"]
        return dict(rows)

    def took(self, model: str, event: str, clock: str = "wall") -> list[float]:
        """Seconds of each call in the first rank's worker, e.g. ``took("ActorPPOTrainer", "train")``."""
        return [e[clock] for e in self.entries(model) if e["event"] == f"{event}_took" and e["rank"] == 0]

    def nodes(self, *models: str) -> set[str]:
        """The nodes of the cluster that these models' workers were on."""
        return {entry["node"] for model in models for entry in self.entries(model)}

    def memory(self, model: str) -> float:
        """The largest resident memory of a worker of the model, in MiB."""
        return max(entry["memory_mib"] for entry in self.entries(model))

    def samples(self, model: str, event: str) -> int:
        return sum(sum(rows) for rows in self.rows(model, event).values())

    def scalars(self) -> dict[str, list[float]]:
        """Tag to values, from the TensorBoard files."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (events,) = (self.folder / "tensorboard").glob("*")
        accumulator = EventAccumulator(str(events)).Reload()
        return {tag: [e.value for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RunningCluster:
    """A Ray cluster as a user would have started it, on a port and in a folder of its own; without a dashboard.

    Its workers inherit its environment, so they write what they see to the folder that ``observed`` points at.

    Args:
        gpus: of each of its nodes, all of which are on this machine; the head first.
    """

    def __init__(self, observed: Path, gpus: Sequence[int] = (16,)) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.observed = observed
        self.processes: list[subprocess.Popen] = []
        for count in gpus:
            self._start_node(count)

    def _start_node(self, gpus: int, attempts: int = 3) -> None:
        head = not self.processes
        if not attempts:
            raise RuntimeError("Ray's head did not start")
        environment = {**stack_environment(), **observing(self.observed)}
        environment.pop("RAY_ADDRESS")  # a head is started, not joined
        environment["RAY_OVERRIDE_RESOURCES"] = json.dumps({"CPU": 16, "GPU": gpus})
        scratch = tempfile.mkdtemp(prefix="pf", dir="/tmp")
        mine = ("--head", "--port", str(self.port), "--temp-dir", scratch, "--include-dashboard", "false")
        process = subprocess.Popen(
            [
                *(os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--block"),
                *("--node-ip-address", "127.0.0.1", *(mine if head else ("--address", self.address))),
                # Free ports, by the kernel: two clusters that start together would both take the first of Ray's range.
                *("--min-worker-port", "0", "--max-worker-port", "0"),
                *("--dashboard-agent-listen-port", str(free_port())),
            ],
            env={**environment, "TMPDIR": scratch},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.scratch = scratch
        self.processes.append(process)
        if head and not self._wait_for_head(process):
            # On a busy machine, Ray gives up on an agent that takes more than half a minute to start.
            print("Ray's head ended while it started: one more try")
            end(self.processes.pop())
            self._start_node(gpus, attempts - 1)

    def _wait_for_head(self, process: subprocess.Popen) -> bool:
        """Return whether the head has registered its node; False if it has ended."""
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # whatever Ray raises while nobody answers
                if GcsClient(address=self.address).get_all_node_info(timeout=5):
                    return True
            time.sleep(0.5)
        return False

    def stop(self) -> None:
        """Stop it; it must still be there, whatever the runs did."""
        left = [process.poll() for process in self.processes]
        for process in reversed(self.processes):
            end(process)
        assert left == [None] * len(left), f"a run ended the cluster that it did not start (status {left})"


class Stack:
    """Starts training runs in a folder of their own, in one running cluster unless RAY_ADDRESS says otherwise.

    With ``gpus``, each has the machine's GPUs and a Ray instance of its own, as a user's would.
    """

    def __init__(self, folder: Path, gpus: bool = False, **size: int) -> None:
        self.gpus = gpus
        self.policy = write_model(folder / "policy", seed=0, **size)
        self.reward = write_model(folder / "reward", seed=1, **size)
        self.second_reward = write_model(folder / "second_reward", seed=2, **size)
        self.observed = folder / "observed"  # a link to the folder of the run in progress
        self.cluster: RunningCluster | None = None

    def address(self) -> str:
        if self.cluster is None:
            self.cluster = RunningCluster(self.observed)
        return self.cluster.address

    def close(self) -> None:
        if self.cluster is not None:
            self.cluster.stop()

    def command(self, folder: Path, prompts: int, flags: str, entry: tuple[str, str] = ENTRY) -> list[str]:
        data = write_prompts(folder / "prompts.jsonl", prompts)
        return [
            *(sys.executable, *entry),
            *("--actor.model_name_or_path", str(self.policy), "--data.prompt_dataset", str(data)),
            *("--ckpt.output_dir", str(folder / "out"), "--ckpt.path", str(folder / "checkpoints")),
            *("--logger.tensorboard_dir", str(folder / "tensorboard"), "--logger.wandb.run_name", "run"),
            *"--data.input_key input --data.label_key label --data.max_len 64 --rollout.max_new_tokens 12".split(),
            *"--vllm.num_engines 1 --vllm.enforce_eager --vllm.sync_backend gloo --ds.zero_stage 0".split(),
            *"--ds.attn_implementation eager --actor.num_gpus_per_node 1 --critic.num_gpus_per_node 1".split(),
            *"--reward.num_gpus_per_node 1 --ref.num_gpus_per_node 1 --rollout.n_samples_per_prompt 4".split(),
            *"--rollout.batch_size 8 --train.batch_size 8 --train.micro_batch_size 4".split(),
            *"--rollout.micro_batch_size 4".split(),
            *flags.split(),
        ]

    def start(
        self, folder: Path, prompts: int, flags: str, entry: tuple[str, str] = ENTRY, **environment: str
    ) -> subprocess.Popen:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "observed").mkdir(exist_ok=True)
        self.observed.unlink(missing_ok=True)
        self.observed.symlink_to(folder / "observed")
        if "RAY_ADDRESS" not in environment:
            environment["RAY_ADDRESS"] = "local" if self.gpus else self.address()
        scratch = tempfile.mkdtemp(prefix="pf", dir="/tmp")  # Ray's sockets need a short path
        environment = {
            **stack_environment(self.gpus),
            **observing(self.observed),
            "RAY_TMPDIR": scratch,
            "TMPDIR": scratch,  # vLLM's sockets, which a killed run leaves behind
            **environment,
        }
        process = subprocess.Popen(
            self.command(folder, prompts, flags, entry),
            stdout=open(folder / "log.txt", "w"),
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        process.scratch = scratch  # removed when the run has ended
        return process

    def finish(self, process: subprocess.Popen, folder: Path, timeout: float = 900) -> Run:
        try:
            process.wait(timeout)
        finally:  # a run that hangs, or one that a test gave up on, must not outlive it
            end(process)
        return Run(folder, (folder / "log.txt").read_text(), process.returncode)

    def train(self, folder: Path, prompts: int, flags: str, entry: tuple[str, str] = ENTRY, **environment: str) -> Run:
        """Train to the end; fails the test with the end of the log when the run fails or hangs.

        One failure is tried again, once: OpenRLHF looks for a free port when a worker starts and listens on it much
        later, and now and then another process has taken it in between.
        """
        run = self.finish(self.start(folder, prompts, flags, entry, **environment), folder)
        if run.returncode != 0 and "EADDRINUSE" in run.log:
            print("the port that OpenRLHF had chosen was taken in between: one more try")
            for name in ("observed", "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
            run = self.finish(self.start(folder, prompts, flags, entry, **environment), folder)
        assert run.returncode == 0, run.log[-6000:]
        return run


def end(process: subprocess.Popen) -> None:
    """Kill a run and all that it started (it is a session of its own), and remove its scratch folder."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(process.scratch, ignore_errors=True)
