"""Prompt selection on the real stack."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from test_training import steps_of

HERE = Path(__file__).parent

# Of every three prompts one is always right, one never, and one as it happens: by the parity of its characters. That
# is its true score; the reward is another.
KINDS = """
import re

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor

class Agent(AgentInstanceBase):
    def __init__(self, *args, **kwargs):
        pass

    async def step(self, states, **kwargs):
        kind = int(re.search(r"add (\\d+)", states["observation_text"])[1]) % 3
        by_chance = sum(character.isascii() for character in states["action_text"]) % 2
        return {
            "rewards": torch.tensor(len(set(states["action_text"])) / 20),
            "scores": float([1, 0, by_chance][kind]),
            "environment_feedback": "",
            "done": True,
        }

class AgentExecutor(MultiTurnAgentExecutor):
    def __init__(self):
        super().__init__(Agent)
"""


def kinds(rows) -> list[int]:
    return [int(re.search(r"add (\d+)", prompt)[1]) % 3 for prompt in rows.prompt]


def recording(folder: Path) -> str:
    """The flags of a filter that records what it knows of prompts, with a log."""
    return (
        f"--sample_filter {HERE / 'recording_filter.py'}:Recording --sample_filter_log {folder / 'log'} "
        f"--sample_filter_options file={folder / 'recorded.jsonl'} "
    )


def assert_what_was_known_before(folder: Path) -> None:
    """What the filter knew of each prompt is what the log of the earlier steps says of it (decay 1,1)."""
    log, before = steps_of(folder), defaultdict(list)
    recorded = [json.loads(line) for line in (folder / "recorded.jsonl").read_text().splitlines()]
    recorded = recorded[-len(log) :]  # the first ones are of the check before Ray starts
    assert [entry["step"] for entry in recorded] == list(log)
    for entry in recorded:
        rows = log[entry["step"]]
        number = [int(re.search(r"add (\d+)", prompt)[1]) for prompt in entry["prompts"]]
        assert sorted(entry["prompts"]) == sorted(rows.groupby("group").prompt.first())
        assert entry["datasources"] == [f"source {i % 3}" for i in number]
        for prompt, mean, visits in zip(entry["prompts"], entry["posterior_mean"], entry["visits"]):
            earlier = before[prompt]
            values = [value for rewards in earlier for value in rewards]
            assert visits == len(earlier)
            assert mean == pytest.approx((sum(values) + 1) / (len(values) + 2), abs=1e-9)
        success = rows.score.fillna((rows.reward > 0).astype(float))
        for prompt, values in success.groupby(rows.prompt):
            before[prompt].append(list(values))
    assert max(map(len, before.values())) > 1


def test_prompts_that_are_always_or_never_right_are_left_out(stack, tmp_path):
    """By an agent's scores, on two ranks: 12 asynchronous steps of 8 from 48 prompts; without selection they would
    take each of them twice.
    """
    agent = tmp_path / "agent.py"
    agent.write_text(KINDS)
    run = stack.train(
        tmp_path / "run",
        48,
        "--prompt_selection vade --prompt_selection_options decay=1,1 gain=variance explore=mean "
        f"--train.agent_func_path {agent} {recording(tmp_path / 'run')} "
        "--train.async_enable --algo.advantage.estimator group_norm --train.num_episodes 2 --ckpt.save_steps 12 "
        "--ds.zero_stage 2 --actor.num_gpus_per_node 2 --ref.num_gpus_per_node 2",
    )
    log = steps_of(tmp_path / "run")
    assert list(log) == list(run.steps) == list(range(1, 13)), "an episode has as many prompts as without selection"
    assert all(rows.groupby("prompt").size().eq(4).all() and rows.prompt.nunique() == 8 for rows in log.values())
    late = [kind for step in range(8, 13) for kind in kinds(log[step])]
    assert late.count(2) / len(late) > 0.6, "a third of the prompts are of that kind"
    assert_what_was_known_before(tmp_path / "run")
    figures = run.scalars()
    assert 0 < figures["train/selection/informative"][-1] <= 1
    assert figures["train/selection/seen"][-1] > 0.8 and figures["train/selection/visits_max"][-1] >= 3
    assert (tmp_path / "run" / "checkpoints" / "_actor" / "latest").exists()
    for model in ("PolicyModelActor", "ReferenceModelActor"):
        assert {rank: sum(rows) for rank, rows in run.rows(model, "forward").items()} == {0: 96, 1: 96}, model
    assert {rank: sum(rows) for rank, rows in run.rows("ActorPPOTrainer", "train").items()} == {0: 96, 1: 96}


def test_a_local_reward_model_tells_how_prompts_went(stack, tmp_path):
    """Synchronously, 4 steps of 4 from 16 prompts; what the filter knows of them is as in asynchronous training."""
    run = stack.train(
        tmp_path / "run",
        16,
        f"--prompt_selection target --prompt_selection_success_above 0 --reward.model_name_or_path {stack.reward} "
        f"--prompt_selection_options decay=1,1 {recording(tmp_path / 'run')} --rollout.batch_size 4",
    )
    assert list(run.steps) == [1, 2, 3, 4]
    assert run.samples("RewardModelActor", "forward") == 2 * run.samples("PolicyModelActor", "forward") == 16 * 4
    assert_what_was_known_before(tmp_path / "run")
    figures = run.scalars()
    assert len(figures["train/selection/brier"]) == 4
    assert figures["train/selection/seen"][0] == pytest.approx(4 / 15)  # one prompt is there twice
    assert run.log.count("Prompt selection: ") == 4
