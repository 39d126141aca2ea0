"""How the controller's own work grows with the prompts of a step: time and memory a sample, from 64 to 65,536 x 16.

    python tests/benchmarks/growth.py [--prompts 64 1024 8192 65536] [--samples 16] [--tokens 32] [--profile 20]

Each size in a process of its own, with made-up samples (OpenRLHF's own class, so many tokens of prompt and response)
and models that answer at once: what is measured is what the plugin does between generation and training. Prints, a
sample, the microseconds of each stage, the memory of the rollout itself, and the most that each stage takes besides.
--profile prints the functions that take longest instead.
"""

import argparse
import cProfile
import gc
import pstats
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "end_to_end")]


def status(name: str) -> int:
    """Bytes of this process, by a name of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Stages:
    """Seconds of each stage, and the most memory in it beyond what was there before the first; not nested."""

    def __init__(self) -> None:
        gc.collect()
        self.base = status("VmRSS")
        self.seconds: dict[str, float] = defaultdict(float)
        self.memory: dict[str, int] = defaultdict(int)

    def watched(self, name: str, function):
        def run(*arguments, **named):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is there now
            start = time.process_time()
            result = function(*arguments, **named)
            self.seconds[name] += time.process_time() - start
            self.memory[name] = max(self.memory[name], status("VmHWM") - self.base)
            return result

        return run


def made_up(prompts: int, samples: int, tokens: int) -> list:
    import torch
    from openrlhf.trainer.ppo_utils.experience import Experience

    torch.manual_seed(0)

    def one(prompt: int) -> Experience:
        return Experience(
            sequences=torch.randint(2, 250, (1, 2 * tokens)),
            attention_mask=torch.ones(1, 2 * tokens, dtype=torch.long),
            action_mask=torch.cat([torch.zeros(1, tokens - 1), torch.ones(1, tokens)], dim=1).long(),
            prompts=[f"prompt {prompt}"],
            labels=[""],
            images=[None],
            mm_train_inputs=[None],
            response_length=torch.tensor([tokens]),
            truncated=torch.tensor([False]),
            total_length=torch.tensor([2 * tokens]),
            info={"response_clip_ratio": torch.tensor([False])},
        )

    return [one(prompt) for prompt in range(prompts) for _ in range(samples)]


def maker_of(samples: int, folder: Path):
    """An experience maker on 8 ranks whose models answer at once; its log waits until it is asked."""
    import openrlhf.trainer.ppo_utils.experience_maker as host
    from rollouts import make_maker
    from tiny_model import write_model
    from transformers import AutoTokenizer

    host.ray = SimpleNamespace(put=lambda rows: [row[0] for row in rows])
    maker = make_maker(
        ranks=8,
        critic_ranks=8,
        reward_ranks=8,
        **{
            "rollout.n_samples_per_prompt": samples,
            "rollout.micro_batch_size": 16,
            "train.micro_batch_size": 4,
            "sample_filter_log": str(folder / "log"),
        },
    )
    maker._log_tokenizer = AutoTokenizer.from_pretrained(write_model(folder / "model", seed=0))
    return maker


def watch(maker, stages: Stages) -> None:
    """Put a watch around what ``make_experience_batch`` calls."""
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    from openrlhf_pf.training import experience_maker as module

    module.Rollout = stages.watched("group", module.Rollout)
    for name in ("_batch_of", "_weigh", "_trim"):
        setattr(maker, name, stages.watched("filter", getattr(maker, name)))
    module.draw = stages.watched("filter", module.draw)
    module.filter_metrics = stages.watched("metrics", module.filter_metrics)
    maker.score = stages.watched("score", maker.score)
    maker._keep = stages.watched("keep", maker._keep)
    handed = RemoteExperienceMaker.make_experience_batch
    RemoteExperienceMaker.make_experience_batch = stages.watched("hand on", handed)


def one_step(prompts: int, samples: int, tokens: int, profiler: cProfile.Profile) -> tuple[Stages, int]:
    """A step of the controller; the stages, and the rollout's bytes."""
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        maker = maker_of(samples, Path(folder))
        maker.make_experience_batch(made_up(64, samples, tokens))  # what comes once is not counted
        maker.rollout = None
        gc.collect()
        before = status("VmRSS")
        rollout = made_up(prompts, samples, tokens)
        stages = Stages()
        watch(maker, stages)
        log, pending = maker.log, []
        profiler.enable()
        maker.log = SimpleNamespace(write=lambda step, rows: pending.append(rows))
        experiences = maker.make_experience_batch(rollout)
        assert sum(len(experience.sequences) for experience in experiences) == 2 * prompts

        def statistics() -> dict:
            scored = maker.rollout.shaped(maker.given)
            return BasePPOTrainer._compute_rollout_stats(None, [scored, *maker.rollout.samples_without_reward()])

        def to_disk() -> None:
            log.write(2, pending.pop())
            log.close(timeout=3600)
            assert log.lost == 0

        assert stages.watched("statistics", statistics)()["rollout/num_samples"] == prompts * samples
        profiler.disable()  # of this thread; the log has its own
        stages.watched("log", to_disk)()
    return stages, stages.base - before


def child(prompts: int, samples: int, tokens: int, profile: int) -> None:
    profiler = cProfile.Profile()
    stages, rollout = one_step(
        prompts, samples, tokens, profiler if profile else SimpleNamespace(enable=int, disable=int)
    )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(profile)
        return
    count = prompts * samples
    for name, taken in stages.seconds.items():
        besides = stages.memory[name]
        print(f"{name:>12} {1e6 * taken / count:>10.1f} {besides / count:>16,.0f} {besides / rollout:>18.2f}")
    total = 1e6 * sum(stages.seconds.values()) / count
    print(f"{'all':>12} {total:>10.1f} {max(stages.memory.values()) / count:>16,.0f}", end="")
    print(f"{max(stages.memory.values()) / rollout:>19.2f}   (rollout: {rollout / count:,.0f} bytes a sample)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 1024, 8192, 65536])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--profile", type=int, default=0, metavar="LINES")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.prompts[0], options.samples, options.tokens, options.profile)
        return
    for prompts in options.prompts:
        print(f"\n{prompts:,} prompts x {options.samples}")
        print(f"{'stage':>12} {'us/sample':>10} {'bytes/sample':>16} {'of the rollout':>18}", flush=True)
        command = [sys.executable, __file__, "--child", "--prompts", str(prompts), "--samples", str(options.samples)]
        command += ["--tokens", str(options.tokens), "--profile", str(options.profile)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
