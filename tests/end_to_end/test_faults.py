"""What happens to a training when a part of it dies or misbehaves; the table is in docs/clusters.md.

Nothing is mocked: processes are killed by their id, disks are full, servers answer nonsense.
"""

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter

import psutil
import pytest
from faulty import CLOSE, HANG, FaultyRewards, data_of, distinct, kill, latest, prompts_of
from test_training import steps_of
from tiny_model import write_prompts

FLAGS = (
    "--sample_filter best_worst --sample_filter_log {log} --train.micro_batch_size 2 --ckpt.save_steps 1 "
    "--ckpt.load_enable --algo.advantage.estimator reinforce --algo.kl.init_coef 0 "
)


def flags(folder, more=""):
    return FLAGS.format(log=folder / "log") + more


def ended(stack, folder, prompts, more, timeout=600, RAY_ADDRESS="local", **environment):
    """A run that is to end by itself, in time, with status 1 and one sentence: the run and the sentence."""
    run = stack.finish(
        stack.start(folder, prompts, flags(folder, more), RAY_ADDRESS=RAY_ADDRESS, **environment), folder, timeout
    )
    assert run.returncode == 1, run.log[-6000:]
    (sentence,) = re.findall(r"^openrlhf_pf: training ended: .*$", run.log, re.MULTILINE)
    return run, sentence


def misbehaving(number, query, times, client):
    """One habit for each prompt's number modulo 8."""
    return {
        0: {"rewards": distinct(query)} if times > 2 else 500,
        1: {"rewards": float("nan")},
        2: {"rewards": [distinct(query)] * 2},
        3: b"<html>busy</html>",
        4: {"rewards": "good"},
        5: {"rewards": [distinct(query)], "extra_logs": {"length": len(query), "note": "text"}},
        6: {"rewards": distinct(query)} if times > 1 else CLOSE,
        7: 503,
    }[number % 8]


@pytest.mark.slow
def test_rewards_that_are_wrong_are_counted_and_a_dead_server_a_torn_checkpoint_or_a_dead_engine_lose_no_prompt(
    stack, tmp_path
):
    """24 prompts in three steps. The server is gone in the third; the second's checkpoint is then torn; and when step
    2 has been made again, the engine is killed while it generates for step 3.
    """
    folder = tmp_path / "run"

    def until_step_2(number, *asked):
        if latest(folder) == "global_step2":
            server.die()
        return misbehaving(number, *asked)

    evaluation = write_prompts(tmp_path / "evaluation.jsonl", 3)
    evaluated = f"--eval.dataset {evaluation} --eval.steps 1 --eval.n_samples_per_prompt 2 --ckpt.best_metric_key none"
    with FaultyRewards(until_step_2) as server:
        run, sentence = ended(stack, folder, 24, f"--reward.remote_url {server.url} {evaluated}")
    assert f"none of the 8 x 4 samples of step 3 has a usable reward from {server.url}; " in sentence
    assert (
        f"the same command with --ckpt.load_enable resumes from global_step2 in {folder / 'checkpoints'}." in sentence
    )
    assert list(run.steps) == [1, 2]
    # Of its prompts 0, 1 and 0 the middle one has no reward.
    assert run.scalars()["eval/eval_num_samples"][0] == 2 * 2
    for step, rows in steps_of(folder).items():
        if step == 3:
            assert rows.reward.isna().all()
            continue
        habit = rows.prompt.str.split().str[1].astype(int) % 8
        assert (rows.reward.notna() == habit.isin([0, 5, 6])).all()
        assert set(habit[rows.kept]) == set(habit) & {0, 5, 6}
        assert run.steps[step]["filter/unusable_rewards"] == rows.reward.isna().sum()
        assert all({name for name, _ in logs} == {"length"} for logs in rows.extra_logs[habit == 5])
    assert "responses came back with something else than one number, which is left out: " in run.log

    (file,) = (folder / "checkpoints" / "_actor" / "global_step2").glob("*model_states.pt")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    victims = []

    def until_the_engine_dies(number, query, times, client):
        if "Global step 2" in (folder / "log.txt").read_text() and not victims:
            victims.append(kill(client()))
        return {"rewards": distinct(query)}

    with FaultyRewards(until_the_engine_dies, server.port) as server:
        run, sentence = ended(stack, folder, 24, f"--reward.remote_url {server.url}")
    assert "openrlhf_pf: training resumes from global_step1, " in run.log
    assert f"({file.name} of _actor/global_step2 is damaged)" in run.log
    assert re.search(
        rf"ended: a vLLM engine \(process {victims[0]} on \S+\) died; .* resumes from global_step2 ", sentence
    )
    assert list(run.steps) == [2] and run.steps[2]["filter/unusable_rewards"] == 0
    # The third step is in the log as the first run has left it; the second is the one that was made again.
    assert sum(prompts_of(folder), Counter()) == data_of(folder)
    assert steps_of(folder)[2].reward.notna().all()


