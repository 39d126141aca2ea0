"""examples/studies/beyond_language: problems, training and criteria in closed form, and tiny runs of each study."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.studies import statistics, tables
from examples.studies.beyond_language import bandit, criteria, measures
from examples.studies.beyond_language.arms import ARMS, ranks
from examples.studies.beyond_language.problems import ERRORS, Problems, make_problem, stack
from examples.studies.beyond_language.training import Luck, Policy, Settings, Trainer, by_logit, roll, train
from openrlhf_pf.filters import make_generator

POLICIES = [Settings(policy, "sgd", 0.1) for policy in ("tabular", "shared")]


def tiny(error: str = "flat", seeds: tuple[int, ...] = (0, 1), **options) -> Problems:
    return stack([make_problem(error, seed, n_contexts=40, n_actions=6, **options) for seed in seeds])


# ── Problems ──


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
    problems = tiny(frozen=frozen)
    luck = Luck.of(problems, Settings(prompts=5, samples=3, steps=2))
    assert problems.is_noisy is not frozen and (luck.normal is None) is frozen
    contexts, actions = luck.contexts[0], torch.zeros(2, 5, 3, dtype=torch.long)
    noise = luck.normal if luck.normal is not None else (None, None)
    one, two = (problems.score(contexts, actions, noise[i]) for i in (0, 1))
    assert torch.equal(one, two) is frozen


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no error 'even'"):
        make_problem("even", 0)
    with pytest.raises(ValueError, match="there is no start 'good'"):
        make_problem("flat", 0, start="good")


# ── Training ──


def test_arms_keep_the_samples_that_their_names_say() -> None:
    rewards = torch.tensor([[[0.1, 0.9, 0.5, 0.3, 0.7]]])  # ranks 5 1 3 4 2
    rng, half = make_generator(0), 0.5

    def kept(name: str) -> list[float]:
        return ARMS[name].counts(ARMS[name].build(5), rewards, rng).flatten().tolist()

    assert kept("none") == pytest.approx([0.2] * 5)
    assert kept("best_of_n") == [0, half, 0, 0, half]
    assert kept("best_worst") == kept("max_variance") == [half, half, 0, 0, 0]
    assert kept("ranks_2_and_last") == [half, 0, 0, 0, half]
    assert kept("ranks_2_and_last_but_1") == [0, 0, 0, half, half]
    assert sorted(kept("random")) == [0, 0, 0, half, half]
    assert ranks(1, -1)(3) == {"weights": [1.0, 0.0, 1.0]}


def test_the_gradient_by_logits_is_that_of_the_log_probability() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    actions, coefficient = torch.randint(4, (2, 3, 5)), torch.randn(2, 3, 5)
    (coefficient * logits.log_softmax(-1).gather(-1, actions)).sum().backward()
    assert torch.allclose(by_logit(logits.softmax(-1).detach(), actions, coefficient), logits.grad, atol=1e-6)


@pytest.mark.parametrize("settings", POLICIES, ids=lambda s: s.policy)
def test_a_small_step_raises_the_value_by_the_slope(settings: Settings) -> None:
    """d/dt of the mean value along the exact gradient is the gradient's squared length, by C for the mean."""
    policy = Policy(tiny(start="peaked"), replace(settings, learning_rate=1e-3))
    chances, value = policy.everywhere(), policy.problems.value
    truth = chances * (value - (chances * value).sum(-1, keepdim=True))
    gradient = policy.gradient(torch.arange(40).expand(2, -1), truth)
    before = (chances * value).sum(-1).mean(-1)
    policy.climb(gradient)
    after = (policy.everywhere() * value).sum(-1).mean(-1)
    assert torch.allclose(after - before, 1e-3 * gradient.square().sum((1, 2)) / 40, rtol=0.05)


def test_adam_s_steps_do_not_depend_on_the_gradient_s_length() -> None:
    for size in (1.0, 1000.0):
        policy = Policy(tiny(), Settings(optimizer="adam", learning_rate=0.1))
        policy.climb(size * torch.ones_like(policy.learned))
        assert policy.learned.square().sum((1, 2)).sqrt().tolist() == pytest.approx([0.1 * (40 * 6) ** 0.5] * 2)


