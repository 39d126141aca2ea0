"""What a local reward model's workers are asked for, and how to ask them while a rollout is still being generated.

A filter has every other forward pass wait for the rewards, and a reward model with GPUs of its own has nothing to do
during generation. With ``--sample_filter_score_ahead`` finished prompts are sent to it at once.

The rewards are the very numbers that the experience maker would get afterwards. What a micro-batch is padded to
decides their last digits, so the micro-batches have to be the same, whichever prompt finishes first: where
``--rollout.micro_batch_size`` divides N and the ranks share a rollout's micro-batches evenly, each of them holds
samples of one prompt only, the first of them, the next, .... A rollout that they cannot share so, as the last one of a
data set may be, is left to the experience maker.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Any

import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.training.context import NotingGenerator

logger = init_logger(__name__)

#: What a reward model reads of a sample.
READ = ("sequences", "attention_mask")
#: Waves that the workers have at a time: the one that they are at, and the next.
IN_FLIGHT = 2


def ranks_of(group: Any) -> int:
    """Data-parallel ranks of a model: its workers, less those that ring attention and tensor parallelism join."""
    return len(group._actor_handlers) // group.duplicate_actors


def part_of(sample: Experience, names: Sequence[str] = READ) -> Experience:
    """A sample with these fields alone, so that no batch holds a copy of all else that is known of it."""
    return Experience(**{name: getattr(sample, name) for name in names})


def inputs_of(batches: Sequence[Experience]) -> dict[str, list]:
    """What ``RewardModelActor.forward`` takes, a value each micro-batch."""
    return {
        "sequences": [batch.sequences for batch in batches],
        "attention_mask": [batch.attention_mask for batch in batches],
        "pad_sequence": [True] * len(batches),
    }


class AheadScorer:
    """Has the samples of one rollout scored, prompt by prompt as they finish.

    They are sent in the order in which they come, in waves of whole prompts that give every rank as many
    micro-batches; at most ``IN_FLIGHT`` waves are under way, and the others wait here.

    Args:
        group: the reward model's workers.
        n_samples: N.
        micro_batch_size: samples of a forward pass; divides N.
        pad_token_id: what fills the sequences of a micro-batch up to the longest.
    """

    def __init__(self, group: Any, n_samples: int, micro_batch_size: int, pad_token_id: int) -> None:
        assert n_samples % micro_batch_size == 0, "a micro-batch holds samples of one prompt"
        self.group = group
        self.size = micro_batch_size
        self.pad_token_id = pad_token_id
        #: Samples of a wave.
        self.wave = math.lcm(n_samples, ranks_of(group) * micro_batch_size)
        self._waiting: list[Experience] = []
        self._sent: deque[tuple[list[Experience], list[Any]]] = deque()  # the samples of each wave, and its answers

    def shares_evenly(self, n_samples: int) -> bool:
        """Whether so many samples are whole waves."""
        return n_samples % self.wave == 0

    def add(self, samples: Sequence[Experience]) -> None:
        """Take on a finished prompt; waits for nothing.

        Raises:
            ray.exceptions.RayError: a worker has died, or has failed at what it was sent.
        """
        self._waiting += samples
        while self._sent and self._is_there(self._sent[0][1]):
            self._take()
        self._send()

    def finish(self) -> int:
        """Wait until all have their rewards.

        Returns:
            How many samples had none when it was called.

        Raises:
            ray.exceptions.RayError: as :meth:`add`.
        """
        assert self.shares_evenly(len(self._waiting)), f"{len(self._waiting)} samples are no whole waves"
        left = len(self._waiting) + sum(len(samples) for samples, _ in self._sent)
        while self._waiting or self._sent:
            self._send()
            self._take()
        return left

    @staticmethod
    def _is_there(refs: list[Any]) -> bool:
        done, missing = ray.wait(refs, num_returns=len(refs), timeout=0)
        ray.get(done)  # raises where a worker has failed, and another of its wave may wait for it for ever
        return not missing

    def _take(self) -> None:
        samples, refs = self._sent.popleft()
        answers = ray.get(refs)[:: self.group.duplicate_actors]
        rewards = torch.cat(list(chain.from_iterable(answers)))
        for sample, reward in zip(samples, rewards.split(1), strict=True):
            sample.rewards = sample.info["reward"] = reward

    def _send(self) -> None:
        while len(self._waiting) >= self.wave and len(self._sent) < IN_FLIGHT:
            samples, self._waiting = self._waiting[: self.wave], self._waiting[self.wave :]
            read = [part_of(sample) for sample in samples]
            batches = [
                Experience.concat_experiences(read[start : start + self.size], self.pad_token_id)
                for start in range(0, self.wave, self.size)
            ]
            refs = self.group.async_run_method_batch(method_name="forward", **inputs_of(batches))
            self._sent.append((samples, refs))


class ScoringGenerator(NotingGenerator):
    """OpenRLHF's generator, which hands each finished prompt on to the reward model."""

    #: The reward model's workers; the trainer says which.
    reward_model_group: Any = None
    _trains_now = False
    _scorer: AheadScorer | None = None  # of the rollout that is being generated
    _unfinished: list[Experience]  # the samples so far of the prompt that is being read

    def _generate_vllm(self, dataloader_iter: Any, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        self._trains_now = self._trains(dataloader_iter)
        try:
            found = super()._generate_vllm(dataloader_iter, *args, **kwargs)
            if self._scorer is not None:
                start = time.time()
                left = self._scorer.finish()
                logger.info(
                    f"Scored ahead: {len(found[0]) - left} of {len(found[0])} samples while others were generated, "
                    f"{left} in {time.time() - start:.2f} s afterwards"
                )
        finally:
            self._trains_now, self._scorer = False, None
        return found

    def _dispatch_prompts_to_vllm(self, prompts: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        if self._trains_now:
            rollout = self.args.rollout
            n_samples, size = rollout.n_samples_per_prompt, rollout.micro_batch_size
            scorer = AheadScorer(self.reward_model_group, n_samples, size, self.tokenizer.pad_token_id)
            self._scorer = scorer if scorer.shares_evenly(len(prompts) * n_samples) else None
            self._unfinished = []
        return super()._dispatch_prompts_to_vllm(prompts, *args, **kwargs)

    def _process_response_into_experience(self, response: dict[str, Any], **kwargs: Any) -> Experience:
        """As the parent, which is called for the N responses of one prompt after the other."""
        sample = super()._process_response_into_experience(response, **kwargs)
        if self._scorer is not None:
            self._unfinished.append(sample)
            if len(self._unfinished) == self.args.rollout.n_samples_per_prompt:
                self._scorer.add(self._unfinished)
                self._unfinished = []
        return sample
