"""Policy gradient on bandit problems whose reward errs, on the samples that a filter of the package keeps.

A context stands for a prompt (a patient, a market, the state of a robot), an action for a response. Everything about a
problem follows from its seed; many are trained at once.

Notation used for tensor shapes: B problems, C contexts, A actions, G contexts (prompts) in a rollout, N actions drawn
for each, k of them train, T steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openrlhf_pf.filters import FilterBatch, SampleFilter, draw, make_generator

#: Features of a context.
D = 16
#: Share of (context, action) pairs whose reward is an exploit in ``hacked``.
HACKED = 0.05
#: Standard deviation of the reward's error by true value.
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda q: torch.full_like(q, 0.4),
    "middle": lambda q: 0.8 * torch.exp(-((q / 0.4) ** 2)),
    "hacked": lambda q: torch.full_like(q, 0.1),
}


@dataclass
class Problems:
    """B problems of one shape.

    Attributes:
        value: (B, C, A) true value, in [-1, 1].
        reward: (B, C, A) expected reward.
        noise: (B, C, A) standard deviation of the independent error of each scoring; 0 where errors repeat.
        seeds: B seeds.
    """

    value: Tensor
    reward: Tensor
    noise: Tensor
    seeds: list[int]

    def score(self, contexts: Tensor, actions: Tensor, normal: Tensor | None) -> Tensor:
        """Return rewards (B, G, N) of actions (B, G, N) in contexts (B, G); ``normal`` (B, G, N) is their noise."""
        mean = pick(self.reward, contexts).gather(-1, actions)
        return mean if normal is None else mean + normal * pick(self.noise, contexts).gather(-1, actions)


def pick(table: Tensor, contexts: Tensor) -> Tensor:
    """Return (B, G, ...) the rows ``contexts`` (B, G) of a table (B, C, ...)."""
    return table[torch.arange(len(table)).unsqueeze(1), contexts]


def stack(problems: list[Problems]) -> Problems:
    """Return problems of one shape as one."""
    tensors = {name: torch.cat([getattr(one, name) for one in problems]) for name in ("value", "reward", "noise")}
    return Problems(**tensors, seeds=[seed for one in problems for seed in one.seeds])


def make_problem(error: str, seed: int, frozen: bool = True, n_contexts: int = 200, n_actions: int = 32) -> Problems:
    """Return one problem.

    The value of an action is q = tanh(h), h = x W / 4 normal. In ``hacked``, 5% of the pairs have a reward that is the
    higher the lower the value is (1.2 - q).

    Args:
        error: a key of ``ERRORS``.
        seed: of all randomness.
        frozen: one error a pair, as a reward model errs; otherwise an independent error a scoring, as a sensor errs.
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    q = torch.tanh(normal(n_contexts, D) @ normal(D, n_actions) / D**0.5)
    normal(D, D)  # not used any more: a seed gives the problem that the results were made with
    luck, coin = normal(*q.shape), torch.rand(q.shape, generator=rng)
    spread = ERRORS[error](q)
    clean = torch.where(coin < HACKED, 1.2 - q, q) if error == "hacked" else q
    reward = clean + spread * luck if frozen else clean
    noise = torch.zeros_like(spread) if frozen else spread
    return Problems(*(table.unsqueeze(0) for table in (q, reward, noise)), seeds=[seed])


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


@dataclass
class Luck:
    """The random numbers of T rollouts, the same for all arms: (T, B, G) contexts, (T, B, G, N) uniforms, normals."""

    contexts: Tensor
    uniform: Tensor
    normal: Tensor | None

    @classmethod
    def of(cls, problems: Problems, settings: Settings) -> "Luck":
        """Return each problem's own numbers, from its seed; no normals where errors repeat."""
        shape = (settings.steps, settings.prompts, settings.samples)
        is_noisy = bool((problems.noise > 0).any())
        contexts, uniform, normal = [], [], []
        for seed in problems.seeds:
            rng = torch.Generator().manual_seed(1_000_003 + seed)
            order = torch.rand(settings.steps, problems.value.shape[1], generator=rng).argsort(dim=1)
            contexts.append(order[:, : settings.prompts])
            uniform.append(torch.rand(shape, generator=rng))
            normal += [torch.randn(shape, generator=rng)] if is_noisy else []
        return cls(torch.stack(contexts, 1), torch.stack(uniform, 1), torch.stack(normal, 1) if is_noisy else None)


def by_logit(chances: Tensor, actions: Tensor, coefficient: Tensor) -> Tensor:
    """Return (B, G, A) the sum over samples of coefficient (B, G, N) times the gradient of log pi by the logits."""
    return (-chances * coefficient.sum(-1, keepdim=True)).scatter_add_(-1, actions, coefficient)


def count_kept(chosen: SampleFilter, rewards: Tensor, generator: object) -> Tensor:
    """Return (B, G, N) how often each sample trains, divided by the number kept of its prompt."""
    batch = FilterBatch(rewards.reshape(-1, rewards.shape[-1]).numpy(), generator)
    kept = draw("select", chosen(batch), chosen.keep, chosen.scope, batch.order, generator)
    return torch.from_numpy(kept.counts / chosen.keep).float().view_as(rewards)


def train(
    problems: Problems, settings: Settings, chosen: SampleFilter, luck: Luck, at: Sequence[int]
) -> dict[str, Tensor]:
    """Train B softmax policies, uniform at the start, with one filter.

    Args:
        problems: a context has logits of its own for each action.
        settings: of the training.
        chosen: the filter.
        luck: random numbers.
        at: steps after which to measure; the last one ends the run.

    Returns:
        (len(at), B) each: mean true ``value`` and mean ``reward`` of the policy over all contexts, exact.
    """
    logits, generator = torch.zeros(problems.value.shape), make_generator(problems.seeds[0])
    found: dict[str, list[Tensor]] = {"value": [], "reward": []}
    for step in range(max(at) + 1):
        if step in at:
            for name, table in (("value", problems.value), ("reward", problems.reward)):
                found[name].append((logits.softmax(-1) * table).sum(-1).mean(-1))
        if step == max(at):
            break
        contexts = luck.contexts[step]
        chances = pick(logits, contexts).log_softmax(-1).exp()
        actions = torch.searchsorted(chances.cumsum(-1), luck.uniform[step]).clamp(max=chances.shape[-1] - 1)
        rewards = problems.score(contexts, actions, None if luck.normal is None else luck.normal[step])
        advantages = rewards - rewards.mean(-1, keepdim=True)
        gradient = by_logit(chances, actions, count_kept(chosen, rewards, generator) * advantages)
        rows = contexts.unsqueeze(-1).expand_as(gradient)
        logits.scatter_add_(1, rows, settings.learning_rate * gradient)
    return {name: torch.stack(values) for name, values in found.items()}
