"""The scored samples of a step: what a filter may ask of them, the rows of the rollout log, and metrics."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from rollouts import rollout_of

from openrlhf_pf.filters import FilterBatch, draw, make_generator
from openrlhf_pf.rollout_log import prompt_id
from openrlhf_pf.training.metrics import filter_metrics
from openrlhf_pf.training.rollout import Rollout, attach_context

NAN = math.nan


class Tokenizer(SimpleNamespace):
    """Writes tokens as numbers."""

    def decode(self, tokens, skip_special_tokens):
        return " ".join(map(str, tokens))


@pytest.fixture
def rollout():
    samples = rollout_of([[1.0, NAN, 3.0], [6.0, 5.0, None]], scores=[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    for place, sample in enumerate(samples):
        sample.response_length = torch.tensor([place + 2])
        sample.labels = [f"label {place // 3}"]
        sample.info |= {"response_clip_ratio": torch.tensor([False]), "tests": torch.tensor([place])}
    samples[4].info.pop("tests")
    return Rollout(samples, 3)


def test_the_log_gets_the_same_rows_part_by_part(rollout, monkeypatch):
    """Texts of a part are decoded when its turn comes."""
    decoded = []
    tokenizer = SimpleNamespace(decode=lambda tokens, skip_special_tokens: decoded.append(tokens) or str(tokens))
    rollout.model_names, rollout.model_rewards = ["a"], np.arange(6.0).reshape(1, 2, 3)
    batch = rollout.filter_batch("reward", make_generator(0), 0, tokenizer)
    what = (np.ones((2, 3)), draw("select", np.array([[0.5, 0.0, 0.5]] * 2), 4), batch, tokenizer)
    whole = rollout.log_rows(*what)
    monkeypatch.setattr("openrlhf_pf.training.rollout.PART", 1)
    decoded.clear()
    parts = rollout.log_parts(*what)
    first = next(parts)
    assert len(first["prompt"]) == len(decoded) == 3
    second, rest = next(parts), list(parts)
    assert rest == []
    for name, values in whole.items():
        assert str(first[name] + second[name]) == str(values), name  # as text, where NaN is NaN


def first_group(rollout):
    """The canonical order is by content: which of the two prompts comes first."""
    return [group[0].prompts[0] for group in rollout.groups].index("prompt 0")


def test_a_filter_sees_what_is_known_of_the_samples(rollout):
    batch = rollout.filter_batch("reward", make_generator(0), 7, Tokenizer())
    at = first_group(rollout)
    assert batch.step == 7
    assert batch.prompts[at] == "prompt 0" and batch.labels[at] == "label 0"
    assert batch.rewards[at].tolist() == pytest.approx([1.0, NAN, 3.0], nan_ok=True)
    assert batch.response_lengths[at].tolist() == [2, 3, 4]
    assert batch.scores[at].tolist() == [0.0, 1.0, 1.0]
    # Three tokens a sample, of which the last is the response.
    assert batch.responses[at] == ["9", "9", "9"]
    assert set(batch.extra_logs) == {"tests"}, "what OpenRLHF itself notes is no extra log"
    assert batch.extra_logs["tests"][1 - at].tolist() == pytest.approx([3, NAN, 5], nan_ok=True)
    assert not batch.has_ensemble


def test_what_is_noted_of_prompts_follows_them_and_is_none_where_nothing_was_noted(rollout):
    bare = rollout.filter_batch("reward", make_generator(0), 0, Tokenizer())
    assert bare.posterior_mean is None and bare.visits is None
    with pytest.raises(ValueError, match="these samples have no datasources"):
        _ = bare.datasources
    at = first_group(rollout)
    for place, group in enumerate(rollout.groups):
        for sample in group:
            attach_context(sample, datasource=f"source {place}")
            attach_context(sample, posterior_mean=0.25 + place / 2, visits=place)
    batch = rollout.filter_batch("reward", make_generator(0), 0, Tokenizer())
    assert (batch.posterior_mean.tolist(), batch.visits.tolist()) == ([0.25, 0.75], [0, 1])
    assert batch.datasources == ["source 0", "source 1"] and batch.posterior_mean.dtype == np.float64
    assert batch.ranked_by(batch.rewards).visits.tolist() == [0, 1]
    assert set(batch.extra_logs) == {"tests"} and batch.prompts[at] == "prompt 0"


def test_a_filter_ranks_by_the_ensemble_only_where_the_reward_is_usable(rollout):
    at = first_group(rollout)
    rollout.model_rewards = np.stack([np.ones((2, 3)), np.array([[3.0, 3.0, 5.0]] * 2)])
    mean = rollout.filter_batch("ensemble_mean", make_generator(0), 0, Tokenizer())
    assert mean.rewards[at].tolist() == pytest.approx([2.0, NAN, 3.0], nan_ok=True)
    bound = rollout.filter_batch("lower_bound", make_generator(0), 0, Tokenizer())
    assert bound.rewards[at, 0] == pytest.approx(2 - 2**0.5)
    assert bound.prompts == mean.prompts


def test_the_response_goes_from_the_first_token_of_the_policy_to_its_last():
    (sample,) = rollout_of([[1.0]])
    sample.sequences = torch.tensor([[5, 6, 7, 8, 9, 10]])
    sample.action_mask = torch.tensor([[0, 1, 0, 1, 0]])  # tokens 7 and 9; 8 is what the environment answered
    sample.response_length = torch.tensor([3])
    made = Rollout([sample], 1)
    batch = made.filter_batch("reward", None, 0, Tokenizer())
    assert batch.responses == [["7 8 9"]]
    ((tokens,),) = batch.response_tokens
    assert tokens.tolist() == [7, 8, 9]
    rows = made.log_rows(np.ones((1, 1)), draw("select", np.ones((1, 1)), 1), batch, Tokenizer())
    assert rows["prompt_tokens"] == [2] and rows["response_tokens"] == [3]
    sample.action_mask.zero_()  # the policy wrote nothing
    rows = made.log_rows(np.ones((1, 1)), draw("select", np.ones((1, 1)), 1), batch, Tokenizer())
    assert (rows["prompt_tokens"], rows["response"]) == ([6], [""])


def test_log_rows_say_what_became_of_every_sample(rollout):
    rollout.model_names = ["a", "b"]
    rollout.model_rewards = np.arange(12.0).reshape(2, 2, 3)
    batch = rollout.filter_batch("reward", make_generator(0), 0, Tokenizer())
    weights = np.array([[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    if first_group(rollout) == 1:
        weights = weights[::-1]
    rows = rollout.log_rows(weights, draw("select", weights, 4), batch, Tokenizer())
    place = 3 * first_group(rollout)
    of_first = {name: values[place : place + 3] for name, values in rows.items()}
    assert of_first["prompt"] == ["prompt 0"] * 3 and of_first["prompt_id"] == [prompt_id("prompt 0")] * 3
    assert of_first["reward"] == pytest.approx([1.0, NAN, 3.0], nan_ok=True)
    assert of_first["rank"] == [2, None, 1]
    assert of_first["weight"] == [0.5, 0.0, 0.5]
    assert of_first["kept"] == [True, False, True] and of_first["draws"] == [2, 0, 2]
    assert of_first["score"] == [0.0, 1.0, 1.0]
    assert of_first["label"] == ["label 0"] * 3 and of_first["truncated"] == [False] * 3
    assert of_first["model_rewards"][1] == {"a": place + 1.0, "b": place + 7.0}
    assert of_first["extra_logs"][2] == {"tests": 2.0}
    of_second = {name: values[3 - place : 6 - place] for name, values in rows.items()}
    assert of_second["reward"][2] is None and of_second["rank"] == [1, 2, None]
    assert len({len(values) for values in rows.values()}) == 1


def test_r2_of_rewards_that_go_the_wrong_way_is_negative():
    rewards, counts = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[1, 0, 0, 1]])
    scores = np.array([[1.0, 0.0, 1.0, 0.0]])
    # Means 2.5 and 0.5: products -0.75, 0.25, 0.25, -0.75 sum to -1; squares 5 and 1. Of the kept: a falling line.
    found = filter_metrics(FilterBatch(rewards), counts, scores, rewards, rewards)
    assert found["filter/r2_all"] == pytest.approx(-0.2) and found["filter/r2_kept"] == pytest.approx(-1.0)
    found = filter_metrics(FilterBatch(rewards), counts, 1 - scores, rewards, rewards)
    assert found["filter/r2_all"] == pytest.approx(0.2) and found["filter/r2_kept"] == pytest.approx(1.0)
