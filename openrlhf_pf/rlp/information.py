"""What two views of a prompt have in common, as a loss: unsupervised multi-view learning, UML (RLP, Section 3.2).

    L_M = E[ -I(z_1; z_2) + SKL(p(z|v_1), p(z|v_2)) ],   p(z|v) = N(mu(h), diag(sigma(h)^2))

h is the reward model's last hidden state of a view. The mutual information I is maximised through the Jensen-Shannon
estimator (Hjelm et al. 2019) with a critic T, as in MIB (Federici et al. 2020), whose sizes the heads have; RLP does
not give its own.

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
    """Three linear layers with ReLU between them, which compute in float32 whatever their weights are."""

    def __init__(self, size: int, out: int, width: int = WIDTH) -> None:
        super().__init__()
        sizes = (size, width, width, out)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to (..., out)."""
        x = x.float()
        for number, layer in enumerate(self.layers):
            x = F.relu(x) if number else x
            x = F.linear(x, layer.weight.float(), layer.bias.float())
        return x


#: Name of each head as a submodule of the model.
HEADS = ("rlp_mean", "rlp_scale", "rlp_critic")


def heads(hidden: int, size: int, width: int = WIDTH) -> dict[str, Layers]:
    """mu and sigma (H to D) and the critic (2 D to 1), by the name that they have in the model."""
    shapes = ((hidden, size), (hidden, size), (2 * size, 1))
    return {name: Layers(*shape, width) for name, shape in zip(HEADS, shapes)}


def skl(mean: Tensor, scale: Tensor, other_mean: Tensor, other_scale: Tensor) -> Tensor:
    """Symmetrised Kullback-Leibler divergence of diagonal Gaussians, (..., D) each to (...,), in closed form.

    1/4 sum_d [ (s1^2 + (m1 - m2)^2) / s2^2 + (s2^2 + (m1 - m2)^2) / s1^2 - 2 ], the mean of both directions. MIB
    estimates it by one sample each, which can be negative.
    """
    one, other, away = scale**2, other_scale**2, (mean - other_mean) ** 2
    return ((one + away) / other + (other + away) / one - 2).sum(-1) / 4


def jsd_bound(matched: Tensor, mismatched: Tensor) -> Tensor:
    """E[-sp(-T)] over pairs of one prompt, less E[sp(T)] over others; -2 log 2 where T is 0."""
    return -F.softplus(-matched).mean() - F.softplus(mismatched).mean()


def nwj_bound(matched: Tensor, mismatched: Tensor) -> Tensor:
    """E[T] - E[e^T] + 1, in nats: I itself at the best critic of :func:`jsd_bound`; to be told, not trained on."""
    return matched.mean() - mismatched.exp().mean() + 1


@dataclass
class Information:
    """L_M of one batch, and what it is made of.

    Attributes:
        loss: what is minimised, with a gradient.
        told: name to value for the log: ``mi_nwj``, ``mi_jsd``, ``skl``, and ``std``, the spread of mu over the batch,
            which goes to 0 where the heads give up on telling prompts apart.
    """

    loss: Tensor
    told: dict[str, float]


def information(
    hidden: Tensor, other: Tensor, mean: nn.Module, scale: nn.Module, critic: nn.Module, skl_weight: float = 1.0
) -> Information:
    """L_M of two views, (B, H) each, with all B (B - 1) pairs of different prompts as mismatched ones.

    Args:
        hidden, other: h of the first and of the second view of each prompt.
        mean, scale, critic: the heads.
        skl_weight: of SKL; RLP writes 1.
    """
    means = [mean(h) for h in (hidden, other)]
    scales = [F.softplus(scale(h)) + _LEAST_SCALE for h in (hidden, other)]
    one, two = (m + s * torch.randn_like(s) for m, s in zip(means, scales))
    n = len(one)
    every = torch.cat([one[:, None].expand(n, n, -1), two[None].expand(n, n, -1)], dim=-1)
    scores = critic(every).squeeze(-1)  # (B, B), prompts of the first view by those of the second
    same = torch.eye(n, dtype=torch.bool, device=scores.device)
    matched, mismatched = scores[same], scores[~same]
    shared, apart = jsd_bound(matched, mismatched), skl(means[0], scales[0], means[1], scales[1]).mean()
    with torch.no_grad():
        told = {
            "mi_nwj": nwj_bound(matched, mismatched).item(),
            "mi_jsd": shared.item(),
            "skl": apart.item(),
            "std": torch.cat(means).std(dim=0).mean().item(),
        }
    return Information(skl_weight * apart - shared, told)
