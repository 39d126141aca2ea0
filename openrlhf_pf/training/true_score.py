"""True scores during training: ask a user's function for them, and stop when rewards no longer agree with them.

Shapes: G prompts (groups), N scored samples per prompt.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openrlhf_pf.reliability.measures.metrics import count_pairs

#: Standard errors below the threshold that count as significant. The rule is evaluated after every rollout.
CERTAINTY = 3.0


def one_number(value: Any) -> float | None:
    """Return the number that ``value`` is or holds, such as a tensor or a list of one; None for anything else."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        return None
    return float(numbers[0]) if len(numbers) == 1 else None


class TrueScore:
    """Calls a user's ``reward_func`` with one sample at a time, as OpenRLHF does, in parallel; counts failures.

    Args:
        function: ``reward_func(queries, prompts, labels)``, which returns one number (or a list or tensor of it), or
            a dictionary whose ``scores``, or else ``rewards``, hold it.
        workers: calls at a time.
    """

    def __init__(self, function: Callable, workers: int) -> None:
        self.function = function
        self.pool = ThreadPoolExecutor(workers)
        self.failed = 0
        self.last_error = ""

    def __call__(self, samples: Sequence[Any], tokenizer: Any) -> None:
        """Set ``scores`` of every sample and put its extra logs into ``info``.

        A call that fails, or returns something else than one number, leaves NaN.

        Args:
            samples: OpenRLHF's ``Experience``, a sample each.
            tokenizer: the policy's.
        """
        for sample, (number, logs) in zip(samples, self.score_samples(samples, tokenizer)):
            sample.scores = _tensor(number)
            sample.info |= {name: _tensor(value) for name, value in logs.items()}

    def take_failures(self, samples: str) -> str | None:
        """Return a sentence on the calls that failed since the last time, None if none did.

        Args:
            samples: what was scored, such as ``320 samples of the probe``.
        """
        failed, self.failed = self.failed, 0
        return f"{failed} of {samples} have no true score; the last reason: {self.last_error}." if failed else None

    def score_samples(self, samples: Sequence[Any], tokenizer: Any) -> list[tuple[float, dict[str, float]]]:
        """Return the score and the extra logs of each sample; NaN for a call that fails."""
        queries = (tokenizer.decode(s.sequences[0].tolist(), skip_special_tokens=False) for s in samples)
        return self.score_texts(
            [(query, s.prompts[0], s.labels[0] if s.labels else "") for query, s in zip(queries, samples)]
        )

    def score_texts(self, calls: Sequence[tuple[str, str, str]]) -> list[tuple[float, dict[str, float]]]:
        """Return the score and the extra logs of each (query, prompt, label); NaN for a call that fails."""
        scored = []
        for result in self.pool.map(self._try, calls):
            if isinstance(result, Exception):
                self.failed += 1
                self.last_error = f"{type(result).__name__}: {result}"
                result = math.nan, {}
            scored.append(result)
        return scored

    def _try(self, call: tuple[str, str, str]) -> tuple[float, dict[str, float]] | Exception:
        try:
            return self.call(*call)
        except Exception as error:  # whatever a user's function raises, the other samples are worth keeping
            return error

    def call(self, query: str, prompt: str, label: str) -> tuple[float, dict[str, float]]:
        """Call the function once.

        Raises:
            ValueError: the score is not one number.
            Exception: whatever the function raises.
        """
        result = self.function([query], [prompt], [label])
        logs = {}
        if isinstance(result, Mapping):
            logs = {name: one_number(value) for name, value in (result.get("extra_logs") or {}).items()}
            result = result["rewards"] if result.get("scores") is None else result["scores"]
        if (number := one_number(result)) is None:
            raise ValueError(f"one number is needed for one response, got {result!r:.60}")
        return number, {name: value for name, value in logs.items() if value is not None}


def _tensor(number: float) -> torch.Tensor:
    return torch.tensor([number], dtype=torch.float64)


class StopTraining(Exception):
    """Training should end in good order; the message says why."""


class StopRule:
    """Early stopping when rewards order fewer pairs within prompts right than a share, significantly.

    The share is pairwise accuracy within prompts, as in the reliability report: 1 is always right, 0.5 is guessing.

    Args:
        below: the share.
        window: rollouts with true scores that are used; with fewer, nothing stops.
    """

    def __init__(self, below: float, window: int) -> None:
        self.below, self.window = below, window
        # Of each rollout, over its prompts: how many had pairs, and the sums of right, all, right², right all, all².
        self._rollouts: deque[list[float]] = deque(maxlen=window)

    def observe(self, rewards: NDArray, scores: NDArray) -> None:
        """Add a rollout: (G, N) rewards and true scores; one without pairs does not count."""
        ((right, total),) = count_pairs(rewards, scores)
        right, total = right[total > 0], total[total > 0]
        if len(total):
            sums = (right, total, right * right, right * total, total * total)
            self._rollouts.append([float(len(total)), *(float(x.sum()) for x in sums)])

    def accuracy(self) -> tuple[float, float]:
        """Return pairwise accuracy over the window, and its standard error with prompts as units; NaN without data."""
        if not self._rollouts:
            return math.nan, math.nan
        prompts, right, total, squares, products, totals = np.sum(np.array(self._rollouts), axis=0).tolist()
        share = right / total
        variance = max(squares - 2 * share * products + share**2 * totals, 0.0) / total**2
        return share, math.sqrt(variance * prompts / (prompts - 1)) if prompts > 1 else math.nan

    def metrics(self) -> dict[str, float]:
        """Return ``filter/pairwise_accuracy`` and its standard error ``filter/pairwise_accuracy_error``, if known."""
        share, error = self.accuracy()
        figures = {"pairwise_accuracy": share, "pairwise_accuracy_error": error}
        return {f"filter/{name}": value for name, value in figures.items() if not math.isnan(value)}

    def reason(self) -> str | None:
        """Return why training should stop, in a sentence; None if it should not."""
        share, error = self.accuracy()
        if len(self._rollouts) < self.window or not share + CERTAINTY * error < self.below:
            return None
        return (
            f"over the last {self.window} rollouts with true scores, rewards order {share:.3f} of the pairs within a "
            f"prompt right (standard error {error:.3f}), significantly below --sample_filter_stop_below "
            f"{self.below:g}: the reward model no longer distinguishes this policy's responses"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"rollouts": list(self._rollouts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._rollouts.clear()
        self._rollouts.extend(list(map(float, sums)) for sums in state["rollouts"])
