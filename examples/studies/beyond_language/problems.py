"""Bandit problems in which an action has a true value, and a reward that errs about it.

A context stands for a prompt (a patient, a market, the state of a robot), an action for a response. Everything about a
problem follows from its seed.

Notation used for tensor shapes: B problems, C contexts, A actions, G contexts (prompts) in a rollout, N actions drawn
for each.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Features of a context.
D = 16
#: Share of (context, action) pairs whose reward is an exploit in ``hacked``.
HACKED = 0.05


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

    @property
    def is_noisy(self) -> bool:
        """Whether scoring a response again gives another reward."""
        return bool((self.noise > 0).any())


def pick(table: Tensor, contexts: Tensor) -> Tensor:
    """Return (B, G, ...) the rows ``contexts`` (B, G) of a table (B, C, ...)."""
    return table[torch.arange(len(table)).unsqueeze(1), contexts]


def stack(problems: list[Problems]) -> Problems:
    """Return problems of one shape as one."""
    tensors = {name: torch.cat([getattr(one, name) for one in problems]) for name in ("value", "reward", "noise")}
    return Problems(**tensors, seeds=[seed for one in problems for seed in one.seeds])


#: Standard deviation of the reward's error by true value.
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda q: torch.full_like(q, 0.4),
    "middle": lambda q: 0.8 * torch.exp(-((q / 0.4) ** 2)),
    "hacked": lambda q: torch.full_like(q, 0.1),
}


def make_problem(error: str, seed: int, frozen: bool = True, n_contexts: int = 200, n_actions: int = 32) -> Problems:
    """Return one problem.

    The value of an action is q = tanh(h), h = x W / 4 normal. In ``hacked``, 5% of the pairs have a reward that is the
    higher the lower the value is (1.2 - q).

    Args:
        error: a key of ``ERRORS``.
        seed: of all randomness.
        frozen: one error a pair, as a reward model errs; otherwise an independent error a scoring, as a sensor errs.

    Raises:
        ValueError: there is no such error.
    """
    if error not in ERRORS:
        raise ValueError(f"there is no error '{error}': choose one of {', '.join(ERRORS)}.")
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
