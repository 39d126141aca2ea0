"""Agreement within prompts by brute force, the numbers that used to be wrong, and the three answers."""

import numpy as np
import pytest
from planted import analysed, checkpoint_of, plant
from scipy import stats

from openrlhf_pf.filters import FilterBatch, build_filter, draw, make_generator
from openrlhf_pf.reliability.measures import within
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.evaluate import evaluate, summarize
from openrlhf_pf.reliability.measures.strategies import Strategy, expected_weights
from openrlhf_pf.reliability.report.answers import answers_of, warnings_of


def one(checkpoint, name, keep, repetitions=100, **options):
    bootstrap = Bootstrap(checkpoint.n_prompts, repetitions)
    (result,) = evaluate(checkpoint, [Strategy(name, keep, options)], bootstrap)
    return result, bootstrap


def ragged(seed=0):
    """Ties, missing values, groups of one."""
    rng = np.random.default_rng(seed)
    reward, score = rng.integers(0, 4, (40, 5)).astype(float), rng.integers(0, 3, (40, 5)) / 2
    reward[rng.random((40, 5)) < 0.1] = np.nan
    score[rng.random((40, 5)) < 0.1] = np.nan
    reward[0, 1:] = np.nan
    return checkpoint_of(reward, score)


# ── By brute force ──


@pytest.mark.parametrize("name, keep", [("none", 5), ("best_worst", 2), ("best_of_n", 1), ("best_random", 3)])
def test_gain_is_the_slope_along_the_whitened_advantages_of_the_kept(name, keep):
    checkpoint = ragged()
    (weights,) = expected_weights([Strategy(name, keep)], checkpoint)
    w, d, s = [], [], []
    for row in range(40):
        known = checkpoint.known[row]
        if known.sum() < 2:
            continue
        w += list(weights[row][known])
        d += list(checkpoint.reward[row][known] - checkpoint.reward[row][known].mean())
        s += list(checkpoint.score[row][known] - checkpoint.score[row][known].mean())
    w, d, s = np.array(w), np.array(d), np.array(s)
    c = np.average(d, weights=w)
    sd = np.sqrt(np.average((d - c) ** 2, weights=w))
    result, _ = one(checkpoint, name, keep)
    assert result.estimates["gain"] == pytest.approx(np.average((d - c) / sd * s, weights=w))
    k = result.kept / 40
    signal = np.average(d * s, weights=w) / np.sqrt(np.average(d * d, weights=w) / k)
    assert result.estimates["signal_to_noise"] == pytest.approx(signal)
    r = np.average((d - c) * s, weights=w) / sd / np.sqrt(np.average((s - np.average(s, weights=w)) ** 2, weights=w))
    assert result.estimates["within_r2"] == pytest.approx(r)


def test_gain_of_the_kept_baseline_takes_the_kept_mean_off():
    # best_worst: rewards 4 and 0, scores 1 and 0; 3 and 1, scores 0 and 1. Advantages +-2 and +-1.
    checkpoint = checkpoint_of([[4, 3, 0], [3, 1.5, 1]], [[1, 0, 0], [0, 0, 1]])
    result, _ = one(checkpoint, "best_worst", 2)
    sd = np.sqrt((4 + 4 + 1 + 1) / 4)
    assert result.estimates["gain_kept"] == pytest.approx((2 * 1 - 1 * 1) / 4 / sd)
    alone, _ = one(checkpoint, "best_of_n", 1)
    assert alone.estimates["gain_kept"] == 0.0, "a single response has no advantage over itself"


def test_within_spearman_is_scipys_where_there_is_one_prompt():
    rng = np.random.default_rng(0)
    reward, score = rng.integers(0, 6, (1, 30)).astype(float), rng.integers(0, 4, (1, 30)).astype(float)
    away = within.deviations_of(checkpoint_of(reward, score))
    found = within.compute_within(within.sum_within(np.ones((1, 30)), away).sum(axis=1)[None], 30)
    assert found["within_spearman"][0] == pytest.approx(stats.spearmanr(reward[0], score[0])[0])


def test_repetitions_are_those_of_repeated_prompts():
    checkpoint = ragged()
    result, bootstrap = one(checkpoint, "best_worst", 2)
    counts = 2 * bootstrap.counts[0][bootstrap.block]
    rows = np.repeat(np.arange(40), counts.astype(int))
    again, _ = one(checkpoint_of(checkpoint.reward[rows], checkpoint.score[rows]), "best_worst", 2)
    for name in within.METRICS_WITHIN:
        assert result.draws[name][0] == pytest.approx(again.estimates[name]), name


# ── Numbers that were wrong ──


