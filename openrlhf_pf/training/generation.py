"""OpenRLHF's generator, for which a response whose reward is no number is one without a reward.

What a reward server, a reward function or an agent answers reaches OpenRLHF's generator as it came. A text, or two
numbers for one response, would end training there; here such a response is unusable, as one without an answer is.
"""

import math
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.training.true_score import one_number

logger = init_logger(__name__)


def checked(response: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A response of OpenRLHF's engines with reward, score and extra logs a number each, or left out.

    Returns:
        The response, and what was left out, each by its name and value.
    """
    logs = response.get("extra_logs") or {}
    logs = logs if isinstance(logs, dict) else {"extra_logs": logs}
    # Apart from each other: an extra log may be called reward or scores, too.
    given = [("reward", response.get("reward")), ("scores", response.get("scores")), *logs.items()]
    numbers = [one_number(value) for _, value in given]
    wrong = [f"{name} {value!r:.60}" for (name, value), x in zip(given, numbers) if value is not None and x is None]
    reward, score, *extra = numbers
    kept = {name: number for name, number in zip(logs, extra) if number is not None}
    return {**response, "reward": reward, "scores": score, "extra_logs": kept}, wrong


class CheckedGenerator(SamplesGenerator):
    """Leaves out what is not one number, and says so once a rollout."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wrong: list[str] = []  # the first thing left out of each response of this rollout

    def _process_response_into_experience(self, response: dict[str, Any], **kwargs: Any) -> Experience:
        response, wrong = checked(response)
        self._wrong += wrong[:1]
        # A mean that is NaN lies in no range: were all scores NaN, dynamic filtering would go through the whole data
        # set to find one prompt.
        if self.args.algo.dynamic_filtering_enable and math.isnan(response["scores"] or 0.0):
            response["scores"] = None
        return super()._process_response_into_experience(response, **kwargs)

    def _generate_vllm(self, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        samples, consumed, exhausted = super()._generate_vllm(*args, **kwargs)
        self._warn_of_wrong()
        return samples, consumed, exhausted

    def _warn_of_wrong(self) -> None:
        if self._wrong:
            logger.warning(
                f"{len(self._wrong)} responses came back with something else than one number, which is left out: "
                f"{self._wrong[0]}."
            )
        self._wrong = []

    def generate_eval_samples(self, **kwargs: Any) -> list[Experience]:
        """As the parent, less the prompts whose rewards are not all there: the caller makes means of them."""
        samples = super().generate_eval_samples(**kwargs)
        n = kwargs["n_samples_per_prompt"]
        prompts = [samples[start : start + n] for start in range(0, len(samples), n)]
        whole = [prompt for prompt in prompts if all(_is_usable(sample.rewards) for sample in prompt)]
        if len(whole) < len(prompts):
            logger.warning(
                f"{len(prompts) - len(whole)} of {len(prompts)} prompts are left out of the evaluation: a response "
                "has no usable reward."
            )
        return [sample for prompt in whole for sample in prompt]


def _is_usable(reward: torch.Tensor | None) -> bool:
    return reward is not None and bool(reward.isfinite().all())
