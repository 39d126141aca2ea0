"""Cost of the rollout log: what a step waits for, and what its thread does.

    python tests/benchmarks/rollout_log.py [--prompts 1024] [--samples 8] [--tokens 512] [--steps 10]

Builds rollouts of random tokens, hands each to the log as the experience maker does, prints the median and the
range over steps of the time that write() takes in the caller, of the time until the file is there, and of its size.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from tiny_model import write_model
from transformers import AutoTokenizer

from openrlhf_pf.filters import build_filter, draw, make_generator
from openrlhf_pf.rollout_log import RolloutLog
from openrlhf_pf.training.rollout import Rollout


def sample(prompt: int, tokens: int) -> Experience:
    return Experience(
        sequences=torch.randint(2, 250, (1, 32 + tokens)),
        attention_mask=torch.ones(1, 32 + tokens, dtype=torch.long),
        action_mask=torch.cat([torch.zeros(1, 31), torch.ones(1, tokens)], dim=1).long(),
        prompts=[f"prompt {prompt}"],
        labels=[""],
        rewards=torch.randn(1),
        response_length=torch.tensor([tokens]),
        truncated=torch.tensor([False]),
        info={},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("prompts", 1024), ("samples", 8), ("tokens", 512), ("steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    waited, written, sizes = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(write_model(Path(folder) / "model", seed=0))
        log = RolloutLog(Path(folder) / "log")
        best_worst = build_filter("best_worst", options.samples)
        for step in range(options.steps):
            rollout = Rollout(
                [sample(g, options.tokens) for g in range(options.prompts) for _ in range(options.samples)],
                options.samples,
            )
            batch = rollout.filter_batch("reward", make_generator(0), step, tokenizer)
            weights = best_worst(batch)
            drawn = draw("select", weights, 2, "group", batch.order, batch.generator)
            file = Path(folder) / "log" / f"step-{step:06d}.parquet"
            start = time.perf_counter()
            log.write(step, lambda r=rollout, w=weights, d=drawn, b=batch: r.log_parts(w, d, b, tokenizer))
            waited.append(time.perf_counter() - start)
            while not file.exists():
                time.sleep(0.005)
            written.append(time.perf_counter() - start)
            sizes.append(file.stat().st_size)
        log.close()
        assert log.lost == 0
    print(f"{options.prompts} prompts x {options.samples} samples of {options.tokens} tokens, {options.steps} steps")
    for name, values, unit in (("write() waits", waited, 1e3), ("until on disk", written, 1e3), ("size", sizes, 1e-6)):
        figures = [unit * f(values) for f in (statistics.median, min, max)]
        print(
            f"{name:>14}: {figures[0]:.2f} ({figures[1]:.2f} to {figures[2]:.2f}) {'MB' if name == 'size' else 'ms'}"
        )


if __name__ == "__main__":
    main()
