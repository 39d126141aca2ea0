"""Score all samples, filter, draw, and hand the kept ones on to OpenRLHF's own experience maker.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import copy
import hashlib
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import (
    Experience,
)
from openrlhf.trainer.ppo_utils.experience import make_experience_batch as stack_experiences
from openrlhf.trainer.ppo_utils.experience import remove_padding_in_sequences, split_experience_batch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.filters import FilterBatch, select
from openrlhf_pf.training.arguments import filter_from_args
from openrlhf_pf.training.metrics import filter_metrics

logger = init_logger(__name__)


class NothingToTrain(Exception):
    """A rollout of which no sample can train: no usable reward, or too few samples for the ranks to share."""


def with_samples_per_prompt(args: SimpleNamespace, n_samples: int) -> SimpleNamespace:
    """Return ``args`` with another ``rollout.n_samples_per_prompt``; everything else is shared, nothing is changed."""
    args = copy.copy(args)
    args.rollout = copy.copy(args.rollout)
    args.rollout.n_samples_per_prompt = n_samples
    return args


def micro_batches(items: list, size: int, ranks: int) -> list[list]:
    """Cut ``items`` into micro-batches of at most ``size``: as many, with as many items, for every rank.

    OpenRLHF hands each of R ranks ceil(micro-batches / R): with any other number, the last ranks get fewer forward
    passes or none, and a collective in one of them (ZeRO-3, gradient reduction) waits for ever.
    """
    assert len(items) % ranks == 0, f"{len(items)} items for {ranks} ranks"
    number = ranks * math.ceil(len(items) / ranks / size)
    edges = [len(items) * i // number for i in range(number + 1)]
    return [items[start:end] for start, end in pairwise(edges)]


def filled_up(samples: list[Experience], ranks: int) -> list[Experience]:
    """Append copies until every rank has as many samples; for forward passes only, where the answer is not used."""
    return samples + [replace(samples[i % len(samples)]) for i in range(-len(samples) % ranks)]


class FilteringExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker behind a sample filter.

    The reward model (or the remote reward) scores all N samples of a prompt; actor, critic and reference run on the k
    kept ones only. The filter acts on the reward model's own score: KL, clipping and length penalties come later.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filter = filter_from_args(self.args)
        self.seed = self.args.train.seed if self.args.sample_filter_seed is None else self.args.sample_filter_seed
        #: Step whose rollout is made next, set by the trainer: with the seed it decides every draw.
        self.step = 0
        #: All N samples of the last rollout, scored, and the metrics of their filtering.
        self.rollout: list[Experience] = []
        self.metrics: dict[str, float] = {}
        self._drawn: list[int] | None = None
        # The parent reshapes rewards to (prompts, samples a prompt): what it sees is k samples a prompt.
        self.args = with_samples_per_prompt(self.args, self.filter.keep)
        self.strategy = copy.copy(self.strategy)
        self.strategy.args = self.args

    # ── Ranks ──

    @property
    def _ranks(self) -> int:
        """Shares that the kept samples are cut into: each model's ranks get the same number of them."""
        groups = (self.actor_model_group, self.critic_model_group, self.initial_model_group)
        return math.lcm(*(_ranks_of(group) for group in groups if group is not None))

    @property
    def _samples_unit(self) -> int:
        """The number of kept samples is a multiple of this, so that every rank trains whole micro-batches."""
        if self.args.train.dynamic_batch_enable:
            return math.lcm(self._ranks, self.args.train.batch_size)
        return self._ranks * self.args.train.micro_batch_size

    # ── The way of a rollout: score, filter, draw, hand on ──

    @torch.no_grad()
    def make_experience_batch(self, rollout_samples: list[Experience]) -> list[Experience]:
        """Turn a rollout of G x N scored or unscored samples into experiences of the kept ones.

        Raises:
            NothingToTrain: no sample can train; ``self.metrics`` says why.
        """
        groups = self._groups(rollout_samples)
        self._score(rollout_samples)
        self.rollout = rollout_samples
        batch = FilterBatch(
            torch.tensor([[_number(sample.rewards) for sample in group] for group in groups], dtype=torch.float64),
            torch.Generator().manual_seed(_mix(self.seed, self.step)),
        )
        counts = select(self.filter(batch), self.filter.keep, batch.order, batch.generator)
        counts = self._trim(counts, batch.generator)
        self.metrics = filter_metrics(batch, counts, _scores(groups))
        kept = self._keep(groups, counts, batch.order)
        logger.info(
            f"Sample filter {self.args.sample_filter}: {len(rollout_samples)} samples scored, {len(kept)} kept for "
            f"actor, critic and reference, {int(counts.sum())} drawn for training"
        )
        if not kept:
            raise NothingToTrain
        return super().make_experience_batch(filled_up(kept, self._ranks))

    def _groups(self, samples: list[Experience]) -> list[list[Experience]]:
        """Cut the rollout into its prompts, in an order that does not depend on which prompt was finished first.

        The generator delivers the N samples of a prompt together, and prompts as they finish. The text of a prompt
        does not tell groups apart (a data set can hold it twice), their place does.
        """
        n = self.filter.n_samples
        groups = [samples[start : start + n] for start in range(0, len(samples), n)]
        for group in groups:
            if len(group) != n or any(sample.prompts != group[0].prompts for sample in group):
                raise RuntimeError(
                    f"expected the {n} samples of each prompt side by side in the rollout, got {len(group)} "
                    "of different prompts: this OpenRLHF delivers rollouts in another order than 0.11.2 does."
                )
        return sorted(groups, key=_fingerprint)

    def _score(self, samples: list[Experience]) -> None:
        """Let the reward model score every sample, unless a reward function or an agent has done so."""
        if self.reward_model_group is None or all(sample.rewards is not None for sample in samples):
            return
        ranks = _ranks_of(self.reward_model_group)
        batches = self._batches(filled_up(samples, ranks), ranks)
        refs = self._dispatch_forward(
            self.reward_model_group,
            self.args.train.colocate_all or self.args.train.colocate_critic_reward,
            sequences=[batch.sequences for batch in batches],
            attention_mask=[batch.attention_mask for batch in batches],
            pad_sequence=[True] * len(batches),
        )
        rewards = torch.cat(self._flatten_results(refs, self.reward_model_group.duplicate_actors))
        for place, reward in zip((i for batch in batches for i in batch.index), rewards.split(1)):
            if place < len(samples):
                samples[place].rewards = reward
                samples[place].info["reward"] = reward

    def _trim(self, counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Drop as few prompts as it takes for the ranks to share the rest evenly, at random.

        At random, because prompts that finish last have the longest responses.
        """
        unit = self._samples_unit // math.gcd(self._samples_unit, self.filter.keep)
        trained = counts.sum(dim=1).nonzero().squeeze(1)
        surplus = trained[torch.randperm(len(trained), generator=generator)[: len(trained) % unit]]
        counts[surplus] = 0
        return counts

    def _keep(self, groups: list[list[Experience]], counts: torch.Tensor, order: torch.Tensor) -> list[Experience]:
        """List the kept samples prompt by prompt, best first; note the draws where one was drawn more than once."""
        kept: list[Experience] = []
        drawn: list[int] = []
        for group, count, ranked in zip(groups, counts.tolist(), order.tolist()):
            for sample in ranked:
                if count[sample]:
                    drawn += [len(kept)] * count[sample]
                    kept.append(group[sample])
        self._drawn = drawn if len(drawn) > len(kept) else None
        return kept

    # ── What the parent calls ──

    def split_rollout_samples(self, rollout_samples: list[Experience]) -> list[Experience]:
        """Cut the kept samples into micro-batches, the same number of the same size for every rank."""
        return self._batches(rollout_samples, self._ranks)

    def _batches(self, samples: list[Experience], ranks: int) -> list[Experience]:
        if self.args.train.dynamic_batch_enable:
            return super().split_rollout_samples(samples)
        for place, sample in enumerate(samples):
            sample.index = [place]
        return [
            Experience.concat_experiences(batch, self.tokenizer.pad_token_id)
            for batch in micro_batches(samples, self.args.rollout.micro_batch_size, ranks)
        ]

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """Repeat samples that were drawn more than once (after their one forward pass), then do as the parent does."""
        if self._drawn is not None:
            experiences = self._repeat(experiences, self._drawn)
        return super().compute_advantages_and_returns(experiences)

    def _repeat(self, experiences: list[Experience], drawn: list[int]) -> list[Experience]:
        places = [place for experience in experiences for place in experience.index]
        singles = [item for experience in experiences for item in split_experience_batch(experience)]
        by_place = dict(zip(places, remove_padding_in_sequences(singles)))
        items = [replace(by_place[place], index=[i]) for i, place in enumerate(drawn)]
        batches = micro_batches(items, self.args.rollout.micro_batch_size, self._ranks)
        repeated = [stack_experiences(batch) for batch in batches]
        for experience in repeated:
            experience.info = {key: torch.stack(values) for key, values in experience.info.items()}
        return repeated


def _ranks_of(group: Any) -> int:
    return len(group._actor_handlers) // group.duplicate_actors


def _number(value: torch.Tensor | None) -> float:
    return math.nan if value is None else float(value)


def _scores(groups: list[list[Experience]]) -> torch.Tensor | None:
    """(G, N) true scores, NaN where one is missing, or None where there are none beside the rewards.

    OpenRLHF fills a missing score in with the reward; such copies say nothing about the reward model.
    """
    pairs = [[(_number(sample.rewards), _number(sample.scores)) for sample in group] for group in groups]
    if all(math.isnan(score) or score == reward for group in pairs for reward, score in group):
        return None
    return torch.tensor([[score for _, score in group] for group in pairs], dtype=torch.float64)


def _fingerprint(group: list[Experience]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for sample in group:
        digest.update(sample.sequences.contiguous().numpy().tobytes())
    return digest.digest()


def _mix(seed: int, step: int) -> int:
    """One generator seed a step, from the run's seed: a resumed run draws what the unbroken run would have drawn."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest(), "big") >> 1
