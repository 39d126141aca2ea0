"""The rule that stops training when rewards no longer order a prompt's responses."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from openrlhf_pf.training.stop import StopRule, pairs_within

NAN = math.nan


def test_pairs_by_hand():
    rewards = torch.tensor([[3.0, 1.0, 2.0, 2.0], [1.0, 1.0, NAN, 0.0], [1.0, 2.0, 3.0, 4.0]])
    scores = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, NAN], [1.0, 1.0, 1.0, 1.0]])
    # First: of 2 x 2 pairs three are right and one is a tie. Second: a tie. Third: no pair differs.
    assert pairs_within(rewards, scores).tolist() == [[3.5, 4], [0.5, 1], [0, 0]]


def world(rng, accuracy, prompts=32, n=8):
    """Rewards that order each pair of one right and one wrong response with about that chance."""
    scores = (rng.random((prompts, n)) < rng.beta(0.7, 0.7, (prompts, 1))).astype(float)
    distance = math.sqrt(2) * {0.5: 0.0, 0.6: 0.2533, 0.8: 0.8416}[accuracy]
    return torch.tensor(distance * scores + rng.normal(size=scores.shape)), torch.tensor(scores)


def test_the_standard_error_is_that_of_many_windows():
    shares, errors = [], []
    for seed in range(300):
        rule = StopRule(0.5, window=5)
        rng = np.random.default_rng(seed)
        for _ in range(5):
            rule.observe(*world(rng, 0.6))
        share, error = rule.accuracy()
        shares.append(share)
        errors.append(error)
    assert np.mean(shares) == pytest.approx(0.6, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.12)


def stopped_after(accuracy, below, seed, rollouts=100):
    rule, rng = StopRule(below), np.random.default_rng(seed)
    for number in range(1, rollouts + 1):
        rule.observe(*world(rng, accuracy))
        if rule.reason():
            return number
    return None


def test_a_reward_that_is_good_enough_never_stops_it_and_a_blind_one_soon():
    assert [stopped_after(0.6, 0.6, seed) for seed in range(10)].count(None) >= 9, "at the threshold itself"
    assert [stopped_after(0.8, 0.6, seed) for seed in range(10)] == [None] * 10
    assert all(stopped_after(0.5, 0.6, seed) <= 12 for seed in range(10))


def test_nothing_is_known_without_scores_and_nothing_stops_before_the_window_is_full():
    rule = StopRule(0.9, window=3)
    rule.observe(torch.rand(4, 3), torch.full((4, 3), NAN))
    rule.observe(torch.rand(4, 3), torch.ones(4, 3))
    assert rule.metrics() == {} and rule.reason() is None
    wrong = torch.tensor([[0.0, 1.0]] * 5), torch.tensor([[1.0, 0.0]] * 5)
    for _ in range(2):
        rule.observe(*wrong)
        assert rule.reason() is None
    rule.observe(*wrong)
    assert rule.reason().startswith("over the last 3 rollouts with true scores, rewards order 0.000 of the pairs")
    assert rule.metrics() == {"filter/pairwise_accuracy": 0.0, "filter/pairwise_accuracy_error": 0.0}


def test_a_resumed_rule_goes_on():
    rng = np.random.default_rng(0)
    rule, resumed = StopRule(0.6), StopRule(0.6)
    for _ in range(7):
        rule.observe(*world(rng, 0.5))
    resumed.load_state_dict(rule.state_dict())
    for _ in range(4):
        rollout = world(rng, 0.5)
        rule.observe(*rollout)
        resumed.observe(*rollout)
    assert resumed.accuracy() == rule.accuracy() and resumed.reason() == rule.reason() is not None
