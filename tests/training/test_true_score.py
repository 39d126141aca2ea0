"""True scores from a user's function, and the rule that stops training when rewards no longer order responses."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from rollouts import rollout_of

from openrlhf_pf.training.flags.true_scores import load_reward_func
from openrlhf_pf.training.true_score import StopRule, TrueScore

NAN = math.nan
TOKENIZER = SimpleNamespace(decode=lambda tokens, skip_special_tokens: " ".join(map(str, tokens)))


def test_the_true_score_is_the_functions_scores_or_else_its_rewards():
    samples, calls = rollout_of([[1.0, 2.0, 3.0]]), []
    logs = {"tests": torch.tensor([3]), "why": "wrong"}
    first = {"rewards": torch.tensor([0.2]), "scores": torch.tensor([1.0]), "extra_logs": logs}
    answers = iter([first, {"rewards": [0.5]}, RuntimeError("boom")])

    def reward_func(queries, prompts, labels):
        calls.append((queries, prompts, labels))
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    score = TrueScore(reward_func, workers=1)
    score(samples, TOKENIZER)
    assert [float(s.scores) for s in samples] == pytest.approx([1.0, 0.5, math.nan], nan_ok=True)
    assert float(samples[0].info["tests"]) == 3 and "tests" not in samples[1].info and "why" not in samples[0].info
    assert calls[0] == (["1 1 9"], ["prompt 0"], [""])
    assert (score.failed, score.last_error) == (1, "RuntimeError: boom")
    assert [float(s.rewards) for s in samples] == [1.0, 2.0, 3.0]


def test_a_score_file_may_have_a_dataclass(tmp_path):
    file = tmp_path / "with_class.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Found:\n"
        "    right: bool\n\n\ndef reward_func(queries, prompts, labels):\n"
        "    return {'rewards': [Found(True).right]}\n"
    )
    assert load_reward_func(str(file), "--flag")(["a"], ["b"], ["c"]) == {"rewards": [True]}


@pytest.mark.parametrize("answer", ["good", [0.5, 0.7], {}, {"rewards": None}])
def test_an_answer_that_is_no_score_is_a_call_that_failed(answer):
    samples = rollout_of([[1.0, 2.0]])
    answers = iter([answer, {"scores": [0.5], "rewards": [0.0]}])
    score = TrueScore(lambda queries, prompts, labels: next(answers), workers=1)
    score(samples, TOKENIZER)
    assert [float(s.scores) for s in samples] == pytest.approx([math.nan, 0.5], nan_ok=True)
    assert score.failed == 1 and score.last_error


# ── The stop rule ──


def test_pairs_that_rewards_order_right_by_hand():
    rewards = np.array([[3.0, 1.0, 2.0, 2.0], [1.0, 1.0, NAN, 0.0], [1.0, 2.0, 3.0, 4.0]])
    scores = np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, NAN], [1.0, 1.0, 1.0, 1.0]])
    # First: of 2 x 2 pairs three are right and one is a tie. Second: a tie. Third: no pair differs.
    rule = StopRule(0.5, window=2)
    rule.observe(rewards, scores)
    assert rule.accuracy()[0] == (3.5 + 0.5) / (4 + 1) and rule.state_dict() == {
        "rollouts": [[2, 4, 5, 12.5, 14.5, 17]]
    }


def simulate(rng, accuracy, prompts=32, n=8):
    """Rewards that order each pair of one right and one wrong response with about that chance."""
    scores = (rng.random((prompts, n)) < rng.beta(0.7, 0.7, (prompts, 1))).astype(float)
    distance = math.sqrt(2) * {0.5: 0.0, 0.6: 0.2533, 0.8: 0.8416}[accuracy]
    return distance * scores + rng.normal(size=scores.shape), scores


def test_the_standard_error_is_that_of_many_windows():
    shares, errors = [], []
    for seed in range(300):
        rule = StopRule(0.5, window=5)
        rng = np.random.default_rng(seed)
        for _ in range(5):
            rule.observe(*simulate(rng, 0.6))
        share, error = rule.accuracy()
        shares.append(share)
        errors.append(error)
    assert np.mean(shares) == pytest.approx(0.6, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.12)


def stopped_after(accuracy, below, seed, rollouts=100):
    rule, rng = StopRule(below, window=10), np.random.default_rng(seed)
    for number in range(1, rollouts + 1):
        rule.observe(*simulate(rng, accuracy))
        if rule.reason():
            return number
    return None


def test_a_reward_that_is_good_enough_never_stops_it_and_a_blind_one_soon():
    assert [stopped_after(0.6, 0.6, seed) for seed in range(10)].count(None) >= 9, "at the threshold itself"
    assert [stopped_after(0.8, 0.6, seed) for seed in range(10)] == [None] * 10
    assert all(stopped_after(0.5, 0.6, seed) <= 12 for seed in range(10))


def test_nothing_is_known_without_scores_and_nothing_stops_before_the_window_is_full():
    rule = StopRule(0.9, window=3)
    rule.observe(np.ones((4, 3)), np.full((4, 3), NAN))
    rule.observe(np.ones((4, 3)), np.ones((4, 3)))
    assert rule.metrics() == {} and rule.reason() is None
    wrong = np.array([[0.0, 1.0]] * 5), np.array([[1.0, 0.0]] * 5)
    for _ in range(2):
        rule.observe(*wrong)
        assert rule.reason() is None
    rule.observe(*wrong)
    assert rule.reason().startswith("over the last 3 rollouts with true scores, rewards order 0.000 of the pairs")
    assert rule.metrics() == {"filter/pairwise_accuracy": 0.0, "filter/pairwise_accuracy_error": 0.0}


def test_a_resumed_rule_goes_on():
    rng = np.random.default_rng(0)
    rule, resumed = StopRule(0.6, 10), StopRule(0.6, 10)
    for _ in range(7):
        rule.observe(*simulate(rng, 0.5))
    resumed.load_state_dict(rule.state_dict())
    for _ in range(4):
        rollout = simulate(rng, 0.5)
        rule.observe(*rollout)
        resumed.observe(*rollout)
    assert resumed.accuracy() == rule.accuracy() and resumed.reason() == rule.reason() is not None
