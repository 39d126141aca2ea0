"""The bootstrap over prompts: sums by brute force, and intervals that hold the truth as often as they say."""

import numpy as np
import pytest
from planted import analysed, checkpoint_of, plant
from scipy import stats

from openrlhf_pf.reliability.measures.bootstrap import MAX_BLOCKS, Bootstrap, interval
from openrlhf_pf.reliability.measures.evaluate import cut_cells, evaluate, summarize
from openrlhf_pf.reliability.measures.metrics import METRICS
from openrlhf_pf.reliability.measures.strategies import Strategy
from openrlhf_pf.reliability.report.answers import warnings_of

N_PROMPTS, N = 200, 5
STRATEGIES = [Strategy("none", N), Strategy("best_worst", 2)]


def rollout(rng, n_prompts=N_PROMPTS):
    """Scores whose odds rise with the reward, some prompts easier than others: samples of a prompt are alike."""
    reward = rng.normal(size=(n_prompts, N)) + 0.5 * rng.normal(size=(n_prompts, 1))
    odds = 1.5 * reward + 0.7 * rng.normal(size=(n_prompts, 1))
    score = (rng.random((n_prompts, N)) < 1 / (1 + np.exp(-odds))).astype(float)
    return checkpoint_of(reward, score)


def test_sums_are_those_of_repeated_prompts():
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(7, 5, seed=1)
    prompt, cell, value = rng.integers(0, 7, 50), rng.integers(0, 3, 50), rng.random(50)
    assert sorted(bootstrap.block) == list(range(7))
    assert (bootstrap.counts.sum(axis=1) == 7).all() and (bootstrap.counts % 0.5 == 0).all()
    sums = bootstrap.resample(bootstrap.table(bootstrap.block[prompt], [value, np.ones(50)], cell, 3))
    for repetition in range(5):
        weight = bootstrap.counts[repetition][bootstrap.block[prompt]]
        for c in range(3):
            expected = [(weight * value)[cell == c].sum(), weight[cell == c].sum()]
            assert sums[1 + repetition, c] == pytest.approx(expected)
    assert sums[0, :, 1] == pytest.approx(np.bincount(cell, minlength=3))


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
    sums = bootstrap.resample(bootstrap.table(bootstrap.block, [mean_of_prompt, np.ones(20_000)]))[1:, 0]
    low, high = interval(mean_of_prompt.mean(), sums[:, 0] / sums[:, 1], "plain", bootstrap.n_blocks)
    # 1.96 standard errors of 1 / sqrt(20000) to either side.
    assert (high - low) / 2 == pytest.approx(1.96 / np.sqrt(20_000), rel=0.08)


def test_cells_keep_equal_values_together_and_weigh_alike():
    unit = np.repeat(np.arange(1000), 3)
    cell, count = cut_cells(unit, np.ones(3000), 50)
    assert count == 50 and (np.bincount(cell) == 60).all()
    assert (cell.reshape(-1, 3) == cell.reshape(-1, 3)[:, :1]).all()
    cell, count = cut_cells(np.array([0, 0, 4, 9]), np.ones(4), 50)
    assert cell.tolist() == [0, 0, 1, 2] and count == 3


def test_estimates_are_those_of_the_kept_samples():
    checkpoint = rollout(np.random.default_rng(0))
    none, best_worst = evaluate(checkpoint, STRATEGIES, Bootstrap(N_PROMPTS, 100))
    order = checkpoint.reward.argsort(axis=1)[:, [0, -1]]
    kept = [np.take_along_axis(x, order, axis=1) for x in (checkpoint.reward, checkpoint.score)]
    for result, (reward, score) in ((none, (checkpoint.reward, checkpoint.score)), (best_worst, kept)):
        groups = [x.ravel()[reward.argsort(axis=None)].reshape(20, -1).mean(axis=1) for x in (reward, score)]
        assert result.estimates["binned_r2"] == pytest.approx(np.corrcoef(groups)[0, 1])
    assert best_worst.kept == 2 * N_PROMPTS and none.kept == N * N_PROMPTS
    # Of the pairs best and worst with different scores, those where the best is right.
    gap = kept[1][:, 1] - kept[1][:, 0]
    assert best_worst.estimates["pairwise_accuracy"] == pytest.approx((gap > 0).sum() / (gap != 0).sum())


def test_one_prompt_that_changes_nothing_has_a_narrow_interval():
    checkpoint = rollout(np.random.default_rng(0))
    checkpoint.score[:] = checkpoint.reward
    bootstrap = Bootstrap(N_PROMPTS, 100)
    (none,) = evaluate(checkpoint, STRATEGIES[:1], bootstrap)
    found = summarize(none, bootstrap, 0.95)
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
    large = evaluate(rollout(np.random.default_rng(10**6), 100_000), STRATEGIES, Bootstrap(100_000, 1))
    rounds = []
    for seed in range(ROUNDS):
        bootstrap = Bootstrap(N_PROMPTS, 200, seed)
        results = evaluate(rollout(np.random.default_rng(seed)), STRATEGIES, bootstrap)
        rounds.append([summarize(result, bootstrap, 0.95) for result in results])
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


