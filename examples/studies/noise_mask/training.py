"""Few handwritten digits: pretraining with noise, fine-tuning without; a line in ``ARMS`` adds a kind of noise.

Notation used for tensor shapes: n training images, B images of a batch, H = 8 their height and width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .mask import OBJECTIVES, MaskPolicy, as_mask, log_density, sample

N_CLASSES, MOST, LARGEST_BATCH = 10, 1500, 32


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
    """How all arms train: ``n_train`` images, ``grid`` of masks, epochs with noise and without."""

    n_train: int = 100
    grid: int = 4
    pretraining: int = 60
    fine_tuning: int = 30


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


def noisy_loss(
    arm: Arm, policy: MaskPolicy | None, grid: int, rng: torch.Generator, classifier: nn.Module, batch: Digits
) -> Tensor:
    """Return the loss of classifier and policy on a batch with the arm's noise."""
    images, log_p = batch.images, None
    if arm.gaussian:
        images = images + arm.gaussian * torch.randn(images.shape, generator=rng)
    if arm.mask:
        zero = torch.zeros(len(images), grid**2)
        a, b = policy(images) if policy else (zero, zero)  # Beta(1, 1) is uniform
        points = sample(a, b, rng)
        images = images * as_mask(points)
        log_p = log_density(points, a, b)
    losses = functional.cross_entropy(classifier(images), batch.labels, reduction="none")
    return OBJECTIVES[arm.mask](log_p, losses) if policy else losses.mean()


def train(arm: Arm, seed: int, digits: Digits, plan: Plan) -> nn.Module:
    """Pretrain with the arm's noise, fine-tune without; return the classifier.

    First weights, the order of images and the noise have random numbers of their own: the former two are the same in
    all arms of a seed. The classifier's learning rate falls to a tenth halfway through pretraining and is a tenth in
    fine-tuning; the policy's falls to 0 on a cosine. Momentum and weight decay are the paper's.
    """
    torch.manual_seed(seed)  # first weights; after them only dropout draws from it
    dropout = nn.Dropout(0.0)
    classifier = build_classifier(dropout)
    policy = MaskPolicy(plan.grid, arm.conditional) if arm.mask in OBJECTIVES else None
    order, luck = (torch.Generator().manual_seed(2 * seed + offset) for offset in (0, 1))
    dropout.p = arm.dropout
    networks = [network for network in (classifier, policy) if network is not None]
    optimizers = [torch.optim.SGD(n.parameters(), 1.0, momentum=0.9, weight_decay=1e-4) for n in networks]
    for epoch in range(plan.pretraining + plan.fine_tuning):
        if epoch == plan.pretraining:
            dropout.p = 0.0
            optimizers = [torch.optim.SGD(classifier.parameters(), 1.0, momentum=0.9, weight_decay=1e-4)]
        rates = (1.0 if epoch < plan.pretraining / 2 else 0.1, 0.05 * (1 + np.cos(np.pi * epoch / plan.pretraining)))
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = arm.learning_rate * rate
        # All rows in a random order, in batches of nearly one size.
        for rows in torch.randperm(plan.n_train, generator=order).chunk(-(-plan.n_train // LARGEST_BATCH)):
            batch = digits[rows]
            if epoch < plan.pretraining:
                loss = noisy_loss(arm, policy, plan.grid, luck, classifier, batch)
            else:
                loss = functional.cross_entropy(classifier(batch.images), batch.labels)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    return classifier
