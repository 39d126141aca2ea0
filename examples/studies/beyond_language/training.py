"""Policy gradient on many bandit problems at once, on the samples that a filter of the package keeps.

Notation used for tensor shapes: B problems, C contexts, A actions, G contexts (prompts) in a rollout, N actions drawn
for each, k of them train, T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openrlhf_pf.filters import make_generator

from .arms import Arm
from .problems import Problems, pick


@dataclass(frozen=True)
class Settings:
    """How a policy trains.

    Attributes:
        learning_rate: of a step along the sum over prompts of the mean over kept samples.
        steps: T rollouts.
        prompts, samples: G and N.
    """

    learning_rate: float = 0.5 * 32**0.5
    steps: int = 150
    prompts: int = 32
    samples: int = 8


class Policy:
    """Softmax policies of B problems, uniform at the start: (B, C, A) logits of their own for each action."""

    def __init__(self, problems: Problems, settings: Settings) -> None:
        self.problems, self.settings = problems, settings
        self.logits = torch.zeros(problems.value.shape)

    def climb(self, contexts: Tensor, by_logits: Tensor) -> None:
        """Take one step along the gradient by the logits (B, G, A) in contexts (B, G)."""
        rows = contexts.unsqueeze(-1).expand_as(by_logits)
        self.logits.scatter_add_(1, rows, self.settings.learning_rate * by_logits)


@dataclass
class Luck:
    """The random numbers of T rollouts, the same for all arms: (T, B, G) contexts, (T, B, G, N) uniforms, normals."""

    contexts: Tensor
    uniform: Tensor
    normal: Tensor | None

    @classmethod
    def of(cls, problems: Problems, settings: Settings) -> "Luck":
        """Return each problem's own numbers, from its seed."""
        shape = (settings.steps, settings.prompts, settings.samples)
        contexts, uniform, normal = [], [], []
        for seed in problems.seeds:
            rng = torch.Generator().manual_seed(1_000_003 + seed)
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
    chances = pick(policy.logits, contexts).log_softmax(-1).exp()
    actions = torch.searchsorted(chances.cumsum(-1), luck.uniform[step]).clamp(max=chances.shape[-1] - 1)
    rewards = problems.score(contexts, actions, None if luck.normal is None else luck.normal[step])
    return Rollout(contexts, actions, rewards, chances)


def by_logit(chances: Tensor, actions: Tensor, coefficient: Tensor) -> Tensor:
    """Return (B, G, A) the sum over samples of coefficient (B, G, N) times the gradient of log pi by the logits."""
    return (-chances * coefficient.sum(-1, keepdim=True)).scatter_add_(-1, actions, coefficient)


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
    generator, chosen = make_generator(problems.seeds[0]), arm.build(settings.samples)
    found: dict[str, list[Tensor]] = {"value": [], "reward": []}
    for step in range(max(at) + 1):
        if step in at:
            chances = policy.logits.softmax(-1)
            for name, table in (("value", problems.value), ("reward", problems.reward)):
                found[name].append((chances * table).sum(-1).mean(-1))
        if step == max(at):
            break
        rollout = roll(policy, luck, step)
        counts = arm.counts(chosen, rollout.rewards, generator)
        advantages = rollout.rewards - rollout.rewards.mean(-1, keepdim=True)
        policy.climb(rollout.contexts, by_logit(rollout.chances, rollout.actions, counts * advantages))
    return {name: torch.stack(values) for name, values in found.items()}
