"""Which of several reward models' rewards train: ``--sample_filter_reward``."""

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from rollouts import without_a_cluster  # noqa: F401 (a fixture)
from rollouts import make_maker, namespace, sample

from openrlhf_pf import rollout_log
from openrlhf_pf.training.flags.reward_models import check_reward, check_reward_models, member_models
from openrlhf_pf.training.rewards import assign_members, center_members, combine_members, merge_members
from openrlhf_pf.training.rollout import derive_seed

NAN = float("nan")
RULES = ("mean", "shrunk", "lower", "worst")


# ── Formulas ──


@pytest.mark.parametrize(
    "rule, expected",
    [
        ("mean", [1, 1 / 3, -4 / 3]),
        # Variances 0, 1/3, 1/3; t 26/27, n 2/9, so that s2 is 24/27, and the factors are 1, 8/11, 8/11.
        ("shrunk", [1, 8 / 33, -32 / 33]),
        ("lower", [1, -0.244017, -1.910684]),
        ("worst", [1, 0, -2]),
    ],
)
def test_members_are_merged_after_their_level_is_taken_out(rule, expected):
    levels, deviations = center_members(np.array([[[1.0, 0, -1]], [[2.0, 1, 0]], [[1.0, 1, -2]]]))
    assert levels.ravel().tolist() == [0, 1, 0]
    np.testing.assert_allclose(merge_members(rule, deviations)[0], expected, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_copies_of_the_main_model_at_another_level_and_scale_change_nothing(rule):
    main = np.random.default_rng(0).normal(size=(6, 5)) + np.arange(6)[:, None]
    np.testing.assert_allclose(combine_members(rule, np.stack([main, main, 7 + 90 * main])), main, atol=1e-12)


def test_a_member_counts_at_the_main_models_spread_over_the_rollout():
    models = np.array([[[0.0, 2.0], [5.0, 5.0]], [[30.0, 10.0], [50.0, 50.0]]])
    # Root mean squares 1 and 10 over the first prompt, both divided by sqrt 2.
    assert combine_members("mean", models).tolist() == [[1, 1], [5, 5]]
    assert combine_members("worst", models).tolist() == [[0, 0], [5, 5]]


@pytest.mark.parametrize("rule", RULES)
def test_a_reward_that_one_member_lacks_is_unusable_and_left_out_of_every_level(rule):
    main = np.array([[0.0, 2.0, 100.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    other = np.array([[0.0, 2.0, NAN], [1.0, 2.0, 3.0], [np.inf, NAN, NAN]])
    expected = [[0, 2, NAN], [1, 2, 3], [NAN] * 3]
    np.testing.assert_allclose(combine_members(rule, np.stack([main, other])), expected, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_member_whose_rewards_are_all_equal_adds_no_noise(rule):
    main = np.array([[0.0, 2.0, 4.0]] * 2)
    flat = np.array([[0.1, 0.1, 0.1 + 1e-9]] * 2)  # rounding, which a factor must not raise to a preference
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rule != "mean" or combine_members(rule, np.stack([main, flat])).tolist() == [[1, 2, 3]] * 2
        # Nothing can be brought to the spread of a main model that has none.
        assert combine_members(rule, np.stack([flat, main])) == pytest.approx(flat)
        assert np.isnan(combine_members(rule, np.full((2, 1, 3), NAN))).all()


def test_one_member_a_prompt_is_on_average_the_mean_of_members():
    rng = np.random.default_rng(1)
    # Each prompt has the same numbers in another order for each member, so that all spreads are equal.
    rewards = np.stack([rng.permuted(np.tile([0.0, 1.0, 2.0, 4.0], (7, 1)), axis=1) for _ in range(3)])
    combined = []
    for seed in range(2000):
        scores = assign_members("member", 3, 7, seed)
        assert sorted(scores.sum(axis=1)) == [2, 2, 3] and (scores.sum(axis=0) == 1).all()
        combined.append(combine_members("member", np.where(scores[:, :, None], rewards, NAN)))
        np.testing.assert_allclose(combined[-1], rewards[scores.argmax(axis=0), np.arange(7)])
    error = np.std(combined, axis=0) / len(combined) ** 0.5
    assert (np.abs(np.mean(combined, axis=0) - combine_members("mean", rewards)) <= 4 * error + 1e-9).all()


def test_a_prompt_of_one_member_has_that_members_level_and_the_main_models_spread():
    main, other = [[0.0, 2.0, NAN], [NAN] * 3], [[NAN] * 3, [50.0, 10.0, 30.0]]
    # Root mean squares 1 and 20 sqrt(2/3).
    expected = [[0, 2, NAN], 1.5**0.5 * np.array([2.5, 0.5, 1.5])]
    np.testing.assert_allclose(combine_members("member", np.array([main, other])), expected, rtol=1e-12)


# ── In the experience maker ──


def scored_by(rule, step=3, **flat):
    """The maker after one step; the main model's reward is a sample's token, "upside" thinks most of 28."""
    given = {"sample_filter_reward": rule, "sample_filter_reward_models": "upside", "algo.advantage.estimator": "rloo"}
    maker = make_maker(**given | flat)
    maker.step = step
    samples = [sample(g, None, token=token + 3 * g) for g in range(4) for token in (10, 25, 30, 45)]
    maker.trained = maker.make_experience_batch(samples)
    tokens = np.array([float(s.sequences[0, 0]) for s in maker.rollout.samples]).reshape(-1, 4)
    return maker, np.stack([tokens, -np.abs(tokens - 28)])


def test_the_combined_reward_trains_and_the_log_has_those_of_each_model(tmp_path):
    maker, models = scored_by("mean", sample_filter_log=str(tmp_path / "log"))
    maker.log.close()
    assert maker.reward_model_group.models == [None, "upside"], "each model scores once"
    np.testing.assert_array_equal(maker.rollout.model_rewards, models)
    expected = combine_members("mean", models)
    np.testing.assert_allclose(maker.rollout.rewards, expected, rtol=1e-6)
    np.testing.assert_array_equal([float(s.info["reward"]) for s in maker.rollout.samples], maker.rollout.rewards.flat)
    table = rollout_log.read(tmp_path / "log").to_pandas()
    np.testing.assert_allclose(table["reward"], expected.ravel(), rtol=1e-6)
    logged = [dict(row) for row in table["model_rewards"]]
    assert [[row[name] for row in logged] for name in ("main", "upside")] == models.reshape(2, -1).tolist()


def test_main_is_what_trains_without_the_flag():
    (plain, models), (given, _) = (scored_by(rule, sample_filter_reward_models="upside,b") for rule in (None, "main"))
    for one, other in zip(plain.trained, given.trained):
        assert torch.equal(one.rewards, other.rewards) and torch.equal(one.advantages, other.advantages)
    assert plain.rollout.model_names == given.rollout.model_names == ["upside", "b"]
    np.testing.assert_array_equal(given.rollout.rewards, models[0])


@pytest.mark.parametrize("ranks", [1, 2])
def test_one_member_scores_all_samples_of_a_prompt_once_and_the_step_decides_which(ranks):
    maker, models = scored_by("member", reward_ranks=ranks)
    assert sum(size for call in maker.reward_model_group.calls for rank in call for size in rank) == 16
    scores = assign_members("member", 2, 4, derive_seed(maker.seed, "member/3"))
    models = np.where(scores[:, :, None], models, NAN)
    np.testing.assert_array_equal(maker.rollout.model_rewards, models)
    np.testing.assert_allclose(maker.rollout.rewards, combine_members("member", models), rtol=1e-6)
    choices = [np.isfinite(scored_by("member", step)[0].rollout.model_rewards[0, :, 0]) for step in range(8)]
    assert len({tuple(choice) for choice in choices}) > 2


# ── Flags ──


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sample_filter_reward_models": None}, "give others with --sample_filter_reward_models A,B"),
        ({"sample_filter_reward_models": "main"}, "needs two or more different checkpoints"),
        ({"sample_filter_correct": "head"}, "leave one of the two out"),
        ({"reward.remote_url": ["r.py"]}, "rewards come from --reward.remote_url or an agent"),
        ({"algo.advantage.estimator": "gae"}, "--algo.advantage.estimator gae does not take out"),
        ({"algo.advantage.estimator": "reinforce"}, "choose one of rloo, reinforce_baseline, group_norm, dr_grpo"),
        ({"sample_filter_rank_by": "lower_bound"}, "ensemble_agreement and --sample_filter_rank_by need those of all"),
        ({"sample_filter": "ensemble_agreement"}, "leave them out, or choose --sample_filter_reward mean"),
        ({"rollout.batch_size": 2}, "shares the prompts of a rollout among 3 models, but --rollout.batch_size is 2"),
    ],
)
def test_what_cannot_train_is_refused_in_one_sentence(change, words):
    given = {"sample_filter_reward": "member", "sample_filter_reward_models": "a,b"}
    given |= {"algo.advantage.estimator": "rloo", "rollout.batch_size": 8}
    check_reward(namespace(**given))
    args = namespace(**given | change)
    with pytest.raises(ValueError) as refused:
        check_reward(args)
        check_reward_models(args)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_the_main_model_comes_first_and_counts_once():
    assert member_models(namespace(sample_filter_reward_models="b,main,c")) == ["main", "b", "c"]
    check_reward_models(namespace(sample_filter_reward="mean", sample_filter_reward_models="b"))
    check_reward(namespace(sample_filter_reward="main"))
