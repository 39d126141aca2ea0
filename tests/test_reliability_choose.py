"""The recommendation: right where the gap is large, silent where there is none; weights and calibration."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from planted import analysed, checkpoint_of, plant

from openrlhf_pf.filters import FilterBatch, build_filter, make_generator
from openrlhf_pf.reliability import choose, read_recommendation, write_report
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.contrasts import calibrate
from openrlhf_pf.reliability.measures.evaluate import evaluate
from openrlhf_pf.reliability.measures.strategies import Strategy, expected_weights, strategies_for
from openrlhf_pf.reliability.report.answers import answers_of, warnings_of
from openrlhf_pf.reliability.report.reasons import price_of_time, text_of
from openrlhf_pf.training.flags.sample_filter import resolve

PAPERS = ("none", "best_of_n", "best_random", "best_worst")


def band(seed, n_prompts=1000, n_samples=6, half=0.6):
    """A reward that is right outside (-half, half) and says nothing inside."""
    rng = np.random.default_rng(seed)
    reward = rng.uniform(-1, 1, (n_prompts, n_samples))
    chance = np.select([reward < -half, reward < half], [0.0, 0.5], 1.0)
    score = (rng.random(reward.shape) < chance).astype(float)
    return checkpoint_of(reward, score)


def even(seed, n_prompts=300, n_samples=6):
    """A reward that is as right everywhere, and lengths that have nothing to do with it."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(n_prompts, n_samples))
    score = (rng.random(reward.shape) < 1 / (1 + np.exp(-reward))).astype(float)
    length = rng.integers(1, 10_000, reward.shape)
    return checkpoint_of(reward, score, length=length)


def recommended(checkpoint, names, seed=0, others=()):
    def results(c):
        bootstrap = Bootstrap(c.n_prompts, 200, seed)
        return evaluate(c, strategies_for(c, names), bootstrap, whole=False), bootstrap.n_blocks

    first, n_blocks = results(checkpoint)
    return choose(first, [(c.name, *results(c)) for c in others], n_blocks)


# ── The choice ──


def test_the_best_strategy_is_found_in_a_world_like_the_papers_at_300_prompts():
    found = [recommended(plant("noise in the middle", 300, 5, seed), PAPERS, seed) for seed in range(40)]
    assert [f.strategy for f in found].count("best_worst") >= 38
    assert {f.answer for f in found} <= {"filter", "time only"}


@pytest.mark.parametrize("setting", ["difficulty only", "useless"])
def test_no_filter_is_recommended_where_the_reward_says_nothing_within_a_prompt(setting):
    found = [recommended(plant(setting, 300, 8, seed), (), seed) for seed in range(40)]
    assert sum(f.decided for f in found) <= 2
    assert next(f for f in found if not f.decided).answer == "no help"


def test_an_offset_a_prompt_changes_no_recommendation():
    names = ("none", "best_of_n", "best_random", "best_worst", "max_variance")
    for seed in range(3):
        checkpoint = plant("right everywhere", 300, 8, seed)
        plain = recommended(checkpoint, names, seed)
        # Powers of two, so that differences within a prompt stay what they are.
        checkpoint.reward = np.round(checkpoint.reward * 2**20) / 2**20
        before = recommended(checkpoint, names, seed)
        checkpoint.reward += 1024.0 * np.random.default_rng(seed).integers(-9, 9, (300, 1))
        after = recommended(checkpoint, names, seed)
        assert plain.strategy == "best_worst" and before == after


def test_nothing_is_recommended_where_strategies_are_equal():
    # `shortest` keeps a random third here.
    found = [recommended(even(seed), ("none", "shortest"), seed) for seed in range(40)]
    assert sum(f.decided for f in found) <= 2
    assert {f.answer for f in found if not f.decided} == {"time only"}
    an_open = next(f for f in found if not f.decided)
    assert (an_open.strategy, an_open.keep, an_open.options) == (None, None, {})
    assert {an_open.best, *an_open.not_told_apart} == {"none", "shortest"}


