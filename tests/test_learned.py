"""Gain and signal to noise, and the example filter ``learned_weights`` that maximises it."""

import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from examples.filters.learned_weights import best_subset, closed_form, expected_counts, rank_sums
from openrlhf_pf import filters
from openrlhf_pf.filters import FilterBatch, draw, make_generator
from openrlhf_pf.filters.adaptive import known_samples

LEARNED = str(Path(__file__).parents[1] / "examples/filters/learned_weights.py:LearnedWeights")

NAN = math.nan
N = 8


def build_filter(name, *args, **options):
    return filters.build_filter(LEARNED if name == "learned_weights" else name, *args, **options)


def simulate(name, seed, prompts=64):
    """A rollout in which rewards have the same error everywhere, or a tenth of samples exploits them, or all noise."""
    source = np.random.default_rng(seed)
    quality, error = source.normal(size=(2, prompts, N))
    if name == "flat":
        return FilterBatch(quality + 0.7 * error, make_generator(seed), scores=quality)
    if name == "noise":
        return FilterBatch(error, make_generator(seed), scores=quality)
    if name == "wrong":
        return FilterBatch(error - quality, make_generator(seed), scores=quality)
    exploits = source.random((prompts, N)) < 0.1
    reward = np.where(exploits, 2.5 + 0.3 * error, quality + 0.5 * error)
    return FilterBatch(reward, make_generator(seed), scores=quality - exploits)


def run(sample_filter, name, seeds, **how):
    """What the filter has to say on the way."""
    messages = []
    for seed in seeds:
        sample_filter(simulate(name, seed, **how))
        messages += [sample_filter.log_message] if sample_filter.log_message else []
    return messages


def ranks_of(weights):
    return (np.flatnonzero(weights) + 1).tolist()


# ── Signal and noise ──


def test_c_and_v_of_two_prompts_by_hand():
    # d 2 0 -2 and s .5 -.5 0 in the first prompt. In the second, where the score of the 0 is unknown, the rewards 1
    # and 5 have d -2 and 2, s -.5 and .5, and are second and first.
    batch = FilterBatch(
        np.array([[4.0, 2.0, 0.0], [1.0, 5.0, 0.0]]), scores=np.array([[1.0, 0.0, 0.5], [0.0, 1.0, NAN]])
    )
    assert rank_sums(batch, known_samples(batch)).tolist() == [[2, 2, 1], [1 + 1, 0 + 1, 0], [4 + 4, 0 + 4, 4]]
    sample_filter = build_filter("learned_weights", 3, mode="reweight")
    sample_filter.observe(batch)
    c, v = sample_filter.c_and_v()
    assert (c.tolist(), v.tolist()) == ([1.0, 0.5, 0.0], [4.0, 2.0, 4.0])
    assert sample_filter.learned.tolist() == [0.5, 0.5, 0.0], "c / v = .25 .25 0"


def test_the_best_subset_is_that_of_all_subsets():
    source = np.random.default_rng(0)
    for _ in range(100):
        c = source.normal(size=7)
        v = source.random(7) ** 3 + 1e-6
        for keep in range(1, 8):
            subsets = np.array(list(itertools.combinations(range(7), keep)))
            values = c[subsets].sum(axis=1) / np.sqrt(v[subsets].sum(axis=1))
            if values.max() > 0:
                assert ranks_of(best_subset(c, v, keep)) == (subsets[values.argmax()] + 1).tolist()


def test_a_rank_without_spread_gets_no_weight():
    c, v = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 1.0]])
    assert closed_form(c, v).tolist() == pytest.approx([0.0, 1 / 3, 2 / 3])
    assert best_subset(c, v, 3).tolist() == [0.0, 0.5, 0.5]
    c[1] = -1.0
    assert best_subset(c, v, 2).tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("mode", ["select", "resample"])
def test_expected_counts_are_those_of_the_draw(mode):
    weights = np.array([[0.6, 0.3, 0.1, 0.0]])
    counts = draw(mode, np.tile(weights, (20_000, 1)), 2, generator=make_generator(0)).counts
    mean, square = expected_counts(weights[0], 2, mode)
    # The standard deviation of n² is below 2, its standard error below .015.
    assert counts.mean(axis=0).tolist() == pytest.approx(mean.tolist(), abs=0.03)
    assert (counts**2).mean(axis=0).tolist() == pytest.approx(square.tolist(), abs=0.06)


# ── Learning ──


