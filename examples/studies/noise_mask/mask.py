"""A policy that draws noise masks for images, after *Policy Gradient-Driven Noise Mask* (arXiv 2406.14568).

A mask is a grid of Beta-distributed numbers, enlarged to the image's size, blurred and multiplied with the image. A
classifier trains on masked images, the policy by REINFORCE on the classifier's loss. Equations follow the authors'
published code; samples and log-parameters are bounded here.

Notation used for tensor shapes: B images, H their height and width, g the grid's, K = g g points.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

#: How much of a distribution's log-parameters is the base's, and how much of the base a batch leaves.
BASE_SHARE, BASE_KEPT = 0.9, 0.99
#: Bounds of a sample and of log-parameters, beyond which densities overflow.
SMALLEST, LOWEST, HIGHEST = 1e-4, -2.0, 5.0
#: H.
SIZE = 8


class MaskPolicy(nn.Module):
    """Image to the log-parameters of a Beta distribution for each point of a grid.

    Args:
        grid: g.
        conditional: False for a policy that ignores the image: one distribution a point, still learned.
    """

    def __init__(self, grid: int, conditional: bool = True) -> None:
        super().__init__()
        self.conditional = conditional
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 32), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(32, grid * grid) for _ in range(2)])
        #: (2, K) the image-independent part, a decaying mean of the outputs of the heads.
        self.register_buffer("base", torch.rand(2, grid * grid))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-parameters a, b (B, K) of images (B, 1, H, H); in training mode, then update the base."""
        features = self.body(images if self.conditional else torch.ones_like(images))
        output = torch.stack([head(features) for head in self.heads])
        a, b = (BASE_SHARE * self.base.unsqueeze(1) + (1 - BASE_SHARE) * output).clamp(LOWEST, HIGHEST)
        if self.training:
            self.base = BASE_KEPT * self.base + (1 - BASE_KEPT) * output.detach().mean(dim=1)
        return a, b


def sample(a: Tensor, b: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return samples of Beta(exp a, exp b), elementwise; no gradient goes through a sample."""
    with torch.no_grad():
        # Two gammas make a beta; torch.distributions takes no generator.
        x, y = (torch._standard_gamma(log.exp(), generator=generator).clamp(min=1e-30) for log in (a, b))
        return (x / (x + y)).clamp(SMALLEST, 1 - SMALLEST)


def log_density(samples: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the logarithm of the density of Beta(exp a, exp b), elementwise."""
    return torch.distributions.Beta(a.exp(), b.exp(), validate_args=False).log_prob(samples)


def as_mask(points: Tensor) -> Tensor:
    """Return (B, 1, H, H) masks: points (B, K) enlarged, then blurred by a Gaussian of 3 pixels, one wide."""
    grid = round(points.shape[1] ** 0.5)
    mask = functional.interpolate(points.view(-1, 1, grid, grid), size=(SIZE, SIZE), mode="nearest")
    kernel = torch.exp(-0.5 * torch.tensor([1.0, 0.0, 1.0]))
    kernel = kernel / kernel.sum()
    padded = functional.pad(mask, [1] * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))


def reinforce(log_p: Tensor, losses: Tensor) -> Tensor:
    """Return the textbook's loss from log-densities (B, K) and cross-entropies (B,).

    A mask's log-density is the sum over its points, and it is credited with its own image's loss. The batch's mean is
    the baseline, its standard deviation the unit. The classifier has no gradient from the policy.
    """
    away = losses.detach() - losses.detach().mean()
    advantage = away / away.std().clamp(min=1e-8)
    return losses.mean() + (advantage * log_p.sum(dim=1)).mean()


def released(log_p: Tensor, losses: Tensor) -> Tensor:
    """Return the published code's loss: mean log of the SUM of the points' densities, times the batch's mean loss.

    The sum of densities is not the density of a mask: its score has a mean other than 0, and the factor scales the
    classifier's steps, by about log K.
    """
    return log_p.logsumexp(dim=1).mean() * losses.mean()


OBJECTIVES = {"reinforce": reinforce, "released": released}
