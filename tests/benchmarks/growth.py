"""How the controller's own work grows with the prompts of a step: time and memory a sample, from 64 to 65,536 x 16.

    python tests/benchmarks/growth.py [--prompts 64 1024 8192 65536] [--samples 16] [--tokens 32] [--profile 20]

Each size in a process of its own, with made-up samples (OpenRLHF's own class, so many tokens of prompt and response),
engines and models that answer at once: what is measured is what the plugin does from the selection of prompts, of
which every sixteenth is flat and replaced, to training. Prints, a sample, the microseconds of each stage, the memory
of the rollout itself, and the most that each stage takes besides. A size for which the machine has no memory left is
not begun. --profile prints the functions that take longest instead.
"""

import argparse
import cProfile
import gc
import os
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


class Prompts:
    """As OpenRLHF's data set of prompts, of so many."""

    def __init__(self, count: int) -> None:
        self.prompts, self.labels = [f"prompt {place}" for place in range(count)], [""] * count

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, place: int) -> tuple:
        return "default", self.prompts[place], "", None

    @staticmethod
    def collate_fn(rows: list[tuple]) -> tuple:
        return tuple(map(list, zip(*rows)))


def generated(rollout: list, prompts: int, samples: int, stages: "Stages") -> list:
    """What a generator that selects and replaces prompts makes of the samples of all prompts of a data set: those of
    one step, the replaced ones last. Their rewards are for it alone.
    """
    import torch
    from rollouts import namespace

    from openrlhf_pf.training import refill

    reward = [torch.tensor([0.0]), torch.tensor([1.0])]
    for place, sample in enumerate(rollout):  # every sixteenth prompt is flat
        sample.rewards = reward[place % 2 if place // samples % 16 else 0]
    # 16 prompts come at a time: Ray's own work grows with the number of waits.
    refill.ray = SimpleNamespace(
        wait=lambda refs, num_returns, timeout=None: (refs[: min(15, num_returns)], refs[min(15, num_returns) :]),
        get=lambda refs: refs,
    )
    given = {f"prompt_selection_{name}": None for name in ("options", "seed")}
    given |= {"prompt_selection": "vade", "prompt_selection_success": "reward", "prompt_selection_success_above": 0.5}
    given |= {"sample_filter_drop": "flat", "sample_filter_refill": 1.125, "rollout.batch_size": prompts}
    given |= {"vllm.enable_sleep": False, "algo.dynamic_filtering_enable": False, "reward.remote_url": ["reward.py"]}
    args = namespace(**given, **{"rollout.n_samples_per_prompt": samples})
    of_prompt = {rollout[start].prompts[0]: start for start in range(0, len(rollout), samples)}

    def answers(prompts: list[str], labels: list, **_: object) -> list[list]:
        return [rollout[of_prompt[prompt] : of_prompt[prompt] + samples] for prompt in prompts]

    host = SimpleNamespace(args=args, strategy=SimpleNamespace(args=args))
    host.eval_dataloader = host.tokenizer = host.vllm_engines = None
    loader = SimpleNamespace(dataset=Prompts(len(of_prompt)))
    _, generator = stages.watched("prompts", refill.loader_and_generator)(loader, host)
    generator._dispatch_prompts_to_vllm = answers
    generator._process_response_into_experience = lambda sample, **_: sample
    step, *_ = stages.watched("prompts", generator.generate_samples)()
    for sample in rollout:
        sample.rewards = None
    return step


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


def one_step(prompts: int, samples: int, tokens: int, profiler: cProfile.Profile) -> tuple[Stages, int, float]:
    """A step of the controller; the stages, its samples, and the bytes of a sample."""
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        maker = maker_of(samples, Path(folder))
        maker.make_experience_batch(made_up(64, samples, tokens))  # what comes once is not counted
        maker.rollout = None
        gc.collect()
        before = status("VmRSS")
        made = made_up(prompts * 9 // 8, samples, tokens)
        stages = Stages()
        watch(maker, stages)
        log, pending = maker.log, []
        profiler.enable()
        rollout = generated(made, prompts, samples, stages)
        maker.log = SimpleNamespace(write=lambda step, rows: pending.append(rows))
        experiences = maker.make_experience_batch(rollout)
        assert sum(len(experience.sequences) for experience in experiences) >= 2 * prompts

        def statistics() -> dict:
            scored = maker.rollout.shaped(maker.given)
            return BasePPOTrainer._compute_rollout_stats(None, [scored, *maker.rollout.samples_without_reward()])

        def to_disk() -> None:
            log.write(2, pending.pop())
            log.close(timeout=3600)
            assert log.lost == 0

        assert stages.watched("statistics", statistics)()["rollout/num_samples"] == len(rollout)
        profiler.disable()  # of this thread; the log has its own
        stages.watched("log", to_disk)()
    return stages, len(rollout), (stages.base - before) / len(made)


def child(prompts: int, samples: int, tokens: int, profile: int) -> None:
    profiler = cProfile.Profile()
    stages, count, sample = one_step(
        prompts, samples, tokens, profiler if profile else SimpleNamespace(enable=int, disable=int)
    )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(profile)
        return
    for name, taken in stages.seconds.items():
        besides = stages.memory[name] / count
        print(f"{name:>12} {1e6 * taken / count:>10.1f} {besides:>16,.0f} {besides / sample:>18.2f}")
    total, most = 1e6 * sum(stages.seconds.values()) / count, max(stages.memory.values()) / count
    print(f"{'all':>12} {total:>10.1f} {most:>16,.0f} {most / sample:>18.2f}", end="")
    print(f"   ({count:,} samples, {sample:,.0f} bytes each)")


def fits(prompts: int, samples: int, tokens: int) -> bool:
    """Whether the machine has the memory, by what smaller sizes took; says so if it has not."""
    needed = 1.5 * 9 / 8 * prompts * samples * (5200 + 48 * tokens)
    lines = Path("/proc/meminfo").read_text().splitlines()
    there = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    if needed > there:
        print(f"left out: it would take {needed / 1e9:.1f} GB, and {there / 1e9:.1f} GB are left on this machine")
    return needed <= there


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
        if not fits(prompts, options.samples, options.tokens):
            continue
        print(f"{'stage':>12} {'us/sample':>10} {'bytes/sample':>16} {'of the rollout':>18}", flush=True)
        command = [sys.executable, __file__, "--child", "--prompts", str(prompts), "--samples", str(options.samples)]
        command += ["--tokens", str(options.tokens), "--profile", str(options.profile)]
        # Threads that wait for each other would count where other work has the cores.
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
