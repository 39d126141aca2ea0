"""The prompt selections that come with the package."""

from typing import Literal

import numpy as np
from numpy import ndarray

from openrlhf_pf.selection.base import PromptSelection


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
