"""Generate responses: OpenRLHF's generator with checked rewards, replaced prompts and prompt selection."""

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from openrlhf.datasets.prompts_dataset import preprocess_data
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator, _collect_prompt_batch
from openrlhf.trainer.ray.vllm_engine import batch_vllm_engine_call
from openrlhf.utils.logging_utils import init_logger
from tqdm import tqdm

from openrlhf_pf.filters import FilterBatch, SampleFilter
from openrlhf_pf.training.flags.prompts import dropped_prompts, is_scored_when_generated
from openrlhf_pf.training.flags.sample_filter import filter_from_args
from openrlhf_pf.training.prompt_stream import PromptStream, success_values
from openrlhf_pf.training.rollout import attach_context, numbers_of, true_scores_or_none
from openrlhf_pf.training.true_score import one_number

logger = init_logger(__name__)

#: Finished prompts are judged once they are this share of those still pending: what is asked for sooner would only
#: wait at the engines, and judging all of G prompts after each of them would cost G² in all.
_JUDGE_SHARE = 1 / 16


def keep_numbers(response: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a response of OpenRLHF's engines whose reward, score and extra logs are one number each, or left out.

    Returns:
        The response, and what was left out, each by its name and value.
    """
    logs = response.get("extra_logs") or {}
    logs = logs if isinstance(logs, dict) else {"extra_logs": logs}
    # A list, not a dictionary: an extra log may be called reward or scores, too.
    given = [("reward", response.get("reward")), ("scores", response.get("scores")), *logs.items()]
    numbers = [one_number(value) for _, value in given]
    wrong = [f"{name} {value!r:.60}" for (name, value), x in zip(given, numbers) if value is not None and x is None]
    reward, score, *extra = numbers
    kept = {name: number for name, number in zip(logs, extra) if number is not None}
    return {**response, "reward": reward, "scores": score, "extra_logs": kept}, wrong


class CheckedGenerator(SamplesGenerator):
    """OpenRLHF's generator with our additions.

    - A reward that is not one number (a text, a list of two) would end training; here the response has no reward.
    - Each sample carries its prompt's data source, which OpenRLHF drops, and what the prompt selection knows of it.
    - With ``--sample_filter_refill``, a further prompt is asked for as soon as one is left out. The replaced prompts
      are handed on, too: the experience maker leaves them out by the same rule, so that statistics, the rollout log
      and filters that learn include all that was sampled.
    - The prompt selection learns from rewards that come back with the responses.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wrong: list[str] = []  # the first thing left out of each response of this rollout
        self._sources: dict[tuple[str, str], str] = {}  # data source by prompt and label, of this rollout
        #: Samples of replaced prompts, until they are handed on after those that fill the step.
        self.held_back: list[Experience] = []
        self._warned_of_short_step = self._has_checked_scores = False

    @torch.no_grad()
    def generate_samples(self, **generate_kwargs: Any) -> tuple[list[Experience], float | None, int, bool]:
        samples, pass_rate, consumed, exhausted = super().generate_samples(**generate_kwargs)
        samples, self.held_back = samples + self.held_back, []
        return samples, pass_rate, consumed, exhausted

    def _generate_vllm(
        self, dataloader_iter: Any, num_prompts: int, dynamic_filtering: bool, **generate_kwargs: Any
    ) -> tuple[list[Experience], int, bool]:
        trains = dataloader_iter is getattr(self, "_dataloader_iter", None)  # not an evaluation
        if trains and self.args.sample_filter_refill is not None:
            samples, consumed, exhausted = self._generate_with_refill(dataloader_iter, num_prompts, generate_kwargs)
        else:
            rows = self._record_sources(dataloader_iter) if trains else dataloader_iter
            samples, consumed, exhausted = super()._generate_vllm(
                rows, num_prompts, dynamic_filtering, **generate_kwargs
            )
        if self._wrong:
            logger.warning(
                f"{len(self._wrong)} responses came back with something else than one number, which is left out: "
                f"{self._wrong[0]}."
            )
        self._wrong = []
        generated = [*samples, *self.held_back]
        if trains and generated:
            for sample in generated:
                key = (sample.prompts[0], str(sample.labels[0] if sample.labels else ""))
                attach_context(sample, datasource=self._sources.get(key))
            if isinstance(self.prompts_dataloader, PromptStream):
                self._update_selection(generated)
        return samples, consumed, exhausted

    def _record_sources(self, rows: Iterator[tuple]) -> Iterator[tuple]:
        """Yield a loader's batches, and remember the data source of each prompt until the next call."""
        self._sources = sources = {}

        def recorded() -> Iterator[tuple]:
            for datasources, prompts, labels, images in rows:
                keys = ((prompt, str(label)) for prompt, label in zip(prompts, labels))
                sources.update(zip(keys, map(str, datasources)))
                yield datasources, prompts, labels, images

        return recorded()

    def _process_response_into_experience(self, response: dict[str, Any], **kwargs: Any) -> Experience:
        response, wrong = keep_numbers(response)
        self._wrong += wrong[:1]
        # A mean that is NaN lies in no range: if all scores were NaN, dynamic filtering would go through the whole
        # data set to find one prompt.
        if self.args.algo.dynamic_filtering_enable and math.isnan(response["scores"] or 0.0):
            response["scores"] = None
        return super()._process_response_into_experience(response, **kwargs)

    def generate_eval_samples(self, **kwargs: Any) -> list[Experience]:
        """As the parent, without the prompts that lack a reward: the caller computes means of them."""
        samples = super().generate_eval_samples(**kwargs)
        n = kwargs["n_samples_per_prompt"]
        prompts = [samples[start : start + n] for start in range(0, len(samples), n)]
        complete = [prompt for prompt in prompts if all(_is_usable(sample.rewards) for sample in prompt)]
        if len(complete) < len(prompts):
            logger.warning(
                f"{len(prompts) - len(complete)} of {len(prompts)} prompts are left out of the evaluation: a response "
                "has no usable reward."
            )
        return [sample for prompt in complete for sample in prompt]

    # ── Refill ──

    def _generate_with_refill(
        self, dataloader_iter: Any, num_prompts: int, generate_kwargs: dict[str, Any]
    ) -> tuple[list[Experience], int, bool]:
        finished = FinishedPrompts(self.args, filter_from_args(self.args))
        limit = int(num_prompts * self.args.sample_filter_refill)
        rows = self._record_sources(dataloader_iter)
        pending, exhausted = self._request(rows, num_prompts, generate_kwargs)
        if not pending:
            return [], 0, True
        wanted = taken = len(pending)
        with tqdm(total=wanted, desc="Generate samples") as bar:
            while pending:
                ready, pending = _wait(pending)
                for responses in ray.get(ready):
                    finished.add([self._process_response_into_experience(r, **generate_kwargs) for r in responses])
                if not finished.is_worth_judging(len(pending)):
                    continue
                trained = int(finished.trains().sum())
                bar.update(trained - bar.n)
                missing = min(wanted - trained - len(pending), limit - taken)
                if missing > 0 and not exhausted:
                    if isinstance(self.prompts_dataloader, PromptStream):
                        missing = self.prompts_dataloader.select_further(missing)
                    further, exhausted = self._request(rows, missing, generate_kwargs)
                    pending, taken = pending + further, taken + len(further)
        if trained < wanted and not exhausted and not self._warned_of_short_step:
            self._warned_of_short_step = True
            why = f"--sample_filter_refill {self.args.sample_filter_refill:g} allows no more"
            logger.warning(
                f"A step continues with {trained} of {wanted} prompts: {taken} were sampled for it, and "
                f"{why if taken == limit else 'the data set has no others'}. This is said once."
            )
        samples: dict[bool, list[Experience]] = {True: [], False: []}
        for group, train in zip(finished.groups, finished.trains().tolist()):
            samples[train] += group
        self.held_back = samples[False]
        return samples[True], taken, exhausted

    def _request(self, rows: Any, count: int, generate_kwargs: dict[str, Any]) -> tuple[list[Any], bool]:
        """Send up to ``count`` prompts to the engines; return their future answers and whether the data set ended."""
        prompts, labels, images, exhausted = _collect_prompt_batch(rows, count)
        return self._dispatch_prompts_to_vllm(prompts, labels, images=images, **generate_kwargs), exhausted

    # ── Prompt selection ──

    def _update_selection(self, samples: Sequence[Experience]) -> None:
        """Attach what the selection knew of the prompts, and show it the results if responses come back scored."""
        stream = self.prompts_dataloader
        stream.attach_posterior(samples)
        # The trainer does so with a local reward model's rewards.
        values = success_values(samples, self.args) if is_scored_when_generated(self.args) else None
        if values is None:
            return
        if self.args.prompt_selection_success == "score" and not self._has_checked_scores:
            self._has_checked_scores = True  # the first rollout decides
            scores, rewards = (numbers_of(samples, name, 1) for name in ("scores", "rewards"))
            if true_scores_or_none(scores, rewards) is None:
                logger.warning(
                    "--prompt_selection_success score uses the rewards: every score of the first rollout equals its "
                    "reward, which OpenRLHF fills in if the reward function or the agent returns none."
                )
        stream.observe(samples, values)


class FinishedPrompts:
    """The prompts of a step whose responses are complete, and which of them will train.

    All are judged together each time, as the experience maker will judge them: ``variance_top_p`` compares them with
    each other, and only all of them together show whether there are true scores.
    """

    def __init__(self, args: SimpleNamespace, sample_filter: SampleFilter) -> None:
        self.args = args
        self.filter = sample_filter
        self.groups: list[list[Experience]] = []
        self._values: list[NDArray] = []  # (2, N) rewards and scores of each
        self._unjudged = 0

    def add(self, group: list[Experience]) -> None:
        """Add a prompt with its N samples."""
        self.groups.append(group)
        self._values.append(np.concatenate([numbers_of(group, name, len(group)) for name in ("rewards", "scores")]))
        self._unjudged += 1

    def is_worth_judging(self, pending: int) -> bool:
        """Return whether enough prompts came since the last judgement, with ``pending`` ones still to come."""
        return self._unjudged >= _JUDGE_SHARE * pending

    def trains(self) -> NDArray[np.bool_]:
        """Return (G,) bool, in the order in which the prompts came."""
        self._unjudged = 0
        if not self._values:
            return np.zeros(0, dtype=bool)
        rewards, scores = np.stack(self._values, axis=1)
        batch = FilterBatch(rewards, scores=true_scores_or_none(scores, rewards))
        return ~(self.filter.too_few_usable(batch) | dropped_prompts(self.args, batch))


def _is_usable(reward: torch.Tensor | None) -> bool:
    return reward is not None and bool(reward.isfinite().all())


def _wait(refs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Wait for at least one answer; return those that are ready, and the others."""
    ready, rest = ray.wait(refs, num_returns=1)
    also, rest = ray.wait(rest, num_returns=len(rest), timeout=0) if rest else ([], [])
    return ready + also, rest


class PromptSampler:
    """Draws N responses to each of some prompts, with the settings of training.

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
        """Return N samples of each row's prompt; wakes sleeping engines."""
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
