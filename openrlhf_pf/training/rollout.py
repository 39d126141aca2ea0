"""The scored samples of one step, prompt by prompt: what a filter may ask of them, and what the rollout log records.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, M reward models.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties
from torch import Tensor

from openrlhf_pf.filters import Draw, FilterBatch
from openrlhf_pf.rollout_log import prompt_id
from openrlhf_pf.training.context import noted

#: What OpenRLHF itself writes into ``info`` before the models' forward passes; the rest are the user's extra logs.
_INFO_OF_HOST = ("response_clip_ratio", "reward", "score")


#: Prompts of a part of the rollout log: their columns are Python objects until Arrow has them.
PART = 512


class Rollout:
    """G x N samples in an order that does not depend on which prompt was finished first.

    The generator delivers the N samples of a prompt together, and prompts as they finish. The text of a prompt does
    not tell groups apart (a data set can hold it twice), their place does.

    Args:
        samples: OpenRLHF's experiences of one sample each, as generated.
        n_samples: N.

    Raises:
        RuntimeError: the N samples of each prompt are not side by side.
    """

    def __init__(self, samples: Sequence[Experience], n_samples: int) -> None:
        groups = [samples[start : start + n_samples] for start in range(0, len(samples), n_samples)]
        for group in groups:
            if len(group) != n_samples or any(sample.prompts != group[0].prompts for sample in group):
                raise RuntimeError(
                    f"expected the {n_samples} samples of each prompt side by side in the rollout, got {len(group)} "
                    "of different prompts: this OpenRLHF delivers rollouts in another order than 0.11.2 does."
                )
        self.groups = sorted(groups, key=_fingerprint)
        self.samples = [sample for group in self.groups for sample in group]
        self.n_samples = n_samples
        #: (M, G, N) the scores of the ensemble's reward models, and the models' names.
        self.model_rewards: Tensor | None = None
        self.model_names: Sequence[str] = ()
        #: Whether the scores are known to be true ones, even where they are the rewards' equals.
        self.truly_scored = False
        self._shaped: Experience | None = None

    def _table(self, values: Sequence[Any], dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(values, dtype=dtype).reshape(-1, self.n_samples)

    @cached_property
    def rewards(self) -> Tensor:
        """(G, N) float64, NaN where one is missing; only once all are scored."""
        return self._table([number(sample.rewards) for sample in self.samples])

    def _by_usable_reward(self, wanted: bool) -> list[Experience]:
        usable = self.rewards.isfinite().flatten().tolist()
        return [sample for sample, use in zip(self.samples, usable) if use == wanted]

    def samples_without_reward(self) -> list[Experience]:
        """Copies of those without a usable reward, without what is known of the others."""
        return [replace(sample, info={}) for sample in self._by_usable_reward(False)]

    def shaped(self, args: SimpleNamespace) -> Experience | None:
        """One batch of those with a usable reward, with the length penalties that training sees in it; made once.

        It holds what penalties and statistics read, a number a sample each; None if no reward is usable.
        """
        if self._shaped is None and (usable := self._by_usable_reward(True)):
            # A reward function that answers with a list leaves (1, 1).
            rewards = torch.cat([sample.rewards.reshape(1) for sample in usable]).float()
            lengths, truncated = (
                None if getattr(usable[0], name) is None else torch.cat([getattr(sample, name) for sample in usable])
                for name in ("response_length", "truncated")
            )
            self._shaped = Experience(
                rewards=rewards, response_length=lengths, truncated=truncated, info={"reward": rewards.clone()}
            )
            apply_length_penalties([self._shaped], args)
        return self._shaped

    @cached_property
    def scores(self) -> Tensor | None:
        """(G, N) true scores, NaN where one is missing, or None where there are none beside the rewards.

        OpenRLHF fills a missing score in with the reward; such copies say nothing about the reward model.
        """
        scores = self._table([number(sample.scores) for sample in self.samples])
        return scores if self.truly_scored else beside_rewards(scores, self.rewards)

    @cached_property
    def response_lengths(self) -> Tensor:
        """(G, N) int64 tokens."""
        return self._table([int(sample.response_length) for sample in self.samples], torch.long)

    @cached_property
    def extra_logs(self) -> dict[str, Tensor]:
        """Name to (G, N), NaN where a sample has none."""
        names = sorted({name for sample in self.samples for name in sample.info} - set(_INFO_OF_HOST))
        return {name: self._table([number(sample.info.get(name)) for sample in self.samples]) for name in names}

    def responses(self, tokenizer: Any) -> list[list[str]]:
        """G x N texts."""
        return [[_response_text(sample, tokenizer) for sample in group] for group in self.groups]

    def _noted(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """(G,) what was noted of each prompt where it was generated; None where nothing was."""
        values = noted(self.groups, name)
        return None if values is None else torch.tensor(values, dtype=dtype)

    def filter_batch(self, rank_by: str, generator: np.random.Generator, step: int, tokenizer: Any) -> FilterBatch:
        """What the filter sees; ``rank_by`` is a member of ``arguments.RANKINGS``."""
        batch = FilterBatch(
            self.rewards,
            generator,
            step,
            response_lengths=lambda: self.response_lengths,
            response_tokens=lambda: [[_response_tokens(sample) for sample in group] for group in self.groups],
            prompts=lambda: [group[0].prompts[0] for group in self.groups],
            responses=lambda: self.responses(tokenizer),
            labels=lambda: [_label(group[0]) or "" for group in self.groups],
            datasources=noted(self.groups, "datasource"),
            posterior_mean=self._noted("posterior_mean", torch.float64),
            visits=self._noted("visits", torch.long),
            scores=self.scores,
            extra_logs=lambda: self.extra_logs,
            model_rewards=self.model_rewards,
        )
        if rank_by == "reward":
            return batch
        return batch.ranked_by(batch.ensemble_mean if rank_by == "ensemble_mean" else batch.lower_bound())

    def log_parts(self, *what: Any) -> Iterator[dict[str, Sequence[Any]]]:
        """What :meth:`log_rows` returns, of ``PART`` prompts after another."""
        for start in range(0, len(self.groups), PART):
            yield self.log_rows(*what, slice(start, start + PART))

    def log_rows(
        self, weights: Tensor, drawn: Draw, batch: FilterBatch, tokenizer: Any, groups: slice = slice(None)
    ) -> dict[str, Sequence[Any]]:
        """The columns of the rollout log, but for the step, of some of the prompts; texts are decoded here."""
        samples = [sample for group in self.groups[groups] for sample in group]
        counts = drawn.counts[groups].flatten().tolist()
        order = torch.from_numpy(batch.order[groups])
        ranks = torch.empty_like(order)
        ranks.scatter_(1, order, torch.arange(1, self.n_samples + 1).expand_as(order))
        usable = batch.usable[groups].flatten().tolist()
        prompts = [sample.prompts[0] for sample in samples]
        names, models = self.model_names, self.model_rewards
        by_model = [[]] * len(counts) if models is None else models[:, groups].flatten(1).T.tolist()
        copies = self.scores is None  # they are copies of the rewards, or missing
        extra = {name: values[groups].flatten().tolist() for name, values in self.extra_logs.items()}
        return {
            "group": [place // self.n_samples + (groups.start or 0) for place in range(len(counts))],
            "prompt_id": [prompt_id(prompt) for prompt in prompts],
            "prompt": prompts,
            "response": [_response_text(sample, tokenizer) for sample in samples],
            "label": [_label(sample) for sample in samples],
            "prompt_tokens": [_first_action(sample) for sample in samples],
            "response_tokens": self.response_lengths[groups].flatten().tolist(),
            "truncated": [None if s.truncated is None else bool(s.truncated) for s in samples],
            "reward": [None if s.rewards is None else float(s.rewards) for s in samples],
            "model_rewards": [dict(zip(names, values)) for values in by_model],
            "score": [None if copies or s.scores is None else float(s.scores) for s in samples],
            "extra_logs": [{name: values[place] for name, values in extra.items()} for place in range(len(counts))],
            "rank": [rank if use else None for rank, use in zip(ranks.flatten().tolist(), usable)],
            "weight": weights[groups].flatten().tolist(),
            "kept": [count > 0 for count in counts],
            "draws": counts,
        }


def number(value: Tensor | None) -> float:
    """What is in a tensor of one element; NaN for None."""
    return math.nan if value is None else float(value)


def beside_rewards(scores: Tensor, rewards: Tensor) -> Tensor | None:
    """Scores as OpenRLHF hands them on (any shape), or None where all are copies of the rewards, or missing."""
    return None if (scores.isnan() | (scores == rewards)).all() else scores


def _label(sample: Experience) -> str | None:
    label = sample.labels[0] if sample.labels else None
    return None if label is None else str(label)


def _first_action(sample: Experience) -> int:
    """Tokens before the first one that the policy wrote; all where it wrote none, as an agent without room for it."""
    written = sample.action_mask[0].nonzero()
    return int(written[0]) + 1 if len(written) else sample.sequences.shape[1]


def _response_tokens(sample: Experience) -> Tensor:
    """From the first token that the policy wrote to the last, with what an environment answered in between."""
    written = sample.action_mask[0].nonzero()
    if not len(written):
        return sample.sequences[0, :0]
    return sample.sequences[0, 1 + int(written[0]) : 2 + int(written[-1])]


def _response_text(sample: Experience, tokenizer: Any) -> str:
    return tokenizer.decode(_response_tokens(sample).tolist(), skip_special_tokens=True)


def _fingerprint(group: Sequence[Experience]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for sample in group:
        digest.update(sample.sequences.contiguous().numpy().tobytes())
    return digest.digest()
