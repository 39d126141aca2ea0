"""examples/studies/beyond_language: problems and training in closed form, and a tiny run of the bandit study."""

import json
from pathlib import Path

import pytest
import torch

from examples.studies.beyond_language import bandit
from examples.studies.beyond_language.bandit import ERRORS, by_logit, count_kept, make_problem, mean_interval, stack
from openrlhf_pf.filters import make_generator


@pytest.mark.parametrize("error", ERRORS)
def test_a_problem_depends_on_its_seed_alone(error: str) -> None:
    alone, both = make_problem(error, 3), stack([make_problem(error, 7), make_problem(error, 3)])
    assert all(torch.equal(mine, two[1]) for mine, two in zip(alone, both))
    assert not torch.equal(both.reward[0], both.reward[1])


def test_errors_have_the_size_they_should_have() -> None:
    flat, middle, hacked = (stack([make_problem(e, s) for s in range(10)]) for e in ("flat", "middle", "hacked"))
    assert float((flat.reward - flat.value).std()) == pytest.approx(0.4, abs=0.005)
    away, near = (middle.reward - middle.value).abs(), middle.value.abs() < 0.05
    assert float(away[near].square().mean().sqrt()) == pytest.approx(0.8, abs=0.03)
    assert float(away[middle.value > 0.9].square().mean().sqrt()) < 0.02  # 0.8 exp(-5.06) = 0.005
    # 1.2 - q against q differ by 1.2 - 2 q, which is beyond 0.5 for q < 0.35
    low = hacked.value < 0.35
    assert float(((hacked.reward - hacked.value).abs() > 0.45)[low].float().mean()) == pytest.approx(0.05, abs=0.005)


def test_independent_errors_are_those_of_the_scoring_and_frozen_ones_those_of_the_action() -> None:
    fresh, frozen = make_problem("flat", 0, frozen=False), make_problem("flat", 0)
    assert torch.equal(fresh.reward, fresh.value) and fresh.noise.unique().tolist() == [pytest.approx(0.4)]
    assert not torch.equal(frozen.reward, frozen.value) and not frozen.noise.any()
    assert not torch.equal(fresh.normal[0], fresh.normal[1])


def test_arms_keep_the_samples_that_their_names_say() -> None:
    rewards = torch.tensor([[[0.1, 0.9, 0.5, 0.3, 0.7, 0.6, 0.2, 0.4]]])  # ranks 8 1 4 6 2 3 7 5
    kept = {
        arm: count_kept(bandit.build_arm(arm), rewards, make_generator(0)).flatten().tolist() for arm in bandit.ARMS
    }
    assert kept["none"] == pytest.approx([1 / 8] * 8)
    assert kept["best_of_n"] == [0, 0.5, 0, 0, 0.5, 0, 0, 0]
    assert kept["best_worst"] == [0.5, 0.5, 0, 0, 0, 0, 0, 0]
    assert kept["ranks_2_and_last"] == [0.5, 0, 0, 0, 0.5, 0, 0, 0]
    assert kept["best_random"][1] == 0.5
    assert sorted(kept["random"]) == sorted(kept["best_random"]) == [0] * 6 + [0.5] * 2


def test_the_gradient_by_logits_is_that_of_the_log_probability() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    actions, coefficient = torch.randint(4, (2, 3, 5)), torch.randn(2, 3, 5)
    (coefficient * logits.log_softmax(-1).gather(-1, actions)).sum().backward()
    assert torch.allclose(by_logit(logits.softmax(-1).detach(), actions, coefficient), logits.grad, atol=1e-6)


def test_interval_of_a_mean() -> None:
    assert mean_interval(torch.full((5,), 0.25)) == [0.25, 0.25, 0.25]
    mean, low, high = mean_interval(torch.arange(100) / 100)
    # standard error of the mean of 0 ... 0.99: 0.2887 / 10
    assert (mean, low, high) == (0.495, pytest.approx(0.495 - 0.0566, abs=0.005), pytest.approx(0.5516, abs=0.005))


def test_the_bandit_runs_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, value in {"SEEDS": 2, "STEPS": 20, "CONTEXTS": 40, "ACTIONS": 6}.items():
        monkeypatch.setattr(bandit, name, value)
    problems = stack([make_problem("flat", seed, frozen=False) for seed in (0, 1)])
    once, again = (bandit.train(problems, "random") for _ in range(2))
    # Uniform at the start: the mean over actions.
    assert torch.equal(once, again) and (once > problems.value.mean((1, 2)) + 0.1).all()
    bandit.main(["--output", str(tmp_path / "bandit.json")])
    results = json.loads((tmp_path / "bandit.json").read_text())
    assert results["flat, frozen"]["end, minus random"]["random"] == [0.0, 0.0, 0.0]
    assert results["flat, fresh"]["end"]["random"][0] == round(float(once.mean()), 4)
    assert "| flat, frozen | none | random | best_of_n |" in capsys.readouterr().out
