"""Prompts that are left out whole."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_pf.filters import FilterBatch
from openrlhf_pf.filters.batch import band, variance_top_p

NAN = math.nan


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), min_size=4, max_size=4), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_the_fewest_prompts_that_hold_the_share(rewards, share):
    rewards = np.array(rewards, dtype=float)
    kept = variance_top_p(FilterBatch(rewards), share)
    variance = rewards.var(axis=1)
    assert variance[kept].sum() >= share * variance.sum() * (1 - 1e-9)
    best_of_fewer = np.sort(variance)[::-1][: max(int(kept.sum()) - 1, 0)].sum()
    assert not kept.any() or best_of_fewer < share * variance.sum()
    assert (variance[kept] > 0).all()


def test_unusable_rewards_have_no_part_in_it():
    rewards = [[0.0, 1.0, NAN, NAN], [NAN] * 4, [3.0, NAN, NAN, NAN], [0.0, 0.9, 0.0, math.inf]]
    assert variance_top_p(FilterBatch(np.array(rewards)), 1.0).tolist() == [True, False, False, True]


def test_a_band_is_of_scores_where_there_are_some():
    rewards = np.array([[5.0, 5.0], [0.0, 1.0], [NAN, 1.0], [NAN, NAN]])
    assert band(FilterBatch(rewards), 0.5, 1.0).tolist() == [False, True, True, False]
    scores = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, NAN], [1.0, 0.0]])
    assert band(FilterBatch(rewards, scores=scores), 0.5, 0.9).tolist() == [True, False, False, False]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_where_all_are_flat_none_is_kept(share):
    assert not variance_top_p(FilterBatch(np.ones((3, 4))), share).any()
