"""The bandit study of what helps where the reward's errors stay."""

import numpy as np
import pytest

from examples.studies.beyond_language import second_opinion as study


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(study, "STEPS", 12)


def test_reward_models_that_share_all_errors_are_one_reward_model():
    problem = study.Problem("shared", range(3))
    one = study.train(problem, "none", 0.1)
    for arm in ("mean of 5", "member a prompt", "mean - 1 sd"):
        np.testing.assert_allclose(study.train(problem, arm, 0.1), one, atol=1e-9)


@pytest.mark.parametrize("kind", study.KINDS)
def test_rewards_err_as_much_as_the_study_says(kind):
    problem = study.Problem(kind, range(3))
    errors = problem.rewards - problem.value[:, None]
    expected = 0.0 if kind == "redrawn" else study.SIZE
    np.testing.assert_allclose(errors.std((-2, -1)), expected, atol=1e-9)
    np.testing.assert_allclose(problem.value.std((-2, -1)), 1.0)
    if kind in ("shared", "shared, learnable"):
        assert np.ptp(errors, axis=1).max() < 1e-12
    elif kind != "redrawn":
        assert np.ptp(errors, axis=1).max() > 0.1


def test_true_scores_and_the_perfect_reward_are_ahead_where_the_error_can_be_learned():
    problem = study.Problem("shared, learnable", range(4))
    none, scores, perfect = (study.train(problem, arm, 0.1).mean() for arm in ("none", "true scores", "perfect"))
    assert none < scores < perfect
    assert none > 0.1, "it learns"


def test_a_head_without_labels_changes_no_reward_and_with_many_finds_the_truth():
    generator = np.random.default_rng(0)
    phi = generator.normal(size=(1, 2000, study.FEATURES)) / study.FEATURES**0.5
    truth = phi @ generator.normal(size=study.FEATURES)
    rewards = generator.normal(size=(1, 2000))
    head = study.Head(1)
    np.testing.assert_array_equal(head.correct(rewards, phi, truth[:, :0]), rewards)
    found = head.correct(rewards, phi, truth[:, :1500])[:, 1500:]
    assert np.corrcoef(found[0], truth[0, 1500:])[0, 1] > 0.95 > abs(np.corrcoef(rewards[0], truth[0])[0, 1])