def part_of_an_engine(pid):
    """vLLM's own process, apart from the Ray actor that asks for rewards."""
    children = psutil.Process(pid).children(recursive=True)
    (process,) = [child for child in children if "EngineCore" in "".join(child.cmdline())]
    return process.pid


@pytest.mark.by_hand
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("part", ["actor", "core"])
def test_an_engine_dies_while_it_generates(stack, tmp_path, kind, part):
    folder, victims = tmp_path / "run", []

    def behave(number, query, times, client):
        if latest(folder) == "global_step1" and not victims:
            victims.append(kill(client() if part == "actor" else part_of_an_engine(client())))
        return {"rewards": distinct(query)}

    with FaultyRewards(behave) as server:
        more = f"--reward.remote_url {server.url}{' --train.async_enable' if kind == 'async' else ''}"
        own = {"RAY_ADDRESS": "local", "VLLM_ENABLE_V1_MULTIPROCESSING": "01"[part == "core"]}
        run, sentence = ended(stack, folder, 24, more, **own)
        died = rf"a vLLM engine \(process {victims[0]} on \S+\) died" if part == "actor" else "a vLLM engine's process"
        if part == "core":
            # Whoever notices first: weights may be on their way to it, or be the next that it is asked for.
            died = rf"({died}|\S+: .*Connection closed by peer)"
        assert re.search(rf"training ended: {died}", sentence)
        assert re.search(r"resumes from global_step[12] ", sentence)
        left = int(latest(folder)[-1])
        run = stack.train(folder, 24, flags(folder, more), **own)
    assert list(run.steps) == list(range(left + 1, 4))
    assert sum(prompts_of(folder), Counter()) == data_of(folder)


KILLS_ITSELF = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "text, said",
    [
        ("raise RuntimeError('no judge')\n", "a vLLM engine could not start (RuntimeError: no judge"),
        (KILLS_ITSELF, "a vLLM engine (process "),
    ],
)
def test_an_engine_that_cannot_start_is_not_waited_for(stack, tmp_path, kind, text, said):
    """The actor's first rank is then in a group with it, which would give up after ten minutes."""
    reward = tmp_path / "reward.py"
    reward.write_text(text)
    more = f"--reward.remote_url {reward}{' --train.async_enable' if kind == 'async' else ''}"
    run, sentence = ended(stack, tmp_path / "run", 24, more, timeout=300, RAY_ADDRESS="local")
    assert f"training ended: {said}" in sentence
    assert not run.steps


@contextlib.contextmanager
def watching(watch):
    """Call ``watch`` in a thread, again and again until it returns something, which is yielded in a list. What it
    raises is raised at the end."""
    found, raised, over = [], [], threading.Event()

    def run():
        try:
            while not over.is_set() and not found:
                made = watch()
                found.extend([made] if made else [])
                time.sleep(0.05)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
    if raised:
        raise raised[0]


def killed_after_step_1(folder, model):
    """The second rank's process, once the first step's checkpoint is there."""
    if latest(folder) == "global_step1":
        for file in (folder / "observed").glob("*.jsonl"):
            if f'"rank": 1, "model": "{model}"' in file.read_text():
                return kill(int(file.stem))


@pytest.mark.by_hand
@pytest.mark.parametrize("kind, trainer", [("sync", "ActorPPOTrainer"), ("async", "CriticPPOTrainer")])
def test_a_rank_is_killed_while_it_trains(stack, tmp_path, kind, trainer):
    """The second of two ranks; the first is then in a collective that has no end by itself."""
    folder = tmp_path / "run"
    more = (
        f"--reward.model_name_or_path {stack.reward} --algo.advantage.estimator gae --ds.zero_stage 2 "
        "--actor.num_gpus_per_node 2 --critic.num_gpus_per_node 2 --reward.num_gpus_per_node 1 "
        f"{'--train.async_enable' if kind == 'async' else ''}"
    )

    with watching(lambda: killed_after_step_1(folder, trainer)) as victims:
        run, sentence = ended(stack, folder, 24, more, RAY_ADDRESS="local")
    part = trainer.removesuffix("PPOTrainer").lower()
    assert re.search(rf"training ended: a worker of the {part} \(process {victims[0]} on \S+\) died; ", sentence)
    left = int(latest(folder)[-1])
    run = stack.train(folder, 24, flags(folder, more), RAY_ADDRESS="local")
    assert list(run.steps) == list(range(left + 1, 4))
    assert sum(prompts_of(folder), Counter()) == data_of(folder)


