"""CPU seconds that a process of a training spends on imports, part by part: each in a fresh Python, rounds in turn.

    python tests/benchmarks/import_time.py [--rounds 5]

A worker of the actor, critic, reference or reward model imports the last one; vLLM and scikit-learn are what it would
import on top without the CPU patch, and with scikit-learn where transformers finds it.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ASIDE = str(Path(sys.prefix) / "aside")  # where examples/setup.sh puts scikit-learn
PARTS = {
    "torch": "import torch",
    "torch, transformers": "import torch; from transformers import AutoModelForCausalLM",
    "torch, vLLM": "import torch, vllm",
    "torch, scikit-learn's metrics": f"import torch, sys; sys.path.append({ASIDE!r}); import sklearn.metrics",
    "a worker": "import openrlhf.trainer.ray.launcher, openrlhf.trainer.ray.ppo_actor",
}


def cpu_seconds(code: str) -> float:
    """CPU seconds of a Python that runs the code and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True, **quiet)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for code in PARTS.values():  # byte code is written once
        cpu_seconds(code)
    times: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(rounds):
        for name, code in PARTS.items():
            times[name].append(cpu_seconds(code))
    for name, values in times.items():
        print(f"{name:>32}: median {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
