"""Responses to prompts of our own choosing, from OpenRLHF's engines and by its conventions."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from openrlhf.datasets.prompts_dataset import preprocess_data
from openrlhf.datasets.utils import blending_datasets
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ray.vllm_engine import batch_vllm_engine_call

from openrlhf_pf.training.generation import CheckedGenerator


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
        self.generator = CheckedGenerator(strategy, None, None, tokenizer, engines)

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
