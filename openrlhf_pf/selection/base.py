"""Which prompts the next rollout takes: what is known of each prompt, and what a selection makes of it.

Notation used for tensor shapes: P prompts of the data set, B prompts that a rollout takes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from openrlhf_pf.selection.posterior import Posterior

_MOST_VISITS = torch.iinfo(torch.int16).max


class PromptSelection(ABC):
    """Selects prompts by a priority, from a Beta posterior of each prompt's chance of success.

    A subclass writes :meth:`priorities`. Further settings are further parameters of the constructor, with a type and a
    default.

    Args:
        n_prompts: P.
        decay: what is left of a prompt's counts when it is observed, and when another prompt is: 1 forgets nothing.
        random_share: share of each rollout that is selected at random, whatever the priorities say.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, n_prompts: int, decay: tuple[float, ...] = (1.0, 1.0), random_share: float = 0.0) -> None:
        if not 0 <= random_share <= 1:
            raise ValueError(f"random_share must lie between 0 and 1, got {random_share}: it is a share of a rollout.")
        self.posterior = Posterior(n_prompts, decay)
        self.random_share = random_share
        #: (P,) int16 how often each was selected, up to 32,767.
        self.visits = torch.zeros(n_prompts, dtype=torch.int16)

    @property
    def n_prompts(self) -> int:
        """P."""
        return len(self.visits)

    @abstractmethod
    def priorities(self, generator: torch.Generator) -> Tensor:
        """Return (P,) numbers: the prompts with the highest are selected, equal ones at random."""

    def select(self, count: int, generator: torch.Generator, exclude: Iterable[int] = ()) -> Tensor:
        """Choose prompts.

        Args:
            count: B.
            generator: source of all randomness.
            exclude: places of prompts that must not be selected, such as those in flight.

        Returns:
            (B,) int64 different places, in random order.

        Raises:
            ValueError: fewer than B prompts are left, or :meth:`priorities` returned something else than it should.
        """
        allowed = torch.ones(self.n_prompts, dtype=torch.bool)
        allowed[list(exclude)] = False
        # At random first: what is equal then stands in random order, and so does what is chosen.
        places = torch.randperm(self.n_prompts, generator=generator)
        places = places[allowed[places]]
        if len(places) < count:
            raise ValueError(
                f"{count} prompts are asked for and {len(places)} of {self.n_prompts} can be selected: take fewer "
                "prompts a rollout, or a data set with more."
            )
        chosen = places[: round(self.random_share * count)]
        priorities = self.priorities(generator)
        if not isinstance(priorities, Tensor) or priorities.shape != (self.n_prompts,) or priorities.isnan().any():
            raise ValueError(
                f"{type(self).__name__}.priorities must return ({self.n_prompts},) numbers, none of them NaN."
            )
        rest = places[len(chosen) :]
        best = priorities[rest].topk(count - len(chosen), sorted=False).indices
        chosen = torch.cat([chosen, rest[best]])[torch.randperm(count, generator=generator)]
        self.visits[chosen] = (self.visits[chosen].int() + 1).clamp(max=_MOST_VISITS).short()
        return chosen

    def observe(self, prompts: Tensor, successes: Tensor, counts: Tensor) -> None:
        """Learn how a rollout's prompts went.

        Args:
            prompts: (B,) int64 different places.
            successes: (B,) how many of the counted responses succeeded; fractions of rewards in [0, 1] count as such.
            counts: (B,) how many responses had a usable reward; a prompt without any counts as not observed.

        Raises:
            ValueError: a prompt occurs twice, or successes are not between 0 and counts.
        """
        self.posterior.observe(prompts, successes, counts)

    def metrics(self, prompts: Tensor, successes: Tensor, counts: Tensor) -> dict[str, float]:
        """Figures about a rollout that is about to be observed, logged as ``selection/<name>``.

        Returns:
            ``informative``: share of its groups that have successes and failures; ``p_mean``: mean of the posterior
            means over its prompts; ``brier``: mean squared difference of these and the observed shares; ``seen``:
            share of all prompts that were ever selected; ``visits_max``: how often one was selected at most.
        """
        known = counts > 0
        figures = {
            "seen": float((self.visits > 0).double().mean()),
            "visits_max": float(self.visits.max()),
        }
        if known.any():
            share = successes[known].double() / counts[known]
            expected = self.posterior.means(prompts[known])
            figures |= {
                "informative": float(((share > 0) & (share < 1)).double().mean()),
                "p_mean": float(expected.mean()),
                "brier": float((expected - share).square().mean()),
            }
        return figures

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"posterior": self.posterior.state_dict(), "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: it is of another number of prompts.
        """
        if len(state["visits"]) != self.n_prompts:
            raise ValueError(
                f"the checkpoint's prompt selection knows {len(state['visits'])} prompts and the data set has "
                f"{self.n_prompts}: resume with the data set that the run began with."
            )
        self.posterior.load_state_dict(state["posterior"])
        self.visits = state["visits"]