def test_advantages() -> None:
    policy = Policy(tiny(), Settings(prompts=1, samples=4))
    rollout = roll(policy, Luck.of(policy.problems, Settings(prompts=1, samples=4, steps=1)), 0)
    rollout.rewards = torch.tensor([[[1.0, 2.0, 3.0, 6.0]], [[1.0, 2.0, 3.0, 6.0]]])
    counts = torch.tensor([[[0.5, 0.0, 0.0, 0.5]]]).expand(2, -1, -1)

    def advantages(baseline: str, whiten: bool = False) -> list[float]:
        policy.settings = replace(policy.settings, baseline=baseline, whiten=whiten)
        return Trainer(policy).advantages(rollout, counts)[0, 0].tolist()

    assert advantages("group") == [-2, -1, 0, 3]  # mean 3
    assert advantages("critic") == [1, 2, 3, 6]  # it has learned nothing yet
    assert [advantages("group", True)[i] for i in (0, 3)] == pytest.approx([-1, 1])  # two values, whitened


def test_the_critic_learns_the_mean_reward() -> None:
    problems = tiny()
    problems.reward += 5.0
    settings = Settings(baseline="critic", samples=4, steps=300)
    trainer, luck = Trainer(Policy(problems, settings)), Luck.of(problems, settings)
    sizes = []
    for step in range(300):
        rollout = roll(trainer.policy, luck, step)
        sizes.append(trainer.advantages(rollout, torch.full((2, 32, 4), 0.25)).mean((1, 2)).square().mean())
    assert sizes[0] > 20 and torch.stack(sizes[-20:]).mean() < 0.1  # from 5 squared to the noise of a rollout


def test_the_same_seed_is_the_same_run() -> None:
    problems, settings = tiny(frozen=False), Settings("shared", "adam", 0.05, prompts=8, steps=6)
    luck = Luck.of(problems, settings)
    one, two = (train(Policy(problems, settings), ARMS["random"], luck, [3, 6])["value"] for _ in range(2))
    assert torch.equal(one, two)


# ── Criteria, statistics and commands ──


def test_criteria_where_rewards_are_the_values() -> None:
    problems, settings = tiny("none"), Settings(prompts=30, steps=2, samples=4)
    found = measures.measure(Policy(problems, settings), Luck.of(problems, settings), {"none": ARMS["none"]})
    # Every correlation is 1, and the gain is the standard deviation within prompts.
    for name in ("binned_r2", "within_r2", "pairwise_accuracy"):
        assert found[name][:, 0].tolist() == pytest.approx([1.0, 1.0])
    assert found["signal_to_noise"][:, 0].tolist() == pytest.approx((2 * found["gain"][:, 0]).tolist())
    assert found["gain_root_k"][:, 0].tolist() == pytest.approx((2 * found["gain"][:, 0]).tolist())


def test_rank_correlation_regret_and_interval() -> None:
    result = np.array([[0.1, 0.4, 0.2], [0.5, 0.5, 0.5]])
    criterion = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    assert statistics.rank_correlation(criterion, result).tolist() == [1.0, 0.0]
    assert statistics.rank_correlation(-criterion, result)[0] == -1.0
    assert statistics.regret(-criterion, result).tolist() == pytest.approx([0.3, 0.0])
    assert statistics.mean_interval(np.full(5, 0.25)) == [0.25, 0.25, 0.25]
    mean, low, high = statistics.mean_interval(np.arange(100) / 100)
    # standard error of the mean of 0 ... 0.99: 0.2887 / 10
    assert (mean, low, high) == (0.495, pytest.approx(0.495 - 0.0566, abs=0.005), pytest.approx(0.5516, abs=0.005))


def test_bandit_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bandit.main(["--seeds", "2", "--steps", "20", "--output", str(tmp_path / "bandit.json")])
    results = json.loads((tmp_path / "bandit.json").read_text())
    assert results["flat, frozen"]["end, minus random"]["random"] == [0.0, 0.0, 0.0]
    assert "| flat, frozen | none | random | best_of_n |" in capsys.readouterr().out


def test_criteria_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "WAYS", {"shared, adam": Settings("shared", "adam", 0.02, whiten=True)})
    monkeypatch.setattr(criteria, "PROBE", 2)
    monkeypatch.setattr(criteria, "N_SAMPLES", (4,))
    found = criteria.run(2, at=(2, 4))
    assert found["all"]["problems"] == 4 and found["all"]["spearman"] == found["shared, adam"]["spearman"]
    assert "always best_worst" in tables.tables_of(found)
