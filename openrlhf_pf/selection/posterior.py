"""The Beta posterior of each prompt's chance of success, with two-scale decay (VADE, arXiv 2511.18902).

Notation used for tensor shapes: P prompts of the data set, B prompts that a rollout takes.
"""

from typing import Any

import torch
from torch import Tensor

#: A common factor below this is worked into the counts.
_SMALLEST_SCALE = 1e-100


class Posterior:
    """Pseudo-counts a, b of success and failure; p ~ Beta(a + 1, b + 1), so that an unseen prompt is uniform.

    A rollout leaves ``decay[0]`` of the counts of a prompt that it observes and adds its own, and ``decay[1]`` of all
    others. The second is one common factor for all prompts, so that no rollout costs a sweep over the data set.

    Args:
        n_prompts: P.
        decay: see above.

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
        self._counts = torch.zeros(2, n_prompts, dtype=torch.float64)  # in units of _scale
        self._scale = 1.0

    def counts(self, prompts: Tensor | None = None) -> Tensor:
        """(2, P) or (2, B) float64: a and b."""
        return (self._counts if prompts is None else self._counts[:, prompts]) * self._scale

    def means(self, prompts: Tensor | None = None) -> Tensor:
        """(P,) or (B,) float64: the posterior means (a + 1) / (a + b + 2)."""
        a, b = self.counts(prompts)
        return (a + 1) / (a + b + 2)

    def draw(self, generator: torch.Generator) -> Tensor:
        """(P,) float64: one draw from each prompt's posterior."""
        gammas = torch._standard_gamma(self.counts() + 1, generator=generator)
        return gammas[0] / gammas.sum(dim=0)

    def observe(self, prompts: Tensor, successes: Tensor, counts: Tensor) -> None:
        """Update by one rollout; see :meth:`openrlhf_pf.selection.PromptSelection.observe`."""
        if len(prompts.unique()) < len(prompts):
            raise ValueError("a prompt occurs twice in an observation: its responses belong together.")
        if not ((successes >= 0) & (successes <= counts)).all():
            raise ValueError("successes must lie between 0 and the number of responses that were counted.")
        known = counts > 0
        prompts, successes, counts = prompts[known], successes[known].double(), counts[known].double()
        kept, others = self.decay
        updated = kept * self.counts(prompts) + torch.stack([successes, counts - successes])
        self._scale *= others
        if self._scale < _SMALLEST_SCALE:
            self._counts *= self._scale
            self._scale = 1.0
        self._counts[:, prompts] = updated / self._scale

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"counts": self._counts, "scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._counts, self._scale = state["counts"], state["scale"]
