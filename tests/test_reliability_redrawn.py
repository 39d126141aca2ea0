"""Which share of a reward's error a second scoring of the same responses redraws, and what the report makes of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import analysed, checkpoint_of, plant

from openrlhf_pf.reliability import load
from openrlhf_pf.reliability.analysis import REDRAWN, REPEATED
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.contrasts import measure_redrawn
from openrlhf_pf.reliability.report import report_as_dict
from openrlhf_pf.reliability.report.reasons import headline_of, text_of
from openrlhf_pf.rollout_log import RolloutLog


def scored_twice(fresh, seed=0, n_prompts=150, n=6):
    """Rewards that are the score plus an error of variance 1, of which a share ``fresh`` is redrawn."""
    rng = np.random.default_rng(seed)
    score = (rng.random((n_prompts, n)) < rng.random((n_prompts, 1))).astype(float)
    frozen = score + np.sqrt(1 - fresh) * rng.normal(size=score.shape) + 3 * rng.normal(size=(n_prompts, 1))
    first, second = (frozen + np.sqrt(fresh) * rng.normal(size=score.shape) for _ in range(2))
    return checkpoint_of(first, score, reward_again=second)


def measured(checkpoint, repetitions=200):
    return measure_redrawn(checkpoint, Bootstrap(checkpoint.n_prompts, repetitions))


@pytest.mark.parametrize("fresh", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_share_of_planted_noise_lies_in_its_interval(fresh):
    found = [measured(scored_twice(fresh, seed)) for seed in range(40)]
    assert np.mean([share["estimate"] for share in found]) == pytest.approx(fresh, abs=0.025)
    assert sum(share["low"] <= fresh <= share["high"] for share in found) >= 35
    assert all(share["low"] >= 0 and share["high"] <= 1 and share["high"] - share["low"] < 0.25 for share in found)


def test_the_share_is_the_ratio_of_variances_within_prompts():
    c = scored_twice(0.3, n_prompts=4, n=3)
    d, e, s = (x - x.mean(axis=1, keepdims=True) for x in (c.reward, c.reward_again, c.score))
    fresh = ((d - e) ** 2 / 2).sum() / (4 * 2)  # of N - 1 = 2 in each of 4 prompts
    residuals = [x - np.linalg.lstsq(s.reshape(-1, 1), x.ravel(), rcond=None)[0][0] * s for x in (d, e)]
    error = np.mean([(x**2).sum() / (4 * 2) for x in residuals])
    assert measured(c)["estimate"] == pytest.approx(fresh / error)


def test_samples_without_a_second_reward_do_not_count():
    c = scored_twice(0.5)
    few = replace(c, reward_again=np.where(np.arange(6) < 4, c.reward_again, np.nan))
    cut = replace(c, reward=c.reward[:, :4], score=c.score[:, :4], reward_again=c.reward_again[:, :4])
    assert measured(few) == pytest.approx(measured(cut))
    alone = replace(c, reward_again=np.where(np.arange(6) < 1, c.reward_again, np.nan))
    for nothing in (alone, replace(c, reward_again=np.full(c.reward.shape, np.nan)), replace(c, reward_again=None)):
        assert measured(nothing) is None
    assert measured(replace(c, score=np.ones(c.score.shape))) is None, "no true score to be wrong about"
    assert measured(replace(c, reward=c.score, reward_again=c.score)) is None, "no error"


@pytest.mark.parametrize("scale", [1e-90, 1e90])
def test_the_scale_does_not_matter_and_one_prompt_settles_nothing(scale):
    c = scored_twice(0.5)
    scaled = replace(c, reward=scale * c.reward, reward_again=scale * c.reward_again)
    assert measured(scaled) == pytest.approx(measured(c))
    for rewards in (c.reward, c.reward_again):
        rewards[0] *= 1e6
    assert measured(c)["low"] is None


# ── The report ──

NAMES = ("none", "best_worst")


@pytest.mark.parametrize(
    "fresh, errors, sentence",
    [
        (0.0, REPEATED, "The errors repeat: scoring the same responses again changes 0.0% of the error (95% interval"),
        (1.0, REDRAWN, "The errors are redrawn: scoring the same responses again changes "),
        (0.5, "", "Part of the error is redrawn: scoring the same responses again changes "),
    ],
)
def test_the_report_says_whether_errors_repeat(fresh, errors, sentence):
    found = analysed(scored_twice(fresh), names=NAMES)
    (a,) = found.analysed
    assert a.errors == errors and sentence in text_of(found.recommendation, a)
    assert text_of(found.recommendation, a).endswith("Beyond saving time, best_worst pays only where errors change.")
    assert report_as_dict(found)["checkpoints"][0]["redrawn"] == a.redrawn
    once = analysed(replace(scored_twice(fresh), reward_again=None), names=NAMES).analysed[0]
    assert (once.redrawn, once.errors) == (None, "") and "the same responses" not in text_of(once.recommendation, once)


def test_a_filter_that_is_ahead_at_equal_rollouts_follows_the_noise():
    (a,) = analysed(plant("noise in the middle", 300, 5), names=NAMES).analysed
    ahead = replace(a.recommendation, answer="filter", best="best_worst", keep=2, lead=0.1)
    shares = {"": None, REDRAWN: {"estimate": 0.9, "low": 0.8, "high": 1.0}}
    shares[REPEATED] = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    found = {errors: headline_of(ahead, replace(a, redrawn=share)) for errors, share in shares.items()}
    assert found[""].startswith("Use best_worst, k = 2, if the reward is noisy between scorings;")
    assert found[REDRAWN] == "Use best_worst, k = 2: the reward's errors are redrawn on every scoring."
    assert found[REPEATED] == "Use best_worst, k = 2, to save training time: the reward's errors repeat."


# ── Files ──


def test_the_second_reward_is_read_from_files_and_logs(tmp_path):
    c = scored_twice(0.5, n_prompts=20, n=2)
    c.reward_again[3, 1] = np.nan
    names = {"reward": c.reward, "score": c.score, "second_reward": c.reward_again}
    rows = [{"prompt_id": g, **{k: v[g].tolist() for k, v in names.items()}} for g in range(20)]
    (tmp_path / "lists.json").write_text(json.dumps(rows).replace("NaN", "null"))
    numbers = dict.fromkeys(("prompt_tokens", "response_tokens", "draws"), [1] * 40) | {"kept": [True] * 40}
    texts = {"prompt_id": [f"p{i // 2:02}" for i in range(40)], "prompt": ["p"] * 40, "response": ["r"] * 40}
    flat = {"reward": c.reward.ravel(), "score": c.score.ravel(), "reward_again": c.reward_again.ravel()}
    with RolloutLog(tmp_path / "log") as log:
        log.write(1, lambda: texts | numbers | flat | {"group": [i // 2 for i in range(40)], "weight": [1.0] * 40})
    for path in (tmp_path / "lists.json", tmp_path / "log"):
        (found,) = load([path]).checkpoints
        np.testing.assert_array_equal(found.reward_again, c.reward_again)
        assert "second_reward" not in found.others
