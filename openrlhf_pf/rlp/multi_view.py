"""A loss on two views of a prompt, which are two of its responses: multi-view learning, UML (RLP, Section 3.2).

    L_M = E[ -I(z_1; z_2) + SKL(p(z|v_1), p(z|v_2)) ],   p(z|v) = N(mu(h), diag(sigma(h)^2))

h is the reward model's last hidden state of a view. The mutual information I is maximised through the Jensen-Shannon
estimator (Hjelm et al. 2019) with a critic T. RLP gives no sizes of the heads; these are those of MIB (Federici et al.
2020).

Notation used for tensor shapes: B prompts, H the model's hidden size, D the size of z.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 1024
_LEAST_SCALE = 1e-7


class Layers(nn.Module):
    """Three linear layers with ReLU between them, computed in float32 for weights of any type."""

    def __init__(self, size: int, out: int, width: int = WIDTH) -> None:
        super().__init__()
        sizes = (size, width, width, out)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., size) to (..., out)."""
        x = x.float()
        for number, layer in enumerate(self.layers):
            x = F.relu(x) if number else x
            x = F.linear(x, layer.weight.float(), layer.bias.float())
        return x


#: Name of each head as a submodule of the model.
HEADS = ("rlp_mean", "rlp_scale", "rlp_critic")


def make_heads(hidden: int, size: int, width: int = WIDTH) -> dict[str, Layers]:
    """Return mu and sigma (H to D) and the critic (2 D to 1), by their names in the model."""
    shapes = ((hidden, size), (hidden, size), (2 * size, 1))
    return {name: Layers(*shape, width) for name, shape in zip(HEADS, shapes)}


def symmetric_kl(mean: Tensor, scale: Tensor, other_mean: Tensor, other_scale: Tensor) -> Tensor:
    """Return the mean of both Kullback-Leibler divergences of diagonal Gaussians, (..., D) each to (...,).

    1/4 sum_d [ (s1^2 + (m1 - m2)^2) / s2^2 + (s2^2 + (m1 - m2)^2) / s1^2 - 2 ]
    """
    one, other, distance = scale**2, other_scale**2, (mean - other_mean) ** 2
    return ((one + distance) / other + (other + distance) / one - 2).sum(-1) / 4


def jsd_bound(matched: Tensor, mismatched: Tensor) -> Tensor:
    """Return E[-sp(-T)] over pairs of one prompt minus E[sp(T)] over others; -2 log 2 if T is 0."""
    return -F.softplus(-matched).mean() - F.softplus(mismatched).mean()


def nwj_bound(matched: Tensor, mismatched: Tensor) -> Tensor:
    """Return E[T] - E[e^T] + 1, in nats: I itself at the best critic of :func:`jsd_bound`. Logged, not trained on."""
    return matched.mean() - mismatched.exp().mean() + 1


@dataclass
class ViewLoss:
    """L_M of one batch and its parts.

    Attributes:
        loss: to minimise, with a gradient.
        metrics: name to value for the log: ``mi_nwj``, ``mi_jsd``, ``skl``, and ``std``, the spread of mu over the
            batch, which approaches 0 if the heads cannot distinguish prompts.
    """

    loss: Tensor
    metrics: dict[str, float]


def compute_view_loss(
    hidden: Tensor, other: Tensor, mean: nn.Module, scale: nn.Module, critic: nn.Module, skl_weight: float = 1.0
) -> ViewLoss:
    """Return L_M of two views, (B, H) each, with all B (B - 1) pairs of different prompts as mismatched ones.

    Args:
        hidden: h of the first view of each prompt.
        other: h of the second view.
        mean: a head, as are ``scale`` and ``critic``.
        skl_weight: of SKL; RLP writes 1.
    """
    means = [mean(h) for h in (hidden, other)]
    scales = [F.softplus(scale(h)) + _LEAST_SCALE for h in (hidden, other)]
    one, two = (m + s * torch.randn_like(s) for m, s in zip(means, scales))
    n = len(one)
    pairs = torch.cat([one[:, None].expand(n, n, -1), two[None].expand(n, n, -1)], dim=-1)
    scores = critic(pairs).squeeze(-1)  # (B, B), prompts of the first view by those of the second
    same = torch.eye(n, dtype=torch.bool, device=scores.device)
    matched, mismatched = scores[same], scores[~same]
    information = jsd_bound(matched, mismatched)
    divergence = symmetric_kl(means[0], scales[0], means[1], scales[1]).mean()
    with torch.no_grad():
        metrics = {
            "mi_nwj": nwj_bound(matched, mismatched).item(),
            "mi_jsd": information.item(),
            "skl": divergence.item(),
            "std": torch.cat(means).std(dim=0).mean().item(),
        }
    return ViewLoss(skl_weight * divergence - information, metrics)
