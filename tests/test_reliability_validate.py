"""Both ends of the ranks, and what would be found of known truths."""

import numpy as np
import pytest

from openrlhf_pf.cli import analyze
from openrlhf_pf.reliability import Settings, analyse_rollouts, report
from openrlhf_pf.reliability import validate as validate_module
from openrlhf_pf.reliability.bootstrap import Bootstrap
from openrlhf_pf.reliability.data import Checkpoint, Rollouts
from openrlhf_pf.reliability.ends import ends_of
from openrlhf_pf.reliability.planted import WORLDS, plant, plant_like
from openrlhf_pf.reliability.strategies import strategies_for
from openrlhf_pf.reliability.validate import rows, validate, words

NAMES = ("none", "best_of_n", "best_worst")


def ends(checkpoint):
    return ends_of(checkpoint, Bootstrap(checkpoint.n_prompts, 300))


# ── Ends ──


@pytest.mark.parametrize("world", WORLDS)
def test_an_end_is_called_wrong_where_it_is(world):
    expected = world if world in ("wrong at the top", "wrong at the bottom") else ""
    found = ends(plant(world, 2000, 6, seed=1))
    assert found.verdict == expected and len(found.words()) == bool(expected)


def test_both_ends_can_be_wrong():
    reward = np.tile(np.arange(5.0), (200, 1))
    found = ends(Checkpoint("", reward, np.tile([1.0, 0, 1, 1, 0], (200, 1)), np.arange(200)))
    assert found.verdict == "wrong at both ends" and found.n_samples == 5
    assert found.top["estimate"] == -1 and found.bottom["estimate"] == -1


def test_equal_rewards_share_their_ranks():
    # Whichever of the two favourites is listed first, their mean is the score of both ranks.
    for favourites in ([0.0, 1.0], [1.0, 0.0]):
        score = np.tile([*favourites, 0.5, 0.0], (50, 1))
        found = ends(Checkpoint("", np.tile([3.0, 3.0, 2.0, 1.0], (50, 1)), score, np.arange(50)))
        assert (found.top["estimate"], found.bottom["estimate"]) == (0.0, 0.5)


def test_ends_are_those_of_the_samples_that_are_there():
    reward = np.tile([5.0, 4.0, 3.0, 2.0, 1.0], (60, 1))
    score = np.tile([1.0, 0.8, 0.6, 0.5, 0.0], (60, 1))
    reward[:40, 0] = np.nan  # the most common size is 4
    score[:40, 0] = np.nan
    found = ends(Checkpoint("", reward, score, np.arange(60)))
    assert (found.n_samples, round(found.top["estimate"], 9), found.bottom["estimate"]) == (4, 0.2, 0.5)


def test_two_responses_have_no_two_ends():
    assert ends(plant("right everywhere", 50, 2)) is None


# ── Planting in the shape of others ──


def test_planted_samples_have_the_users_shape_rewards_and_share_of_correct_ones():
    given = plant("useless", 1500, 5, seed=3, score_rate=0.2)
    given.reward = np.round(given.reward)  # ties
    given.reward[:700, 3:] = np.nan
    given.prompt = np.arange(1500) // 2
    like = plant_like(given, "right everywhere", seed=4)
    assert (like.known == given.known).all() and (like.prompt == given.prompt).all()
    assert sorted(like.reward[like.known]) == sorted(given.reward[given.known])
    assert like.score[like.known].mean() == pytest.approx(given.score[given.known].mean(), abs=0.03)
    more = plant_like(given, "right everywhere", seed=4, times=3)
    assert more.n_prompts == 3 * given.n_prompts
    assert np.bincount(np.round(more.reward[more.known] + 9).astype(int)).tolist() == [
        3 * n for n in np.bincount(np.round(given.reward[given.known] + 9).astype(int))
    ]


def test_responses_to_one_prompt_in_several_groups_share_its_ease():
    given = plant("useless", 4000, 4)
    given.prompt = np.arange(4000) // 8
    means = plant_like(given, "right everywhere", between=0.9).score.mean(axis=1).reshape(500, 8)
    assert means.mean(axis=1).var() > 5 * means.var(axis=1).mean()


# ── Would it be found? ──


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(validate_module, "LARGE", 20_000)


def powers(checkpoint, **others):
    found = validate(checkpoint, strategies_for(checkpoint, NAMES), **{"tries": 6} | others)
    return {power.world: power for power in found}


def test_with_many_prompts_all_is_found():
    given = plant("right everywhere", 1500, 6)
    found = powers(given)
    assert found.keys() == WORLDS.keys()
    for world in ("right everywhere", "noise in the middle", "offsets", "offsets against difficulty"):
        assert (found[world].truth["ranking"], found[world].truth["filter"]) == ("right", "best_worst")
    assert {w: p.truth["ends"] for w, p in found.items() if p.truth["ends"]} == {
        w: w for w in ("wrong at the top", "wrong at the bottom")
    }
    for world in ("difficulty only", "useless"):
        assert (found[world].truth["ranking"], found[world].truth["filter"]) == ("guessing", "no help")
    assert all(power.found[q] >= 4 for power in found.values() for q in ("ranking", "ends", "filter"))
    assert words(list(found.values()))[0].startswith("With this many prompts and responses each")


def test_with_few_prompts_much_is_missed_and_said_to_be():
    found = powers(plant("right everywhere", 40, 4))
    assert found["wrong at the top"].found["filter"] < 4 and found["wrong at the top"].found["ends"] < 4
    missed, alarms = words(list(found.values()))
    assert "does not rule them out" in missed and "wrong at the top (" in missed
    assert alarms.endswith("of 48 data sets.")


def test_a_filter_that_is_better_than_none_is_no_false_alarm_even_where_another_is_best(monkeypatch):
    monkeypatch.setattr(validate_module, "LARGE", 100_000)
    given = plant("right everywhere", 40, 4)
    (middle,) = (
        p
        for p in validate(given, strategies_for(given, ("none", "best_worst", "top_bottom")), tries=6)
        if p.world == "noise in the middle"
    )
    # Of few prompts a filter of group scope is preferred; many show that one of batch scope has more gain.
    assert (middle.truth["filter"], middle.found["filter"], middle.wrong["filter"]) == ("top_bottom", 0, 0)


def test_the_same_seed_plants_the_same():
    given = plant("right everywhere", 60, 4)
    first, again, other = (rows(list(powers(given, seed=seed, tries=3).values())) for seed in (1, 1, 2))
    assert first == again != other


def test_scores_on_one_side_of_the_threshold_cannot_be_planted():
    given = plant("right everywhere", 60, 4)
    with pytest.raises(ValueError, match=r"none of these scores are above 2: choose another --threshold\."):
        validate(given, strategies_for(given, NAMES), threshold=2.0)


def test_the_report_says_what_would_be_found(tmp_path, capsys):
    settings = Settings(repetitions=100, strategies=NAMES, validate=2)
    analysis = analyse_rollouts(Rollouts([plant("right everywhere", 60, 4)]), settings)
    found = report.as_dict(analysis)["validation"]
    assert [entry["world"] for entry in found] == list(WORLDS) and found[0]["found"].keys() == {
        "ranking",
        "ends",
        "filter",
    }
    assert {entry["tries"] for entry in found} == {2}
    assert analyze.main(["--demo", "--validate", "1", "--output", str(tmp_path), "--bootstrap", "100"]) == 0
    assert "Could it have been found?" in capsys.readouterr().out
