"""Filters: hand-computed weights, and the rules that hold for every filter."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_pf.filters import DRAWS, FILTERS, FilterBatch, SampleFilter, build_filter, draw, make_generator
from openrlhf_pf.filters.group_scope import mid_ranks

NAN, INF = float("nan"), float("inf")
LEARNED = str(Path(__file__).parents[1] / "examples/filters/learned_weights.py:LearnedWeights")


def weights_of(name: str, rewards: list, keep=None, **options) -> list:
    table = np.array(rewards)
    return build_filter(name, n_samples=table.shape[1], keep=keep, **options)(table, make_generator(0)).tolist()


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


@pytest.mark.parametrize(
    "rewards, weights, expected",
    [
        # 6 3 1 0 0, sum 10, on ranks = samples 2 4 0 3 1.
        ([3.0, 1.0, 5.0, 2.0, 4.0], [6, 3, 1, 0, 0], [0.1, 0.0, 0.6, 0.0, 0.3]),
        # 4 usable of 5: entries 0, 4/3 -> 1, 8/3 -> 3, 4 of w, scaled by .4 + .2 + .1 + .2 = .9: both ends stay.
        ([3.0, 1.0, NAN, 2.0, 4.0], [0.4, 0.2, 0.1, 0.1, 0.2], [0.2 / 0.9, 0.2 / 0.9, 0.0, 0.1 / 0.9, 0.4 / 0.9]),
    ],
)
def test_rank_weights_are_scaled_and_follow_the_ranks(rewards, weights, expected):
    assert weights_of("rank_weights", [rewards], 2, weights=weights)[0] == pytest.approx(expected)


@pytest.mark.parametrize("n", range(2, 13))
def test_max_variance_finds_the_best_subset_for_every_k(n):
    rewards = np.random.default_rng(n).normal(size=(6, n))
    rewards[0], rewards[1, 0], rewards[2] = 1000.0 + 1e-3 * rewards[0], 50.0, rewards[2].round()
    for keep in range(1, n + 1):
        weights = build_filter("max_variance", n, keep)(rewards, make_generator(0))
        assert ((weights > 0).sum(axis=1) == keep).all()
        for row, weight in zip(rewards, weights):
            subsets = row[list(map(list, itertools.combinations(range(n), keep)))]
            best = subsets.var(axis=1).max()
            assert row[weight > 0].var() == pytest.approx(float(best), rel=1e-9, abs=1e-12)


def test_max_variance_ignores_unusable_rewards():
    assert weights_of("max_variance", [[9.0, NAN, 8.0, 1.0, 2.0]], 2)[0] == [0.5, 0.0, 0.0, 0.5, 0.0]


# ── Batch scope ──

# Rewards of two prompts; .5 and -.5 themselves pass neither threshold.
TWO = [[0.9, 0.5, -0.2, -0.8], [0.6, 0.1, -0.5, 0.7]]


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("top", {"high": 0.5}, [[1 / 3, 0, 0, 0], [1 / 3, 0, 0, 1 / 3]]),
        ("top_bottom", {"low": -0.5, "high": 0.5}, [[1 / 4, 0, 0, 1 / 4], [1 / 4, 0, 0, 1 / 4]]),
        # Sizes .9 .5 .2 .8 and .6 .1 .5 .7 add up to 4.3, their squares to 2.85.
        ("reward_power", {"power": 1}, np.abs(TWO) / 4.3),
        ("reward_power", {"power": 2}, np.square(TWO) / 2.85),
        ("top", {"high": 2.0}, [[0] * 4] * 2),
        ("reward_power", {"power": 400}, [[1, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_weights_over_the_batch(name, options, expected):
    assert np.array(weights_of(name, TWO, **options)) == pytest.approx(np.array(expected), rel=1e-6, abs=1e-12)


def test_top_random_takes_the_top_and_half_of_the_others():
    rewards = np.tile([0.9, 0.1, 0.2, 0.3], (4000, 1))
    taken = build_filter("top_random", 4, high=0.5)(rewards, make_generator(0)) > 0
    assert taken[:, 0].all()
    # 4000 coins have a standard error of .008.
    assert taken[:, 1:].mean(axis=0).tolist() == pytest.approx([0.5] * 3, abs=0.04)


def test_an_unusable_reward_weighs_nothing_in_the_batch_and_spares_its_prompt():
    assert weights_of("top_bottom", [[0.9, NAN, INF, -0.9]], low=-0.5, high=0.5) == [[0.5, 0, 0, 0.5]]
    assert weights_of("top_random", [[NAN, NAN, 1.0, NAN]], high=0.5) == [[0, 0, 1.0, 0]]
    assert weights_of("reward_power", [[NAN, 0.5, -INF, 0.5]], power=1) == [[0, 0.5, 0, 0.5]]


def test_reward_power_says_once_that_rewards_leave_its_range():
    sample_filter = build_filter("reward_power", 2, power=1)
    with pytest.warns(UserWarning, match=r"meant for rewards in \[-1, 1\] .* got a reward of size 3"):
        assert sample_filter([[1.0, -3.0]]).tolist() == [[0.25, 0.75]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_filter([[1.0, -3.0]])


# ── Length, ensemble ──


def test_shortest_and_reward_per_token():
    lengths = [[4, 2, 8, 0]]
    batch = FilterBatch([[1.0, 0.4, 4.0, 0.1]], response_lengths=lengths)
    assert build_filter("shortest", 4)(batch).tolist() == [[0, 0.5, 0, 0.5]]
    # A token is worth 1/4, .2, .5 and, of a response without tokens, .1.
    assert build_filter("reward_per_token", 4)(batch).tolist() == [[0.5, 0, 0.5, 0]]


def test_ensemble_agreement_keeps_the_samples_that_all_rank_alike():
    # Ranks from below: model A 3 2 1 0, model B 3 1 2 0, model C 0 2 1 3. Variances of the samples: ranks (3 3 0) 2,
    # (2 1 2) 2/9, (1 2 1) 2/9, (0 0 3) 2.
    models = np.array([[[4.0, 3.0, 2.0, 1.0]], [[0.9, 0.3, 0.5, 0.1]], [[-4.0, 8.0, 7.0, 9.0]]])
    batch = FilterBatch(models[0], model_rewards=models)
    assert build_filter("ensemble_agreement", 4)(batch).tolist() == [[0, 0.5, 0.5, 0]]
    assert batch.ensemble_mean[0, 0] == pytest.approx(0.3)
    # Sample 3: 1, .1, 9: mean 3.3667, deviations -2.3667 -3.2667 5.6333 have squares 5.601 + 10.671 + 31.734 = 48.007.
    assert float(batch.lower_bound()[0, 3]) == pytest.approx(10.1 / 3 - (48.0067 / 2) ** 0.5, abs=1e-3)


def test_mid_ranks_share_ties():
    ranks = mid_ranks(np.array([[2.0, 1.0, 2.0, NAN, 0.0]]))
    assert ranks.tolist() == [[3.5, 2.0, 3.5, 0.0, 1.0]]


def test_what_a_batch_lacks_is_named():
    with pytest.raises(ValueError, match=r"have no response_lengths: the filter needs them"):
        build_filter("shortest", 4)(np.zeros((1, 4)))
    assert FilterBatch(np.zeros((1, 4))).scores is None


def test_a_batch_is_read_only_and_makes_its_columns_once():
    made = []
    batch = FilterBatch(np.zeros((1, 2)), responses=lambda: made.append(1) or [["a", "b"]])
    assert batch.responses is batch.responses and made == [1]
    with pytest.raises(AttributeError, match="read-only"):
        batch.rewards = np.ones((1, 2))


# ── Edge rules ──


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_unusable_reward_weighs_nothing_and_does_not_rank(bad):
    with_bad = weights_of("best_random", [[3.0, bad, 5.0, 2.0]])[0]
    without = weights_of("best_random", [[3.0, 5.0, 2.0]])[0]
    assert with_bad == pytest.approx([without[0], 0.0, without[1], without[2]])


def test_a_prompt_with_fewer_usable_rewards_than_k_is_dropped_whole():
    weights = weights_of("best_worst", [[NAN, 1.0, INF], [3.0, 1.0, NAN]])
    assert weights == [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    assert weights_of("none", [[1.0, NAN]]) == [[0.0, 0.0]]


def test_flat_prompts_are_found_by_a_tolerance():
    third = 0.1 + 0.2  # not equal to 0.3 as floats
    assert FilterBatch([[third, 0.3], [third, 0.31]]).flat.tolist() == [True, False]
    assert FilterBatch([[NAN, NAN], [NAN, 2.0]]).flat.tolist() == [False, True]


# ── Bad input ──


def quantile(**options):
    return {"high": 0.5, "unit": "quantile", **options}


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
        ("rank_weights", 2, {"weights": [1e308, 1e308]}, "below 1e100"),
        ("top", 5, {}, "needs high"),
        ("top_bottom", 5, {"high": 0.5}, "needs low"),
        ("top_bottom", 5, {"low": 0.5, "high": 0.5}, "low must be below high"),
        ("top", 5, {"high": NAN}, "must be a finite reward"),
        ("reward_power", 5, {"power": 0}, "must be a finite number above 0"),
        ("top", 4, quantile(high=1.5), "high must lie between 0 and 1 as a quantile, got 1.5"),
        ("top", 4, {"texts": ["high=0.5", "unit=share"]}, "option unit of sample filter 'top' must be"),
        (
            "top",
            4,
            quantile(per="task"),
            "per must be datasource or label:FIELD, a field of labels that are JSON, got 'task'",
        ),
        ("top", 4, quantile(window=0), "window must be 1 or more rewards of a task, got 0"),
        ("top", 4, {"high": 0.5, "per": "datasource"}, "per has no effect on thresholds in units of the reward: add"),
        ("top", 4, {"high": 0.5, "window": 9}, "window has no effect on thresholds in units of the reward: add"),
        (
            "pareto",
            4,
            {"objectives": ["reward"]},
            "objectives must be two or more different ones of reward, length, diversity, got reward",
        ),
        ("pareto", 4, {"objectives": ["reward", "shortness"]}, "got reward,shortness: choose among those"),
        ("pareto", 4, {"ngram": 2}, "ngram has no effect without the objective diversity: add it or leave ngram out"),
        ("pareto", 4, {"objectives": ["reward", "diversity"], "ngram": 0}, "ngram must be 1 to 100 tokens, got 0"),
        ("adaptive", 4, {"candidates": ["best_worst"] * 2}, "two or more different ones of best_worst, best_random"),
        ("adaptive", 4, {"candidates": ["best_worst", "top"]}, "got best_worst,top"),
        ("adaptive", 4, {"half_life": 0}, "half_life must be above 0 and at most 1000000, got 0"),
        ("adaptive", 4, {"certainty": 1e308}, "certainty must be above 0 and at most 1000000, got 1e+308"),
        (LEARNED, 4, {"method": "newton"}, "method must be one of auto, closed, subset, got newton"),
        (LEARNED, 4, {"start": "top"}, "start must be one of best_worst, best_random, best_of_n, none, got top"),
        (LEARNED, 4, {"mode": "keep"}, "mode must be one of select, resample, reweight, got keep"),
        (LEARNED, 4, {"certainty": NAN}, "certainty must be above 0 and at most 1000000, got nan"),
    ],
)
def test_bad_settings_get_one_sentence(name, n_samples, options, words):
    with pytest.raises(ValueError) as error:
        build_filter(name, n_samples, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_rewards_of_another_width_are_refused():
    with pytest.raises(ValueError, match="built for 5 samples per prompt, got 4"):
        build_filter("best_worst", 5)(np.zeros((2, 4)))


@pytest.mark.parametrize(
    "returned, found",
    [
        (-np.ones((2, 3)), "6 of 6 weights below 0, the lowest -1"),
        (np.full((2, 3), NAN), "6 of 6 weights that are NaN or infinite"),
        (np.ones((3, 2)), "shape (3, 2)"),
        (np.ones(6), "shape (6,)"),
        (None, "a NoneType"),
        (np.full((2, 3), "a"), "a ndarray"),
        ([[1.0, 2.0], [3.0]], "a list"),
        (np.ones((2, 3), dtype=complex), "a ndarray"),
        (np.full((2, 3), 1e308), "a weight of 1e+308, above 1e+100"),
    ],
)
def test_weights_that_are_not_weights_are_refused(returned, found):
    class Wrong(SampleFilter):
        def weigh(self, batch):
            return returned

    with pytest.raises(ValueError) as error:
        Wrong(3, 2)(np.zeros((2, 3)))
    sentence = f"Wrong.weigh must return finite weights, none negative, of shape (2, 3), got {found}."
    assert str(error.value) == sentence


def test_tensors_go_in_and_may_come_out_of_weigh():
    torch = pytest.importorskip("torch")

    class Tensors(SampleFilter):
        def weigh(self, batch):
            return torch.from_numpy(batch.rewards).bfloat16().requires_grad_() + 1

    assert Tensors(2, 1)(torch.tensor([[0.0, 2.0]]).bfloat16()).tolist() == [[0.25, 0.75]]
    with pytest.raises(ValueError, match="got a Generator: use openrlhf_pf.filters.make_generator"):
        Tensors(2, 1)([[0.0, 2.0]], torch.Generator())


# ── Promises, for any rewards ──

REWARDS = st.one_of(
    st.floats(-100, 100, width=32), st.sampled_from([NAN, INF, -INF, 0.0, 1.0, 1e308, -1e308, 3e38, -3e38])
)


@st.composite
def filtered(draw):
    n = draw(st.integers(2, 7))
    name = draw(st.sampled_from(sorted(FILTERS)))
    keep = draw(st.integers(1, n))
    options = {
        "rank_weights": {"weights": draw(st.lists(st.floats(0.01, 1), min_size=n, max_size=n))},
        "top": {"high": 1.0},
        "top_random": {"high": 1.0},
        "top_bottom": {"low": -1.0, "high": 1.0},
        "reward_power": {"power": 2.0},
    }.get(name, {})
    rewards = np.array(draw(st.lists(st.lists(REWARDS, min_size=n, max_size=n), min_size=1, max_size=6)))
    with np.errstate(over="ignore"):
        rewards = rewards.astype(draw(st.sampled_from([np.float64, np.float32])))
    columns = {
        "scores": np.arange(rewards.size).reshape(rewards.shape) % 2.0,
        "response_lengths": np.arange(rewards.size).reshape(rewards.shape) % 5,
        "model_rewards": np.stack([rewards, rewards[:, ::-1]]),
    }
    return build_filter(name, n, keep, **options), rewards, columns, draw(st.integers(0, 99))


@settings(max_examples=150, deadline=None)
@given(filtered(), st.sampled_from(DRAWS))
def test_any_rewards_give_weights_and_draws_that_keep_the_promises(case, mode):
    sample_filter, rewards, columns, seed = case
    batch = FilterBatch(rewards, make_generator(seed), **columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # reward_power's, about rewards above 1
        warnings.simplefilter("error", RuntimeWarning)
        weights = sample_filter(batch)
    keep, group = sample_filter.keep, sample_filter.scope == "group"
    counts, scale = draw(mode, weights, keep, sample_filter.scope, batch.order, batch.generator)

    assert weights.shape == rewards.shape and np.isfinite(weights).all() and (weights >= 0).all()
    usable = np.abs(rewards) < 3.3e38
    assert (weights[~usable] == 0).all()
    dropped = usable.sum(axis=1) < keep
    if group:
        assert weights.sum(axis=1) == pytest.approx((~dropped).astype(float))
    else:
        assert float(weights.sum()) == pytest.approx(1.0) or not weights.any()
    assert ((weights > 0).sum(axis=1) <= sample_filter.max_kept_per_prompt).all()

    assert (counts[weights == 0] == 0).all()
    if mode == "reweight":
        assert np.array_equal(counts, weights > 0)
        assert not counts.any() or float(scale[counts > 0].mean()) == pytest.approx(1.0)
    elif group:
        assert counts.sum(axis=1).tolist() == [0 if d else keep for d in dropped]
    elif mode == "select":
        assert counts.max() <= 1 and int(counts.sum()) == min(keep * len(rewards), int((weights > 0).sum()))
    else:
        assert int(counts.sum()) == (keep * len(rewards) if weights.any() else 0)
    if group and mode == "select":
        assert (np.abs(counts - keep * weights) < 1 + 1e-6).all()  # floor or ceil of k w_i
