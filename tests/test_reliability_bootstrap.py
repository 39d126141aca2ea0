"""The bootstrap over prompts: sums by brute force, and intervals that hold the truth as often as they say."""

import numpy as np
import pytest

from openrlhf_pf.reliability import Checkpoint, binned_r2
from openrlhf_pf.reliability.bootstrap import MAX_BLOCKS, Bootstrap, interval
from openrlhf_pf.reliability.evaluate import cells, evaluate, summary
from openrlhf_pf.reliability.metrics import METRICS
from openrlhf_pf.reliability.strategies import Strategy

N_PROMPTS, N = 200, 5
STRATEGIES = [Strategy("none", N), Strategy("best_worst", 2)]


def rollout(rng, n_prompts=N_PROMPTS):
    """Scores whose odds rise with the reward, some prompts easier than others: samples of a prompt are alike."""
    reward = rng.normal(size=(n_prompts, N)) + 0.5 * rng.normal(size=(n_prompts, 1))
    odds = 1.5 * reward + 0.7 * rng.normal(size=(n_prompts, 1))
    score = (rng.random((n_prompts, N)) < 1 / (1 + np.exp(-odds))).astype(float)
    return Checkpoint("a", reward, score, np.arange(n_prompts))


def test_sums_are_those_of_repeated_prompts():
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(7, 5, seed=1)
    prompt, cell, value = rng.integers(0, 7, 50), rng.integers(0, 3, 50), rng.random(50)
    assert sorted(bootstrap.block) == list(range(7))
    assert (bootstrap.counts.sum(axis=1) == 7).all() and (bootstrap.counts % 0.5 == 0).all()
    sums = bootstrap.sums(bootstrap.block[prompt], [value, np.ones(50)], cell, 3)
    for repetition in range(5):
        weight = bootstrap.counts[repetition][bootstrap.block[prompt]]
        for c in range(3):
            expected = [(weight * value)[cell == c].sum(), weight[cell == c].sum()]
            assert sums[repetition, c] == pytest.approx(expected)


def test_many_prompts_share_blocks_evenly():
    bootstrap = Bootstrap(5 * MAX_BLOCKS + 1, 100)
    assert np.bincount(bootstrap.block).max() - np.bincount(bootstrap.block).min() == 1
    assert bootstrap.counts.shape == (100, MAX_BLOCKS)
    # A prompt's count has variance 1/2, as 2 J draws at half weight have.
    assert bootstrap.counts.var() == pytest.approx(0.5, abs=0.01)


def test_blocks_give_the_standard_error_of_prompts():
    rng = np.random.default_rng(0)
    mean_of_prompt = rng.normal(size=20_000)
    bootstrap = Bootstrap(20_000, 1000)
    sums = bootstrap.sums(bootstrap.block, [mean_of_prompt, np.ones(20_000)])[:, 0]
    low, high = interval(mean_of_prompt.mean(), sums[:, 0] / sums[:, 1], "plain", bootstrap.n_blocks)
    # 1.96 standard errors of 1 / sqrt(20000) to either side.
    assert (high - low) / 2 == pytest.approx(1.96 / np.sqrt(20_000), rel=0.08)


def test_cells_keep_equal_values_together_and_weigh_alike():
    unit = np.repeat(np.arange(1000), 3)
    cell, count = cells(unit, np.ones(3000), 50)
    assert count == 50 and (np.bincount(cell) == 60).all()
    assert (cell.reshape(-1, 3) == cell.reshape(-1, 3)[:, :1]).all()
    cell, count = cells(np.array([0, 0, 4, 9]), np.ones(4), 50)
    assert cell.tolist() == [0, 0, 1, 2] and count == 3


def test_estimates_are_those_of_the_kept_samples():
    checkpoint = rollout(np.random.default_rng(0))
    none, best_worst = evaluate(checkpoint, STRATEGIES, Bootstrap(N_PROMPTS, 100))
    r = none.estimates["binned_r2"] ** 2
    assert r == pytest.approx(binned_r2(checkpoint.reward.ravel(), checkpoint.score.ravel()))
    order = checkpoint.reward.argsort(axis=1)[:, [0, -1]]
    kept = [np.take_along_axis(x, order, axis=1) for x in (checkpoint.reward, checkpoint.score)]
    assert best_worst.estimates["binned_r2"] ** 2 == pytest.approx(binned_r2(*(x.ravel() for x in kept)))
    assert best_worst.kept == 2 * N_PROMPTS and none.kept == N * N_PROMPTS
    # Of the pairs best and worst with different scores, those where the best is right.
    gap = kept[1][:, 1] - kept[1][:, 0]
    assert best_worst.estimates["pairwise_accuracy"] == pytest.approx((gap > 0).sum() / (gap != 0).sum())


def test_one_prompt_that_changes_nothing_has_a_narrow_interval():
    checkpoint = rollout(np.random.default_rng(0))
    checkpoint.score[:] = checkpoint.reward
    bootstrap = Bootstrap(N_PROMPTS, 100)
    (none,) = evaluate(checkpoint, STRATEGIES[:1], bootstrap)
    found = summary(none, bootstrap, 0.95)
    assert found["binned_r2"]["low"] == pytest.approx(1.0) and found["kendall"]["low"] == pytest.approx(1.0)
    assert found["mse"]["estimate"] == pytest.approx(0.0, abs=1e-12)


# ── Coverage ──

# Recall and precision follow a threshold that jumps, and the report calls their intervals rough.
COVERED = sorted(METRICS.keys() - {"effective_samples", "precision", "recall"})
ROUNDS = 500


@pytest.fixture(scope="module")
def coverage():
    """Share of 500 data sets whose 95% interval holds the truth, by strategy and metric.

    The truth is the value in a very large data set; for the metrics that depend on the number of samples (binned R²
    falls with noise in the groups, F1 is a maximum), it is the mean over data sets of this size.
    """
    large = evaluate(rollout(np.random.default_rng(10**6), 100_000), STRATEGIES, Bootstrap(100_000, 100))
    rounds = []
    for seed in range(ROUNDS):
        bootstrap = Bootstrap(N_PROMPTS, 200, seed)
        results = evaluate(rollout(np.random.default_rng(seed)), STRATEGIES, bootstrap)
        rounds.append([summary(result, bootstrap, 0.95) for result in results])
    found = {}
    for number, strategy in enumerate(STRATEGIES):
        for metric in COVERED:
            estimate, low, high = (
                np.array([r[number][metric][key] for r in rounds]) for key in ("estimate", "low", "high")
            )
            truth = large[number].estimates[metric] ** (2 if METRICS[metric].kind == "r2" else 1)
            truth = estimate.mean() if metric in ("binned_r2", "f1") else truth
            found[strategy.label, metric] = ((low <= truth) & (truth <= high)).mean()
    return found


@pytest.mark.parametrize("metric", COVERED)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.label)
def test_intervals_hold_the_truth(coverage, strategy, metric):
    # 500 rounds know a share of .95 to +- .01, so each may stray by twice that.
    assert coverage[strategy.label, metric] == pytest.approx(0.95, abs=0.02)


def test_intervals_hold_the_truth_on_average(coverage):
    assert np.mean(list(coverage.values())) == pytest.approx(0.95, abs=0.01)
