"""The Beta posterior of each prompt's chance of success, with two-scale decay (VADE, arXiv 2511.18902).

Notation used for array shapes: P prompts of the data set, B prompts of a rollout.
"""

from typing import Any

import numpy as np
from numpy import ndarray

#: A common factor below this is worked into the counts.
_SMALLEST_SCALE = 1e-100


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
