"""Prompt selection: which prompts the next rollout samples, by a posterior of each (VADE, arXiv 2511.18902).

``SELECTIONS`` maps the name that a user types to the class that does it. One of your own is a ``PromptSelection``
subclass, named ``package.module:Class`` or ``path/to/file.py:Class``. On numpy; nothing here imports torch.

Notation used for array shapes: P prompts of the data set, B prompts of a rollout.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from openrlhf_pf import registry

#: A common factor below this is worked into the counts.
_SMALLEST_SCALE = 1e-100
_MOST_VISITS = np.iinfo(np.int16).max
#: Parameters of every selection's constructor; all others are its options.
_COMMON = ("n_prompts",)


class Posterior:
    """Pseudo-counts a, b of success and failure; p ~ Beta(a + 1, b + 1): a new prompt is uniform.

    After each rollout the counts of its prompts are multiplied by ``decay[0]`` and the new results added; all others
    are multiplied by ``decay[1]``, as one common factor that needs no pass over the data set.

    Args:
        n_prompts: P.
        decay: two numbers between 0 and 1; 1 forgets nothing.

    Raises:
        ValueError: there are no prompts, or a number is not between 0 and 1.
    """

    def __init__(self, n_prompts: int, decay: tuple[float, ...] = (1.0, 1.0)) -> None:
        if n_prompts < 1:
            raise ValueError(f"there must be prompts to select from, got {n_prompts}.")
        if len(decay) != 2 or not all(0 <= share <= 1 for share in decay):
            raise ValueError(
                f"decay must be two numbers between 0 and 1, what is left of the counts of an observed prompt and of "
                f"the others, got {','.join(map(str, decay))}."
            )
        self.decay = tuple(decay)
        self._counts = np.zeros((2, n_prompts))  # in units of _scale
        self._scale = 1.0

    def counts(self, prompts: ndarray | None = None) -> ndarray:
        """Return a and b, (2, P) or (2, B) float64."""
        return (self._counts if prompts is None else self._counts[:, prompts]) * self._scale

    def means(self, prompts: ndarray | None = None) -> ndarray:
        """Return the posterior means (a + 1) / (a + b + 2), (P,) or (B,) float64."""
        a, b = self.counts(prompts)
        return (a + 1) / (a + b + 2)

    def draw(self, generator: np.random.Generator) -> ndarray:
        """Return (P,) float64: one draw from each prompt's posterior."""
        a, b = self.counts()
        return generator.beta(a + 1, b + 1)

    def observe(self, prompts: ndarray, successes: ndarray, counts: ndarray) -> None:
        """Update by one rollout; see :meth:`openrlhf_pf.selection.PromptSelection.observe`."""
        if len(np.unique(prompts)) < len(prompts):
            raise ValueError("a prompt occurs twice in an observation: its responses belong together.")
        if not ((successes >= 0) & (successes <= counts)).all():
            raise ValueError("successes must lie between 0 and the number of responses that were counted.")
        known = counts > 0
        prompts, successes, counts = prompts[known], successes[known], counts[known]
        kept, others = self.decay
        updated = kept * self.counts(prompts) + np.stack([successes, counts - successes])
        self._scale *= others
        if self._scale < _SMALLEST_SCALE:
            self._counts *= self._scale
            self._scale = 1.0
        self._counts[:, prompts] = updated / self._scale

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"counts": self._counts, "scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._counts, self._scale = np.asarray(state["counts"]), state["scale"]


