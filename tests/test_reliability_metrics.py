"""Metrics of weighted samples against brute force, scipy and scikit-learn: a whole weight is a repeated sample."""

import numpy as np
import pytest
from scipy import stats
from sklearn import linear_model
from sklearn import metrics as sklearn_metrics

from openrlhf_pf.reliability.measures import metrics
from openrlhf_pf.reliability.measures.metrics import count_pairs, pair_accuracy


def samples(n=200, levels=None, seed=0):
    """Rewards with ties, scores that follow them, whole weights from 0 to 3."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=n).round(1) + 5.0
    score = reward - 5.0 + rng.normal(size=n)
    score = (score > 0).astype(float) if levels == 2 else score.round(1)
    return reward, score, rng.integers(0, 4, n)


def repeated(weight, *columns):
    return [np.repeat(column, weight) for column in columns]


def sums_of(reward, score, weight, centre=(0.0, 0.0)):
    r, s = reward - centre[0], score - centre[1]
    return np.array([[(weight * c).sum() for c in (1 + 0 * r, r, s, r * r, s * s, r * s, weight)]], float)


def table_of(reward, score, weight):
    _, cell = np.unique(reward, return_inverse=True)
    _, level = np.unique(score, return_inverse=True)
    table = np.zeros((1, cell.max() + 1, level.max() + 1))
    np.add.at(table[0], (cell, level), weight)
    return table


# ── Binned R² ──


def binned_points(reward, score, weight=1.0, bins=20):
    cell = np.unique(reward, return_inverse=True)[1]
    sums = [np.bincount(cell, weight * np.asarray(x)) for x in (np.ones(len(cell)), reward, score)]
    return metrics.points_of_cells(np.stack(sums, axis=-1)[None], bins)[0]


def binned_r2(*samples, **options):
    return metrics.correlation_of_points(binned_points(*samples, **options)[None])[0] ** 2


def test_binned_points_by_hand():
    # Four groups of 2: rewards 1 2 | 3 4 | 5 6 | 7 8, given out of order.
    reward, score = [8, 1, 3, 2, 4, 6, 5, 7], [1, 0, 0, 0, 1, 1, 0, 1]
    points = binned_points(reward, score, bins=4)
    assert points.tolist() == [[1.5, 3.5, 5.5, 7.5], [0.0, 0.5, 0.5, 1.0]]
    # Deviations -3 -1 1 3 and -.5 0 0 .5: R² = 3² / (20 * .5) = .9
    assert binned_r2(reward, score, bins=4) == pytest.approx(0.9)


def test_a_sample_across_a_border_counts_for_its_part():
    # Weight 3 in 2 groups of 1.5: the second sample lies half in each.
    points = binned_points([1.0, 2.0, 3.0], [0.0, 1.0, 0.0], bins=2)
    assert points[0] == pytest.approx([(1 + 1) / 1.5, (1 + 3) / 1.5])
    assert points[1] == pytest.approx([0.5 / 1.5, 0.5 / 1.5])


@pytest.mark.parametrize("levels", [2, None])
def test_a_whole_weight_repeats_the_sample_in_bins(levels):
    reward, score, weight = samples(levels=levels)
    assert binned_points(reward, score, weight) == pytest.approx(binned_points(*repeated(weight, reward, score)))


def test_binned_r2_does_not_depend_on_order_scale_or_offset():
    reward, score, weight = samples()
    shuffle = np.random.default_rng(1).permutation(len(reward))
    expected = binned_r2(reward, score, weight)
    assert binned_r2(reward[shuffle], score[shuffle], weight[shuffle]) == pytest.approx(expected)
    assert binned_r2(1e6 + 3 * reward, 2 - score, 7 * weight) == pytest.approx(expected)


@pytest.mark.parametrize("score", [[1.0] * 100, [0.1] * 100])
def test_scores_that_do_not_differ_have_no_r2(score):
    assert np.isnan(binned_r2(np.arange(100) / 7, score))
    assert np.isnan(binned_r2(score, np.arange(100) / 7))


# ── From sums ──


@pytest.mark.parametrize("centre", [(0.0, 0.0), (5.0, 0.3)])
def test_sums_give_what_scikit_learn_gives_with_sample_weight(centre):
    reward, score, weight = samples()
    found = {
        name: float(x[0]) for name, x in metrics.from_sums(sums_of(reward, score, weight, centre), centre).items()
    }
    line = linear_model.LinearRegression().fit(reward[:, None], score, sample_weight=weight)
    predicted = line.predict(reward[:, None])
    assert found["sample_r2"] ** 2 == pytest.approx(sklearn_metrics.r2_score(score, predicted, sample_weight=weight))
    assert found["mse"] == pytest.approx(sklearn_metrics.mean_squared_error(score, predicted, sample_weight=weight))
    assert found["mean_score"] == pytest.approx(np.average(score, weights=weight))
    assert found["mean_reward"] == pytest.approx(np.average(reward, weights=weight))
    assert found["effective_samples"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_a_score_on_the_line_leaves_no_error_but_rounding():
    """Of which an interval on the scale of logarithms would reach from 0 to 1e100."""
    reward, _, weight = samples()
    assert metrics.from_sums(sums_of(reward, 1.1 * reward + 0.1, weight), (0.0, 0.0))["mse"].tolist() == [0.0]


# ── Ranks ──


@pytest.mark.parametrize("levels", [2, None])
def test_rank_correlations_are_scipys_of_repeated_samples(levels):
    reward, score, weight = samples(levels=levels)
    found = metrics.rank_correlations(table_of(reward, score, weight))
    again = repeated(weight, reward, score)
    assert float(found["spearman"][0]) == pytest.approx(stats.spearmanr(*again)[0])
    assert float(found["kendall"][0]) == pytest.approx(stats.kendalltau(*again)[0])


def test_rank_correlations_of_one_class_are_unknown():
    found = metrics.rank_correlations(table_of(np.arange(9.0), np.ones(9), 0.1))
    assert np.isnan(found["spearman"][0]) and np.isnan(found["kendall"][0])


def test_auc_precision_recall_and_f1_are_scikit_learns_with_sample_weight():
    reward, score, weight = samples(levels=2)
    rewards, cell = np.unique(reward, return_inverse=True)
    total, correct = (np.bincount(cell, weight * x)[None] for x in (1.0, score))
    found = metrics.threshold_metrics(total, correct)
    assert float(found["auc"][0]) == pytest.approx(sklearn_metrics.roc_auc_score(score, reward, sample_weight=weight))
    called = reward >= rewards[found["cell"][0]]
    for name, function in (
        ("precision", sklearn_metrics.precision_score),
        ("recall", sklearn_metrics.recall_score),
        ("f1", sklearn_metrics.f1_score),
    ):
        assert float(found[name][0]) == pytest.approx(function(score, called, sample_weight=weight))
    every = [sklearn_metrics.f1_score(score, reward >= t, sample_weight=weight) for t in rewards]
    assert float(found["f1"][0]) == pytest.approx(max(every))


def test_without_a_correct_sample_nothing_is_said():
    found = metrics.threshold_metrics(np.ones((1, 5)), np.zeros((1, 5)))
    assert all(np.isnan(found[name][0]) for name in ("auc", "precision", "recall", "f1"))
    # All correct: no pairs for the AUC, but calling everything correct is right.
    found = metrics.threshold_metrics(np.ones((1, 5)), np.ones((1, 5)))
    assert np.isnan(found["auc"][0]) and found["f1"][0] == 1.0


# ── Pairs ──


def test_pairwise_accuracy_by_brute_force():
    rng = np.random.default_rng(0)
    reward, score = rng.normal(size=(30, 5)).round(0), rng.integers(0, 3, (30, 5)).astype(float)
    reward[0, 1] = score[1, 2] = np.nan
    weights = [np.ones((30, 5)), rng.random((30, 5))]
    sums = count_pairs(reward, score, weights)
    for weight, found in zip(weights, pair_accuracy(sums.sum(axis=2))):
        right = every = 0.0
        for g in range(30):
            for i in range(5):
                for j in range(5):
                    if score[g, i] > score[g, j] and np.isfinite(reward[g, i] - reward[g, j]):
                        pair = weight[g, i] * weight[g, j]
                        every += pair
                        right += pair * (reward[g, i] > reward[g, j]) + pair * (reward[g, i] == reward[g, j]) / 2
        assert found == pytest.approx(right / every)
