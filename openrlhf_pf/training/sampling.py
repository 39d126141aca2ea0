"""Responses and true scores for prompts of our own choosing, from OpenRLHF's engines and by its conventions."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from openrlhf.datasets.prompts_dataset import preprocess_data
from openrlhf.datasets.utils import blending_datasets
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import batch_vllm_engine_call


def load_prompts(names: str, args: SimpleNamespace, strategy: Any) -> Any:
    """Load a data set as OpenRLHF loads its prompts; rows are read from disk when asked for.

    Args:
        names: what ``--data.prompt_dataset`` takes.
        args: OpenRLHF's nested arguments.
        strategy: OpenRLHF's strategy.
    """
    data = args.data
    return blending_datasets(
        names,
        data.prompt_probs if names == data.prompt_dataset else None,
        strategy,
        args.train.seed,
        max_count=data.max_samples,
        dataset_split=data.prompt_split,
    )


class PromptSampler:
    """Draws N responses to each of some prompts, as training does.

    Args:
        strategy: OpenRLHF's strategy, with the arguments that decide template, sampling and N.
        tokenizer: the policy's.
        engines: vLLM's engines.
    """

    def __init__(self, strategy: Any, tokenizer: Any, engines: Sequence[Any]) -> None:
        self.args = strategy.args
        self.tokenizer = tokenizer
        self.generator = SamplesGenerator(strategy, None, None, tokenizer, engines)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[Experience]:
        """Return N samples of each row's prompt; engines that sleep are woken for it."""
        args, data = self.args, self.args.data
        template = self.tokenizer.apply_chat_template if data.apply_chat_template else None
        how = (data.input_template, data.input_key, data.label_key, template)
        prompts, labels = map(list, zip(*(preprocess_data(row, *how) for row in rows)))
        images = [row.get(data.image_key) for row in rows]
        if args.vllm.enable_sleep:
            batch_vllm_engine_call(self.generator.vllm_engines, "wake_up")
        samples, _, _ = self.generator._generate_vllm(
            iter([(None, prompts, labels, images)]),
            len(rows),
            False,
            max_len=data.max_len,
            max_new_tokens=args.rollout.max_new_tokens,
            temperature=args.rollout.temperature,
            top_p=args.rollout.top_p,
        )
        if args.vllm.enable_sleep:
            batch_vllm_engine_call(self.generator.vllm_engines, "sleep")
        return samples


def load_reward_func(file: str, flag: str) -> Callable:
    """Import ``reward_func`` from a file that ``flag`` named.

    Raises:
        ValueError: the file does not import, or has no such function.
    """
    spec = importlib.util.spec_from_file_location(f"openrlhf_pf_score_{Path(file).stem}", file)
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.reward_func
    except Exception as error:
        raise ValueError(
            f"{flag} {file} gives no reward_func ({type(error).__name__}: {error}): name a Python file that defines "
            "reward_func(queries, prompts, labels)."
        ) from error


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

    def __call__(self, samples: Sequence[Experience], tokenizer: Any) -> None:
        """Set ``scores`` of every sample, and put its extra logs into ``info``; a call that fails leaves NaN."""

        def score(sample: Experience) -> dict[str, Any] | Exception:
            query = tokenizer.decode(sample.sequences[0].tolist(), skip_special_tokens=False)
            try:
                return self.function([query], sample.prompts, sample.labels)
            except Exception as error:  # whatever a user's function raises, the other samples are worth keeping
                return error

        for sample, result in zip(samples, self.pool.map(score, samples)):
            sample.scores = torch.tensor([math.nan])
            if isinstance(result, Exception):
                self.failed += 1
                self.last_error = f"{type(result).__name__}: {result}"
                continue
            value = result.get("scores")
            sample.scores = _first(result["rewards"] if value is None else value)
            sample.info |= {name: _first(value) for name, value in (result.get("extra_logs") or {}).items()}


def _first(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1)[:1]