def test_the_best_ranks_take_over_and_say_why():
    sample_filter = build_filter("learned_weights", N, 2)
    assert not run(sample_filter, "exploit", range(9)), "patience"
    (message,) = run(sample_filter, "exploit", range(9, 20))
    assert "the learnt weights take over: over 9 other rollouts than they were found on" in message
    values = sample_filter.metrics()
    assert [values[f"weight_{rank}"] for rank in range(1, 9)] == [0, 0, 0, 0, 0, 0, 0.5, 0.5]
    # Of 1,280 prompts; with 30,000 it is 1.323 and .925.
    assert values["j"] == pytest.approx(1.32, abs=0.1) and values["j_start"] == pytest.approx(0.93, abs=0.15)
    rewards = [[5.0, 7, 1, 0, 2, 6, 3, 4]]
    assert sample_filter(rewards).tolist() == [[0, 0, 0.5, 0.5, 0, 0, 0, 0]]


def test_what_is_best_depends_on_the_draw():
    """Where the error is the same everywhere, all samples help when reweighted, but the ends do when two are drawn."""
    selecting = build_filter("learned_weights", N, 2, mode="select")
    assert not run(selecting, "flat", range(20)) and ranks_of(selecting.learned) == [1, 8]
    reweighting = build_filter("learned_weights", N, 2, mode="reweight")
    assert len(run(reweighting, "flat", range(20))) == 1
    assert reweighting.weights.tolist() == pytest.approx([1 / 8] * 8, abs=0.02)
    assert (selecting.max_kept_per_prompt, reweighting.max_kept_per_prompt) == (2, 8)


def test_rewards_that_are_worse_than_nothing_bring_start_back_and_one_warning():
    sample_filter = build_filter("learned_weights", N, 2, half_life=2)
    run(sample_filter, "exploit", range(15))
    assert sample_filter.uses_learned
    with pytest.warns(UserWarning, match="best_worst stays, but this reward should not train") as caught:
        messages = run(sample_filter, "wrong", range(30))
    assert len(caught) == 1
    assert "best_worst takes over: no rank has a signal now" in messages[-1] and not sample_filter.uses_learned
    batch = simulate("wrong", 99)
    assert ranks_of(np.take_along_axis(sample_filter(batch), batch.order, axis=1)[0]) == [1, 8]


def test_without_true_scores_it_is_its_start_always():
    sample_filter, start = build_filter("learned_weights", N, start="best_random"), build_filter("best_random", N)
    for seed in range(30):
        rewards = simulate("exploit", seed).rewards
        nothing = np.full_like(rewards, NAN)
        for batch in (FilterBatch(rewards), FilterBatch(rewards, scores=nothing)):
            assert np.array_equal(sample_filter(batch), start(rewards)) and not sample_filter.log_message
    values = sample_filter.metrics()
    assert math.isnan(values["j"]) and math.isnan(values["j_start"]) and values["weight_1"] == 0.5


def test_prompts_without_scores_or_rewards_teach_nothing():
    some, all_of_them = (build_filter("learned_weights", N, mode="reweight") for _ in range(2))
    for seed in range(20):
        batch = simulate("exploit", seed)
        all_of_them.observe(batch)
        lost = FilterBatch(np.full((2, N), NAN), scores=np.zeros((2, N)))
        rewards = np.concatenate([batch.rewards, lost.rewards, np.arange(3.0 * N).reshape(3, N)])
        scores = np.concatenate([batch.scores, lost.scores, np.full((3, N), NAN)])
        some.observe(FilterBatch(rewards, scores=scores))
    assert np.allclose(some.weights, all_of_them.weights) and some.uses_learned
    assert some.metrics() == pytest.approx(all_of_them.metrics())
    spoiled = simulate("exploit", 0)
    spoiled.rewards[::2, 3], spoiled.scores[1::2, 5] = math.inf, NAN
    weights = some(spoiled)
    assert np.isfinite(weights).all() and not weights[::2, 3].any()
    assert all(np.isfinite(c).all() for c in some.c_and_v())


# ── Promises ──


@pytest.mark.parametrize("method", ["closed", "subset"])
def test_a_resumed_filter_goes_on_as_the_unbroken_one(method):
    unbroken = build_filter("learned_weights", N, method=method)
    run(unbroken, "exploit", range(6))
    resumed = build_filter("learned_weights", N, method=method)
    resumed.load_state_dict(pickle.loads(pickle.dumps(unbroken.state_dict())))
    assert run(resumed, "exploit", range(6, 20)) == run(unbroken, "exploit", range(6, 20))
    assert np.array_equal(resumed.learned, unbroken.learned) and resumed.metrics() == unbroken.metrics()
    other = "subset" if method == "closed" else "closed"
    with pytest.raises(ValueError, match=f"have N, k, method, start and mode .*{method}.*give the same to resume"):
        build_filter("learned_weights", N, method=other).load_state_dict(unbroken.state_dict())