class PromptSelection(ABC):
    """Selects prompts by a priority, from a Beta posterior of each prompt's chance of success.

    A subclass writes :meth:`priorities`. Further settings are further parameters of the constructor, with a type and a
    default.

    Args:
        n_prompts: P.
        decay: what remains of the counts of a rollout's prompts, and of all others: 1 forgets nothing.
        random_share: share of each rollout that is selected at random, whatever the priorities are.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, n_prompts: int, decay: tuple[float, ...] = (1.0, 1.0), random_share: float = 0.0) -> None:
        if not 0 <= random_share <= 1:
            raise ValueError(f"random_share must lie between 0 and 1, got {random_share}: it is a share of a rollout.")
        self.posterior = Posterior(n_prompts, decay)
        self.random_share = random_share
        #: (P,) int16 how often each was selected, up to 32,767.
        self.visits = np.zeros(n_prompts, dtype=np.int16)

    @property
    def n_prompts(self) -> int:
        """P."""
        return len(self.visits)

    @abstractmethod
    def priorities(self, generator: np.random.Generator) -> ndarray:
        """Return (P,) numbers: the prompts with the highest are selected, equal ones at random."""

    def select(self, count: int, generator: np.random.Generator, exclude: Iterable[int] = ()) -> ndarray:
        """Choose prompts.

        Args:
            count: B.
            generator: source of all randomness.
            exclude: indices of prompts that must not be selected, such as those in flight.

        Returns:
            (B,) int64 different indices, in random order.

        Raises:
            ValueError: fewer than B prompts are left, or :meth:`priorities` did not return a number for each prompt.
        """
        allowed = np.ones(self.n_prompts, dtype=bool)
        allowed[list(exclude)] = False
        # Shuffled first, so that equal priorities are in random order.
        prompts = generator.permutation(self.n_prompts)
        prompts = prompts[allowed[prompts]]
        if len(prompts) < count:
            raise ValueError(
                f"{count} prompts are asked for and {len(prompts)} of {self.n_prompts} can be selected: take fewer "
                "prompts a rollout, or a data set with more."
            )
        n_random = round(self.random_share * count)
        priorities = np.asarray(self.priorities(generator))
        numbers = priorities.dtype.kind in "biuf" and priorities.shape == (self.n_prompts,)
        if not numbers or np.isnan(priorities).any():
            raise ValueError(
                f"{type(self).__name__}.priorities must return ({self.n_prompts},) numbers, none of them NaN."
            )
        chosen, rest = prompts[:n_random], prompts[n_random:]
        n_best = count - n_random
        best = np.argpartition(-priorities[rest].astype(np.float64), min(n_best, len(rest) - 1))[:n_best]
        chosen = generator.permutation(np.concatenate([chosen, rest[best]]))
        self.visits[chosen] = (self.visits[chosen].astype(np.int64) + 1).clip(max=_MOST_VISITS)
        return chosen

    def observe(self, prompts: ndarray, successes: ndarray, counts: ndarray) -> None:
        """Learn from a rollout.

        Args:
            prompts: (B,) int64 different indices.
            successes: (B,) successes among the counted responses; rewards in [0, 1] count as fractions.
            counts: (B,) responses with a usable reward; a prompt without any counts as not observed.

        Raises:
            ValueError: a prompt occurs twice, or successes are not between 0 and counts.
        """
        self.posterior.observe(prompts, successes, counts)

    def metrics(self, prompts: ndarray, successes: ndarray, counts: ndarray) -> dict[str, float]:
        """Return figures about a rollout before it is observed, logged as ``selection/<name>``.

        Returns:
            ``informative``: share of its groups with successes and failures; ``p_mean``: mean of the posterior means
            over its prompts; ``brier``: mean squared difference of these and the observed shares; ``seen``: share of
            all prompts that were ever selected; ``visits_max``: the largest number of selections of one prompt.
        """
        known = counts > 0
        figures = {
            "seen": float((self.visits > 0).mean()),
            "visits_max": float(self.visits.max()),
        }
        if known.any():
            share = successes[known] / counts[known]
            expected = self.posterior.means(prompts[known])
            figures |= {
                "informative": float(((share > 0) & (share < 1)).mean()),
                "p_mean": float(expected.mean()),
                "brier": float(((expected - share) ** 2).mean()),
            }
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"posterior": self.posterior.state_dict(), "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: the state has another number of prompts.
        """
        if len(state["visits"]) != self.n_prompts:
            raise ValueError(
                f"the checkpoint's prompt selection has {len(state['visits'])} prompts and the data set "
                f"{self.n_prompts}: resume with the data set that the run began with."
            )
        self.posterior.load_state_dict(state["posterior"])
        self.visits = np.asarray(state["visits"])


# ── The selections that come with the package ──


