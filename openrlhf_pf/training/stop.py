"""When the reward model has gone blind on the policy: training stops by itself.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt.
"""

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

#: Standard errors below the threshold that count as beyond noise. Training is looked at after every rollout.
CERTAINTY = 3.0
WINDOW = 10


class StopTraining(Exception):
    """Training is to end, in good order; the message says why."""


def pairs_within(rewards: Tensor, scores: Tensor) -> Tensor:
    """(G, 2) float64: of the pairs of a prompt's samples with different true scores, how many the rewards order right
    (equal rewards count half), and how many there are.

    Args:
        rewards: (G, N); NaN and infinite ones are left out.
        scores: (G, N) true scores; likewise.
    """
    known = rewards.isfinite() & scores.isfinite()
    reward, score = rewards.double().nan_to_num(), scores.double().nan_to_num()
    better = score.unsqueeze(2) > score.unsqueeze(1)
    better &= known.unsqueeze(2) & known.unsqueeze(1)
    gap = reward.unsqueeze(2) - reward.unsqueeze(1)
    right = better & (gap > 0)
    return torch.stack(
        [right.sum(dim=(1, 2)) + 0.5 * (better & (gap == 0)).sum(dim=(1, 2)), better.sum(dim=(1, 2))], 1
    )


class StopRule:
    """Stops where rewards order the samples of a prompt worse than a share, over the last rollouts, beyond noise.

    The share is pairwise accuracy within prompts, as in the reliability report: 1 is always right, .5 is blind.

    Args:
        below: the share.
        window: rollouts with true scores that are looked at; until there are as many, nothing stops.
    """

    def __init__(self, below: float, window: int = WINDOW) -> None:
        self.below, self.window = below, window
        # Of each rollout, over its prompts: how many had pairs, and the sums of right, all, right², right all, all².
        self._rollouts: deque[Tensor] = deque(maxlen=window)

    def observe(self, rewards: Tensor, scores: Tensor) -> None:
        """Look at a rollout: (G, N) rewards and true scores; without a pair that tells anything, it does not count."""
        pairs = pairs_within(rewards, scores)
        right, total = pairs[pairs[:, 1] > 0].unbind(dim=1)
        if len(total):
            sums = (right, total, right * right, right * total, total * total)
            self._rollouts.append(torch.stack([torch.tensor(float(len(total))), *(x.sum() for x in sums)]).double())

    def accuracy(self) -> tuple[float, float]:
        """Pairwise accuracy over the window, and its standard error with prompts as units; NaN before there is any."""
        if not self._rollouts:
            return math.nan, math.nan
        prompts, right, total, squares, products, totals = torch.stack(list(self._rollouts)).sum(dim=0).tolist()
        share = right / total
        variance = max(squares - 2 * share * products + share**2 * totals, 0.0) / total**2
        return share, math.sqrt(variance * prompts / (prompts - 1)) if prompts > 1 else math.nan

    def metrics(self) -> dict[str, float]:
        """``filter/pairwise_accuracy`` and its standard error ``filter/pairwise_accuracy_error``, where known."""
        share, error = self.accuracy()
        figures = {"pairwise_accuracy": share, "pairwise_accuracy_error": error}
        return {f"filter/{name}": value for name, value in figures.items() if not math.isnan(value)}

    def reason(self) -> str | None:
        """Why training should stop, in a sentence; None where it should not."""
        share, error = self.accuracy()
        if len(self._rollouts) < self.window or not share + CERTAINTY * error < self.below:
            return None
        return (
            f"over the last {self.window} rollouts with true scores, rewards order {share:.3f} of the pairs within a "
            f"prompt right (standard error {error:.3f}), which is below --sample_filter_stop_below {self.below:g} "
            "beyond noise: the reward model no longer tells this policy's responses apart"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"rollouts": list(self._rollouts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._rollouts.clear()
        self._rollouts.extend(state["rollouts"])