@pytest.fixture
def small_disk(tmp_path):
    """Folders with a file system of 64 MiB of their own; needs root."""
    made = []

    def mount(folder):
        folder.mkdir(parents=True)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]).returncode:
            pytest.skip("a file system cannot be mounted here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Take all that is left of a file system; the file."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return folder / "filler"


@pytest.mark.slow
def test_disks_are_full_and_the_log_is_gone(stack, tmp_path, small_disk):
    """First the log's disk, which costs its steps only; then the checkpoints', from the second on, which ends
    training; when there is space again, it resumes, and the log's folder is removed during it.
    """
    folder = tmp_path / "run"
    checkpoints, log = small_disk(folder / "checkpoints"), small_disk(folder / "log")
    fill(log)
    more = f"--reward.model_name_or_path {stack.reward} --algo.advantage.estimator gae"
    with watching(lambda: latest(folder) == "global_step1" and fill(checkpoints)) as filler:
        run, sentence = ended(stack, folder, 24, more)
    assert (
        f"is there space in {checkpoints}?; the same command" in sentence and "resumes from global_step1 " in sentence
    )
    assert list(run.steps) == [1, 2] and run.steps[2]["filter/lost_log_steps"] >= 1
    assert "step 1 is not in the rollout log" in run.log and "No space left on device" in run.log

    filler[0].unlink()
    new_log = folder / "new_log"
    with watching(lambda: latest(folder) == "global_step2" and (shutil.rmtree(new_log) or True)):
        run = stack.train(folder, 24, flags(folder, more).replace(str(log), str(new_log)))
    assert list(run.steps) == [2, 3]
    assert [path.name for path in new_log.iterdir()] == ["step-000003.parquet"]


@pytest.mark.slow
def test_a_reward_server_takes_requests_and_never_answers(stack, tmp_path):
    """OpenRLHF waits 180 s for an answer, here 15, and asks five times; one prompt is answered the second time."""
    folder = tmp_path / "run"

    def behave(number, query, times, client):
        if latest(folder) == "global_step1":
            return HANG
        return HANG if number == 3 and times == 1 else {"rewards": distinct(query)}

    with FaultyRewards(behave) as server:
        more = f"--reward.remote_url {server.url}"
        run, sentence = ended(stack, folder, 16, more, REWARD_SECONDS="15")
    assert run.log.count("please check") >= 5
    assert f"none of the 8 x 4 samples of step 2 has a usable reward from {server.url}; " in sentence
    assert list(run.steps) == [1] and run.steps[1]["filter/unusable_rewards"] == 0
    with FaultyRewards(lambda number, query, *rest: {"rewards": distinct(query)}, server.port):
        run = stack.train(folder, 16, flags(folder, more))
    assert list(run.steps) == [2] and sum(prompts_of(folder), Counter()) == data_of(folder)


JUDGED = r"""
import os, json, torch, uuid
from pathlib import Path
from openrlhf_pf.code_reward.reward import check_responses

TEST = json.dumps({"asserts": ["assert f() == 1"]})
check_responses(["def f(): return 1"], [TEST])  # it is to be killed while it judges, not while it starts

def reward_func(queries, prompts, labels, **kwargs):
    judge = Path(os.environ["JUDGE"])
    whole = judge.with_suffix("." + uuid.uuid4().hex)  # several programs are judged at once
    whole.write_text(str(os.getpid()))
    whole.replace(judge)  # it is read while it is written
    program = "import time\ntime.sleep(0.3)\ndef f():\n    return 1\n"
    (result,) = check_responses([program], [TEST])
    return {"rewards": torch.tensor([result.reward + len(set(queries[0])) / 100])}
"""


@pytest.mark.slow
def test_the_sandbox_is_killed_while_it_judges(stack, tmp_path):
    """All its processes, twice: the programs that it was running are run again, and no reward is lost."""
    folder, judge, reward = tmp_path / "run", tmp_path / "judge", tmp_path / "reward.py"
    reward.write_text(JUDGED)
    killed = []

    def sandbox():
        if not judge.exists():
            return None
        for process in psutil.Process(int(judge.read_text())).children(recursive=True):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if "openrlhf_pf.code_reward" in " ".join(process.cmdline()):
                    killed.append(kill(process.pid))
        judge.unlink()  # the next program writes it again
        return len(killed) > 8 or None

    with watching(sandbox):
        run = stack.train(
            folder, 16, flags(folder, f"--reward.remote_url {reward}"), RAY_ADDRESS="local", JUDGE=str(judge)
        )
    assert len(killed) > 8 and "the code sandbox failed, attempt 1 of 3" in run.log
    assert [step["filter/unusable_rewards"] for step in run.steps.values()] == [0, 0]
    assert all((rows.reward > 1).all() for rows in steps_of(folder).values())
