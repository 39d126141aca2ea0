"""examples/beyond_language/cartpole.py: physics against gymnasium's single cart, gradients, and a tiny run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv

from examples.beyond_language import cartpole, carts
from examples.beyond_language.arms import ARMS
from examples.beyond_language.carts import LONGEST, SENSORS, Luck, Policies, Settings, objective, roll, train


def played(n_arms: int = 1, seeds: tuple[int, ...] = (0, 1)) -> tuple[Policies, torch.Tensor, carts.Rollouts]:
    """Three starts, two rollouts from each."""
    policies = Policies(seeds, n_arms)
    luck = Luck.of(seeds, carts.TRAINING, 0, 3, 2)
    environment = CartPoleVectorEnv(num_envs=n_arms * len(seeds) * 6, max_episode_steps=LONGEST)
    return policies, luck.starts, roll(policies, environment, luck, keep=True)


def test_rollouts_are_as_long_as_those_of_a_single_cart() -> None:
    _, starts, rollouts = played()
    for run in range(2):
        for number in range(6):
            cart = CartPoleEnv()
            cart.reset(seed=0)
            cart.state = starts[run, number].double().numpy()
            for step in range(LONGEST):
                seen, _, ended, _, _ = cart.step(int(rollouts.actions[step, run, number]))
                if ended:
                    break
                assert rollouts.states[step + 1, run, number].tolist() == pytest.approx(seen.tolist(), abs=1e-6)
            assert int(rollouts.lengths[run, number]) == step + 1
    assert len(rollouts.states) == int(rollouts.lengths.max())


def test_a_seed_has_its_luck_in_every_arm_and_beside_any_other_seed() -> None:
    _, _, rollouts = played(n_arms=2)
    assert torch.equal(rollouts.lengths[:2], rollouts.lengths[2:])
    assert len(set(rollouts.lengths[0].tolist())) > 2
    for update, n_starts in ((0, 3), (1, 3), (0, 6)):
        lucks = [Luck.of(seeds, carts.TRAINING, update, n_starts, 6 // n_starts) for seeds in ([3], [7, 3])]
        assert torch.equal(lucks[0].starts[0], lucks[1].starts[1]) and torch.equal(lucks[0].coin[0], lucks[1].coin[1])
        assert not torch.equal(lucks[1].starts[0], lucks[1].starts[1])
        assert len(lucks[0].starts[0].unique(dim=0)) == n_starts
    for alone, beside in zip(Policies([3], 1).parameters, Policies([7, 3], 1).parameters):
        assert torch.equal(alone[0], beside[1])
    one, two = (train("middle", [ARMS["none"]], seeds, Settings(updates=1, every=1)) for seeds in ([3], [7, 3]))
    assert torch.allclose(one.shares[0, 0, 0], two.shares[0, 0, 1])
    assert torch.allclose(one.rewards[0, 0, 0], two.rewards[0, 0, 1])
    assert float((one.rewards - one.shares).abs().max()) > 0


def test_the_objective_is_the_sum_of_log_probabilities() -> None:
    policies, _, rollouts = played(n_arms=2)
    coefficients = torch.tensor([[0.5, 0.0, -1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 3.0, 0.0, 0.0]])
    value = objective(policies, rollouts, coefficients, slice(2, 4))
    first, bias, second, shift = policies.parameters
    by_hand = torch.zeros(())
    for run, number in coefficients.nonzero().tolist():
        for step in range(int(rollouts.lengths[run + 2, number])):
            state = rollouts.states[step, run + 2, number]
            hidden = torch.tanh(state @ first[run + 2] + bias[run + 2, 0])
            logp = (hidden @ second[run + 2] + shift[run + 2, 0]).log_softmax(0)
            by_hand = by_hand + coefficients[run, number] * logp[int(rollouts.actions[step, run + 2, number])] / 500
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-4)
    (gradient,), (expected,) = (torch.autograd.grad(x, [first]) for x in (value, by_hand))
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert float(gradient[:2].abs().sum()) == 0 < float(gradient[2:].abs().sum())


def test_sensors_err_as_they_say() -> None:
    rng = torch.Generator().manual_seed(0)
    normal, coin = torch.randn(100_000, generator=rng), torch.rand(100_000, generator=rng)

    def errors(sensor: str, share: float) -> torch.Tensor:
        return SENSORS[sensor](torch.full_like(coin, share), normal, coin) - share

    assert float(errors("clean", 0.4).abs().max()) == 0
    # .3 exp(-((share - .4) / .25)^2): .3 at .4, .3 exp(-1) = .1104 at .65, .3 exp(-5.76) = .000945 at 1
    for share, size in ((0.4, 0.3), (0.65, 0.1104), (1.0, 0.000945)):
        assert float(errors("middle", share).std()) == pytest.approx(size, rel=0.05)
    wrong = errors("dropout", 2.0).abs() > 0.5
    assert float(wrong.float().mean()) == pytest.approx(0.1, abs=0.005)
    lost = errors("dropout", 2.0)[wrong] + 2
    assert float(lost.min()) >= 0 and float(lost.max()) <= 1
    assert [float(lost.mean()), float(lost.var())] == pytest.approx([0.5, 1 / 12], abs=0.01)


def test_policies_learn_to_balance() -> None:
    record = train("clean", [ARMS["none"], ARMS["best_worst"]], range(2), Settings(updates=15))
    assert (record.returns[:, -1].mean(dim=1) > 2.5 * record.returns[:, 0].mean(dim=1)).all()
    assert not record.learned.any()


def test_updates_until_and_area_by_hand() -> None:
    returns = np.array([[0.0, 500.0, 0.0], [400.0, 500.0, 100.0], [500.0, 0.0, 200.0], [450.0, 500.0, 300.0]])
    found = cartpole.measures_of(returns, [0, 5, 10, 15])
    assert found["updates"].tolist() == [7.5, 0.0, 15.0]  # halfway from 400 to 500; at once; never
    assert found["reached"].tolist() == [1.0, 1.0, 0.0]
    assert found["area"][0] == pytest.approx((200 + 450 + 475) / 3)


def test_cartpole_runs(tmp_path: Path) -> None:
    cartpole.main(["--seeds", "2", "--updates", "5", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "cartpole.json").read_text())
    assert list(results) == ["clean", "middle", "dropout"]
    arms = results["middle"]["arms"]
    assert arms["random"]["area"]["difference"] == [0.0, 0.0, 0.0]
    assert arms["none"]["area less none's"] == [0.0, 0.0, 0.0] != arms["random"]["area less none's"]
    assert {arm: mine["curve"][0] for arm, mine in arms.items()} == dict.fromkeys(arms, arms["none"]["curve"][0])
    # 5 updates x 8 starts x k
    assert [arms[arm]["rollouts"][0] for arm in ("none", "max_variance", "best_worst")] == [320, 160, 80]
    assert arms["none"]["area"] != arms["random"]["area"]
    # Without errors rewards are true returns, and every arm's correlation within groups is 1: none is ahead.
    assert results["clean"]["criteria"]["all updates"]["within_r2"]["spearman"] == [0.0, 0.0, 0.0]
    assert "`best_worst`" in (tmp_path / "cartpole.md").read_text()
    assert (tmp_path / "cartpole.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "said"),
    [("--seeds 1", "at least 2"), ("--updates 7", "multiple of 5"), ("--updates 0", "multiple of 5")],
)
def test_bad_input_is_refused_in_a_sentence(
    flags: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        cartpole.main([*flags.split(), "--output", str(tmp_path / "new")])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
