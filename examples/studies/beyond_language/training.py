"""Policy gradient on many small worlds at once, on the samples that a filter of the package keeps.

Notation used for tensor shapes: B worlds, C contexts, A actions, D features of a context, Z features of an action,
G contexts (prompts) in a rollout, N actions drawn for each, k of them train, T steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openrlhf_pf.filters import make_generator

from .arms import Arm
from .worlds import D, Worlds, pick


@dataclass(frozen=True)
class Settings:
    """How a policy trains.

    Attributes:
        policy: "tabular", logits of its own for each (context, action); "shared", bilinear in their features.
        optimizer: "sgd", "adam", or "normed", gradient ascent by steps of one length.
        learning_rate: of a step along the sum over prompts of the mean over kept samples (sgd), or of each parameter.
        baseline: what is taken off a reward: "group", the mean of the prompt's N; "kept", of its kept ones; "critic",
            linear in the context's features and trained on kept samples; "batch", nothing but the mean of all.
        whiten: subtract the kept samples' mean advantage and divide by their standard deviation.
        kl: how much of log pi / pi_start is taken off the reward that trains.
        split: samples a prompt in a minibatch, so that a rollout makes k / split updates, rounded to even; None for
            one.
        steps: T rollouts.
        prompts, samples: G and N.
    """

    policy: str = "tabular"
    optimizer: str = "sgd"
    learning_rate: float = 0.5 * 32**0.5
    baseline: str = "group"
    whiten: bool = False
    kl: float = 0.0
    split: int | None = None
    steps: int = 150
    prompts: int = 32
    samples: int = 8


class Policy:
    """Softmax policies of B worlds: start logits plus what was learnt."""

    def __init__(self, worlds: Worlds, settings: Settings) -> None:
        self.worlds, self.settings = worlds, settings
        self.tabular = settings.policy == "tabular"
        shape = worlds.value.shape if self.tabular else (len(worlds.seeds), D, worlds.action.shape[2])
        self.learnt = torch.zeros(shape)
        self.moments, self.updates = (torch.zeros(shape), torch.zeros(shape)), 0

    def logits(self, contexts: Tensor) -> Tensor:
        """(B, G, A) in contexts (B, G)."""
        start = pick(self.worlds.start, contexts)
        if self.tabular:
            return start + pick(self.learnt, contexts)
        return start + pick(self.worlds.context, contexts) @ self.learnt @ self.worlds.action.mT

    def everywhere(self) -> Tensor:
        """(B, C, A) chances of all actions in all contexts."""
        n_worlds, n_contexts, _ = self.worlds.value.shape
        return self.logits(torch.arange(n_contexts).expand(n_worlds, -1)).softmax(-1)

    def gradient(self, contexts: Tensor, by_logit: Tensor) -> Tensor:
        """From the gradient by logits (B, G, A) to that by parameters."""
        if not self.tabular:
            return pick(self.worlds.context, contexts).mT @ (by_logit @ self.worlds.action)
        rows = contexts.unsqueeze(-1).expand_as(by_logit)
        return torch.zeros_like(self.learnt).scatter_add_(1, rows, by_logit)

    def climb(self, gradient: Tensor) -> None:
        """One update."""
        if self.settings.optimizer == "sgd":
            self.learnt += self.settings.learning_rate * gradient
            return
        if self.settings.optimizer == "normed":
            size = gradient.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
            self.learnt += self.settings.learning_rate * gradient / size
            return
        self.updates += 1
        first, second = self.moments
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.05)  # beta2 .95, as OpenRLHF has it
        size = (second / (1 - 0.95**self.updates)).sqrt() + 1e-8
        self.learnt += self.settings.learning_rate * (first / (1 - 0.9**self.updates)) / size

    def copy(self) -> "Policy":
        """The same policy, to go on from."""
        other = Policy(self.worlds, self.settings)
        other.learnt, other.updates = self.learnt.clone(), self.updates
        other.moments = tuple(moment.clone() for moment in self.moments)
        return other


@dataclass
class Luck:
    """The random numbers of T rollouts, the same for all arms: (T, B, G) contexts, (T, B, G, N) uniforms, normals."""

    contexts: Tensor
    uniform: Tensor
    normal: Tensor | None

    @classmethod
    def of(cls, worlds: Worlds, settings: Settings, stream: int = 0) -> "Luck":
        """Each world's own, from its seed; ``stream`` tells rollouts of different purpose apart."""
        shape = (settings.steps, settings.prompts, settings.samples)
        contexts, uniform, normal = [], [], []
        for seed in worlds.seeds:
            rng = torch.Generator().manual_seed(1_000_003 * (stream + 1) + seed)
            order = torch.rand(settings.steps, worlds.value.shape[1], generator=rng).argsort(dim=1)
            contexts.append(order[:, : settings.prompts])
            uniform.append(torch.rand(shape, generator=rng))
            normal.append(torch.randn(shape, generator=rng) if worlds.fresh else None)
        return cls(torch.stack(contexts, 1), torch.stack(uniform, 1), torch.stack(normal, 1) if worlds.fresh else None)


@dataclass
class Rollout:
    """(B, G, N) actions, rewards, log-probabilities and log pi / pi_start; (B, G) contexts; (B, G, A) all chances."""

    contexts: Tensor
    actions: Tensor
    rewards: Tensor
    logp: Tensor
    ratio: Tensor
    chances: Tensor