class Uniform(PromptSelection):
    """``uniform``: shuffled passes over the data set, as OpenRLHF's own loader makes them, with the metrics."""

    def priorities(self, generator: np.random.Generator) -> ndarray:
        return -self.visits.astype(np.float64)


class Vade(PromptSelection):
    """``vade``: the prompts with the highest information gain, at a draw from the posterior (arXiv 2511.18902).

    Args:
        n_prompts: P.
        decay: see :class:`Posterior`. The defaults follow exactly from the worked example of the paper's figure.
        gain: ``hard`` p (1 - p)², the squared advantage that right responses carry, highest at p = 1/3 (the paper's);
            ``variance`` p (1 - p), that of all responses.
        explore: ``thompson`` draws p from the posterior, ``mean`` takes its mean.
        random_share: see :class:`PromptSelection`.
    """

    def __init__(
        self,
        n_prompts: int,
        decay: tuple[float, ...] = (0.2, 0.999),
        gain: Literal["hard", "variance"] = "hard",
        explore: Literal["thompson", "mean"] = "thompson",
        random_share: float = 0.0,
    ) -> None:
        super().__init__(n_prompts, decay, random_share)
        self.gain, self.explore = gain, explore

    def priorities(self, generator: np.random.Generator) -> ndarray:
        p = self.posterior.draw(generator) if self.explore == "thompson" else self.posterior.means()
        return p * (1 - p) ** (2 if self.gain == "hard" else 1)

    def metrics(self, prompts: ndarray, successes: ndarray, counts: ndarray) -> dict[str, float]:
        """Return the figures of the base class and ``expected_gain``, its mean over the rollout's prompts."""
        a, b = self.posterior.counts(prompts)
        figures = super().metrics(prompts, successes, counts)
        return figures | {"expected_gain": float(expected_gain(a, b, self.gain).mean())}


class Target(PromptSelection):
    """``target``: the prompts whose drawn chance of success is nearest to a target (MoPPS, arXiv 2507.04632).

    Args:
        n_prompts: P.
        rate: the chance of success that is wanted.
        decay: see :class:`Posterior`.
        random_share: see :class:`PromptSelection`.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        n_prompts: int,
        rate: float = 0.5,
        decay: tuple[float, ...] = (0.5, 1.0),
        random_share: float = 0.0,
    ) -> None:
        super().__init__(n_prompts, decay, random_share)
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must lie between 0 and 1, got {rate}: it is a chance of success.")
        self.rate = rate

    def priorities(self, generator: np.random.Generator) -> ndarray:
        return -np.abs(self.posterior.draw(generator) - self.rate)


def expected_gain(a: ndarray, b: ndarray, gain: str = "hard") -> ndarray:
    """Return the mean of p (1 - p)², or of p (1 - p), where p ~ Beta(a + 1, b + 1); shapes as ``a`` and ``b``."""
    right, wrong = a + 1, b + 1
    total = right + wrong
    pair = right * wrong / (total * (total + 1))
    return pair * (wrong + 1) / (total + 2) if gain == "hard" else pair


# ── By name ──

SELECTIONS: dict[str, type[PromptSelection]] = {"uniform": Uniform, "vade": Vade, "target": Target}


def selection_class(name: str) -> type[PromptSelection]:
    """Return the class ``name``: a key of ``SELECTIONS``, ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ValueError: there is none; the message is one sentence.
    """
    cls = registry.find_named(name, SELECTIONS, "prompt selection")
    methods = {"__init__": ("self", *_COMMON), "priorities": ("self", "generator")}
    advice = "write priorities(self, generator), which returns a number for each prompt."
    registry.check_class(cls, name, PromptSelection, methods, advice)
    return cls


def build_selection(name: str, n_prompts: int, texts: Sequence[str] = ()) -> PromptSelection:
    """Build the selection called ``name``.

    Args:
        name: see :func:`selection_class`.
        n_prompts: P, prompts of the data set.
        texts: options as ``key=value`` texts, read by the types that the class declares.

    Raises:
        ValueError: unknown name, an option that this selection does not take, or numbers that do not fit; the message
            is one sentence.
    """
    cls = selection_class(name)
    return cls(n_prompts, **registry.parse_options(cls, f"prompt selection '{name}'", texts, _COMMON))
