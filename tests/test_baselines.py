"""Baselines of group estimators: by hand, and against OpenRLHF's own arithmetic."""

import math

import pytest
import torch

pytest.importorskip("openrlhf")

from rollouts import without_a_cluster  # noqa: F401 (a fixture that every test here uses)
from rollouts import HAS_FLASH_REINFORCE, make_maker, rollout_of

from openrlhf_pf.training.arguments import BASELINE_ESTIMATORS
from openrlhf_pf.training.baselines import centred

NAN = math.nan
# Kept by best_worst: 10 and 0. The group: mean 6, n = 4, squares 16 + 1 + 1 + 36 = 54, n - 1 variance 18.
GROUP = [10.0, 7.0, 7.0, 0.0]


def advantages(estimator, rewards=(GROUP,), in_lists=False, **flat):
    """The first token of each training sample, which names it, to its advantage."""
    flat = {"algo.advantage.estimator": estimator, "train.batch_size": 2, **flat}
    maker = make_maker(local_reward=False, **flat)
    samples = rollout_of(list(rewards))
    if in_lists:
        for sample in samples:
            sample.rewards = sample.rewards.unsqueeze(0)
    experiences = maker.make_experience_batch(samples)
    return {
        int(token): float(advantage)
        for experience in experiences
        for token, advantage in zip(experience.sequences[:, 0], experience.advantages[:, -1])
    }, experiences


@pytest.mark.parametrize(
    "estimator, baseline, best, worst",
    [
        ("rloo", "kept", 10 - 0, 0 - 10),
        ("rloo", "group", 10 - 14 / 3, 0 - 24 / 3),  # the mean of the other three: (7 + 7 + 0) / 3, (10 + 7 + 7) / 3
        ("dr_grpo", "kept", 5, -5),
        ("dr_grpo", "group", 10 - 6, 0 - 6),
        ("group_norm", "kept", 5 / 50**0.5, -5 / 50**0.5),
        ("group_norm", "group", 4 / 18**0.5, -6 / 18**0.5),
        # Whitened over the batch: less the mean of (5, -5), of (4, -6); no_std_norm leaves the size.
        ("reinforce_baseline", "kept", 5, -5),
        ("reinforce_baseline", "group", 5, -5),
    ],
)
def test_best_and_worst_of_a_group_by_hand(estimator, baseline, best, worst):
    found, experiences = advantages(estimator, sample_filter_baseline=baseline)
    assert found == {1: pytest.approx(best, rel=1e-6), 4: pytest.approx(worst, rel=1e-6)}
    for experience in experiences:  # what is logged and what the next stage reads stays the reward
        assert sorted(experience.rewards.tolist()) == sorted(experience.info["reward"].tolist())
        assert set(experience.rewards.tolist()) <= {10.0, 0.0}


@pytest.mark.parametrize("baseline", ["kept", "group"])
def test_a_reward_function_may_answer_with_a_list(baseline):
    """OpenRLHF makes a tensor of (1, 1) of ``{"rewards": [1.0]}``."""
    plain, _ = advantages("rloo", sample_filter_baseline=baseline)
    listed, _ = advantages("rloo", in_lists=True, sample_filter_baseline=baseline)
    assert listed == plain


def test_a_dropped_sample_is_in_the_baseline_of_the_group_and_only_there():
    for estimator in ("rloo", "group_norm", "dr_grpo"):
        for baseline, differs in (("kept", False), ("group", True)):
            found, _ = advantages(estimator, sample_filter_baseline=baseline)
            moved, _ = advantages(estimator, [[10.0, 1.0, 5.0, 0.0]], sample_filter_baseline=baseline)
            assert (found != moved) == differs, (estimator, baseline)


def test_one_kept_sample_has_a_baseline_in_its_group():
    found, _ = advantages(
        "rloo",
        [GROUP, GROUP],
        sample_filter="best_of_n",
        sample_filter_baseline="group",
    )
    assert found == {1: pytest.approx(10 - 14 / 3), 101: pytest.approx(10 - 14 / 3)}


def test_an_unusable_reward_is_in_no_baseline():
    # Usable 10 7 0: the others of 10 have the mean 3.5, those of 0 the mean 8.5.
    found, _ = advantages("rloo", [[10.0, NAN, 7.0, 0.0]], sample_filter_baseline="group")
    assert found == {1: pytest.approx(6.5), 4: pytest.approx(-8.5)}


def test_the_group_is_penalised_for_length_as_training_would_see_it():
    # The best is cut off and counts -5: the group is -5 7 7 0, and the others of 0 have the mean 3.
    maker = make_maker(
        local_reward=False,
        sample_filter_baseline="group",
        **{"algo.advantage.estimator": "rloo", "reward.stop_properly_penalty_coef": -5.0, "train.batch_size": 2},
    )
    samples = rollout_of([GROUP])
    samples[0].truncated = torch.tensor([True])
    (experience,) = maker.make_experience_batch(samples)
    found = dict(zip(experience.sequences[:, 0].tolist(), experience.advantages[:, -1].tolist()))
    assert found == {1: pytest.approx(-5 - 14 / 3), 4: pytest.approx(0 - 9 / 3)}
    assert sorted(experience.info["reward"].tolist()) == [-5.0, 0.0]


def of_this_openrlhf(estimator):
    if estimator == "flash_reinforce" and not HAS_FLASH_REINFORCE:
        pytest.skip("this OpenRLHF has no flash_reinforce")