def test_no_filter_is_recommended_where_all_of_them_are_worse():
    # Wrong at the extremes, right in between: filters that take the extremes learn the opposite.
    checkpoint = even(0, 2000)
    ends = np.abs(checkpoint.reward) > 1.4
    checkpoint.score = np.where(ends, checkpoint.reward < 0, checkpoint.reward > 0).astype(float)
    found = recommended(checkpoint, ("none", "best_worst", "best_of_n"))
    assert (found.decided, found.strategy, found.answer) == (True, "none", "none")
    assert all(c["told_apart"] for c in found.comparisons)


def test_a_filter_of_group_scope_goes_before_one_of_batch_scope_that_is_not_significantly_better():
    analysis = analysed(band(0, 300, half=0.9), names=("best_worst", "reward_power"))
    found, text = analysis.recommendation, text_of(analysis.recommendation, analysis.analysed[0])
    assert found.strategy == "best_worst" and found.confidence < 0.5
    assert found.values["reward_power 3"] > found.values["best_worst"] and "reward_power 3" in found.not_told_apart
    assert "reward_power 3 is larger, but not significantly" in text and "It has the largest gain" not in text


def test_a_decided_choice_is_significant_and_says_what_to_type():
    found = analysed(band(0, 2000), names=PAPERS)
    advice = found.recommendation
    assert (advice.decided, advice.strategy, advice.keep, advice.answer) == (True, "best_worst", 2, "filter")
    assert advice.confidence > 0.97 and all(c["told_apart"] for c in advice.comparisons)
    text, (_, filters, following) = text_of(advice, found.analysed[0]), answers_of(found.analysed[0])
    assert filters.short == "Use best_worst, k = 2, to save training time; otherwise use no filter"
    assert "more than training on all responses" in text and "does not say how training ends" in text
    assert "--sample_filter best_worst --sample_filter_keep 2" in following.sentences[0]


@pytest.mark.parametrize("n_samples, square, price", [(5, 1.8000, 0.875), (8, 2.4008, 1.142), (16, 3.4137, 1.900)])
def test_the_price_at_which_two_of_n_are_ahead_per_second(n_samples, square, price):
    # Normal rewards: the gain of best_worst is the root of E z², z the largest of N, and that of no filter 1.
    lead = (square * 2 / n_samples) ** 0.5 - 1
    found = price_of_time(lead, n_samples, 2)
    assert found == pytest.approx(price, abs=2e-3)
    # At that price, what is achieved per second is equal.
    assert 2 * square / (n_samples + 2 * found) == pytest.approx(n_samples / (n_samples * (1 + found)))
    assert price_of_time(-0.9, n_samples, 2) is None, "worth less than two samples of no filter"


def test_a_filter_is_compared_at_equal_rollouts_too():
    checkpoint = plant("right everywhere", 2000, 5)
    found = analysed(checkpoint, names=("best_worst",))
    gains = {r.strategy.name: r.estimates["gain"] for r in found.analysed[0].results}
    lead = gains["none"] / gains["best_worst"] * (5 / 2) ** 0.5 - 1
    assert found.recommendation.strategy == "best_worst" and lead > 0
    text = text_of(found.recommendation, found.analysed[0])
    assert f"is ahead by {lead:.0%} in gain" in text
    price = price_of_time(found.recommendation.lead, 5, 2)
    assert f"takes more than {price:.2f} times as long as generating and scoring it" in text
    # A second choice that is nearly always wrong costs more than a third sample is worth.
    rng = np.random.default_rng(0)
    reward = np.array([0.7, 0.5, -1.2]) + 0.01 * rng.normal(size=(2000, 3))
    score = (rng.random(reward.shape) < [0.95, 0.05, 0.05]).astype(float)
    found = analysed(checkpoint_of(reward, score), names=("best_worst",))
    assert found.recommendation.strategy == "best_worst" and found.recommendation.lead > 0
    assert "deterministic reward model it only saves time" in text_of(found.recommendation, found.analysed[0])


def test_strategies_that_keep_the_same_samples_are_one():
    checkpoint = band(0, 2000)
    results = evaluate(checkpoint, strategies_for(checkpoint, (*PAPERS, "max_variance")), Bootstrap(2000, 200))
    assert [r.twin for r in results] == ["", "", "", "", "best_worst"]
    found = choose(results, n_prompts=2000)
    assert found.strategy == "best_worst" and len(found.comparisons) == 3


