"""The recommendation: right where the gap is large, silent where there is none; weights, drift and calibration."""

import json

import numpy as np
import pytest
import torch

from openrlhf_pf.filters import FilterBatch, build_filter
from openrlhf_pf.reliability import Checkpoint, Rollouts, Settings, analyse_rollouts, choose, read_recommendation
from openrlhf_pf.reliability.bootstrap import Bootstrap
from openrlhf_pf.reliability.calibration import calibrate
from openrlhf_pf.reliability.drift import drift, windows_of, words
from openrlhf_pf.reliability.evaluate import evaluate
from openrlhf_pf.reliability.strategies import Strategy, average_ties, expected_weights, strategies_for

PAPERS = ("none", "best_of_n", "best_random", "best_worst")


def band(seed, n_prompts=1000, n_samples=6, half=0.6):
    """A reward that is right outside (-half, half) and says nothing inside."""
    rng = np.random.default_rng(seed)
    reward = rng.uniform(-1, 1, (n_prompts, n_samples))
    chance = np.select([reward < -half, reward < half], [0.0, 0.5], 1.0)
    score = (rng.random(reward.shape) < chance).astype(float)
    return Checkpoint("band", reward, score, np.arange(n_prompts))


def even(seed, n_prompts=300, n_samples=6):
    """A reward that is as right everywhere, and lengths that have nothing to do with it."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(n_prompts, n_samples))
    score = (rng.random(reward.shape) < 1 / (1 + np.exp(-reward))).astype(float)
    length = rng.integers(1, 10_000, reward.shape)
    return Checkpoint("even", reward, score, np.arange(n_prompts), length=length)


def recommended(checkpoint, names, seed=0, others=()):
    def results(c):
        bootstrap = Bootstrap(c.n_prompts, 200, seed)
        return evaluate(c, strategies_for(c, names), bootstrap, only=("binned_r2",)), bootstrap.n_blocks

    first, n_blocks = results(checkpoint)
    return choose(first, [(c.name, *results(c)) for c in others], n_blocks)


# ── The choice ──


def test_the_best_strategy_is_found_where_the_gap_is_large():
    # In 100,000 prompts R² is .77 (none), .71 (best_of_n), .84 (best_random) and .93 (best_worst).
    found = [recommended(band(seed, 1500), PAPERS, seed).strategy for seed in range(100)]
    assert found.count("best_worst") >= 95
    assert set(found) <= {"best_worst", None}


def test_nothing_is_recommended_where_strategies_are_equal():
    # `shortest` keeps a random third here: the same R², but for the noise of fewer samples.
    found = [recommended(even(seed), ("none", "shortest"), seed).decided for seed in range(100)]
    assert sum(found) <= 10
    found = [recommended(even(seed), ("shortest", "none", "reward_power"), seed).decided for seed in range(20)]
    assert sum(found) <= 2


def test_an_open_choice_names_the_rivals_and_no_strategy():
    found = recommended(even(0), ("none", "shortest"))
    assert (found.decided, found.strategy, found.keep, found.options) == (False, None, None, {})
    assert {found.best, *found.not_told_apart} == {"none", "shortest"}
    assert "cannot tell it from" in found.text and "not a finding" in found.text
    assert found.default == {"strategy": "best_worst", "keep": 2, "options": {}}


def test_a_decided_choice_says_how_sure_and_what_would_change_it():
    found = recommended(band(0, 2000), PAPERS)
    assert (found.decided, found.strategy, found.keep) == (True, "best_worst", 2)
    assert found.confidence > 0.97 and all(c["told_apart"] for c in found.comparisons)
    assert [c["difference"]["low"] > 0 for c in found.comparisons] == [True] * 3
    for part in ("R² of 20 reward groups", "What would change this", "10 and with 40 groups"):
        assert part in found.text


def test_strategies_that_keep_the_same_samples_are_one():
    checkpoint = band(0, 2000)
    results = evaluate(checkpoint, strategies_for(checkpoint, (*PAPERS, "max_variance")), Bootstrap(2000, 200))
    assert [r.twin for r in results] == ["", "", "", "", "best_worst"]
    found = choose(results, n_prompts=2000)
    assert found.strategy == "best_worst" and len(found.comparisons) == 3


def test_few_prompts_a_reversed_reward_and_another_checkpoint_decide_nothing():
    few = recommended(band(0, 20), PAPERS)
    assert not few.decided and "20 prompts are too few" in few.text
    reversed_ = band(0, 2000)
    reversed_.score[:] = 1 - reversed_.score
    wrong = recommended(reversed_, PAPERS)
    assert not wrong.decided and "higher rewards may go with lower scores" in wrong.text
    # Elsewhere the ends are what is noisy, so that the best of N is less right than a random one.
    later = band(1, 2000)
    later.score[:] = np.where(
        np.abs(later.reward) > 0.6,
        later.score.mean() > np.random.default_rng(2).random(later.score.shape),
        later.reward > 0,
    )
    against = recommended(band(0, 2000), PAPERS, others=[later])
    assert not against.decided and "is better, beyond doubt" in against.text


def test_noise_costs_what_the_correction_gives_back():
    # Of two equal strategies the one with a third of the samples has the lower R², not the lower corrected R².
    lead, corrected = [], []
    for seed in range(40):
        found = recommended(even(seed), ("none", "shortest"), seed)
        sign = 1 if found.best == "none" else -1
        lead.append(sign * found.comparisons[0]["difference"]["estimate"])
        corrected.append(sign * found.comparisons[0]["corrected"]["estimate"])
    # In Fisher's z; and (1 - R²) / R², of which noise makes about .1 here.
    assert np.mean(lead) > 0.2
    assert abs(np.mean(corrected)) < 0.035


# ── What training reads ──


def report(tmp_path, **recommendation):
    file = tmp_path / "report.json"
    whole = {"decided": True, "strategy": "top_bottom", "keep": 2, "options": {"low": -0.5, "high": 0.5}}
    file.write_text(json.dumps({"recommendation": whole | recommendation}))
    return file


def test_a_recommendation_is_read_as_build_filter_takes_it(tmp_path):
    found = read_recommendation(report(tmp_path))
    assert found == {"name": "top_bottom", "keep": 2, "options": {"low": -0.5, "high": 0.5}}
    assert read_recommendation(tmp_path) == found
    assert build_filter(found["name"], 4, found["keep"], **found["options"]).high == 0.5
    assert read_recommendation(report(tmp_path, strategy="none", keep=8, options={}))["keep"] is None


def test_an_undecided_or_broken_report_is_refused_in_one_sentence(tmp_path):
    undecided = {"decided": False, "strategy": None, "keep": None, "best": "best_worst", "not_told_apart": ["none"]}
    with pytest.raises(ValueError, match=r"recommends no sample filter .*best_worst and none apart.*name one"):
        read_recommendation(report(tmp_path, **undecided))
    with pytest.raises(ValueError, match=r"has a recommendation that cannot be used: run python -m"):
        read_recommendation(report(tmp_path, keep="two"))
    with pytest.raises(ValueError, match=r"nowhere.json' cannot be read \(No such file or directory\): run"):
        read_recommendation(tmp_path / "nowhere.json")
    for content in ("{", "[]", '{"recommendation": null}', '{"recommendation": {}}'):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(ValueError, match="is not a report of the reliability tool: run"):
            read_recommendation(tmp_path)


# ── Weights ──


def test_ties_and_coins_count_with_their_expectation():
    reward = np.array([[1.0, 0.0, 1.0, -1.0]])
    checkpoint = Checkpoint("a", reward, reward, np.zeros(1, int))
    strategies = strategies_for(checkpoint, ("best_of_n", "best_worst", "top_random"), high=0.5)
    best, both, coins = expected_weights(strategies, checkpoint)
    assert best.tolist() == [[0.5, 0, 0.5, 0]]
    assert both.tolist() == [[0.25, 0, 0.25, 0.5]]
    assert coins.tolist() == [[1, 0.5, 1, 0.5]]


def test_expected_weights_are_the_mean_of_the_filters_own():
    rng = np.random.default_rng(0)
    reward = rng.integers(0, 3, (1, 5)).astype(float)
    length = np.array([[3, 3, 1, 2, 3]])
    models = rng.integers(0, 3, (3, 1, 5)).astype(float)
    checkpoint = Checkpoint("a", reward, reward, np.zeros(1, int), length=length, model_rewards=models)
    for strategy in strategies_for(checkpoint, weights=[5, 4, 3, 2, 1]):
        if strategy.build(5).scope == "batch":
            continue
        # One row a draw: random ties fall differently in each.
        copies = 20_000
        columns = {
            "response_lengths": torch.from_numpy(length).repeat(copies, 1),
            "model_rewards": torch.from_numpy(models).repeat(1, copies, 1),
        }
        batch = FilterBatch(torch.from_numpy(reward).repeat(copies, 1), torch.Generator().manual_seed(0), **columns)
        (expected,) = expected_weights([strategy], checkpoint)
        assert expected[0] == pytest.approx(strategy.build(5)(batch).mean(dim=0).tolist(), abs=0.015), strategy


def test_prompts_of_other_sizes_and_unusable_rewards():
    nan = np.nan
    reward = np.array([[3.0, 2.0, 1.0], [5.0, nan, nan], [2.0, nan, 1.0]])
    checkpoint = Checkpoint("a", reward, reward, np.arange(3))
    none, worst = expected_weights([Strategy("none", 3), Strategy("best_worst", 2)], checkpoint)
    assert none.tolist() == [pytest.approx([1 / 3] * 3), [1, 0, 0], [0.5, 0, 0.5]]
    assert worst.tolist() == [[0.5, 0, 0.5], [0, 0, 0], [0.5, 0, 0.5]]


def test_average_ties_leaves_untied_rows_alone():
    weights = np.array([[0.1, 0.9, 0.0], [1.0, 0.0, 0.0]])
    assert average_ties(weights, np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 1.0]])).tolist() == [
        [0.1, 0.9, 0.0],
        [0.5, 0.5, 0.0],
    ]


def test_data_decide_which_strategies_there_are():
    checkpoint = band(0, 10)
    labels = [s.label for s in strategies_for(checkpoint)]
    powers = [f"reward_power {k}" for k in (1, 2, 3)]
    assert labels == [*PAPERS, "max_variance", "top", "top_random", "top_bottom", *powers]
    quartiles = np.quantile(checkpoint.reward, [0.25, 0.75])
    top_bottom = next(s for s in strategies_for(checkpoint) if s.name == "top_bottom")
    assert list(top_bottom.options.values()) == pytest.approx(quartiles.tolist())
    checkpoint.length = np.ones(checkpoint.reward.shape, int)
    checkpoint.model_rewards = np.stack([checkpoint.reward] * 2)
    more = {s.name for s in strategies_for(checkpoint, weights=[1] * 6)} - {s.split()[0] for s in labels}
    assert more == {"shortest", "reward_per_token", "ensemble_agreement", "rank_weights"}
    with pytest.raises(ValueError, match="there is no strategy 'best': choose from none, best_of_n"):
        strategies_for(checkpoint, ("best",))
    with pytest.raises(ValueError, match="'rank_weights' cannot be analysed: no rank weights were given"):
        strategies_for(checkpoint, ("rank_weights",))


# ── Drift ──


def drifting(seed, amount, n_steps=20, n_prompts=600):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(n_prompts, 4))
    step = np.sort(rng.integers(0, n_steps, n_prompts))
    slope = 2.0 * (1 - amount * step[:, None] / n_steps)
    score = (rng.random(reward.shape) < 1 / (1 + np.exp(-slope * reward))).astype(float)
    # Every prompt twice, in another step.
    return Checkpoint("log", reward, score, rng.permutation(n_prompts) % (n_prompts // 2), step=step)


def test_a_falling_reliability_is_seen_and_a_steady_one_is_not():
    falling, steady = [], []
    for seed in range(30):
        bootstrap = Bootstrap(300, 200, seed)
        falling.append(drift(drifting(seed, 0.9), bootstrap)["pairwise_accuracy"].verdict)
        steady.append(drift(drifting(seed, 0.0), bootstrap)["pairwise_accuracy"].verdict)
    assert falling.count("falling") >= 28
    assert steady.count("no evidence of change") >= 26


def test_the_verdict_in_words():
    checkpoint = drifting(0, 0.9)
    trends = drift(checkpoint, Bootstrap(300, 200))
    assert set(trends) == {"pairwise_accuracy", "auc", "sample_r2"}
    assert len(trends["auc"].windows) == 10 and trends["auc"].windows[-1]["last"] == 19
    assert trends["auc"].change["low"] <= trends["auc"].change["estimate"] <= trends["auc"].change["high"] < 0
    assert "reliability is falling from step 0 to 19" in words(trends, "log")
    assert "no evidence" in words(drift(drifting(0, 0.0), Bootstrap(300, 200)), "log")
    checkpoint.step[:] = 3
    assert drift(checkpoint, Bootstrap(300, 200)) == {}


def test_windows_hold_about_as_many_steps_each():
    window, spans = windows_of(np.array([5, 1, 2, 3, 4, 1]), 2)
    assert spans == [(1, 3), (4, 5)] and window.tolist() == [1, 0, 0, 0, 1, 0]


# ── Calibration ──


def test_rewards_that_promise_too_much_are_found():
    rng = np.random.default_rng(0)
    reward = rng.uniform(0, 1, (2000, 5))
    # Scores follow the reward up to .9 and collapse beyond.
    score = (rng.random(reward.shape) < np.where(reward > 0.9, 0.3, reward)).astype(float)
    checkpoint = Checkpoint("a", reward, score, np.arange(2000))
    found = calibrate(checkpoint, Bootstrap(2000, 200))
    assert found.over_confident.nonzero()[0].tolist() == [18, 19]
    assert found.score[[18, 19]] == pytest.approx([0.3, 0.3], abs=0.05)
    assert (np.diff(found.isotonic) >= 0).all()
    assert "over-confident at rewards from 0.897 to 1 " in found.words("a")
    honest = Checkpoint("a", reward, (rng.random(reward.shape) < reward).astype(float), np.arange(2000))
    assert "no group of high rewards" in calibrate(honest, Bootstrap(2000, 200), level=0.999).words("a")


def test_checkpoints_side_by_side_share_strategies_and_thresholds():
    first, second = band(0, 200), band(1, 200)
    second.reward[:] *= 10
    analysis = analyse_rollouts(Rollouts([first, second]), Settings(repetitions=100))
    labels = [[r.strategy.label for r in a.results] for a in analysis.analysed]
    assert labels[0] == labels[1]
    assert analysis.strategies[5].options == {"high": pytest.approx(float(np.quantile(first.reward, 0.75)))}
    assert any("outside [-1, 1]" in line for line in analysis.warnings)
