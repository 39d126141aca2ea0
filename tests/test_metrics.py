"""What a step's filtering looks like in the logs, by hand."""

import pytest
import torch

from openrlhf_pf.filters import FilterBatch
from openrlhf_pf.training.metrics import filter_metrics


def test_r2_of_rewards_that_go_the_wrong_way_is_negative():
    rewards, counts = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1, 0, 0, 1]])
    scores = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    # Means 2.5 and .5: products -.75, .25, .25, -.75 sum to -1; squares 5 and 1. Of the kept: a falling line.
    found = filter_metrics(FilterBatch(rewards), counts, scores, rewards)
    assert found["filter/r2_all"] == pytest.approx(-0.2) and found["filter/r2_kept"] == pytest.approx(-1.0)
    found = filter_metrics(FilterBatch(rewards), counts, 1 - scores, rewards)
    assert found["filter/r2_all"] == pytest.approx(0.2) and found["filter/r2_kept"] == pytest.approx(1.0)