def test_few_prompts_a_reversed_reward_and_another_checkpoint_decide_nothing():
    few = recommended(band(0, 20), PAPERS)
    assert (few.decided, few.reason, few.prompts_needed) == (False, "few prompts", 30)
    reversed_ = band(0, 2000)
    reversed_.score[:] = 1 - reversed_.score
    wrong = recommended(reversed_, PAPERS)
    assert (wrong.decided, wrong.answer) == (False, "wrong way")
    # Elsewhere the lowest rewards go to correct responses.
    later = plant("wrong at the bottom", 2000, 6)
    against = recommended(band(0, 2000), PAPERS, others=[later])
    assert not against.decided and against.contradicted[0] == "wrong at the bottom"


@pytest.mark.parametrize("names", [("none",), ("none", "best_worst")])
def test_where_nothing_else_was_compared_nothing_is_recommended(names):
    checkpoint = band(0, 400)
    pairs = checkpoint_of(checkpoint.reward[:, :2], checkpoint.score[:, :2])  # best_worst keeps both
    found = analysed(pairs, names=names).recommendation
    assert (found.decided, found.answer, found.reason) == (False, "open", "nothing to compare")


@pytest.mark.parametrize("n_prompts", [300, 4500])
def test_prompts_are_asked_for_by_the_root_rule(n_prompts):
    """A half-width of twice the lead takes four times the prompts; of 4500, blocks are drawn."""
    found = analysed(even(3, n_prompts), names=("shortest",))
    assert [s.name for s in found.strategies] == ["none", "shortest"], "compared with training on all responses"
    (rival,) = found.recommendation.comparisons
    lead, low = rival["difference"]["estimate"], rival["difference"]["low"]
    expected = int(np.ceil(n_prompts * ((lead - low) / lead) ** 2))
    assert found.recommendation.prompts_needed == rival["prompts_needed"] == expected > n_prompts
    following = answers_of(found.analysed[0])[2]
    assert f"{found.recommendation.prompts_needed:,} prompts in all" in following.sentences[0]


# ── The second and the last rank: where the top is hacked ──

#: Chances of being correct, best reward first.
HACKED = (0.1, 0.9, 0.6, 0.4, 0.3, 0.1)
NAMED = ("none", "best_of_n", "best_random", "best_worst", "rank_weights")


def by_rank(chances, seed, n_prompts=400):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(n_prompts, len(chances)))
    rank = np.argsort(np.argsort(-reward, axis=1), axis=1)
    score = (rng.random(reward.shape) < np.array(chances)[rank]).astype(float)
    return checkpoint_of(reward, score)


def test_second_and_last_rank_are_recommended_where_the_top_is_hacked():
    found = [recommended(by_rank(HACKED, seed), NAMED, seed) for seed in range(10)]
    assert all((f.decided, f.strategy, f.keep) == (True, "rank_weights", 2) for f in found)
    assert all(f.options == {"weights": [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]} for f in found)
    assert all(c["told_apart"] for c in found[0].comparisons)


@pytest.mark.parametrize("setting", ["noise in the middle", "right everywhere", "useless", "difficulty only"])
def test_second_and_last_rank_are_not_recommended_where_the_top_is_right(setting):
    found = [recommended(plant(setting, 300, 8, seed), NAMED, seed) for seed in range(10)]
    assert not any(f.strategy == "rank_weights" for f in found)


@pytest.mark.parametrize(
    "n_samples, keep, weights, expected",
    [
        (5, None, None, [0, 1, 0, 0, 1]),
        (3, 2, None, [0, 1, 1]),
        (2, None, None, None),
        (5, 3, None, None),
        (5, 3, [5, 4, 3, 2, 1], [5, 4, 3, 2, 1]),
    ],
)
def test_which_ranks_rank_weights_keeps(n_samples, keep, weights, expected):
    found = strategies_for(plant("useless", 50, n_samples), keep=min(keep or 2, n_samples), weights=weights)
    assert [s.options["weights"] for s in found if s.name == "rank_weights"] == ([expected] if expected else [])