def roll(policy: Policy, luck: Luck, step: int) -> Rollout:
    """Draw and score N actions in each of G contexts."""
    step = step % len(luck.contexts)
    contexts, worlds = luck.contexts[step], policy.worlds
    logp = policy.logits(contexts).log_softmax(-1)
    chances = logp.exp()
    actions = torch.searchsorted(chances.cumsum(-1), luck.uniform[step]).clamp(max=logp.shape[-1] - 1)
    rewards = worlds.look(contexts, actions, None if luck.normal is None else luck.normal[step])
    chosen = logp.gather(-1, actions)
    start = pick(worlds.start, contexts).log_softmax(-1).gather(-1, actions)
    return Rollout(contexts, actions, rewards, chosen, chosen - start, chances)


@dataclass
class Trainer:
    """One policy, its critic, and the advantages they train on."""

    policy: Policy
    critic: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.critic = torch.zeros(len(self.policy.worlds.seeds), D + 1, 1)

    def advantages(self, rollout: Rollout, counts: Tensor) -> Tensor:
        """(B, G, N) advantages of samples of which ``counts`` (B, G, N) train."""
        settings = self.policy.settings
        reward = rollout.rewards - settings.kl * rollout.ratio
        if settings.baseline == "group":
            baseline = reward.mean(-1, keepdim=True)
        elif settings.baseline == "kept":
            baseline = (counts * reward).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)
        elif settings.baseline == "critic":
            baseline = self._estimate(rollout.contexts, reward, counts)
        else:
            baseline = _mean(reward, counts)
        away = reward - baseline
        if not settings.whiten:
            return away
        away = away - _mean(away, counts)
        return away / _mean(away.square(), counts).sqrt().clamp(min=1e-6)

    def _estimate(self, contexts: Tensor, reward: Tensor, counts: Tensor) -> Tensor:
        """(B, G, 1) the critic's values; then it learns from the kept rewards."""
        x = torch.nn.functional.pad(pick(self.policy.worlds.context, contexts), (0, 1), value=1.0)
        value = x @ self.critic
        error = (counts * (reward - value)).sum(-1, keepdim=True)
        self.critic = self.critic + 0.05 * x.mT @ error / x.shape[1]
        return value

    def train(self, rollout: Rollout, counts: Tensor, n_updates: int) -> None:
        """PPO's clipped objective, in as many minibatches of whole prompts."""
        advantages = self.advantages(rollout, counts)
        for number, part in enumerate(torch.arange(rollout.contexts.shape[1]).chunk(n_updates)):
            contexts, actions = rollout.contexts[:, part], rollout.actions[:, part]
            coefficient = counts[:, part] * advantages[:, part]
            chances = rollout.chances[:, part]
            if number:  # the policy has moved
                logp = self.policy.logits(contexts).log_softmax(-1)
                ratio, chances = (logp.gather(-1, actions) - rollout.logp[:, part]).exp(), logp.exp()
                clipped = ((ratio > 1.2) & (coefficient > 0)) | ((ratio < 0.8) & (coefficient < 0))
                coefficient = coefficient * ratio * ~clipped
            self.policy.climb(self.policy.gradient(contexts, by_logit(chances, actions, coefficient)))


def by_logit(chances: Tensor, actions: Tensor, coefficient: Tensor) -> Tensor:
    """(B, G, A) sum over samples of coefficient (B, G, N) times the gradient of log pi(action) by the logits."""
    return (-chances * coefficient.sum(-1, keepdim=True)).scatter_add_(-1, actions, coefficient)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """(B, 1, 1) mean over the samples that train."""
    return (counts * values).sum((1, 2), keepdim=True) / counts.sum((1, 2), keepdim=True)


def train(
    policy: Policy,
    arms: Sequence[Arm],
    luck: Luck,
    at: Sequence[int],
    choose: Callable[[int, Policy], Tensor | None] = lambda step, policy: None,
    first: int = 0,
) -> dict[str, Tensor]:
    """Train B policies.

    Args:
        policy: of which ``settings.steps`` is not looked at; it is changed.
        arms: one, or several of which ``choose`` says which world uses which.
        luck: random numbers; step t takes the rollout t modulo T.
        at: steps after which to measure; the last one ends the run.
        choose: called before each step with the step and the policy; (B,) numbers of arms, or None to go on.
        first: number of the first step.

    Returns:
        (len(at), B) each: mean true ``value`` and mean ``reward`` of the policy over all contexts, exact.
    """
    worlds, settings = policy.worlds, policy.settings
    generator = make_generator(worlds.seeds[0])
    filters = [arm.build(settings.samples, len(worlds.seeds)) for arm in arms]
    trainer, chosen = Trainer(policy), torch.zeros(len(worlds.seeds), dtype=torch.long)
    if settings.baseline == "critic":
        for step in range(30):  # the critic warms up on the samples that it will see
            rollout = roll(policy, luck, step)
            values = pick(worlds.value, rollout.contexts).gather(-1, rollout.actions)
            trainer.advantages(rollout, arms[0].counts(filters[0], rollout.rewards, values, step, generator))
    found: dict[str, list[Tensor]] = {"value": [], "reward": []}
    for step in range(first, max(at) + 1):
        if step in at:
            chances = policy.everywhere()
            for name, table in (("value", worlds.value), ("reward", worlds.reward)):
                found[name].append((chances * table).sum(-1).mean(-1))
        if step == max(at):
            break
        new = choose(step, policy)
        chosen = chosen if new is None else new
        rollout = roll(policy, luck, step)
        values = pick(worlds.value, rollout.contexts).gather(-1, rollout.actions)
        used = chosen.unique().tolist()
        counts = [arms[i].counts(filters[i], rollout.rewards, values, step, generator) for i in used]
        mine = sum(c * (chosen == i).view(-1, 1, 1) for c, i in zip(counts, used))
        keep = max(filters[i][0].keep for i in used)
        n_updates = 1 if settings.split is None else max(1, round(keep / settings.split))
        trainer.train(rollout, mine, n_updates)
    return {name: torch.stack(values) for name, values in found.items()}
