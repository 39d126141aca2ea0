"""The scored samples of one step, prompt by prompt: what filters and the rollout log read.

Tensors of OpenRLHF become numpy arrays here. Shapes: G prompts (groups), N scored samples per prompt, M reward models.
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
from numpy.typing import NDArray
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties

from openrlhf_pf.filters import Draw, FilterBatch
from openrlhf_pf.rollout_log import prompt_id

#: What OpenRLHF itself writes into ``info`` before the models' forward passes; the rest are the user's extra logs.
_INFO_OF_HOST = ("response_clip_ratio", "reward", "score")
#: The attribute of a sample that carries its prompt's context. OpenRLHF neither reads nor copies it; its own ``info``
#: would be logged, and may hold numbers only.
_CONTEXT = "prompt_context"
#: Prompts per part of the rollout log, whose columns are Python objects until Arrow has them.
PART = 512


def derive_seed(seed: int, step: int) -> int:
    """Return the seed of one step's generator, so that a resumed run draws what the unbroken run would have drawn."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest(), "big") >> 1


def attach_context(sample: Experience, **context: Any) -> None:
    """Attach what is known of a sample's prompt, by name, so that it travels with the sample to where filters are."""
    vars(sample).setdefault(_CONTEXT, {}).update(context)


def read_context(groups: Sequence[Sequence[Experience]], name: str) -> list[Any] | None:
    """Return the G values attached to the prompts of grouped samples; None if a prompt lacks it."""
    values = [vars(group[0]).get(_CONTEXT, {}).get(name) for group in groups]
    return None if not values or any(value is None for value in values) else values


def to_number(value: torch.Tensor | None) -> float:
    """Return what is in a tensor of one element; NaN for None."""
    return math.nan if value is None else float(value)


def numbers_of(samples: Sequence[Experience], name: str, n_samples: int) -> NDArray[np.float64]:
    """Return an attribute of G N samples as (G, N) numbers, NaN where one is missing."""
    return np.array([to_number(getattr(sample, name)) for sample in samples], dtype=np.float64).reshape(-1, n_samples)


def true_scores_or_none(scores: NDArray, rewards: NDArray) -> NDArray | None:
    """Return scores (any shape), or None if all are copies of the rewards, or missing.

    OpenRLHF fills in the reward for a missing score; such copies say nothing about the reward model.
    """
    return None if (np.isnan(scores) | (scores == rewards)).all() else scores


