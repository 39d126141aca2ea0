"""Pretraining with noise, fine-tuning without, on few handwritten digits; a line in ``ARMS`` adds a kind of noise.

Notation used for tensor shapes: n training images, B images of a batch, H = 8 their height and width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .mask import OBJECTIVES, MaskPolicy, as_mask, log_density, sample

N_CLASSES, MOST = 10, 1500


@dataclass(frozen=True)
class Arm:
    """What is done to images during pretraining.

    Attributes:
        gaussian: standard deviation of noise that is added to pixels in [0, 1].
        dropout: share of the last hidden layer that is left out.
        mask: "uniform", nothing learned, or a key of ``OBJECTIVES``.
        conditional: a learned mask depends on the image.
        learning_rate: of the classifier; the policy's is a tenth of it.
    """

    gaussian: float = 0.0
    dropout: float = 0.0
    mask: str | None = None
    conditional: bool = True
    learning_rate: float = 0.1


ARMS: dict[str, Arm] = {
    "plain": Arm(),
    "gaussian": Arm(gaussian=0.3),
    "dropout": Arm(dropout=0.5),
    "uniform": Arm(mask="uniform"),
    "base": Arm(mask="reinforce", conditional=False),
    "reinforce": Arm(mask="reinforce"),
    "released": Arm(mask="released"),
    "released_slow": Arm(mask="released", learning_rate=0.03),
}


@dataclass(frozen=True)
class Plan:
    """How all arms train: ``n_train`` images, ``grid`` and ``blur`` of masks, epochs with noise and without."""

    n_train: int = 100
    grid: int = 4
    blur: int = 3
    pretraining: int = 60
    fine_tuning: int = 30
    largest_batch: int = 32


@dataclass
class Digits:
    """Images (n, 1, H, H) in [0, 1] and their classes (n,)."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, rows: Tensor) -> "Digits":
        return Digits(self.images[rows], self.labels[rows])


def load_digits() -> Digits:
    """Return all 1,797 digits of scikit-learn; nothing is downloaded."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("scikit-learn is not installed: pip install scikit-learn.") from missing
    found = datasets.load_digits()
    return Digits(torch.from_numpy(found.images / 16).float().unsqueeze(1), torch.from_numpy(found.target).long())


def split(digits: Digits, n_train: int, seed: int) -> tuple[Digits, Digits]:
    """Return training images, the same number of each class, and all others."""
    rng, labels = np.random.default_rng(seed), digits.labels.numpy()
    chosen = [rng.choice(np.flatnonzero(labels == c), n_train // N_CLASSES, replace=False) for c in range(N_CLASSES)]
    train = np.sort(np.concatenate(chosen))
    rest = np.setdiff1d(np.arange(len(labels)), train)
    return digits[torch.from_numpy(train)], digits[torch.from_numpy(rest)]


def build_classifier(dropout: nn.Dropout) -> nn.Sequential:
    """Return two convolutions and two linear layers for 8 x 8 images, with ``dropout`` before the last."""
    convolutions = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1)
    linear = nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), dropout, nn.Linear(64, N_CLASSES)
    return nn.Sequential(*convolutions, *linear)


def sgd(network: nn.Module, learning_rate: float) -> torch.optim.SGD:
    """Return the optimizer with the paper's momentum and weight decay."""
    return torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4)


def batches(n: int, largest: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Return an epoch: all rows in a random order, in batches of nearly one size of at most ``largest``."""
    return torch.randperm(n, generator=rng).chunk(-(-n // largest))


@dataclass
class Noise:
    """What an arm does to a batch, and what of it is learned."""

    arm: Arm
    plan: Plan
    rng: torch.Generator
    policy: MaskPolicy | None

    def loss(self, classifier: nn.Module, batch: Digits) -> Tensor:
        """Return the loss of classifier and policy."""
        images, log_p = batch.images, None
        if self.arm.gaussian:
            images = images + self.arm.gaussian * torch.randn(images.shape, generator=self.rng)
        if self.arm.mask:
            zero = torch.zeros(len(images), self.plan.grid**2)
            a, b = self.policy(images) if self.policy else (zero, zero)  # Beta(1, 1) is uniform
            points = sample(a, b, self.rng)
            images = images * as_mask(points, images.shape[-1], self.plan.blur)
            log_p = log_density(points, a, b)
        losses = functional.cross_entropy(classifier(images), batch.labels, reduction="none")
        return OBJECTIVES[self.arm.mask](log_p, losses) if self.policy else losses.mean()


def train(arm: Arm, seed: int, digits: Digits, plan: Plan) -> nn.Module:
    """Pretrain with the arm's noise, fine-tune without; return the classifier.

    First weights, the order of images and the noise have random numbers of their own: the former two are the same in
    all arms of a seed. The classifier's learning rate falls to a tenth halfway through pretraining and is a tenth in
    fine-tuning; the policy's falls to 0 on a cosine.
    """
    torch.manual_seed(seed)  # first weights; after them only dropout draws from it
    dropout = nn.Dropout(0.0)
    classifier = build_classifier(dropout)
    policy = MaskPolicy(plan.grid, arm.conditional) if arm.mask in OBJECTIVES else None
    order, luck = (torch.Generator().manual_seed(2 * seed + offset) for offset in (0, 1))
    noise = Noise(arm, plan, luck, policy)
    optimizers = [sgd(network, rate) for network, rate in ((classifier, 1), (policy, 0.1)) if network is not None]
    dropout.p = arm.dropout
    for epoch in range(plan.pretraining):
        rates = (1.0 if epoch < plan.pretraining / 2 else 0.1, 0.05 * (1 + np.cos(np.pi * epoch / plan.pretraining)))
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = arm.learning_rate * rate
        for rows in batches(plan.n_train, plan.largest_batch, order):
            _step(optimizers, noise.loss(classifier, digits[rows]))
    dropout.p = 0.0
    optimizer = sgd(classifier, arm.learning_rate / 10)
    for _ in range(plan.fine_tuning):
        for rows in batches(plan.n_train, plan.largest_batch, order):
            batch = digits[rows]
            _step([optimizer], functional.cross_entropy(classifier(batch.images), batch.labels))
    return classifier


def _step(optimizers: list[torch.optim.SGD], loss: Tensor) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
