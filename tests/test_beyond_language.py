"""examples/studies/beyond_language: problems and training in closed form, and a tiny run of the study."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.studies import statistics
from examples.studies.beyond_language import bandit
from examples.studies.beyond_language.training import (
    ERRORS,
    Luck,
    Problems,
    Settings,
    by_logit,
    count_kept,
    make_problem,
    stack,
    train,
)
from openrlhf_pf.filters import make_generator


def tiny(frozen: bool) -> Problems:
    return stack([make_problem("flat", seed, frozen, n_contexts=40, n_actions=6) for seed in (0, 1)])


@pytest.mark.parametrize("error", ERRORS)
def test_a_problem_depends_on_its_seed_alone(error: str) -> None:
    alone, both = make_problem(error, 3), stack([make_problem(error, 7), make_problem(error, 3)])
    assert torch.equal(alone.reward[0], both.reward[1])
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


@pytest.mark.parametrize("frozen", [True, False])
def test_independent_errors_differ_between_scorings_and_frozen_ones_do_not(frozen: bool) -> None:
    problems = tiny(frozen)
    luck = Luck.of(problems, Settings(prompts=5, samples=3, steps=2))
    assert (luck.normal is None) is frozen
    contexts, actions = luck.contexts[0], torch.zeros(2, 5, 3, dtype=torch.long)
    noise = luck.normal if luck.normal is not None else (None, None)
    one, two = (problems.score(contexts, actions, noise[i]) for i in (0, 1))
    assert torch.equal(one, two) is frozen


def test_arms_keep_the_samples_that_their_names_say() -> None:
    rewards = torch.tensor([[[0.1, 0.9, 0.5, 0.3, 0.7]]])  # ranks 5 1 3 4 2
    rng, half = make_generator(0), 0.5

    def kept(name: str) -> list[float]:
        return count_kept(bandit.ARMS[name](5), rewards, rng).flatten().tolist()

    assert kept("none") == pytest.approx([0.2] * 5)
    assert kept("best_of_n") == [0, half, 0, 0, half]
    assert kept("best_worst") == kept("max_variance") == [half, half, 0, 0, 0]
    assert kept("ranks_2_and_last") == [half, 0, 0, 0, half]
    assert kept("ranks_2_and_last_but_1") == [0, 0, 0, half, half]
    assert sorted(kept("random")) == [0, 0, 0, half, half]


def test_the_gradient_by_logits_is_that_of_the_log_probability() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    actions, coefficient = torch.randint(4, (2, 3, 5)), torch.randn(2, 3, 5)
    (coefficient * logits.log_softmax(-1).gather(-1, actions)).sum().backward()
    assert torch.allclose(by_logit(logits.softmax(-1).detach(), actions, coefficient), logits.grad, atol=1e-6)


def test_training_raises_the_value_and_the_same_seed_is_the_same_run() -> None:
    problems, settings = tiny(frozen=False), Settings(prompts=8, steps=30)
    luck = Luck.of(problems, settings)
    one, two = (train(problems, settings, bandit.ARMS["random"](8), luck, [0, 30])["value"] for _ in range(2))
    assert torch.equal(one, two)
    # Uniform at the start: the mean over actions.
    assert torch.allclose(one[0], problems.value.mean((1, 2))) and (one[1] > one[0] + 0.1).all()


def test_interval_of_a_mean() -> None:
    assert statistics.mean_interval(np.full(5, 0.25)) == [0.25, 0.25, 0.25]
    mean, low, high = statistics.mean_interval(np.arange(100) / 100)
    # standard error of the mean of 0 ... 0.99: 0.2887 / 10
    assert (mean, low, high) == (0.495, pytest.approx(0.495 - 0.0566, abs=0.005), pytest.approx(0.5516, abs=0.005))


def test_bandit_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bandit.main(["--seeds", "2", "--steps", "20", "--output", str(tmp_path / "bandit.json")])
    results = json.loads((tmp_path / "bandit.json").read_text())
    assert results["flat, frozen"]["end, minus random"]["random"] == [0.0, 0.0, 0.0]
    assert "| flat, frozen | none | random | best_of_n |" in capsys.readouterr().out