class Rollout:
    """G x N samples in an order that does not depend on which prompt was finished first.

    The generator delivers the N samples of a prompt together, and prompts as they finish. Groups are known by their
    place, not by the prompt's text: a data set can hold it twice.

    Args:
        samples: OpenRLHF's experiences of one sample each, as generated.
        n_samples: N.

    Raises:
        RuntimeError: the N samples of each prompt are not contiguous.
    """

    def __init__(self, samples: Sequence[Experience], n_samples: int) -> None:
        groups = [samples[start : start + n_samples] for start in range(0, len(samples), n_samples)]
        for group in groups:
            if len(group) != n_samples or any(sample.prompts != group[0].prompts for sample in group):
                raise RuntimeError(
                    f"expected the {n_samples} samples of each prompt side by side in the rollout, got {len(group)} "
                    "of different prompts: this OpenRLHF delivers rollouts in another order than 0.11.2 does."
                )
        self.groups = sorted(groups, key=_digest)
        self.samples = [sample for group in self.groups for sample in group]
        self.n_samples = n_samples
        #: (M, G, N) the scores of the ensemble's reward models, and the models' names.
        self.model_rewards: NDArray[np.float64] | None = None
        self.model_names: Sequence[str] = ()
        #: Whether the scores are known to be true ones, even if they equal the rewards.
        self.has_true_scores = False
        #: (G, N) rewards before true scores of this rollout became rewards; None where none did.
        self.unseen_rewards: NDArray[np.float64] | None = None
        self._penalized: Experience | None = None

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """(G, N), NaN where one is missing; only when all are scored."""
        return numbers_of(self.samples, "rewards", self.n_samples)

    @cached_property
    def scores(self) -> NDArray[np.float64] | None:
        """(G, N) true scores, NaN where one is missing, or None if there are none in addition to the rewards."""
        scores = numbers_of(self.samples, "scores", self.n_samples)
        return scores if self.has_true_scores else true_scores_or_none(scores, self.rewards)

    @property
    def measured_rewards(self) -> NDArray[np.float64]:
        """(G, N) the rewards to compare with true scores: none that is made from the true score itself."""
        return self.rewards if self.unseen_rewards is None else self.unseen_rewards

    @cached_property
    def response_lengths(self) -> NDArray[np.int64]:
        """(G, N) tokens."""
        lengths = [int(sample.response_length) for sample in self.samples]
        return np.array(lengths, dtype=np.int64).reshape(-1, self.n_samples)

    @cached_property
    def extra_logs(self) -> dict[str, NDArray[np.float64]]:
        """Name to (G, N), NaN where a sample has none."""
        names = sorted({name for sample in self.samples for name in sample.info} - set(_INFO_OF_HOST))
        values = {name: [to_number(sample.info.get(name)) for sample in self.samples] for name in names}
        return {name: np.array(row).reshape(-1, self.n_samples) for name, row in values.items()}

    def _by_usable_reward(self, wanted: bool) -> list[Experience]:
        usable = np.isfinite(self.rewards).ravel().tolist()
        return [sample for sample, is_usable in zip(self.samples, usable) if is_usable == wanted]

    def samples_without_reward(self) -> list[Experience]:
        """Return copies of the samples without a usable reward, with empty ``info``."""
        return [replace(sample, info={}) for sample in self._by_usable_reward(False)]

    def penalized(self, args: SimpleNamespace) -> Experience | None:
        """Return one batch of the samples with a usable reward, with the length penalties that training applies.

        It holds only what penalties and statistics read, and is made once; None if no reward is usable.
        """
        if self._penalized is None and (usable := self._by_usable_reward(True)):
            # A reward function that returns a list leaves (1, 1).
            rewards = torch.cat([sample.rewards.reshape(1) for sample in usable]).float()
            lengths, truncated = (
                None if getattr(usable[0], name) is None else torch.cat([getattr(sample, name) for sample in usable])
                for name in ("response_length", "truncated")
            )
            self._penalized = Experience(
                rewards=rewards, response_length=lengths, truncated=truncated, info={"reward": rewards.clone()}
            )
            apply_length_penalties([self._penalized], args)
        return self._penalized

    def filter_batch(self, rank_by: str, generator: Any, step: int, tokenizer: Any) -> FilterBatch:
        """Return what the filter reads; ``rank_by`` as in ``--sample_filter_rank_by``."""
        batch = FilterBatch(
            self.rewards,
            generator,
            step,
            response_lengths=lambda: self.response_lengths,
            response_tokens=lambda: [[_response_tokens(sample) for sample in group] for group in self.groups],
            prompts=lambda: [group[0].prompts[0] for group in self.groups],
            responses=lambda: [[_response_text(sample, tokenizer) for sample in group] for group in self.groups],
            labels=lambda: [_label(group[0]) or "" for group in self.groups],
            datasources=read_context(self.groups, "datasource"),
            posterior_mean=read_context(self.groups, "posterior_mean"),
            visits=read_context(self.groups, "visits"),
            scores=self.scores if self.unseen_rewards is None else None,  # no filter learns from their own rewards
            extra_logs=lambda: self.extra_logs,
            model_rewards=self.model_rewards,
        )
        if rank_by == "reward":
            return batch
        return batch.ranked_by(batch.ensemble_mean if rank_by == "ensemble_mean" else batch.lower_bound())

    def log_parts(self, *columns: Any) -> Iterator[dict[str, Sequence[Any]]]:
        """Yield what :meth:`log_rows` returns, ``PART`` prompts at a time."""
        for start in range(0, len(self.groups), PART):
            yield self.log_rows(*columns, slice(start, start + PART))

    def log_rows(
        self, weights: NDArray, drawn: Draw, batch: FilterBatch, tokenizer: Any, groups: slice = slice(None)
    ) -> dict[str, Sequence[Any]]:
        """Return the columns of the rollout log, except the step, of some of the prompts; decodes texts."""
        samples = [sample for group in self.groups[groups] for sample in group]
        counts = drawn.counts[groups].ravel().tolist()
        order = batch.order[groups]
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.broadcast_to(np.arange(1, self.n_samples + 1), order.shape), axis=1)
        usable = batch.usable[groups].ravel().tolist()
        prompts = [sample.prompts[0] for sample in samples]
        names, models = self.model_names, self.model_rewards
        by_model = [[]] * len(counts) if models is None else models[:, groups].reshape(len(models), -1).T.tolist()
        no_scores = self.scores is None
        rewards = self.measured_rewards[groups].ravel()
        extra = {name: values[groups].ravel().tolist() for name, values in self.extra_logs.items()}
        return {
            "group": [place // self.n_samples + (groups.start or 0) for place in range(len(counts))],
            "prompt_id": [prompt_id(prompt) for prompt in prompts],
            "prompt": prompts,
            "response": [_response_text(sample, tokenizer) for sample in samples],
            "label": [_label(sample) for sample in samples],
            "prompt_tokens": [_response_span(sample).start for sample in samples],
            "response_tokens": self.response_lengths[groups].ravel().tolist(),
            "truncated": [None if s.truncated is None else bool(s.truncated) for s in samples],
            "reward": [None if s.rewards is None else float(reward) for s, reward in zip(samples, rewards)],
            "model_rewards": [dict(zip(names, values)) for values in by_model],
            "score": [None if no_scores or s.scores is None else float(s.scores) for s in samples],
            "extra_logs": [{name: values[place] for name, values in extra.items()} for place in range(len(counts))],
            "rank": [rank if use else None for rank, use in zip(ranks.ravel().tolist(), usable)],
            "weight": weights[groups].ravel().tolist(),
            "kept": [count > 0 for count in counts],
            "draws": counts,
        }


def _label(sample: Experience) -> str | None:
    label = sample.labels[0] if sample.labels else None
    return None if label is None else str(label)


def _response_span(sample: Experience) -> slice:
    """Return the places from the first token that the policy wrote to the last, with an environment's answers in
    between; none at the end if it wrote none.
    """
    written, size = sample.action_mask[0].nonzero(), sample.sequences.shape[1]
    return slice(1 + int(written[0]), 2 + int(written[-1])) if len(written) else slice(size, size)


def _response_tokens(sample: Experience) -> NDArray[np.int64]:
    return sample.sequences[0, _response_span(sample)].numpy()


def _response_text(sample: Experience, tokenizer: Any) -> str:
    return tokenizer.decode(_response_tokens(sample).tolist(), skip_special_tokens=True)


def _digest(group: Sequence[Experience]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for sample in group:
        digest.update(sample.sequences.contiguous().numpy().tobytes())
    return digest.digest()
