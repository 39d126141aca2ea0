"""Many policies that balance poles at once: gymnasium's CartPole, a sensor that errs, REINFORCE on what is kept.

A group is N rollouts from one start: the physics has no luck of its own, only the actions differ, as the responses
to a prompt do. Runs are stacked arm by arm, so that one vector environment serves all of them.

Notation used for tensor shapes: F arms, B seeds, R = F B runs (one policy each), G starts, N rollouts from each,
S = G N rollouts of a run, T steps of the longest rollout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arms import Arm

try:
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError('gymnasium is not installed: pip install "openrlhf-pf[examples]".') from missing

#: Steps after which a rollout ends at the latest: the highest true return.
LONGEST = 500
#: Purposes of random numbers, so that none are shared between them.
POLICY, TRAINING, EVALUATION = range(3)


@dataclass(frozen=True)
class Settings:
    """How policies train: ``updates`` of Adam, one a rollout of ``starts`` x ``samples``; evaluated ``every`` few."""

    updates: int = 60
    learning_rate: float = 0.01
    starts: int = 8
    samples: int = 8
    hidden: int = 32
    every: int = 5

    @property
    def at(self) -> range:
        """The numbers of updates after which policies are evaluated."""
        return range(0, self.updates + 1, self.every)


# ── What the sensor says of a rollout's share of the longest; ``normal`` and ``coin`` (uniform) are of its shape ──


def _clean(share: Tensor, normal: Tensor, coin: Tensor) -> Tensor:
    return share


def _middle(share: Tensor, normal: Tensor, coin: Tensor) -> Tensor:
    return share + 0.3 * torch.exp(-(((share - 0.4) / 0.25) ** 2)) * normal


def _dropout(share: Tensor, normal: Tensor, coin: Tensor) -> Tensor:
    return torch.where(coin < 0.1, 10 * coin, share)  # below .1, ten times the coin is uniform


#: Errors are drawn anew at every look: a sensor's.
SENSORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "clean": _clean,
    "middle": _middle,
    "dropout": _dropout,
}


def generator(seed: int, purpose: int, update: int = 0) -> torch.Generator:
    """A seed's random numbers, which no arm and no other seed shares or changes."""
    return torch.Generator().manual_seed((seed * 3 + purpose) * 1_000_003 + update)


@dataclass
class Luck:
    """Random numbers of a rollout, the same in all arms: (B, S, 4) ``starts``, a group's N alike; (B, LONGEST, S)
    ``uniform`` for actions; (B, G, N) ``normal`` and ``coin`` (uniform) for the sensor.
    """

    starts: Tensor
    uniform: Tensor
    normal: Tensor
    coin: Tensor

    @classmethod
    def of(cls, seeds: Sequence[int], purpose: int, update: int, n_starts: int, n_samples: int) -> "Luck":
        """Each seed's own, whichever seeds stand beside it."""
        found = []
        for seed in seeds:
            rng, size = generator(seed, purpose, update), (n_starts, n_samples)
            starts = (torch.rand(n_starts, 4, generator=rng) * 0.1 - 0.05).repeat_interleave(n_samples, dim=0)
            uniform = torch.rand(LONGEST, n_starts * n_samples, generator=rng)
            found.append((starts, uniform, torch.randn(size, generator=rng), torch.rand(size, generator=rng)))
        return cls(*(torch.stack(numbers) for numbers in zip(*found)))


class Policies:
    """R networks 4 - hidden - 2 with tanh; those of a seed start alike in all arms."""

    def __init__(self, seeds: Sequence[int], n_arms: int, hidden: int = 32) -> None:
        shapes = ((4, hidden), (hidden, 2))
        found: list[list[Tensor]] = []
        for seed in seeds:
            rng = generator(seed, POLICY)
            found.append([torch.randn(shape, generator=rng) / shape[0] ** 0.5 for shape in shapes])
        first, second = (torch.stack(layer).repeat(n_arms, 1, 1) for layer in zip(*found))
        n_runs = len(first)
        self.parameters = [first, torch.zeros(n_runs, 1, hidden), second, torch.zeros(n_runs, 1, 2)]
        for parameter in self.parameters:
            parameter.requires_grad_()

    def preference(self, states: Tensor, runs: slice = slice(None)) -> Tensor:
        """(R, S) log-odds of a push to the right in states (R, S, 4), of these runs."""
        first, bias, second, shift = (parameter[runs] for parameter in self.parameters)
        logits = torch.baddbmm(shift, torch.baddbmm(bias, states, first).tanh(), second)
        return logits[..., 1] - logits[..., 0]


@dataclass
class Rollouts:
    """(R, S) ``lengths``, the true returns; (T, R, S, 4) ``states`` and (T, R, S) ``actions`` where they are kept."""

    lengths: Tensor
    states: Tensor | None = None
    actions: Tensor | None = None


