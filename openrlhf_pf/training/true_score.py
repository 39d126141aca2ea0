"""The true score as users write it: a Python file with a ``reward_func``."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from openrlhf_pf import registry


def load_reward_func(file: str, flag: str) -> Callable:
    """Import ``reward_func`` from a file that ``flag`` named.

    Raises:
        ValueError: the file does not import, or has no such function.
    """
    return registry.load_function(file, "reward_func", f"{flag} {file}", "reward_func(queries, prompts, labels)")


def one_number(value: Any) -> float | None:
    """The number that ``value`` is or holds, as a tensor or a list of one does; None where it is not one number."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        return None
    return float(numbers[0]) if len(numbers) == 1 else None


class TrueScore:
    """Calls a user's ``reward_func``, a sample at a time as OpenRLHF does, several at once; counts what fails.

    Args:
        function: ``reward_func(queries, prompts, labels)``; its ``scores``, or else its ``rewards``, are meant.
        workers: calls at a time.
    """

    def __init__(self, function: Callable, workers: int) -> None:
        self.function = function
        self.pool = ThreadPoolExecutor(workers)
        self.failed = 0
        self.last_error = ""

    def __call__(self, samples: Sequence[Any], tokenizer: Any) -> None:
        """Set ``scores`` of every sample and put its extra logs into ``info``; a call that fails, or answers with
        something else than one number, leaves NaN.

        Args:
            samples: OpenRLHF's ``Experience``, a sample each.
            tokenizer: the policy's.
        """

        def score(sample: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]] | Exception:
            query = tokenizer.decode(sample.sequences[0].tolist(), skip_special_tokens=False)
            try:
                result = self.function([query], sample.prompts, sample.labels)
                value = result["rewards"] if result.get("scores") is None else result["scores"]
                if (number := one_number(value)) is None:
                    raise ValueError(f"one number is needed for one response, got {value!r:.60}")
                logs = {name: one_number(value) for name, value in (result.get("extra_logs") or {}).items()}
                return _tensor(number), {name: _tensor(x) for name, x in logs.items() if x is not None}
            except Exception as error:  # whatever a user's function raises, the other samples are worth keeping
                return error

        for sample, result in zip(samples, self.pool.map(score, samples)):
            sample.scores = torch.tensor([math.nan])
            if isinstance(result, Exception):
                self.failed += 1
                self.last_error = f"{type(result).__name__}: {result}"
                continue
            sample.scores, logs = result
            sample.info |= logs


def _tensor(number: float) -> torch.Tensor:
    return torch.tensor([number], dtype=torch.float64)
