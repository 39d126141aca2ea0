"""Bandit problems in which an action has a true value, and a reward that errs about it.

A context stands for a prompt (a patient, a market, the state of a robot), an action for a response. Everything about a
problem follows from its seed.

Notation used for tensor shapes: B problems, C contexts, A actions, D features of a context, Z features of an action,
G contexts (prompts) in a rollout, N actions drawn for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

#: Features of a context, and of an action, which are all that ``policy="shared"`` sees.
D, Z = 16, 8
#: Share of (context, action) pairs whose reward is an exploit in ``hacked``.
HACKED = 0.05


@dataclass
class Problems:
    """B problems of one shape.

    Attributes:
        context: (B, C, D) normal features.
        action: (B, A, Z) features, rows about 1 long.
        value: (B, C, A) true value: in [-1, 1], or 0 and 1.
        reward: (B, C, A) expected reward.
        noise: (B, C, A) standard deviation of the independent error of each scoring; 0 where errors repeat.
        start: (B, C, A) logits of the policy before training.
        seeds: B seeds.
    """

    context: Tensor
    action: Tensor
    value: Tensor
    reward: Tensor
    noise: Tensor
    start: Tensor
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
    names = [f.name for f in fields(Problems) if f.name != "seeds"]
    tensors = {name: torch.cat([getattr(one, name) for one in problems]) for name in names}
    return Problems(**tensors, seeds=[seed for one in problems for seed in one.seeds])


#: Standard deviation of the reward's error by true value; ``blind_top`` errs in another way (see ``make_problem``).
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": torch.zeros_like,
    "flat": lambda q: torch.full_like(q, 0.4),
    "middle": lambda q: 0.8 * torch.exp(-((q / 0.4) ** 2)),
    "top": lambda q: 0.8 * torch.sigmoid(6 * (q - 0.4)),
    "bottom": lambda q: 0.8 * torch.sigmoid(-6 * (q + 0.4)),
    "ends": lambda q: 0.8 * (1 - torch.exp(-((q / 0.5) ** 2))),
    "hacked": lambda q: torch.full_like(q, 0.1),
    "blind_top": lambda q: torch.full_like(q, 0.1),
}


def make_problem(
    error: str,
    seed: int,
    frozen: bool = True,
    size: float = 1.0,
    offset: float = 0.0,
    start: str = "uniform",
    n_contexts: int = 200,
    n_actions: int = 32,
) -> Problems:
    """Return one problem.

    The value of an action is q = tanh(h), h = x W / 4 normal. In ``hacked``, 5% of the pairs have a reward that is the
    higher the lower the value is (1.2 - q). In ``blind_top`` an action passes (1) or fails (0), with the chance
    0.85 sigmoid(8 (z + 0.2)) exp(-z^2 / 10 where z > 0), z the normal score of its place by h among what the start
    policy draws. The reward is h, which ranks the wrong way above the middle. Of five draws, sorted by reward, 0.72,
    0.69, 0.52, 0.28 and 0.08 pass, fitted to 0.69, 0.70, 0.55, 0.25 and 0.05 of examples/micro_code.

    Args:
        error: a key of ``ERRORS``.
        seed: of all randomness.
        frozen: one error a pair, as a reward model errs; otherwise an independent error a scoring, as a sensor errs.
        size: what the standard deviation of errors is multiplied with.
        offset: standard deviation of a constant that a context adds to its rewards.
        start: logits of the start policy: "uniform"; "peaked", normal x 1.5; "skilled", where bad actions are rare
            each, and many.

    Raises:
        ValueError: there is no such error or start.
    """
    if error not in ERRORS:
        raise ValueError(f"there is no error '{error}': choose one of {', '.join(ERRORS)}.")
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    x, w = normal(n_contexts, D), normal(D, n_actions)
    project = torch.linalg.qr(normal(D, D))[0][:, :Z]
    h = x @ w / D**0.5
    luck, coin, shift = normal(*h.shape), torch.rand(h.shape, generator=rng), normal(n_contexts, 1)
    logits = _start(start, h, normal(*h.shape))
    q = torch.tanh(h)
    if error == "blind_top":
        z = _normal_score(h, logits.softmax(1))
        chance = 0.85 * torch.sigmoid(8 * (z + 0.2)) * torch.exp(-0.1 * z.clamp(min=0).square())
        spread, clean, q = size * ERRORS[error](h), h, (coin < chance).float()
    else:
        spread, clean = size * ERRORS[error](q), q
    if error == "hacked":
        clean = torch.where(coin < HACKED, 1.2 - q, q)
    reward = clean + offset * shift + (spread * luck if frozen else 0.0)
    noise = torch.zeros_like(spread) if frozen else spread
    action = (w.T @ project) / Z**0.5
    return Problems(*(t.unsqueeze(0) for t in (x, action, q, reward, noise, logits)), seeds=[seed])


def _start(start: str, h: Tensor, luck: Tensor) -> Tensor:
    scale = {"uniform": (0.0, 0.0), "peaked": (0.0, 1.5), "skilled": (1.5, 0.5)}
    if start not in scale:
        raise ValueError(f"there is no start '{start}': choose one of {', '.join(scale)}.")
    return scale[start][0] * h + scale[start][1] * luck


def _normal_score(h: Tensor, chance: Tensor) -> Tensor:
    """(C, A) quantile of a normal at the middle of each action's place by ``h``, actions drawn by ``chance``."""
    order = h.argsort(dim=1)
    ranked = chance.gather(1, order)
    below = torch.empty_like(h).scatter_(1, order, ranked.cumsum(1) - ranked / 2)
    return torch.special.ndtri(below.clamp(1e-6, 1 - 1e-6))