def likert(seed=0, n_prompts=300):
    """Rewards 1 to 5 of which 30% are 5: nothing is above the upper quartile."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(n_prompts, 5))
    reward = np.digitize(q + 0.7 * rng.normal(size=q.shape), [-1, -0.3, 0.2, 0.6]) + 1
    return checkpoint_of(reward, rng.random(q.shape) < 1 / (1 + np.exp(-2 * q)))


@pytest.mark.parametrize("rewards", ["likert", "binary", "clipped"])
def test_a_filter_that_keeps_nothing_is_nobodys_twin(rewards):
    checkpoint = likert()
    if rewards == "binary":
        checkpoint.reward = (checkpoint.reward > 3).astype(float)
    if rewards == "clipped":
        checkpoint.reward = np.minimum(checkpoint.reward + np.random.default_rng(1).random((300, 5)), 4.5)
    analysis = analysed(checkpoint)
    found = {r.strategy.label: r for r in analysis.analysed[0].results}
    top = found["top"]
    assert (top.kept, top.twin, top.estimates) == (0.0, "", {})
    assert any("no sample passes top" in line for line in warnings_of(analysis))
    right = known = 0
    for r, s in zip(checkpoint.reward, checkpoint.score):
        for i, j in ((i, j) for i in range(5) for j in range(5) if s[i] > s[j]):
            right, known = right + (r[i] > r[j]) + (r[i] == r[j]) / 2, known + 1
    assert found["none"].estimates["pairwise_accuracy"] == pytest.approx(right / known)


def test_r2_of_a_falling_line_is_negative():
    checkpoint = plant("right everywhere", 200, 4)
    up, bootstrap = one(checkpoint, "none", 4)
    checkpoint.score = 1 - checkpoint.score
    down, _ = one(checkpoint, "none", 4)
    for name in ("binned_r2", "within_r2"):
        rising, falling = (summarize(r, bootstrap, 0.95)[name] for r in (up, down))
        assert falling["estimate"] == pytest.approx(-rising["estimate"]) and rising["estimate"] > 0.1
        assert falling["low"] == pytest.approx(-rising["high"]), name


def test_without_a_filter_every_sample_counts_once_in_ragged_files():
    nan = np.nan
    checkpoint = checkpoint_of([[3, 2, 1, 0], [5, nan, nan, nan]], [[1, 0, 1, 0], [1, nan, nan, nan]])
    (weights,) = expected_weights([Strategy("none", 4)], checkpoint)
    assert len(np.unique(weights[checkpoint.known])) == 1
    result, _ = one(checkpoint, "none", 4)
    assert result.estimates["mean_score"] == pytest.approx(checkpoint.score[checkpoint.known].mean())


def test_max_variance_breaks_ties_by_chance():
    # One response has no variance: best and worst are as good. 2, 1, 0, -1, -2 with k = 3: two tops or two bottoms.
    for rewards, keep, expected in (
        ([3.0, 1.0, 2.0], 1, [0.5, 0.5, 0.0]),
        ([2.0, 1.0, 0.0, -1.0, -2.0], 3, [1 / 3, 1 / 6, 0.0, 1 / 6, 1 / 3]),
    ):
        batch = np.tile(rewards, (4000, 1))
        found = build_filter("max_variance", len(rewards), keep)(batch, make_generator(0))
        assert found.mean(axis=0) == pytest.approx(expected, abs=0.02)
        (weights,) = expected_weights([Strategy("max_variance", keep)], checkpoint_of([rewards], [rewards]))
        assert weights[0] == pytest.approx(expected)


def test_reward_power_is_analysed_as_select_draws():
    # Weights 1, 0, 0, .1 / .1, .1, .1, .1 squared, two a prompt: the 1 is taken once, though its share is 3.8 of 4.
    reward = np.array([[1.0, 0.0, 0.0, 0.1], [0.1, 0.1, 0.1, 0.1]])
    (weights,) = expected_weights([Strategy("reward_power", 2, {"power": 2.0})], checkpoint_of(reward, reward))
    built = build_filter("reward_power", 4, 2, power=2.0)
    batch = FilterBatch(reward)
    generator = make_generator(0)
    counts = sum(draw("select", built(batch), 2, "batch", generator=generator).counts for _ in range(4000)) / 4000
    assert weights == pytest.approx(counts, abs=0.03)


def test_a_single_kept_response_has_no_pairs():
    checkpoint = likert()
    result, bootstrap = one(checkpoint, "best_of_n", 1)
    assert summarize(result, bootstrap, 0.95)["pairwise_accuracy"]["estimate"] is None


def test_an_accuracy_of_1_is_as_sure_as_its_pairs_are_many():
    # Of 1,000 prompts 5 have pairs, all right: what 5 cases without an exception rule out.
    score = np.zeros((1000, 2))
    score[:5, 0] = 1
    checkpoint = checkpoint_of(np.tile([1.0, 0.0], (1000, 1)), score)
    result, bootstrap = one(checkpoint, "none", 2)
    found = summarize(result, bootstrap, 0.95)["pairwise_accuracy"]
    assert found["estimate"] == 1.0 and 0.5 < found["low"] < 0.75


# ── The three answers ──


@pytest.mark.parametrize("setting", ["offsets", "offsets against difficulty"])
def test_right_within_prompts_is_called_right_whatever_the_offsets(setting):
    for seed in range(10):
        analysis = analysed(plant(setting, 300, 8, seed), names=("none", "best_worst"))
        ranking, _, _ = answers_of(analysis.analysed[0])
        assert ranking.short == "Yes, nearly always" and "100.0% of pairs" in ranking.sentences[0]
        if setting == "offsets against difficulty":
            assert any("R² over all samples looks bad (-0." in line for line in ranking.sentences)


def test_one_that_knows_only_difficulty_is_told_so():
    ranking, filters, _ = answers_of(analysed(plant("difficulty only", 300, 8)).analysed[0])
    assert ranking.short == "Not shown by these data"
    assert filters.short.startswith("Use no filter: these rewards are not shown to rank")
    assert any("knows which prompts are easy" in line for line in ranking.sentences)