@torch.no_grad()
def roll(policies: Policies, environment: CartPoleVectorEnv, luck: Luck, keep: bool) -> Rollouts:
    """Play; what comes after a rollout's end, when the environment starts anew, does not count."""
    starts = luck.starts
    n_seeds, n_rollouts, _ = starts.shape
    n_runs = policies.parameters[0].shape[0]
    shape = (n_runs // n_seeds, n_seeds, n_rollouts)
    environment.reset(seed=0)
    environment.state = starts.expand(shape[0], -1, -1, -1).reshape(-1, 4).T.double().numpy().copy()
    seen = starts.expand(*shape, 4).reshape(n_runs, n_rollouts, 4).float()
    lengths = torch.zeros(n_runs, n_rollouts, dtype=torch.long)
    states, actions = [], []
    for step in range(LONGEST):
        chance = policies.preference(seen).sigmoid()
        right = luck.uniform[:, step].expand(shape).reshape(n_runs, n_rollouts) < chance
        if keep:
            states.append(seen)
            actions.append(right)
        after, _, ended, cut, _ = environment.step(right.flatten().long().numpy())
        over = torch.from_numpy(ended | cut).view(n_runs, n_rollouts)
        lengths[over & (lengths == 0)] = step + 1
        seen = torch.from_numpy(after).view(n_runs, n_rollouts, 4)
        if (lengths > 0).all():
            break
    return Rollouts(lengths, torch.stack(states), torch.stack(actions)) if keep else Rollouts(lengths)


def objective(policies: Policies, rollouts: Rollouts, coefficients: Tensor, runs: slice) -> Tensor:
    """What REINFORCE climbs: the sum over rollouts of coefficient (R, S) x sum_t log pi / LONGEST, of these runs.

    Rollouts whose coefficient is 0 in every run cost nothing.
    """
    most = max(1, int((coefficients != 0).sum(dim=1).max()))
    kept = coefficients.abs().topk(most, dim=1).indices
    lengths = rollouts.lengths[runs].gather(1, kept)
    n_steps = int(lengths.max())
    states = rollouts.states[:n_steps, runs].gather(
        2, kept.expand(n_steps, -1, -1).unsqueeze(-1).expand(-1, -1, -1, 4)
    )
    right = rollouts.actions[:n_steps, runs].gather(2, kept.expand(n_steps, -1, -1))
    states, right = states.permute(1, 2, 0, 3), right.permute(1, 2, 0)  # (R, kept, T)
    odds = policies.preference(states.reshape(len(kept), -1, 4), runs).view(right.shape)
    before = torch.arange(n_steps) < lengths.unsqueeze(-1)
    logp = (logsigmoid(torch.where(right, odds, -odds)) * before).sum(-1) / LONGEST
    return (coefficients.gather(1, kept) * logp).sum()


@dataclass
class Record:
    """(F, moments, B) mean true ``returns``; of each update what the filters saw: (updates, F, B, G, N) ``rewards``
    and true ``shares`` of the longest rollout; ``learned`` (F, B): the filter left the weights that it started with.
    """

    returns: Tensor
    rewards: Tensor
    shares: Tensor
    learned: Tensor


def train(sensor: str, arms: Sequence[Arm], seeds: Sequence[int], settings: Settings) -> Record:
    """Train a policy for each arm and seed; a seed's policy, starts and luck are the same in all arms."""
    n_arms, n_seeds, n_rollouts = len(arms), len(seeds), settings.starts * settings.samples
    shape = (n_arms, n_seeds, settings.starts, settings.samples)
    environment = CartPoleVectorEnv(num_envs=n_arms * n_seeds * n_rollouts, max_episode_steps=LONGEST)
    policies = Policies(seeds, n_arms, settings.hidden)
    optimizer = torch.optim.Adam(policies.parameters, settings.learning_rate, maximize=True)
    filters = [arm.build(settings.samples, n_seeds) for arm in arms]
    draws = [torch.Generator().manual_seed(seeds[0]) for _ in arms]
    returns, rewards, shares = [], [], []

    for update in range(settings.updates + 1):
        if update in settings.at:
            luck = Luck.of(seeds, EVALUATION, update, n_rollouts, 1)
            lengths = roll(policies, environment, luck, keep=False).lengths
            returns.append(lengths.view(n_arms, n_seeds, -1).double().mean(-1))
        if update == settings.updates:
            break
        luck = Luck.of(seeds, TRAINING, update, settings.starts, settings.samples)
        rollouts = roll(policies, environment, luck, keep=True)
        share = rollouts.lengths.view(shape) / LONGEST
        reward = SENSORS[sensor](share, luck.normal, luck.coin)
        shares.append(share)
        rewards.append(reward)
        away = (reward - reward.mean(-1, keepdim=True)) / settings.starts
        optimizer.zero_grad()
        for number, arm in enumerate(arms):
            counts = arm.counts(filters[number], reward[number], share[number], update, draws[number])
            runs = slice(number * n_seeds, (number + 1) * n_seeds)
            objective(policies, rollouts, (counts * away[number]).flatten(1), runs).backward()
        optimizer.step()
    learned = [[getattr(f, "uses_learned", False) for f in (mine * n_seeds)[:n_seeds]] for mine in filters]
    return Record(torch.stack(returns, 1), torch.stack(rewards), torch.stack(shares), torch.tensor(learned))
