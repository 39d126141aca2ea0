"""Time and peak memory of the reliability analysis, each size in a process of its own.

    python tests/benchmarks/analyze_time.py [--samples 10000 100000 1000000] [--bootstrap 1000]

Every strategy that the data allow (rank weights, lengths and three reward models included), every metric, report
written: from a Parquet file of prompts with 8 responses to the last figure.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N = 8


def write_samples(path: Path, n_samples: int) -> None:
    rng = np.random.default_rng(0)
    reward = np.tanh(rng.normal(size=n_samples))
    score = (rng.random(n_samples) < 1 / (1 + np.exp(-3 * reward))).astype(float)
    columns = {
        "prompt_id": np.repeat([f"{i:016x}" for i in range(n_samples // N)], N),
        "reward": reward,
        "score": score,
        "step": np.repeat(np.arange(n_samples // N) * 50 // (n_samples // N), N),
        "response_tokens": rng.integers(1, 2048, n_samples),
        "model_rewards": pa.StructArray.from_arrays(
            [pa.array(reward + 0.3 * rng.normal(size=n_samples)) for _ in range(3)], ["a", "b", "c"]
        ),
    }
    pq.write_table(pa.table(columns), path)


def analyse_one(path: Path, repetitions: int) -> None:
    """In the child: print the seconds of analysis and report, and the peak memory in GiB."""
    start = time.perf_counter()
    from openrlhf_pf.reliability import Settings, analyse, write_report

    analysis = analyse([path], Settings(repetitions=repetitions, weights=tuple(range(N, 0, -1))))
    computed = time.perf_counter()
    write_report(analysis, path.parent / "report")
    done = time.perf_counter()
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(analysis.strategies):>11} {computed - start:>11.1f} {done - computed:>9.1f} {peak:>9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        analyse_one(options.child, options.bootstrap)
        return
    print(f"{'samples':>9} {'strategies':>11} {'analysis s':>11} {'report s':>9} {'peak GiB':>9}")
    for n_samples in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "samples.parquet"
            write_samples(path, n_samples)
            command = [sys.executable, __file__, "--child", str(path), "--bootstrap", str(options.bootstrap)]
            found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            print(f"{n_samples:>9,} {found}", end="", flush=True)


if __name__ == "__main__":
    main()
