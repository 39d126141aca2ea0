"""Filters: hand-computed weights, and the rules that hold for every filter."""

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_pf.filters import FILTERS, FilterBatch, SampleFilter, build_filter, select

NAN, INF = float("nan"), float("inf")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights_of(name: str, rewards: list, keep=None, **options) -> list:
    table = torch.tensor(rewards)
    return build_filter(name, n_samples=table.shape[1], keep=keep, **options)(table, generator()).tolist()


# ── Hand-computed weights ──


@pytest.mark.parametrize(
    "name, keep, expected",
    [
        # Rewards 3 1 5 2 4: ranks, best first, are samples 2 4 0 3 1.
        ("none", None, [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("best_of_n", None, [0, 0, 1, 0, 0]),
        ("best_of_n", 2, [0, 0, 0.5, 0, 0.5]),
        ("best_random", None, [1 / 8, 1 / 8, 1 / 2, 1 / 8, 1 / 8]),  # PF-PPO: 1/2, then 1/(2(N-1)) each
        ("best_random", 3, [1 / 9, 1 / 9, 1 / 3, 1 / 9, 1 / 3]),  # ceil(3/2) = 2 best, the third among 3 others
        ("best_random", 5, [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("best_worst", None, [0, 1 / 2, 1 / 2, 0, 0]),
        ("best_worst", 1, [0, 0, 1, 0, 0]),
        ("best_worst", 3, [0, 1 / 3, 1 / 3, 0, 1 / 3]),  # ceil(3/2) = 2 best, floor(3/2) = 1 worst
        ("best_worst", 5, [0.2, 0.2, 0.2, 0.2, 0.2]),
    ],
)
def test_weights_of_five_distinct_rewards(name, keep, expected):
    assert weights_of(name, [[3.0, 1.0, 5.0, 2.0, 4.0]], keep)[0] == pytest.approx(expected)


def test_rank_weights_are_scaled_and_follow_the_ranks():
    # 6 3 1 0 0, sum 10, on ranks = samples 2 4 0 3 1.
    weights = weights_of("rank_weights", [[3.0, 1.0, 5.0, 2.0, 4.0]], 2, weights=[6, 3, 1, 0, 0])
    assert weights[0] == pytest.approx([0.1, 0.0, 0.6, 0.0, 0.3])


def test_rank_weights_with_an_unusable_reward_keep_both_ends():
    # 4 usable of 5: entries 0, 4/3 -> 1, 8/3 -> 3, 4 of w = (.4, .2, .1, .1, .2), scaled by .4 + .2 + .1 + .2 = .9.
    weights = weights_of("rank_weights", [[3.0, 1.0, NAN, 2.0, 4.0]], 2, weights=[0.4, 0.2, 0.1, 0.1, 0.2])
    assert weights[0] == pytest.approx([0.2 / 0.9, 0.2 / 0.9, 0.0, 0.1 / 0.9, 0.4 / 0.9])


@pytest.mark.parametrize("n", range(2, 13))
def test_max_variance_finds_the_best_subset_for_every_k(n):
    rewards = torch.randn(6, n, generator=generator(n), dtype=torch.float64)
    rewards[0], rewards[1, 0], rewards[2] = 1000.0 + 1e-3 * rewards[0], 50.0, rewards[2].round()
    for keep in range(1, n + 1):
        weights = build_filter("max_variance", n, keep)(rewards, generator())
        assert ((weights > 0).sum(dim=1) == keep).all()
        for row, weight in zip(rewards, weights):
            subsets = row[torch.tensor(list(itertools.combinations(range(n), keep)))]
            best = subsets.var(dim=1, unbiased=False).max()
            assert row[weight > 0].var(unbiased=False) == pytest.approx(float(best), rel=1e-9, abs=1e-12)


def test_max_variance_ignores_unusable_rewards():
    assert weights_of("max_variance", [[9.0, NAN, 8.0, 1.0, 2.0]], 2)[0] == [0.5, 0.0, 0.0, 0.5, 0.0]


# ── Edge rules ──


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["best_random", "best_worst"])
def test_an_unusable_reward_weighs_nothing_and_does_not_rank(name, bad):
    with_bad = weights_of(name, [[3.0, bad, 5.0, 2.0]])[0]
    without = weights_of(name, [[3.0, 5.0, 2.0]])[0]
    assert with_bad == pytest.approx([without[0], 0.0, without[1], without[2]])


def test_a_prompt_with_fewer_usable_rewards_than_k_is_dropped_whole():
    weights = weights_of("best_worst", [[NAN, 1.0, INF], [3.0, 1.0, NAN]])
    assert weights == [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]


def test_none_drops_a_prompt_that_lacks_one_reward():
    assert weights_of("none", [[1.0, NAN]]) == [[0.0, 0.0]]


@pytest.mark.parametrize("name", ["best_of_n", "best_random", "best_worst"])
def test_ties_are_broken_at_random_not_by_position(name):
    keep = FILTERS[name].default_keep(4)
    chosen = build_filter(name, 4)(torch.zeros(4000, 4), generator()).mul(keep).mean(dim=0)
    # Each of 4 positions weighs k/4 on average; 4000 prompts leave a standard error below 0.008.
    assert chosen.tolist() == pytest.approx([keep / 4] * 4, abs=0.04)


def test_flat_prompts_are_told_by_a_tolerance():
    third = torch.tensor([0.1 + 0.2, 0.3])  # not equal as floats
    assert FilterBatch(torch.stack([third, third + torch.tensor([0.0, 0.01])])).flat.tolist() == [True, False]
    assert FilterBatch(torch.tensor([[NAN, NAN], [NAN, 2.0]])).flat.tolist() == [False, True]


# ── Bad input ──


@pytest.mark.parametrize(
    "name, n_samples, options, words",
    [
        ("best_wurst", 5, {}, "did you mean 'best_worst'"),
        ("best_worst", 1, {}, "draw at least 2 samples"),
        ("best_worst", 5, {"keep": 6}, "between 1 and the 5 samples of a prompt, got 6"),
        ("best_worst", 5, {"keep": 0}, "got 0"),
        ("best_worst", 5, {"weights": [1.0] * 5}, "takes no weights"),
        ("rank_weights", 5, {}, "needs weights"),
        ("rank_weights", 5, {"weights": [1.0] * 4}, "each of the 5 samples of a prompt, got 4"),
        ("rank_weights", 2, {"weights": [1.0, -1.0]}, "not negative"),
        ("rank_weights", 2, {"weights": [0.0, 0.0]}, "not all 0"),
        ("rank_weights", 2, {"weights": [1.0, NAN]}, "finite"),
    ],
)
def test_bad_settings_get_one_sentence(name, n_samples, options, words):
    with pytest.raises(ValueError) as error:
        build_filter(name, n_samples, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_rewards_of_another_width_are_refused():
    with pytest.raises(ValueError, match="built for 5 samples a prompt, got 4"):
        build_filter("best_worst", 5)(torch.zeros(2, 4))


def test_weights_that_are_not_weights_are_refused():
    class Negative(SampleFilter):
        def weigh(self, batch):
            return -torch.ones_like(batch.rewards)

    with pytest.raises(ValueError, match="Negative.weigh must return finite weights"):
        Negative(3, 2)(torch.zeros(2, 3))


# ── Promises, for any rewards ──

REWARDS = st.one_of(st.floats(-100, 100, width=32), st.sampled_from([NAN, INF, -INF, 0.0, 1.0]))


@st.composite
def filtered(draw):
    n = draw(st.integers(2, 7))
    name = draw(st.sampled_from(sorted(FILTERS)))
    keep = draw(st.integers(1, n))
    options = {"weights": draw(st.lists(st.floats(0.01, 1), min_size=n, max_size=n))} if name == "rank_weights" else {}
    rewards = draw(st.lists(st.lists(REWARDS, min_size=n, max_size=n), min_size=1, max_size=6))
    return build_filter(name, n, keep, **options), torch.tensor(rewards), draw(st.integers(0, 99))


@settings(max_examples=300, deadline=None)
@given(filtered())
def test_any_rewards_give_weights_and_draws_that_keep_the_promises(case):
    sample_filter, rewards, seed = case
    source = generator(seed)
    batch = FilterBatch(rewards, source)
    weights = sample_filter(batch)
    counts = select(weights, sample_filter.keep, batch.order, source)

    assert weights.shape == rewards.shape and weights.isfinite().all() and (weights >= 0).all()
    assert (weights[~rewards.isfinite()] == 0).all()
    dropped = rewards.isfinite().sum(dim=1) < sample_filter.keep
    assert weights.sum(dim=1).tolist() == pytest.approx((~dropped).double().tolist())
    assert counts.sum(dim=1).tolist() == [0 if d else sample_filter.keep for d in dropped]
    assert ((counts - sample_filter.keep * weights).abs() < 1 + 1e-6).all()  # floor or ceil of k w_i
    assert (counts[weights == 0] == 0).all()


@settings(max_examples=100, deadline=None)
@given(filtered())
def test_the_same_seed_gives_the_same_choice(case):
    sample_filter, rewards, seed = case

    def choose():
        source = generator(seed)
        batch = FilterBatch(rewards, source)
        return select(sample_filter(batch), sample_filter.keep, batch.order, source)

    assert torch.equal(choose(), choose())


# ── Draws ──


def test_select_takes_best_and_worst_once_for_every_offset():
    weights = torch.tensor([[0.5, 0.0, 0.0, 0.5]]).repeat(5000, 1)
    assert select(weights, 2, generator=generator()).unique(dim=0).tolist() == [[1, 0, 0, 1]]


def test_select_is_unbiased_for_weights_that_repeat_samples():
    weights = torch.tensor([[0.7, 0.2, 0.1]]).repeat(20000, 1).double()
    counts = select(weights, 2, generator=generator()).double()
    # k w = 1.4 .4 .2; counts are floor or ceil of that, so the standard error is at most .5 / sqrt(20000) = .0035.
    assert counts.mean(dim=0).tolist() == pytest.approx([1.4, 0.4, 0.2], abs=0.015)
    assert counts[:, 0].unique().tolist() == [1, 2]


def test_best_random_draws_the_best_and_each_other_equally_often():
    rewards = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).repeat(12000, 1)
    source = generator()
    batch = FilterBatch(rewards, source)
    counts = select(build_filter("best_random", 4)(batch), 2, batch.order, source).double()
    assert (counts[:, 0] == 1).all()
    assert counts[:, 1:].mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


@pytest.mark.parametrize("weights", [[[0.5, 0.6]], [[-0.5, 1.5]], [[NAN, 1.0]]])
def test_select_refuses_what_is_not_a_distribution(weights):
    with pytest.raises(ValueError, match="each row of weights"):
        select(torch.tensor(weights), 1)


def test_equal_weights_never_repeat_a_sample_by_rounding():
    # 7 equal weights of 1/7 do not add up to 1 in floats; k = 7 must still take each sample exactly once.
    for n in range(2, 65):
        weights = torch.full((200, n), 1.0 / n)
        assert (select(weights, n, generator=generator(n)) == 1).all()


def test_filters_import_nothing_of_the_host():
    code = (
        "import sys, openrlhf_pf, openrlhf_pf.filters\n"
        "print([m for m in ('ray', 'vllm', 'deepspeed', 'openrlhf') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
