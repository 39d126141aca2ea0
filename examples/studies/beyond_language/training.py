"""Policy gradient on many bandit problems at once, on the samples that a filter of the package keeps.

Notation used for tensor shapes: B problems, C contexts, A actions, D features of a context, Z features of an action,
G contexts (prompts) in a rollout, N actions drawn for each, k of them train, T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openrlhf_pf.filters import make_generator

from .arms import Arm
from .problems import D, Problems, pick


@dataclass(frozen=True)
class Settings:
    """How a policy trains.

    Attributes:
        policy: "tabular", logits of its own for each (context, action); "shared", bilinear in their features.
        optimizer: "sgd" or "adam".
        learning_rate: of a step along the sum over prompts of the mean over kept samples (sgd), or of each parameter.
        baseline: what is subtracted from a reward: "group", the mean of the prompt's N; "critic", linear in the
            context's features and trained on kept samples.
        whiten: subtract the kept samples' mean advantage and divide by their standard deviation.
        steps: T rollouts.
        prompts, samples: G and N.
    """

    policy: str = "tabular"
    optimizer: str = "sgd"
    learning_rate: float = 0.5 * 32**0.5
    baseline: str = "group"
    whiten: bool = False
    steps: int = 150
    prompts: int = 32
    samples: int = 8


class Policy:
    """Softmax policies of B problems: start logits plus what was learned."""

    def __init__(self, problems: Problems, settings: Settings) -> None:
        self.problems, self.settings = problems, settings
        self.tabular = settings.policy == "tabular"
        shape = problems.value.shape if self.tabular else (len(problems.seeds), D, problems.action.shape[2])
        self.learned = torch.zeros(shape)
        self.moments, self.updates = (torch.zeros(shape), torch.zeros(shape)), 0

    def logits(self, contexts: Tensor) -> Tensor:
        """Return (B, G, A) in contexts (B, G)."""
        start = pick(self.problems.start, contexts)
        if self.tabular:
            return start + pick(self.learned, contexts)
        return start + pick(self.problems.context, contexts) @ self.learned @ self.problems.action.mT

    def everywhere(self) -> Tensor:
        """Return (B, C, A) probabilities of all actions in all contexts."""
        n_problems, n_contexts, _ = self.problems.value.shape
        return self.logits(torch.arange(n_contexts).expand(n_problems, -1)).softmax(-1)

    def gradient(self, contexts: Tensor, by_logit: Tensor) -> Tensor:
        """Return the gradient by parameters from that by logits (B, G, A)."""
        if not self.tabular:
            return pick(self.problems.context, contexts).mT @ (by_logit @ self.problems.action)
        rows = contexts.unsqueeze(-1).expand_as(by_logit)
        return torch.zeros_like(self.learned).scatter_add_(1, rows, by_logit)

    def climb(self, gradient: Tensor) -> None:
        """Take one update."""
        step = gradient
        if self.settings.optimizer == "adam":
            self.updates += 1
            first, second = self.moments
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.05)  # beta2 0.95, as OpenRLHF has it
            size = (second / (1 - 0.95**self.updates)).sqrt() + 1e-8
            step = first / (1 - 0.9**self.updates) / size
        self.learned += self.settings.learning_rate * step


@dataclass
class Luck:
    """The random numbers of T rollouts, the same for all arms: (T, B, G) contexts, (T, B, G, N) uniforms, normals."""

    contexts: Tensor
    uniform: Tensor
    normal: Tensor | None

    @classmethod
    def of(cls, problems: Problems, settings: Settings, stream: int = 0) -> "Luck":
        """Return each problem's own numbers, from its seed; ``stream`` separates rollouts of different purpose."""
        shape = (settings.steps, settings.prompts, settings.samples)
        contexts, uniform, normal = [], [], []
        for seed in problems.seeds:
            rng = torch.Generator().manual_seed(1_000_003 * (stream + 1) + seed)
            order = torch.rand(settings.steps, problems.value.shape[1], generator=rng).argsort(dim=1)
            contexts.append(order[:, : settings.prompts])
            uniform.append(torch.rand(shape, generator=rng))
            normal.append(torch.randn(shape, generator=rng) if problems.is_noisy else torch.zeros(0))
        normals = torch.stack(normal, 1) if problems.is_noisy else None
        return cls(torch.stack(contexts, 1), torch.stack(uniform, 1), normals)


