"""The adaptive filter: it finds the better strategy, changes its mind when that changes, and leaves noise alone."""

import math
import pickle

import numpy as np
import pytest

from openrlhf_pf.filters import FilterBatch, build_filter
from openrlhf_pf.filters.adaptive import CANDIDATES, gain, moments

N = 6


def rollout(seed, bad="middle", prompts=40, known=1.0):
    """True scores are a step in quality; the reward is quality, but noise in a band of it."""
    source = np.random.default_rng(seed)
    quality = source.normal(size=(prompts, N))
    score = (quality > 0).astype(float)
    noise = source.normal(size=(prompts, N))
    if bad == "middle":  # right at both ends
        reward = np.where(np.abs(quality) < 0.8, 0.8 * np.tanh(noise), quality)
    elif bad == "best":  # the best responses are taken for the worst
        reward = np.where(quality > 0.3, -3.0 + 0.1 * noise, quality)
    else:
        reward = noise
    scores = np.where(source.random((prompts, 1)) < known, score, math.nan)
    return FilterBatch(reward, source, scores=scores)


def run(sample_filter, seeds, **how):
    messages = []
    for seed in seeds:
        sample_filter(rollout(seed, **how))
        if sample_filter.log_message:
            messages.append(sample_filter.log_message)
    return messages


def test_moments_are_those_of_the_samples_that_the_candidate_keeps():
    # best_worst keeps rewards 4 and 1 of the first prompt, 3 and 0 of the second; the score of the 1 is unknown.
    batch = FilterBatch(
        np.array([[4.0, 2.0, 1.0], [3.0, 1.0, 0.0]]), scores=np.array([[1.0, 0.0, math.nan], [1.0, 1.0, 0.0]])
    )
    known = np.isfinite(batch.scores)
    # Less their prompt's means (3, .5 of the known two; 4/3, 2/3): d = 1, -1 and 5/3, -4/3; s = .5, -.5 and 1/3, -2/3.
    found = moments(CANDIDATES["best_worst"](3, 2), batch, known)
    w, d, s = [0.5, 0.5, 0.5], [1.0, 5 / 3, -4 / 3], [0.5, 1 / 3, -2 / 3]
    columns = [w, *([a * b for a, b in zip(w, x)] for x in (d, s))]
    columns += [[a * b * b for a, b in zip(w, d)], [a * b * c for a, b, c in zip(w, d, s)]]
    assert found.tolist() == pytest.approx([sum(x) for x in columns])
    mean_d, mean_s = sum(d) / 3, sum(s) / 3
    spread = sum((x - mean_d) ** 2 for x in d) / 3
    expected = sum((x - mean_d) * (y - mean_s) for x, y in zip(d, s)) / 3 / spread**0.5
    assert float(gain(found)) == pytest.approx(expected)
    assert gain(np.array([[2.0, 2.0, 1.0, 2.0, 1.0]])).tolist() == [0.0], "no spread of rewards"


def test_the_better_strategy_takes_over_and_says_why():
    sample_filter = build_filter("adaptive", N, candidates=["best_of_n", "best_random", "best_worst"])
    messages = run(sample_filter, range(30))
    assert sample_filter.in_use == "best_worst"
    assert "best_worst takes over from" in messages[-1] and "ahead by" in messages[-1]
    values = sample_filter.gains()
    assert values["best_worst"] > values["best_random"] > values["best_of_n"]
    assert (
        sample_filter.metrics()["gain_best_worst"] == values["best_worst"] and sample_filter.metrics()["strategy"] == 2
    )


def test_it_changes_its_mind_when_the_reward_model_changes():
    """First the middle is noise, then the worst rewards go to the best responses."""
    sample_filter = build_filter("adaptive", N, candidates=["best_of_n", "best_worst"], half_life=8.0)
    run(sample_filter, range(40))
    first = sample_filter.in_use
    assert first == "best_worst"
    run(sample_filter, range(100, 160), bad="best")
    values = sample_filter.gains()
    assert sample_filter.in_use == max(values, key=values.get) and sample_filter.in_use != first


def test_rewards_that_know_only_how_hard_a_prompt_is_change_nothing():
    """Of 20 runs of 60 rollouts, none may leave the candidate that it began with."""
    for start in range(20):
        sample_filter = build_filter("adaptive", N)
        for seed in range(60):
            source = np.random.default_rng(1000 * start + seed)
            ease = source.normal(size=(16, 1))
            score = (ease + source.normal(size=(16, N)) > 0).astype(float)
            reward = ease + 0.5 * source.normal(size=(16, N))
            sample_filter(FilterBatch(reward, source, scores=score))
        assert sample_filter.in_use == "best_worst"


def test_noise_makes_it_switch_seldom():
    """60 rollouts of rewards that are noise: of 100 runs, fewer than 5 may ever switch."""
    switched = 0
    for start in range(100):
        sample_filter = build_filter("adaptive", N)
        switched += bool(run(sample_filter, range(1000 * start, 1000 * start + 60), bad="all", prompts=8))
    assert switched < 5, switched


def test_scores_of_some_prompts_are_enough_and_none_change_nothing():
    some = build_filter("adaptive", N, candidates=["best_of_n", "best_worst"])
    assert run(some, range(30), known=0.4)
    none = build_filter("adaptive", N, candidates=["best_of_n", "best_worst"])
    assert not run(none, range(30), known=0.0)
    for seed in range(30):
        none(FilterBatch(rollout(seed).rewards))
    assert none.in_use == "best_of_n" and math.isnan(none.gains()["best_worst"])


def test_a_resumed_filter_decides_as_the_unbroken_one():
    unbroken = build_filter("adaptive", N, candidates=["best_of_n", "best_worst"])
    run(unbroken, range(8))
    resumed = build_filter("adaptive", N, candidates=["best_of_n", "best_worst"])
    resumed.load_state_dict(pickle.loads(pickle.dumps(unbroken.state_dict())))
    assert run(resumed, range(8, 20)) == run(unbroken, range(8, 20)) != []
    with pytest.raises(ValueError, match="chooses among best_of_n, best_worst, this one among best_worst, none"):
        build_filter("adaptive", N, candidates=["best_worst", "none"]).load_state_dict(unbroken.state_dict())
