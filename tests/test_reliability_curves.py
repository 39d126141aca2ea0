"""What fewer kept, or fewer drawn, responses would gain: by brute force, and against the report's own table."""

from itertools import combinations

import numpy as np
import pytest

from openrlhf_pf.reliability import Checkpoint, curves
from openrlhf_pf.reliability.bootstrap import Bootstrap
from openrlhf_pf.reliability.curves import curves_of
from openrlhf_pf.reliability.evaluate import evaluate, summary
from openrlhf_pf.reliability.planted import plant
from openrlhf_pf.reliability.strategies import Strategy

STRATEGIES = [Strategy("none", 5), Strategy("best_of_n", 1), Strategy("best_worst", 2), Strategy("top", 2)]


def found_of(checkpoint, strategies=STRATEGIES, repetitions=200):
    bootstrap = Bootstrap(checkpoint.n_prompts, repetitions)
    return curves_of(checkpoint, strategies, bootstrap, 0.95), bootstrap


@pytest.mark.parametrize("name, keep", [("none", 5), ("best_of_n", 1), ("best_worst", 2)])
def test_the_ends_are_what_the_table_says(name, keep):
    checkpoint = plant("noise in the middle", 200, 5)
    found, bootstrap = found_of(checkpoint)
    (result,) = evaluate(checkpoint, [Strategy(name, keep)], bootstrap)
    table = summary(result, bootstrap, 0.95)["gain"]
    last = found.samples[name][-1]
    assert (last.drawn, last.trained) == (5, keep)
    assert (last.gain, last.low, last.high) == pytest.approx((table["estimate"], table["low"], table["high"]))
    if name != "none":
        at_k = next(point for point in found.keep[name] if point.trained == keep)
        assert at_k == last
        # All N kept: no filter, whichever it is.
        assert found.keep[name][-1].gain == pytest.approx(found.samples["none"][-1].gain)


def test_fewer_drawn_is_the_mean_over_all_subsets():
    """best_worst of 2 of 4: both responses train, r and s the halves of their differences, over all 6 pairs."""
    checkpoint = plant("noise in the middle", 3000, 4, seed=1)
    found, _ = found_of(checkpoint, [Strategy("best_worst", 2)])
    pairs = np.array(list(combinations(range(4), 2)))
    d = np.diff(checkpoint.reward[:, pairs], axis=2) / 2
    s = np.diff(checkpoint.score[:, pairs], axis=2) / 2
    exact = (d * s).mean() / np.sqrt((d * d).mean())
    first = found.samples["best_worst"][0]
    assert (first.drawn, first.trained) == (2, 2)
    assert first.low < exact < first.high and first.gain == pytest.approx(exact, abs=0.01)


def test_sets_of_one_prompt_are_not_taken_for_independent():
    """Eight draws of 4 of 5 responses know no more than the 5; as independent ones, they would seem to: 2.8 times."""
    found, _ = found_of(plant("noise in the middle", 200, 5))
    four, five = (p.high - p.low for p in found.samples["none"][-2:])
    assert 0.9 < four / five < 1.3


def test_what_each_point_costs():
    found, _ = found_of(plant("right everywhere", 100, 5))
    assert set(found.keep) == {"best_of_n", "best_worst"} and set(found.samples) == {"none", *found.keep}
    assert [p.trained for p in found.keep["best_of_n"]] == [1, 2, 3, 4, 5]
    assert [p.trained for p in found.keep["best_worst"]] == [2, 3, 4, 5]
    assert all(p.drawn == 5 for points in found.keep.values() for p in points)
    assert [(p.drawn, p.trained) for p in found.samples["none"]] == [(2, 2), (3, 3), (4, 4), (5, 5)]
    assert [(p.drawn, p.trained) for p in found.samples["best_of_n"]] == [(2, 1), (3, 1), (4, 1), (5, 1)]
    assert (found.n_samples, found.n_groups, found.of_groups) == (5, 100, 100)


def test_many_responses_give_few_points_and_the_filters_own_k():
    found, _ = found_of(plant("right everywhere", 40, 64), [Strategy("best_worst", 6), Strategy("none", 64)])
    trained = [p.trained for p in found.keep["best_worst"]]
    assert len(trained) <= curves.MOST_POINTS + 1 and trained[0] == 2 and trained[-1] == 64 and 6 in trained
    drawn = [p.drawn for p in found.samples["best_worst"]]
    assert drawn[0] == 6 and drawn[-1] == 64


def test_many_prompts_are_sampled_and_it_is_said(monkeypatch):
    monkeypatch.setattr(curves, "MOST_SAMPLES", 500)
    checkpoint = plant("noise in the middle", 1000, 5)
    found, bootstrap = found_of(checkpoint)
    assert (found.n_groups, found.of_groups) == (100, 1000)
    (whole,) = evaluate(checkpoint, [Strategy("best_worst", 2)], bootstrap)
    last = found.samples["best_worst"][-1]
    assert last.low < whole.estimates["gain"] < last.high
    again, _ = found_of(checkpoint)
    assert again == found


def test_unequal_sizes_take_what_is_there():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(300, 6))
    score = (reward + rng.normal(size=reward.shape) > 0).astype(float)
    reward[:200, 4:], score[250:, 5] = np.nan, np.nan  # 4 known in most
    found, _ = found_of(Checkpoint("a", reward, score, np.arange(300)))
    assert found.n_samples == 4
    assert all(np.isfinite(p.low) and p.low < p.gain < p.high for p in found.samples["best_worst"])


@pytest.mark.parametrize(
    "shape, strategies",
    [((50, 1), STRATEGIES), ((50, 5), [Strategy("top", 2), Strategy("none", 5)]), ((50, 2), [Strategy("none", 2)])],
)
def test_there_are_none_where_there_is_nothing_to_choose(shape, strategies):
    checkpoint = plant("right everywhere", *shape)
    assert found_of(checkpoint, strategies)[0] is None
