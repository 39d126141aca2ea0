"""examples/studies/noise_mask: densities and gradients against quadrature, what policies learn, and a tiny study."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from examples.studies.noise_mask import study, training
from examples.studies.noise_mask.mask import MaskPolicy, as_mask, log_density, sample
from examples.studies.noise_mask.training import ARMS, Arm, Digits, Plan, load_digits, noisy_loss, split


def build() -> nn.Module:
    return training.build_classifier(nn.Dropout(0.0))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logs(alpha: float, beta: float, n: int, points: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.full((n, points), math.log(x)) for x in (alpha, beta))


# ── Masks ──


def test_samples_are_beta_distributed_and_never_at_the_ends() -> None:
    found = sample(*logs(2, 3, 20_000, 1), rng()).flatten().numpy()
    assert stats.kstest(found, stats.beta(2, 3).cdf).pvalue > 0.01
    ends = sample(*logs(0.01, 0.01, 1000, 1), rng())
    assert [ends.min().item(), ends.max().item()] == pytest.approx([1e-4, 1 - 1e-4])
    assert log_density(ends, *logs(0.01, 0.01, 1000, 1)).isfinite().all()


def test_a_mask_is_enlarged_then_blurred() -> None:
    points = torch.zeros(1, 16)
    points[0, 0] = 1.0  # the upper left 2 x 2 pixels
    soft = as_mask(points)
    # weights 1, exp(-1/2) on either side: .4519, .2741; the third column touches the point with .2741, the fourth not
    assert soft[0, 0, 0].tolist() == pytest.approx([1, 0.7259, 0.2741, 0, 0, 0, 0, 0], abs=1e-4)
    assert soft[0, 0, 2, 2].item() == pytest.approx(0.2741**2, abs=1e-4)
    assert as_mask(torch.full((2, 9), 0.3)).flatten().tolist() == pytest.approx([0.3] * 128)


def test_parameters_are_the_base_s_and_a_tenth_of_the_heads_and_the_base_follows() -> None:
    policy = MaskPolicy(2)
    with torch.no_grad():
        for head, bias in zip(policy.heads, (1.0, 100.0)):
            head.weight.zero_()
            head.bias.fill_(bias)
        policy.base.copy_(torch.tensor([[0.5] * 4, [0.2] * 4]))
    a, b = policy(torch.rand(3, 1, 8, 8))
    assert a.flatten().tolist() == pytest.approx([0.9 * 0.5 + 0.1 * 1.0] * 12)
    assert b.flatten().tolist() == pytest.approx([5.0] * 12)  # .18 + 10 is beyond the bound
    assert policy.base[0].tolist() == pytest.approx([0.99 * 0.5 + 0.01] * 4)
    before = policy.base.clone()
    policy.eval()(torch.rand(3, 1, 8, 8))
    assert torch.equal(policy.base, before)


# ── Gradients ──


def scores(objective: Callable[[Tensor], Tensor], alpha: float, beta: float, n: int, points: int) -> tuple:
    """Samples (n, K), and derivatives of the objective of log-densities by log alpha and log beta of all points."""
    a, b = (x.requires_grad_() for x in logs(alpha, beta, n, points))
    m = sample(a, b, rng())
    gradients = torch.autograd.grad(objective(log_density(m, a, b)).sum(), [a, b])
    return m, *(g.sum(dim=1).double() for g in gradients)


@pytest.mark.parametrize(
    ("alpha", "beta", "points", "mean"),
    [(1.65, 1.65, 1, 0), (1.65, 1.65, 16, 0.050), (3, 1, 2, 0.085), (3, 1, 16, 0.129)],
)
def test_the_score_of_a_sum_of_densities_is_biased_and_that_of_a_mask_is_not(
    alpha: float, beta: float, points: int, mean: float
) -> None:
    _, biased, _ = scores(lambda log_p: log_p.logsumexp(dim=1), alpha, beta, 200_000, points)
    # By alpha itself: d / d alpha = (d / d log alpha) / alpha.
    assert biased.mean().item() / alpha == pytest.approx(mean, abs=0.005)
    _, right, _ = scores(lambda log_p: log_p.sum(dim=1), alpha, beta, 200_000, points)
    assert abs(right.mean().item()) < 3 * right.std().item() / 200_000**0.5


@pytest.mark.parametrize("name", ["reinforce", "released"])
def test_who_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    classifier, policy = build(), MaskPolicy(4)
    images = torch.rand(12, 1, 8, 8)
    batch = Digits(images, torch.arange(12) % 10)
    noisy_loss(Arm(mask=name), policy, 4, rng(), classifier, batch).backward()
    # The classifier's gradient is that of the mean loss on the same masked images, times the factor if released.
    torch.manual_seed(0)
    again, twin = build(), MaskPolicy(4)
    a, b = twin(images)
    points = sample(a, b, rng())
    assert a.requires_grad and not points.requires_grad  # so that the policy has none through the classifier
    functional.cross_entropy(again(images * as_mask(points)), batch.labels).backward()
    factor = 1.0 if name == "reinforce" else log_density(points, a, b).logsumexp(dim=1).mean().item()
    assert factor == 1.0 or factor > 2
    for mine, its in zip(classifier.parameters(), again.parameters()):
        assert torch.allclose(mine.grad, factor * its.grad, atol=1e-6)
    assert all(head.weight.grad.abs().sum() > 0 for head in policy.heads)


# ── Training ──


def test_the_split_is_stratified_and_its_parts_share_nothing() -> None:
    digits = load_digits()
    train, rest = split(digits, 50, 3)
    assert train.labels.bincount().tolist() == [5] * 10
    assert len(rest.labels) == 1797 - 50 and float(train.images.max()) == 1.0
    both = torch.cat([train.images, rest.images]).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, digits.images.flatten(1).tolist()))
    assert not torch.equal(train.images, split(digits, 50, 4)[0].images)


def test_plain_is_training_without_any_of_this() -> None:
    digits, _ = split(load_digits(), 50, 0)
    mine = training.train(ARMS["plain"], 0, digits, Plan(50, pretraining=4, fine_tuning=2))
    torch.manual_seed(0)
    other, order = build(), rng(0)
    for rates in ((0.1, 0.1, 0.01, 0.01), (0.01, 0.01)):
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            for rows in torch.randperm(50, generator=order).chunk(2):
                optimizer.zero_grad()
                functional.cross_entropy(other(digits.images[rows]), digits.labels[rows]).backward()
                optimizer.step()
    assert all(torch.equal(one, two) for one, two in zip(mine.parameters(), other.parameters()))


# ── The study ──


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(study, "Plan", lambda *given: Plan(*given, pretraining=2, fine_tuning=1))
    arms = ["plain", "uniform", "reinforce"]
    study.main(["--seeds", "2", "--train", "20", "--arms", *arms, "--output", str(tmp_path / "found.json")])
    results = json.loads((tmp_path / "found.json").read_text())
    assert list(results["accuracy"]) == arms and results["train"] == 20
    found = {arm: np.array(values) for arm, values in results["accuracy"].items()}
    difference = results["difference"]["reinforce"]["minus uniform"]
    assert difference[0] == pytest.approx((found["reinforce"] - found["uniform"]).mean(), abs=1e-4)
    assert "| difference | minus plain | minus uniform |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--grid 9", "--grid 9 is not between 2 and 8"),
        ("--train 55", "--train 55 is not a multiple of 10"),
        ("--train 1510", "--train 1510 is not a multiple of 10 from 10 to 1500"),
        ("--seeds 1", "--seeds 1 leaves no interval"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(flags: str, message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        study.parse([*flags.split(), "--output", "nowhere"])
    assert message in " ".join(capsys.readouterr().err.split())
