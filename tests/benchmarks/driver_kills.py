"""The driver of a training is killed at random moments and started again: is a prompt lost, or trained twice?

    python tests/benchmarks/driver_kills.py [--kills 10] [--seed 0] [--asynchronous]

Trains actor and critic of tiny random models, 20 prompts in 5 steps an episode, 4 episodes, with a checkpoint after
each step and a Ray of its own. Only the driver is killed, by its id; the rest must end by itself. After the kills the
training runs to its end. Prints each kill (after how long, at which checkpoint, when the last process was gone), and
compares: the prompts of each episode with the data set, those of a finished step with what they were before each kill,
and the optimizer steps of both models with what there should be. Exit status 1 if anything is lost or double.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from faulty import data_of, kill, latest, prompts_of
from real_stack import Stack

EPISODES, PROMPTS, BATCH = 4, 20, 4
STEPS = EPISODES * PROMPTS // BATCH
REWARD = "def reward_func(queries, prompts, labels):\n    return {'rewards': [float(len(set(queries[0])))]}\n"


def flags(folder: Path, asynchronous: bool) -> str:
    reward = folder / "reward.py"
    reward.write_text(REWARD)
    return (
        f"--sample_filter best_worst --sample_filter_log {folder / 'log'} --reward.remote_url {reward} "
        f"--rollout.batch_size {BATCH} --train.num_episodes {EPISODES} --ckpt.save_steps 1 --ckpt.load_enable "
        f"{'--train.async_enable' if asynchronous else ''}"
    )


def family(folder: Path) -> list[psutil.Process]:
    """The processes of the run in this folder: all inherit the environment of its driver."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("OF_RUN") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(condition, seconds: float, what: str) -> float:
    """Wait; returns how long it took, and ends this program if it takes longer than it may."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            sys.exit(f"FAILED: {what} not within {seconds:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - start


def finished_steps(folder: Path) -> list[Counter[str]]:
    """The prompts of the steps that the last checkpoint has."""
    tag = latest(folder)
    return prompts_of(folder)[: int(tag.removeprefix("global_step"))] if tag else []


def kill_once(stack: Stack, folder: Path, asynchronous: bool, delay: float) -> bool:
    """Start the training and kill its driver; False where it was done before."""
    process = stack.start(folder, PROMPTS, flags(folder, asynchronous), RAY_ADDRESS="local", OF_RUN=str(folder))
    log = folder / "log.txt"
    wait_for(lambda: "Generate samples" in log.read_text() or process.poll() is not None, 600, "training began")
    time.sleep(delay)
    if process.poll() is not None:
        if process.returncode:
            sys.exit(f"FAILED: the training ended by itself\n{log.read_text()[-4000:]}")
        return False
    kill(process.pid)
    process.wait()
    before = finished_steps(folder)
    gone = wait_for(lambda: not family(folder), 120, "all processes of the killed training were gone")
    text = log.read_text()
    print(
        f"killed {delay:.1f} s after generation began, {text.count('Global step')} steps made since it was started; "
        f"checkpoint {latest(folder) or 'none'}, all processes gone {gone:.1f} s later",
        flush=True,
    )
    if finished_steps(folder)[: len(before)] != before:
        sys.exit("FAILED: the log of a finished step has changed after the kill")
    return True


def check(folder: Path, finished: dict[int, Counter[str]]) -> list[str]:
    """What is lost or double in a training that has run to its end."""
    steps, data = prompts_of(folder), data_of(folder)
    wrong = [] if len(steps) == STEPS else [f"{len(steps)} steps in the log, not {STEPS}"]
    per_episode = STEPS // EPISODES
    for episode in range(EPISODES):
        seen = sum(steps[episode * per_episode : (episode + 1) * per_episode], Counter())
        if seen != data:
            wrong.append(f"episode {episode + 1}: lost {sorted(data - seen)}, double {sorted(seen - data)}")
    wrong += [f"step {step}: other prompts than before" for step, seen in finished.items() if steps[step - 1] != seen]
    for model in ("_actor", "_critic"):
        (file,) = (folder / "checkpoints" / model / f"global_step{STEPS}").glob("*model_states.pt")
        made = torch.load(file, weights_only=False, mmap=True)["global_steps"]
        if made != STEPS * BATCH * 2 // 8:
            wrong.append(f"{model}: {made} optimizer steps, not {STEPS * BATCH * 2 // 8}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asynchronous", action="store_true")
    asked = parser.parse_args()
    moments = random.Random(asked.seed)
    wrong, killed, number = [], 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        stack = Stack(Path(scratch))
        while killed < asked.kills:
            number += 1
            folder, finished = Path(scratch) / f"run{number}", {}
            while killed < asked.kills and kill_once(stack, folder, asked.asynchronous, moments.uniform(0, 15)):
                killed += 1
                finished |= dict(enumerate(finished_steps(folder), start=1))
            run = stack.train(folder, PROMPTS, flags(folder, asked.asynchronous), RAY_ADDRESS="local")
            print(f"training {number} has run to its end, in the last start from step {min(run.steps, default='-')}")
            wrong += check(folder, finished)
    print(f"{killed} kills: " + ("; ".join(wrong) or "no prompt of a finished step lost or trained twice"))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