def test_checkpoints_of_different_sizes_are_compared_without_rank_weights():
    analysis = analysed(by_rank(HACKED, 0, 50), by_rank(HACKED[:4], 1, 50), names=NAMED)
    assert [s.name for s in analysis.strategies] == list(NAMED[:-1])


def flags_of_auto(path, **changes):
    flags = dict.fromkeys("keep mode options baseline rank_by probe probe_every probe_score log".split())
    values = {f"sample_filter_{flag}": value for flag, value in flags.items()}
    given = {"sample_filter": "auto", "sample_filter_report": str(path), "prompt_selection": "none", **values}
    return SimpleNamespace(**{**given, "rollout.n_samples_per_prompt": 6, **changes})


def test_the_report_names_ranks_and_auto_gives_their_weights_to_training(tmp_path):
    analysis = analysed(by_rank(HACKED, 0), names=NAMED)
    _, filters, following = answers_of(analysis.analysed[0])
    assert filters.short.startswith("Use rank_weights on ranks 2 and 6, k = 2")
    assert "--sample_filter rank_weights --sample_filter_keep 2 --sample_filter_options weights=0,1,0,0,0,1" in (
        following.sentences[0]
    )
    write_report(analysis, tmp_path)
    args = flags_of_auto(tmp_path / "report.json")
    resolve(args)
    assert (args.sample_filter, args.sample_filter_keep) == ("rank_weights", 2)
    made = build_filter(args.sample_filter, 6, args.sample_filter_keep, args.sample_filter_options)
    assert made([[6.0, 5, 4, 3, 2, 1]]).tolist() == [[0, 0.5, 0, 0, 0, 0.5]]
    with pytest.raises(
        ValueError, match="are for 6 samples per prompt, and --rollout.n_samples_per_prompt is 8: draw 6"
    ):
        resolve(flags_of_auto(tmp_path, **{"rollout.n_samples_per_prompt": 8}))
    with pytest.raises(ValueError, match="are for k = 2, and --sample_filter_keep is 3: leave it out"):
        resolve(flags_of_auto(tmp_path, sample_filter_keep=3))


# ── What training reads ──


def report(tmp_path, **recommendation):
    file = tmp_path / "report.json"
    whole = {"decided": True, "strategy": "top_bottom", "keep": 2, "options": {"low": -0.5, "high": 0.5}}
    file.write_text(json.dumps({"recommendation": whole | recommendation}))
    return file


def test_a_recommendation_is_read_as_build_filter_takes_it(tmp_path):
    found = read_recommendation(report(tmp_path))
    assert found == {"name": "top_bottom", "keep": 2, "options": {"low": -0.5, "high": 0.5}, "headline": ""}
    assert read_recommendation(tmp_path) == found
    assert build_filter(found["name"], 4, found["keep"], **found["options"]).high == 0.5
    assert read_recommendation(report(tmp_path, strategy="none", keep=8, options={}))["keep"] is None


def test_an_undecided_report_recommends_no_filter(tmp_path):
    undecided = {"decided": False, "strategy": None, "keep": None, "headline": "Filtering saves time only."}
    found = read_recommendation(report(tmp_path, **undecided))
    assert found == {"name": "none", "keep": None, "options": {}, "headline": "Filtering saves time only"}


def test_a_broken_report_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"has a recommendation that cannot be used: run openrlhf-pf"):
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
    checkpoint = checkpoint_of(reward, reward)
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
    checkpoint = checkpoint_of(reward, reward, length=length, model_rewards=models)
    for strategy in strategies_for(checkpoint, weights=[5, 4, 3, 2, 1]):
        if strategy.build(5).scope == "batch":
            continue
        # One row a draw: random ties fall differently in each.
        copies = 20_000
        columns = {
            "response_lengths": np.tile(length, (copies, 1)),
            "model_rewards": np.tile(models, (1, copies, 1)),
        }
        batch = FilterBatch(np.tile(reward, (copies, 1)), make_generator(0), **columns)
        (expected,) = expected_weights([strategy], checkpoint)
        assert expected[0] == pytest.approx(strategy.build(5)(batch).mean(axis=0), abs=0.015), strategy


