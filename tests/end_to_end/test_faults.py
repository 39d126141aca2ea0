"""What happens to a training when a part of it dies or misbehaves; the table is in docs/faults.md.

Nothing is mocked: processes are killed by their id, disks are full, servers answer nonsense.
"""

import re
from collections import Counter

import psutil
import pytest
from faulty import CLOSE, FaultyRewards, data_of, distinct, kill, latest, prompts_of
from test_training import steps_of

FLAGS = (
    "--sample_filter best_worst --sample_filter_log {log} --train.micro_batch_size 2 --ckpt.save_steps 1 "
    "--ckpt.load_enable --algo.advantage.estimator reinforce --algo.kl.init_coef 0 "
)


def flags(folder, more=""):
    return FLAGS.format(log=folder / "log") + more


def ended(stack, folder, prompts, more, timeout=300, **environment):
    """A run that is to end by itself, in time, with status 1 and one sentence: the run and the sentence."""
    run = stack.finish(stack.start(folder, prompts, flags(folder, more), **environment), folder, timeout)
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

    with FaultyRewards(until_step_2) as server:
        run, sentence = ended(stack, folder, 24, f"--reward.remote_url {server.url}")
    assert f"none of the 8 x 4 samples of step 3 has a usable reward from {server.url}; " in sentence
    assert (
        f"the same command with --ckpt.load_enable goes on from global_step2 in {folder / 'checkpoints'}." in sentence
    )
    assert list(run.steps) == [1, 2]
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
    assert f"({file.name} of _actor/global_step2 is torn)" in run.log
    assert re.search(
        rf"ended: a vLLM engine \(process {victims[0]} on \S+\) died; .* goes on from global_step2 ", sentence
    )
    assert list(run.steps) == [2] and run.steps[2]["filter/unusable_rewards"] == 0
    # The third step is in the log as the first run has left it; the second is the one that was made again.
    assert sum(prompts_of(folder), Counter()) == data_of(folder)
    assert steps_of(folder)[2].reward.notna().all()


def part_of_an_engine(pid):
    """vLLM's own process beside the Ray actor that asks for rewards."""
    (process,) = [child for child in psutil.Process(pid).children() if "EngineCore" in child.name()]
    return process.pid


@pytest.mark.slow
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
        own = {"RAY_ADDRESS": "local", "VLLM_ENABLE_V1_MULTIPROCESSING": "01"["core" == part]}
        run, sentence = ended(stack, folder, 24, more, **own)
        died = rf"a vLLM engine \(process {victims[0]} on \S+\) died" if part == "actor" else "a vLLM engine's process"
        assert re.search(rf"training ended: {died}", sentence)
        assert re.search(r"goes on from global_step[12] ", sentence)
        left = int(latest(folder)[-1])
        run = stack.train(folder, 24, flags(folder, more), **own)
    assert list(run.steps) == list(range(left + 1, 4))
    assert sum(prompts_of(folder), Counter()) == data_of(folder)