@dataclass
class Rollout:
    """(B, G) contexts; (B, G, N) actions and rewards; (B, G, A) probabilities."""

    contexts: Tensor
    actions: Tensor
    rewards: Tensor
    chances: Tensor


def roll(policy: Policy, luck: Luck, step: int) -> Rollout:
    """Draw and score N actions in each of G contexts."""
    step = step % len(luck.contexts)
    contexts, problems = luck.contexts[step], policy.problems
    chances = policy.logits(contexts).log_softmax(-1).exp()
    actions = torch.searchsorted(chances.cumsum(-1), luck.uniform[step]).clamp(max=chances.shape[-1] - 1)
    rewards = problems.score(contexts, actions, None if luck.normal is None else luck.normal[step])
    return Rollout(contexts, actions, rewards, chances)


@dataclass
class Trainer:
    """A policy and its critic."""

    policy: Policy
    critic: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.critic = torch.zeros(len(self.policy.problems.seeds), D + 1, 1)

    def advantages(self, rollout: Rollout, counts: Tensor) -> Tensor:
        """Return (B, G, N) advantages of samples of which ``counts`` (B, G, N) train."""
        settings = self.policy.settings
        if settings.baseline == "critic":
            away = rollout.rewards - self._estimate(rollout.contexts, rollout.rewards, counts)
        else:
            away = rollout.rewards - rollout.rewards.mean(-1, keepdim=True)
        if not settings.whiten:
            return away
        away = away - _mean(away, counts)
        return away / _mean(away.square(), counts).sqrt().clamp(min=1e-6)

    def _estimate(self, contexts: Tensor, reward: Tensor, counts: Tensor) -> Tensor:
        """Return (B, G, 1) the critic's values; then it learns from the kept rewards."""
        x = torch.nn.functional.pad(pick(self.policy.problems.context, contexts), (0, 1), value=1.0)
        value = x @ self.critic
        error = (counts * (reward - value)).sum(-1, keepdim=True)
        self.critic = self.critic + 0.05 * x.mT @ error / x.shape[1]
        return value

    def train(self, rollout: Rollout, counts: Tensor) -> None:
        """Take one policy-gradient step on a rollout."""
        coefficient = counts * self.advantages(rollout, counts)
        by_logits = by_logit(rollout.chances, rollout.actions, coefficient)
        self.policy.climb(self.policy.gradient(rollout.contexts, by_logits))


def by_logit(chances: Tensor, actions: Tensor, coefficient: Tensor) -> Tensor:
    """Return (B, G, A) the sum over samples of coefficient (B, G, N) times the gradient of log pi by the logits."""
    return (-chances * coefficient.sum(-1, keepdim=True)).scatter_add_(-1, actions, coefficient)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Return (B, 1, 1) the mean over the samples that train."""
    return (counts * values).sum((1, 2), keepdim=True) / counts.sum((1, 2), keepdim=True)


def train(policy: Policy, arm: Arm, luck: Luck, at: Sequence[int]) -> dict[str, Tensor]:
    """Train B policies with one filter.

    Args:
        policy: it is changed.
        arm: the filter.
        luck: random numbers; step t takes the rollout t modulo T.
        at: steps after which to measure; the last one ends the run.

    Returns:
        (len(at), B) each: mean true ``value`` and mean ``reward`` of the policy over all contexts, exact.
    """
    problems, settings = policy.problems, policy.settings
    generator, trainer = make_generator(problems.seeds[0]), Trainer(policy)
    chosen = arm.build(settings.samples)
    if settings.baseline == "critic":
        for step in range(30):  # the critic warms up on samples of the start policy
            rollout = roll(policy, luck, step)
            trainer.advantages(rollout, arm.counts(chosen, rollout.rewards, generator))
    found: dict[str, list[Tensor]] = {"value": [], "reward": []}
    for step in range(max(at) + 1):
        if step in at:
            chances = policy.everywhere()
            for name, table in (("value", problems.value), ("reward", problems.reward)):
                found[name].append((chances * table).sum(-1).mean(-1))
        if step == max(at):
            break
        rollout = roll(policy, luck, step)
        counts = arm.counts(chosen, rollout.rewards, generator)
        trainer.train(rollout, counts)
    return {name: torch.stack(values) for name, values in found.items()}