# ── Few prompts that carry the answer ──


def test_units_are_those_of_the_scarcer_spread():
    # Ten prompts of two, all right; in one the rewards lie twenty times as far apart, in two no scores differ.
    reward = np.tile([1.0, -1.0], (10, 1))
    reward[0] *= 20
    score = np.tile([1.0, 0.0], (10, 1))
    score[8:] = 0
    (none,) = evaluate(checkpoint_of(reward, score), [Strategy("none", 2)], Bootstrap(10, 100))
    # Squares of 400 and nine times 1, by Kish: 409² / (400² + 9).
    for name in ("gain", "gain_kept", "signal_to_noise", "within_r2"):
        assert none.units[name] == pytest.approx(409**2 / 160_009), name
    # With 5 and nine times 1 as squares Kish has 14² / 34, and twice their squares' number and one is less.
    reward[0] *= np.sqrt(5) / 20
    (none,) = evaluate(checkpoint_of(reward, score), [Strategy("none", 2)], Bootstrap(10, 100))
    assert none.units["gain"] == pytest.approx(1 + 2 * 34**2 / (25**2 + 9)) and none.units["gain"] < 14**2 / 34


def test_a_share_of_few_units_has_students_interval():
    draws = 0.7 + 0.1 / np.sqrt(2) * np.array([-1.0, 1.0] * 50)  # of twice as many prompts
    # Variance .01 by 4 degrees of freedom: worth .21 / .01 cases, less by 5/4 and by the square of t / z.
    n = 21 * 4 / 5 / (stats.t.ppf(0.975, 4) / stats.norm.ppf(0.975)) ** 2
    expected = stats.beta.ppf([0.025, 0.975], 0.7 * n + 0.5, 0.3 * n + 0.5)
    assert interval(0.7, draws, "share", 50, 0.95, 5.0) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("informative", [0, 1, 2])
def test_no_interval_rests_on_one_prompt(informative):
    rng = np.random.default_rng(0)
    score = np.zeros((60, 4))
    score[:informative, 0] = 1
    checkpoint = checkpoint_of(rng.normal(size=(60, 4)), score)
    (none,) = evaluate(checkpoint, [Strategy("none", 4)], bootstrap := Bootstrap(60, 100))
    found = summarize(none, bootstrap, 0.95)
    assert found["gain"]["estimate"] is not None
    for name in ("gain", "signal_to_noise", "within_r2", "pairwise_accuracy"):
        assert (found[name]["low"] is not None) == (informative == 2), name


CARRIED = ("gain", "signal_to_noise", "within_r2")


def carried(kind, seed, n_prompts=100):
    """Rewards twenty times as far apart in one prompt of twenty, or with tails in which a few make up the spread."""
    checkpoint = plant("noise in the middle", n_prompts, 5, seed, score_rate=0.2)
    if kind == "extreme tails":
        checkpoint.reward = np.sinh(2 * checkpoint.reward)
    else:
        far = np.random.default_rng([seed, 1]).random((n_prompts, 1)) < 0.05
        checkpoint.reward *= np.where(far, 20.0, 1.0)
    return checkpoint


@pytest.mark.parametrize("kind", ["dominating prompts", "extreme tails"])
def test_intervals_hold_the_truth_where_few_prompts_carry_it(kind):
    found = []
    for seed in range(200):
        bootstrap = Bootstrap(100, 200, seed)
        (none,) = evaluate(carried(kind, seed), STRATEGIES[:1], bootstrap, whole=False)
        values = summarize(none, bootstrap, 0.95)
        found.append([[values[name][key] for name in CARRIED] for key in ("estimate", "low", "high")])
    estimate, low, high = np.moveaxis(np.array(found), 1, 0)
    # The mean of data sets of this size: of very many, the spread of extreme tails is another.
    share = ((low <= estimate.mean(axis=0)) & (estimate.mean(axis=0) <= high)).mean(axis=0)
    # 200 rounds know a share of .95 to +- .015, so each may stray by twice that.
    assert share.tolist() == [pytest.approx(0.95, abs=0.03)] * 3


def test_the_report_says_where_few_prompts_carry_the_answer():
    def said(checkpoint):
        return " ".join(line for line in warnings_of(analysed(checkpoint, names=("none",))) if "carry" in line)

    def equal(values):
        spread = values.var(axis=1)
        return round(spread.sum() ** 2 / (spread**2).sum())

    far = carried("dominating prompts", 0, 300)
    assert f"the rewards of about {equal(far.reward)} of 300 prompts lie so far apart" in said(far)
    rare = plant("right everywhere", 300, 4, 0, score_rate=0.01)
    informative = np.ptp(rare.score, axis=1).astype(bool).sum()
    assert f"Only in {informative} of 300 prompts do responses have different true scores" in said(rare)
    rare.score[:] = rare.score[:, :1]
    assert "In none of 300 prompts" in said(rare)
    assert said(plant("right everywhere", 300, 4)) == ""