@pytest.mark.parametrize("estimator", BASELINE_ESTIMATORS)
def test_over_the_kept_rectangle_our_arithmetic_is_openrlhfs(estimator):
    """`none` keeps all: the baseline of the kept is the baseline of the group, once by OpenRLHF and once by us."""
    of_this_openrlhf(estimator)
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).tolist()
    settings = {"sample_filter": "none", "train.batch_size": 4, "algo.advantage.no_std_norm": False}
    theirs, _ = advantages(estimator, rewards, **settings)
    ours, _ = advantages(estimator, rewards, sample_filter_baseline="group", **settings)
    assert ours == {token: pytest.approx(value, rel=1e-4, abs=1e-6) for token, value in theirs.items()}
    assert len({round(value, 4) for value in ours.values()}) == 12


def test_over_weighted_samples_the_baseline_is_the_weighted_mean():
    # best_random, k = 2, N = 4: weights 1/2 1/6 1/6 1/6, mean 10/2 + 14/6 = 22/3; all four train, scaled by 4 w.
    found, _ = advantages(
        "rloo", sample_filter="best_random", sample_filter_mode="reweight", **{"train.batch_size": 4}
    )
    mean = 22 / 3
    assert found == {
        1: pytest.approx(2 * (10 - mean), abs=1e-5),
        2: pytest.approx(2 / 3 * (7 - mean), abs=1e-5),
        3: pytest.approx(2 / 3 * (7 - mean), abs=1e-5),
        4: pytest.approx(2 / 3 * (0 - mean), abs=1e-5),
    }
    assert sum(found.values()) == pytest.approx(0, abs=1e-5)


# ── flash_reinforce: one baseline for the whole batch ──


@pytest.mark.parametrize(
    "baseline, mean",
    [
        (None, (10 + 0 + 2 - 5) / 4),  # of the kept
        ("kept", (10 + 0 + 2 - 5) / 4),
        ("group", (10 + 7 + 7 + 0 + 2 + 2 + 1 - 5) / 8),  # of all samples of all prompts
    ],
)
def test_flash_reinforce_takes_its_baseline_from_the_kept_or_from_the_whole_batch(baseline, mean):
    of_this_openrlhf("flash_reinforce")
    found, experiences = advantages(
        "flash_reinforce", [GROUP, [2.0, 2.0, 1.0, -5.0]], sample_filter_baseline=baseline, **{"train.batch_size": 4}
    )
    values = sorted(found.values())
    assert values == pytest.approx([-5 - mean, 0 - mean, 2 - mean, 10 - mean])
    assert sorted(r for e in experiences for r in e.rewards.tolist()) == [-5.0, 0.0, 2.0, 10.0]


def test_the_best_of_each_prompt_are_better_than_the_batch_but_not_than_each_other():
    """What the baseline of the kept would hide: with best_of_n and equal bests it leaves no advantage at all."""
    of_this_openrlhf("flash_reinforce")
    settings = {"sample_filter": "best_of_n", "train.batch_size": 2}
    kept, _ = advantages("flash_reinforce", [GROUP, GROUP], **settings)
    group, _ = advantages("flash_reinforce", [GROUP, GROUP], sample_filter_baseline="group", **settings)
    assert list(kept.values()) == pytest.approx([0, 0]) and list(group.values()) == pytest.approx([4, 4])


def test_an_unusable_reward_is_not_in_the_batchs_baseline_and_a_dropped_prompt_is():
    # The second prompt has one usable reward, too few for best_worst: it does not train, its reward counts.
    of_this_openrlhf("flash_reinforce")
    found, _ = advantages(
        "flash_reinforce", [[10.0, NAN, 7.0, 0.0], [3.0, NAN, NAN, NAN]], sample_filter_baseline="group"
    )
    assert sorted(found.values()) == pytest.approx([0 - 5, 10 - 5])


@pytest.mark.parametrize(
    "settings, mean, scales",
    [
        # best_random, k = 2: each prompt's weights are 1/2 1/6 1/6 1/6, and each prompt is half of the draws.
        (
            {"sample_filter": "best_random", "train.batch_size": 8},
            ((10 / 2 + 14 / 6) + (4 / 2 + 0 / 6)) / 2,
            {10.0: 2, 7.0: 2 / 3, 0.0: 2 / 3, 4.0: 2, 2.0: 2 / 3, 1.0: 2 / 3, -3.0: 2 / 3},
        ),
        # reward_power 1: weights by size, 10 7 7 0 4 2 1 3 of 34; the one without weight does not train.
        (
            {"sample_filter": "reward_power", "sample_filter_power": 1.0, "train.batch_size": 7},
            (100 + 49 + 49 + 16 + 4 + 1 - 9) / 34,
            {10.0: 70 / 34, 7.0: 49 / 34, 4.0: 28 / 34, 2.0: 14 / 34, 1.0: 7 / 34, -3.0: 21 / 34},
        ),
    ],
)
def test_reweighted_flash_reinforce_takes_the_mean_that_its_draws_would_have(settings, mean, scales):
    of_this_openrlhf("flash_reinforce")
    rewards = [GROUP, [4.0, 2.0, 1.0, -3.0]]
    found, _ = advantages("flash_reinforce", rewards, sample_filter_mode="reweight", **settings)
    of_token = {100 * g + n + 1: reward for g, group in enumerate(rewards) for n, reward in enumerate(group)}
    expected = {t: scales[of_token[t]] * (of_token[t] - mean) for t in found}
    assert found == {token: pytest.approx(value, abs=1e-5) for token, value in expected.items()}
    assert sum(found.values()) == pytest.approx(0, abs=1e-5)


def test_a_prompt_without_shares_and_a_lonely_member_stay_finite():
    shares = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    result = centred("group_norm", torch.tensor([[NAN, NAN], [3.0, NAN]]), shares, torch.tensor([0.0, 1.0]))
    assert result[1, 0] == 0
