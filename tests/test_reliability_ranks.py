"""Ranks found from samples: by brute force, judged on other prompts, and recommended only where they clearly win."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from planted import plant

from openrlhf_pf.filters import build_filter
from openrlhf_pf.filters.rank import spread_ranks
from openrlhf_pf.reliability import Checkpoint, Rollouts, Settings, analyse_rollouts, choose, write_report
from openrlhf_pf.reliability.measures import learned_ranks
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.evaluate import evaluate
from openrlhf_pf.reliability.measures.learned_ranks import FOLDS, learn_ranks
from openrlhf_pf.reliability.measures.strategies import Strategy, strategies_for
from openrlhf_pf.reliability.report import report_as_dict
from openrlhf_pf.reliability.report.answers import answers_of
from openrlhf_pf.training.flags.sample_filter import resolve

#: Chances of being correct, best reward first: both ends are hacked, so that ranks 2 and 5 of 6 should train.
BOTH_EXTREMES = (0.1, 0.9, 0.6, 0.4, 0.1, 0.9)
NAMED = ("none", "best_of_n", "best_random", "best_worst")


def by_rank(chances, seed, n_prompts=400):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(n_prompts, len(chances)))
    rank = np.argsort(np.argsort(-reward, axis=1), axis=1)
    score = (rng.random(reward.shape) < np.array(chances)[rank]).astype(float)
    return Checkpoint("planted", reward, score, np.arange(n_prompts))


def found_in(checkpoint, keep=2, repetitions=200, seed=0):
    bootstrap = Bootstrap(checkpoint.n_prompts, repetitions, seed)
    return learn_ranks(checkpoint, bootstrap, keep), bootstrap


def recommended(checkpoint, names=NAMED, keep=2, others=(), seed=0):
    found, bootstrap = found_in(checkpoint, keep, seed=seed)
    strategies = [*strategies_for(checkpoint, names), found.strategy()]
    results = evaluate(checkpoint, strategies, bootstrap, whole=False)
    theirs = [
        (
            c.name,
            evaluate(c, [*strategies[:-1], found.strategy(False)], Bootstrap(c.n_prompts, 200), whole=False),
            400,
        )
        for c in others
    ]
    return choose(results, theirs, bootstrap.n_blocks)


def gaps(checkpoint):
    """Some rewards and some scores are missing, and every third group is of another's prompt."""
    rng = np.random.default_rng(1)
    checkpoint.reward[rng.random(checkpoint.reward.shape) < 0.1] = np.nan
    checkpoint.score[rng.random(checkpoint.reward.shape) < 0.1] = np.nan
    checkpoint.prompt = np.unique(checkpoint.prompt // 3 * 3, return_inverse=True)[1]
    return checkpoint


# ── What is found ──


def test_c_and_v_are_the_means_at_each_rank():
    checkpoint = gaps(by_rank(BOTH_EXTREMES, 0))
    found, _ = found_in(checkpoint)
    sd, dd, count = np.zeros(6), np.zeros(6), np.zeros(6)
    for reward, score in zip(checkpoint.reward, checkpoint.score):
        usable, known = np.isfinite(reward), np.isfinite(reward) & np.isfinite(score)
        if known.sum() < 2:
            continue
        order = np.argsort(-np.where(usable, reward, -np.inf))[: usable.sum()]
        places = np.arange(6) if usable.all() else spread_ranks(int(usable.sum()), 6)
        for place, i in zip(places, order):
            if known[i]:
                d, s = reward[i] - reward[known].mean(), score[i] - score[known].mean()
                sd[place], dd[place], count[place] = sd[place] + s * d, dd[place] + d * d, count[place] + 1
    assert found.c == pytest.approx(sd / count) and found.v == pytest.approx(dd / count)
    scaled = np.maximum(found.c / found.v, 0)
    assert found.as_dict()["scaled_weights"] == pytest.approx(scaled / scaled.sum())


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("most", [20_000, 0])
def test_the_chosen_ranks_have_the_largest_gain_of_all(keep, most, monkeypatch):
    monkeypatch.setattr(learned_ranks, "MOST_SUBSETS", most)  # with 0, ranks are exchanged one by one
    for seed in range(3):
        checkpoint = by_rank(np.random.default_rng(seed).random(6), seed)
        found, bootstrap = found_in(checkpoint, keep, 100)
        subsets = list(combinations(range(1, 7), keep))
        weights = [[float(rank in subset) for rank in range(1, 7)] for subset in subsets]
        every = [Strategy("rank_weights", keep, {"weights": w}) for w in weights]
        gains = [r.estimates["gain"] for r in evaluate(checkpoint, every, bootstrap, whole=False)]
        assert tuple(found.chosen) == subsets[int(np.argmax(gains))]
        assert found.gain == pytest.approx(max(gains))


# ── On other prompts ──


def test_a_prompt_has_no_part_in_the_ranks_that_it_is_judged_by():
    checkpoint = gaps(by_rank((0.5,) * 6, 2))
    found, bootstrap = found_in(checkpoint)
    fold = bootstrap.block[checkpoint.prompt] % FOLDS
    tables = []
    for f in range(FOLDS):
        other = Checkpoint("", checkpoint.reward, checkpoint.score.copy(), checkpoint.prompt)
        other.score[fold == f] = np.random.default_rng(f).random(other.score.shape)[fold == f] * 50
        again, _ = found_in(other)
        assert (again.table[fold == f] == found.table[fold == f]).all()
        tables.append((again.table != found.table).any())
    assert any(tables), "nothing that was changed changed any ranks"
    assert found.table.sum(axis=1).max() == pytest.approx(1)


def test_in_sample_is_optimistic_and_other_prompts_are_not():
    same, other = [], []
    for seed in range(60):
        checkpoint = plant("useless", 300, 8, seed)
        found, bootstrap = found_in(checkpoint, seed=seed)
        (result,) = evaluate(checkpoint, [found.strategy()], bootstrap, whole=False)
        same.append(found.gain)
        other.append(result.estimates["gain"])
    assert np.mean(same) > 0.02
    assert abs(np.mean(other)) < 3 * np.std(other) / 60**0.5 + 0.001


def test_how_often_the_same_ranks_are_chosen():
    assert found_in(by_rank(BOTH_EXTREMES, 0))[0].stability > 0.99
    assert found_in(by_rank((0.5,) * 6, 0))[0].stability < 0.7


@pytest.mark.parametrize("shape, keep", [((50, 2), 1), ((50, 4), 4), ((4, 6), 2)])
def test_there_are_none_where_there_is_nothing_to_choose(shape, keep):
    assert found_in(plant("right everywhere", *shape), keep)[0] is None


# ── The recommendation ──


def test_ranks_are_recommended_where_they_clearly_win():
    found = [recommended(by_rank(BOTH_EXTREMES, seed), seed=seed) for seed in range(30)]
    assert all((f.decided, f.strategy, f.keep) == (True, "rank_weights", 2) for f in found)
    assert all(f.options == {"weights": [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]} for f in found)
    assert {c["label"] for c in found[0].comparisons} == set(NAMED)
    assert all(c["told_apart"] for c in found[0].comparisons)


@pytest.mark.parametrize("setting", ["noise in the middle", "right everywhere", "useless", "difficulty only"])
def test_named_filters_stay_where_ranks_are_no_better(setting):
    checkpoints = [plant(setting, 300, 8, seed) for seed in range(30)]
    found = [recommended(c, seed=seed) for seed, c in enumerate(checkpoints)]
    assert not any(f.strategy == "rank_weights" for f in found)
    for seed in range(3):
        bootstrap = Bootstrap(300, 200, seed)
        results = evaluate(checkpoints[seed], strategies_for(checkpoints[seed], NAMED), bootstrap, whole=False)
        assert found[seed] == choose(results, n_prompts=300), "as it would be without ranks"


def test_a_lead_that_may_be_noise_is_not_enough():
    # Ranks 1 and 6 have the gain of 2 and 6, .173, so that chance decides which are chosen.
    checkpoints = [by_rank((0.671, 0.68, 0.5, 0.5, 0.4, 0.3), seed, 300) for seed in range(40)]
    chosen = [found_in(c, seed=seed)[0].chosen for seed, c in enumerate(checkpoints)]
    assert chosen.count([2, 6]) >= 10 and chosen.count([1, 6]) >= 10
    found = [recommended(c, seed=seed).strategy for seed, c in enumerate(checkpoints)]
    assert found.count("rank_weights") <= 2 and found.count("best_worst") >= 30


def test_a_further_checkpoint_that_contradicts_leaves_the_named_filter():
    first, same = by_rank(BOTH_EXTREMES, 0), by_rank(BOTH_EXTREMES, 1)
    against = by_rank((0.9, 0.5, 0.5, 0.5, 0.5, 0.1), 2)
    assert recommended(first, others=[same]).strategy == "rank_weights"
    assert recommended(first, others=[against]).strategy != "rank_weights"


# ── The report, and what training makes of it ──


@pytest.fixture(scope="module")
def analysis():
    later = by_rank(BOTH_EXTREMES, 1)
    later.name = "later"
    return analyse_rollouts(Rollouts([by_rank(BOTH_EXTREMES, 0), later]), Settings(repetitions=200))


def test_the_report_shows_them_with_the_other_strategies(analysis, tmp_path):
    data = report_as_dict(analysis)
    first, second = data["checkpoints"]
    own, theirs = (checkpoint["strategies"][-1] for checkpoint in (first, second))
    assert own["label"] == theirs["label"] == "learned ranks" and own["strategy"] == "rank_weights"
    assert own["cross_fitted"] and not theirs["cross_fitted"], "at later checkpoints: those of the first"
    found = first["learned_ranks"]
    assert (found["ranks"], found["keep"], found["folds"]) == ([2, 5], 2, FOLDS) and found["chosen_again"] > 0.99
    assert found["gain_in_sample"] == pytest.approx(own["metrics"]["gain"]["estimate"], abs=0.02)
    sentence = next(line for line in data["sentences"] if "ranks by reward" in line)
    assert "planted: of 6 ranks by reward, 2 and 5 have the largest gain with k = 2" in sentence
    headline = data["recommendation"]["headline"]
    assert headline.startswith("Use rank_weights on ranks 2 and 5, k = 2")
    assert "judged on prompts that they were not found from" in data["recommendation"]["text"]
    assert "--sample_filter rank_weights --sample_filter_keep 2 --sample_filter_options weights=0,1,0,0,1,0" in (
        answers_of(analysis.analysed[0])[2].sentences[0]
    )
    page = write_report(analysis, tmp_path)[0].read_text()
    assert "judged on other prompts" in page and page.count("learned ranks") >= 3


def arguments(path, **changes):
    flags = dict.fromkeys("keep mode options baseline rank_by probe probe_every probe_score log".split())
    values = {f"sample_filter_{flag}": value for flag, value in flags.items()}
    given = {"sample_filter": "auto", "sample_filter_report": str(path), "prompt_selection": "none", **values}
    return SimpleNamespace(**{**given, "rollout.n_samples_per_prompt": 6, **changes})


def test_auto_gives_the_weights_to_training(analysis, tmp_path):
    write_report(analysis, tmp_path)
    args = arguments(tmp_path / "report.json")
    resolve(args)
    assert (args.sample_filter, args.sample_filter_keep) == ("rank_weights", 2)
    made = build_filter(args.sample_filter, 6, args.sample_filter_keep, args.sample_filter_options)
    assert made([[6.0, 5, 4, 3, 2, 1]]).tolist() == [[0, 0.5, 0, 0, 0.5, 0]]
    with pytest.raises(
        ValueError, match="are for 6 samples per prompt, and --rollout.n_samples_per_prompt is 8: draw 6"
    ):
        resolve(arguments(tmp_path, **{"rollout.n_samples_per_prompt": 8}))
    with pytest.raises(ValueError, match="are for k = 2, and --sample_filter_keep is 3: leave it out"):
        resolve(arguments(tmp_path, sample_filter_keep=3))


def test_they_are_left_out_where_other_strategies_are_named(tmp_path):
    rollouts = Rollouts([by_rank(BOTH_EXTREMES, 0)])
    plain = analyse_rollouts(rollouts, Settings(repetitions=100, strategies=("none", "best_worst")))
    assert [s.label for s in plain.strategies] == ["none", "best_worst"]
    assert report_as_dict(plain)["checkpoints"][0]["learned_ranks"] is None
    named = analyse_rollouts(rollouts, Settings(repetitions=100, strategies=("none", "learned_ranks"), keep=3))
    assert [s.label for s in named.strategies] == ["none", "learned ranks"] and named.strategies[1].keep == 3
    write_report(named, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["recommendation"]["strategy"] == "rank_weights"
