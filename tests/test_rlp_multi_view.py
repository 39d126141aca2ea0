"""The loss on two views: closed forms, what the bounds are worth, and views themselves."""

import math
from collections import Counter

import pytest
import torch
from preference_samples import prompt_of

from openrlhf_pf.rlp.multi_view import (
    HEADS,
    compute_view_loss,
    jsd_bound,
    make_heads,
    nwj_bound,
    symmetric_kl,
)
from openrlhf_pf.rlp.views import Views


@pytest.fixture(autouse=True)
def _one_thread():
    """Several would wait for each other where the machine does more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_skl_is_the_mean_of_both_divergences_and_adds_up_over_dimensions():
    torch.manual_seed(0)
    means, scales = torch.randn(2, 5, 3), torch.rand(2, 5, 3) + 0.5
    one, other = (torch.distributions.Normal(m, s) for m, s in zip(means, scales))
    kl = torch.distributions.kl_divergence
    expected = (kl(one, other) + kl(other, one)).sum(-1) / 2
    torch.testing.assert_close(symmetric_kl(means[0], scales[0], means[1], scales[1]), expected)


def correlated(size, rho, draws=400_000):
    """Two standard Gaussians of that correlation in each dimension, and the best critic log p(x, y) / p(x) p(y)."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, draws, size, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise

    def critic(x, y):
        inner = (2 * rho * x * y - rho**2 * (x**2 + y**2)) / (2 * (1 - rho**2))
        return (inner - math.log(1 - rho**2) / 2).sum(-1)

    return x, y, critic


@pytest.mark.parametrize(
    "size, rho, jsd, nwj, within",
    [
        (1, 0, -1.3863, 0, 0.02),
        (1, 0.5, -1.312, 0.144, 0.02),
        (1, 0.9, -0.958, 0.830, 0.02),
        (4, 0.8, -0.591, 2.03, 0.05),
    ],
)
def test_bounds_with_the_best_critic(size, rho, jsd, nwj, within):
    x, y, critic = correlated(size, rho)
    matched, mismatched = critic(x, y), critic(x, y.roll(1, 0))
    assert jsd_bound(matched, mismatched).item() == pytest.approx(jsd, abs=0.02)
    assert nwj_bound(matched, mismatched).item() == pytest.approx(nwj, abs=within)
    assert nwj == pytest.approx(-size * math.log(1 - rho**2) / 2, abs=within), "what two Gaussians share"


def test_the_loss_is_its_parts_and_every_head_and_the_model_get_a_gradient():
    torch.manual_seed(0)
    made = make_heads(8, 3, width=16)
    first, second = torch.randn(2, 5, 8, requires_grad=True)
    first.retain_grad(), second.retain_grad()
    found = compute_view_loss(first, second, *(made[name] for name in HEADS), skl_weight=0.25)
    assert found.loss.item() == pytest.approx(0.25 * found.metrics["skl"] - found.metrics["mi_jsd"], abs=1e-6)
    found.loss.backward()
    for head in made.values():
        assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())
    assert first.grad.abs().sum(-1).min() > 0 and second.grad.abs().sum(-1).min() > 0


def test_mismatched_are_all_pairs_of_different_prompts():
    """A critic that says the product of what it gets: of one-dimensional z without noise, T = z_1 z_2."""
    torch.manual_seed(0)

    def exactly(h):
        return h

    def certain(h):
        return torch.full_like(h, -40.0)  # softplus of it is nothing

    first, second = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    found = compute_view_loss(first, second, exactly, certain, lambda z: z.prod(-1, keepdim=True), 0.0)
    matched, others = torch.tensor([1.0, 0.0, -3.0]), torch.tensor([0.0, -1.0, 2.0, -2.0, 3.0, 0.0])
    assert found.metrics["mi_jsd"] == pytest.approx(jsd_bound(matched, others).item(), abs=1e-4)
    assert found.metrics["mi_nwj"] == pytest.approx(nwj_bound(matched, others).item(), abs=1e-4)
    assert found.metrics["std"] == pytest.approx(torch.cat([first, second]).std().item())


def test_heads_compute_in_float32_whatever_the_model_is():
    made = make_heads(8, 3, width=16)["rlp_mean"].to(torch.bfloat16)
    assert made(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.float32


# ── Views ──


def test_two_answers_of_different_text_and_none_that_was_cut_off():
    prompts = [
        prompt_of(["a", "a", "a", "b", "c"], truncated=[False] * 4 + [True], text="one"),
        prompt_of(["a", "a"], text="same"),
        prompt_of(["a", "b"], truncated=[False, True], text="cut"),
        prompt_of(["x", "x"], text="twice"),
        prompt_of(["y", "y"], text="twice", label="other"),
    ]
    views = Views(prompts, seed=1)
    assert (len(views), views.n_skipped) == (2, 2)
    drawn = Counter()
    for number in range(400):
        views.set_epoch(number)
        drawn[views[0]] += 1
    assert set(drawn) == {("one", "a", "b"), ("one", "b", "a")}
    # The first one is a with chance 3/4: 300 of 400, with a standard deviation of 9.
    assert abs(drawn["one", "a", "b"] - 300) < 35
    assert {views[1][1], views[1][2]} == {"x", "y"}, "one prompt, however often the data set holds it"


def test_an_epoch_can_be_drawn_again():
    views = Views([prompt_of(list("abcdefgh"), text=str(n)) for n in range(9)], seed=3)
    first = [views[n] for n in range(9)]
    views.set_epoch(1)
    assert [views[n] for n in range(9)] != first
    views.set_epoch(0)
    assert [views[n] for n in range(9)] == first