def test_prompts_of_other_sizes_and_unusable_rewards():
    nan = np.nan
    reward = np.array([[3.0, 2.0, 1.0], [5.0, nan, nan], [2.0, nan, 1.0]])
    checkpoint = checkpoint_of(reward, reward)
    none, worst = expected_weights([Strategy("none", 3), Strategy("best_worst", 2)], checkpoint)
    # Without a filter every sample trains once, whatever the size of its group.
    assert none.tolist() == [pytest.approx(row) for row in ([1 / 3] * 3, [1 / 3, 0, 0], [1 / 3, 0, 1 / 3])]
    assert worst.tolist() == [[0.5, 0, 0.5], [0, 0, 0], [0.5, 0, 0.5]]


def test_data_decide_which_strategies_there_are():
    checkpoint = band(0, 10)
    labels = [s.label for s in strategies_for(checkpoint)]
    powers = [f"reward_power {k}" for k in (1, 2, 3)]
    assert labels == [*PAPERS, "rank_weights", "max_variance", "top", "top_random", "top_bottom", *powers]
    quartiles = np.quantile(checkpoint.reward, [0.25, 0.75])
    top_bottom = next(s for s in strategies_for(checkpoint) if s.name == "top_bottom")
    assert list(top_bottom.options.values()) == pytest.approx(quartiles.tolist())
    checkpoint.length = np.ones(checkpoint.reward.shape, int)
    checkpoint.model_rewards = np.stack([checkpoint.reward] * 2)
    more = {s.name for s in strategies_for(checkpoint, weights=[1] * 6)} - {s.split()[0] for s in labels}
    assert more == {"shortest", "reward_per_token", "pareto", "ensemble_agreement"}
    with pytest.raises(ValueError, match="'rank_weights' cannot be analysed: no rank weights were given"):
        strategies_for(checkpoint, ("rank_weights",), keep=3)


# ── Calibration ──


def scored(reward, chance, rng):
    return checkpoint_of(reward, rng.random(reward.shape) < chance)


def test_high_rewards_whose_scores_fall_are_over_confident():
    rng = np.random.default_rng(0)
    reward = rng.uniform(0, 1, (2000, 5))
    # Scores follow the reward up to .9 and collapse above.
    found = calibrate(scored(reward, np.where(reward > 0.9, 0.3, reward), rng), Bootstrap(2000, 200))
    assert found.over_confident.nonzero()[0].tolist() == [18, 19]
    assert found.score[[18, 19]] == pytest.approx([0.3, 0.3], abs=0.05)
    assert found.fall == pytest.approx(0.55, abs=0.05) and (np.diff(found.isotonic) >= 0).all()


@pytest.mark.parametrize("shape", ["straight", "step", "saturated"])
def test_a_right_reward_model_is_seldom_called_over_confident(shape):
    chances = {"straight": lambda x: x, "step": lambda x: x > 0.5, "saturated": lambda x: np.minimum(2 * x, 0.9)}
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        reward = rng.uniform(0, 1, (300, 5))
        found += calibrate(scored(reward, chances[shape](reward), rng), Bootstrap(300, 200, seed)).top > 0
    assert found <= 4, found  # 2.5% each on average


def test_a_hacked_top_group_is_always_found():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reward = rng.uniform(0, 1, (300, 5))
        chance = np.where(reward > 0.95, 0.41, 0.94 * np.minimum(1.5 * reward, 1))
        assert calibrate(scored(reward, chance, rng), Bootstrap(300, 200, seed)).top in (1, 2), seed


def test_checkpoints_side_by_side_share_strategies_and_thresholds():
    first, second = band(0, 200), band(1, 200)
    second.reward[:] *= 10
    analysis = analysed(first, second)
    labels = [[r.strategy.label for r in a.results] for a in analysis.analysed]
    assert labels[0] == labels[1]
    (top,) = (strategy for strategy in analysis.strategies if strategy.name == "top")
    assert top.options == {"high": pytest.approx(float(np.quantile(first.reward, 0.75)))}
    assert any("outside [-1, 1]" in line for line in warnings_of(analysis))
