"""What a reward source answers, whatever it is, as OpenRLHF's generator sees it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from openrlhf_pf.training import generation
from openrlhf_pf.training.generation import CheckedGenerator, checked, one_number


@pytest.mark.parametrize("value", [0.5, [0.5], [[0.5]], torch.tensor(0.5), torch.tensor([[0.5]]), np.float32(0.5)])
def test_one_number_however_it_is_packed(value):
    assert one_number(value) == 0.5


@pytest.mark.parametrize("value", [None, "0.5", "good", [], [0.5, 0.7], torch.ones(2), {}, {"reward": 0.5}, ["a"]])
def test_everything_else_is_none(value):
    assert one_number(value) is None


def test_nan_true_and_whole_numbers_are_numbers():
    assert math.isnan(one_number(float("nan"))) and one_number(True) == 1.0 and one_number(3) == 3.0


def response(**answer):
    return {
        "prompt": "p",
        "label": "",
        "observation_tokens": [1, 2, 3],
        "action_ranges": [(1, 3)],
        "rollout_log_probs": None,
        "truncated": False,
        **answer,
    }


def generator(dynamic=False):
    args = SimpleNamespace(algo=SimpleNamespace(dynamic_filtering_enable=dynamic))
    return CheckedGenerator(SimpleNamespace(args=args), None, None, None, [])


def test_what_is_not_one_number_is_left_out_and_named():
    made, wrong = checked(response(reward=[1.0, 2.0], scores="high", extra_logs={"a": [3], "b": "text"}))
    assert (made["reward"], made["scores"], made["extra_logs"]) == (None, None, {"a": 3.0})
    assert wrong == ["reward [1.0, 2.0]", "scores 'high'", "b 'text'"]
    assert checked(response(extra_logs=["x"]))[1] == ["extra_logs ['x']"]
    assert checked(response(reward=None, scores=None, extra_logs=None))[1] == []


def test_extra_logs_of_the_same_name_are_neither_reward_nor_score():
    answer = {"reward": 0.25, "scores": 1.0, "extra_logs": {"reward": 7.0, "scores": [8.0]}}
    made, wrong = checked(response(**answer))
    assert (made["reward"], made["scores"], wrong) == (0.25, 1.0, [])
    assert made["extra_logs"] == {"reward": 7.0, "scores": 8.0}
    made, wrong = checked(response(reward=0.25, scores=None, extra_logs={"reward": "good", "scores": 1.0}))
    assert (made["reward"], made["scores"], made["extra_logs"]) == (0.25, None, {"scores": 1.0})
    assert wrong == ["reward 'good'"]
    sample = generator()._process_response_into_experience(response(**answer))
    assert sample.rewards.tolist() == [0.25] and sample.scores.tolist() == [1.0]


def test_a_good_answer_becomes_what_openrlhf_makes_of_it():
    answer = {"reward": torch.tensor([0.25]), "scores": 1.0, "extra_logs": {"calls": torch.tensor([2.0])}}
    args = SimpleNamespace(args=SimpleNamespace(algo=SimpleNamespace(dynamic_filtering_enable=False)))
    ours, theirs = (
        cls(args, None, None, None, [])._process_response_into_experience(response(**answer))
        for cls in (CheckedGenerator, SamplesGenerator)
    )
    for name in ("rewards", "scores"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.info.keys() == theirs.info.keys()
    assert all(torch.equal(ours.info[key], theirs.info[key]) for key in ours.info)


def test_a_list_of_one_is_as_good_as_the_number():
    made = generator()._process_response_into_experience(response(reward=[0.5], scores=[1.0]))
    assert made.rewards.tolist() == [0.5] and made.scores.tolist() == [1.0]


def test_a_rollout_says_once_what_was_left_out(monkeypatch):
    answers, said = [[1.0, 2.0], 0.5, "good"], []

    def generate(self, *args, **kwargs):
        return [self._process_response_into_experience(response(reward=answer)) for answer in answers], 3, True

    monkeypatch.setattr(SamplesGenerator, "_generate_vllm", generate)
    monkeypatch.setattr(generation.logger, "warning", said.append)
    made = generator()
    samples, *rest = made._generate_vllm(None, 3, False)
    assert [sample.rewards is None for sample in samples] == [True, False, True] and rest == [3, True]
    assert said == ["2 responses came back with something else than one number, which is left out: reward [1.0, 2.0]."]
    answers[:] = [0.5]
    made._generate_vllm(None, 1, False)
    assert len(said) == 1


def test_dynamic_filtering_does_not_look_for_a_prompt_without_nan():
    nan = response(reward=math.nan, scores=math.nan)
    assert generator(dynamic=True)._process_response_into_experience(nan).scores is None
    assert generator(dynamic=False)._process_response_into_experience(nan).scores.isnan()
    assert generator(dynamic=True)._process_response_into_experience(response(scores=2.0)).scores.tolist() == [2.0]


def test_an_evaluation_leaves_out_prompts_whose_rewards_are_not_all_there(monkeypatch):
    rewards, said = [1.0, 0.0, None, 1.0, 1.0, math.nan], []

    def generate(self, **kwargs):
        return [self._process_response_into_experience(response(reward=reward)) for reward in rewards]

    monkeypatch.setattr(SamplesGenerator, "generate_eval_samples", generate)
    monkeypatch.setattr(generation.logger, "warning", said.append)
    left = generator().generate_eval_samples(n_samples_per_prompt=2)
    assert [float(sample.rewards) for sample in left] == [1.0, 0.0]
    assert said == ["2 of 3 prompts are left out of the evaluation: a response has no usable reward."]
