"""Score all samples, filter, draw, and hand the kept ones on to OpenRLHF's own experience maker.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience import make_experience_batch as stack_experiences
from openrlhf.trainer.ppo_utils.experience import remove_padding_in_sequences, split_experience_batch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.utils.logging_utils import init_logger
from torch import Tensor

from openrlhf_pf.filters import Draw, FilterBatch, draw, make_generator, scaled
from openrlhf_pf.rollout_log import RolloutLog
from openrlhf_pf.training.arguments import (
    BASELINE_ESTIMATORS,
    GROUP_ESTIMATORS,
    draw_mode,
    drops,
    filter_from_args,
    prompts_of_a_step,
    reward_models,
    samples_stand_alone,
)
from openrlhf_pf.training.baselines import centred
from openrlhf_pf.training.metrics import filter_metrics, masked_after_draw
from openrlhf_pf.training.refill import left_out, refill_metrics
from openrlhf_pf.training.rollout import Rollout
from openrlhf_pf.training.scoring import READ, inputs_of, part_of, ranks_of
from openrlhf_pf.training.seeds import mixed
from openrlhf_pf.training.stop import WINDOW, StopRule
from openrlhf_pf.training.true_score import TrueScore

logger = init_logger(__name__)


class NothingToTrain(Exception):
    """A rollout of which no sample can train: no usable reward, no weight, or too few for the ranks to share."""


class NoRewards(RuntimeError):
    """A rollout of several prompts without one usable reward: its source is at fault, and prompts would be wasted."""


def with_samples_per_prompt(args: SimpleNamespace, n_samples: int) -> SimpleNamespace:
    """Return ``args`` with another ``rollout.n_samples_per_prompt``; everything else is shared, nothing is changed."""
    args = copy.copy(args)
    args.rollout = copy.copy(args.rollout)
    args.rollout.n_samples_per_prompt = n_samples
    return args


def without_baseline(args: SimpleNamespace) -> SimpleNamespace:
    """Return ``args`` with which OpenRLHF takes rewards as they are: no penalty, no baseline; whitened as before."""
    args = copy.copy(args)
    args.reward, args.algo = copy.copy(args.reward), copy.copy(args.algo)
    args.reward.overlong_buffer_len = args.reward.stop_properly_penalty_coef = None
    args.algo.advantage = copy.copy(args.algo.advantage)
    # Of the names that OpenRLHF tells apart, "reinforce" takes no baseline and whitens, and one that it does not know
    # does neither; what it makes of the rewards goes by the maker's own advantage_estimator, which stays.
    args.algo.advantage.estimator = "reinforce" if args.algo.advantage.estimator == "reinforce_baseline" else "centred"
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


def alike(samples: list[Experience]) -> list[Experience]:
    """The samples with the scores and extra logs that all of them have; OpenRLHF cannot batch any others."""
    names = set.intersection(*(set(sample.info) for sample in samples))
    if all(sample.info.keys() == names for sample in samples):
        return samples
    scored = all(sample.scores is not None for sample in samples)
    return [
        replace(
            sample,
            info={name: value for name, value in sample.info.items() if name in names},
            scores=sample.scores if scored else None,
        )
        for sample in samples
    ]


class FilteringExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker behind a sample filter.

    The reward model (or the remote reward) scores all N samples of a prompt; actor, critic and reference run on the
    kept ones only. The filter acts on the reward model's own score: KL, clipping and length penalties come later.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: OpenRLHF's arguments as given; ``self.args`` is what the parent sees: the samples of a prompt that train.
        self.given = given = self.args
        self.filter = filter_from_args(given)
        self.mode = draw_mode(given)
        self.stand_alone = samples_stand_alone(given, self.filter)
        # What stands alone is no rectangle, as a baseline per prompt needs it. A baseline of the batch does not, but
        # scaled samples count in it by their weight, which OpenRLHF does not see.
        self.baseline_per_prompt = self.advantage_estimator in GROUP_ESTIMATORS
        self.own_baseline = self.advantage_estimator in BASELINE_ESTIMATORS and (
            given.sample_filter_baseline == "group"
            or (self.stand_alone if self.baseline_per_prompt else self.mode == "reweight")
        )
        self.seed = given.train.seed if given.sample_filter_seed is None else given.sample_filter_seed
        #: Step whose rollout is made next, set by the trainer: with the seed it decides every draw.
        self.step = 0
        #: The last rollout: its scored samples, the metrics of its filtering, which of them trained and how.
        self.rollout: Rollout | None = None
        self.metrics: dict[str, float] = {}
        self._weights: Tensor | None = None
        self._drawn: Draw | None = None
        self._places: list[int] = []  # in the rollout, of each training sample
        self._repeats: list[int] | None = None  # of each draw, which kept sample; None where all are drawn once

        self.stop_rule: StopRule | None = None
        if given.sample_filter_stop_below is not None:
            self.stop_rule = StopRule(given.sample_filter_stop_below, given.sample_filter_stop_window or WINDOW)
        self._warned_of_no_scores = False
        self.log = self._open_log()
        # The parent reshapes rewards to (prompts, samples a prompt): what it sees is the rectangle that trains.
        self.args = with_samples_per_prompt(given, 1 if self.stand_alone or self.own_baseline else self.filter.keep)
        if self.own_baseline:
            self.args = without_baseline(self.args)
        self.strategy = copy.copy(self.strategy)
        self.strategy.args = self.args

    def _open_log(self) -> RolloutLog | None:
        if not self.given.sample_filter_log:
            return None
        # The log's thread decodes texts while the trainer uses its tokenizer, and one of them must not be shared.
        self._log_tokenizer = copy.deepcopy(self.tokenizer)
        settings = {"filter": self.given.sample_filter, "keep": self.filter.keep, "mode": self.mode, "seed": self.seed}
        return RolloutLog(self.given.sample_filter_log, {name: str(value) for name, value in settings.items()})

    # ── Ranks ──

    @property
    def _ranks(self) -> int:
        """Shares that the kept samples are cut into: each model's ranks get the same number of them."""
        groups = (self.actor_model_group, self.critic_model_group, self.initial_model_group)
        return math.lcm(*(ranks_of(group) for group in groups if group is not None))

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
            NothingToTrain: no sample can train; the message says why.
            NoRewards: none of several prompts has a usable reward.
        """
        self.rollout = rollout = Rollout(rollout_samples, self.filter.n_samples)
        self.score(rollout)
        batch = self._batch_of(rollout)
        by_filter, flat = self._weigh(batch)
        drawn = draw(
            self.mode,
            by_filter,
            self.filter.keep,
            self.filter.scope,
            batch.order,
            batch.generator,
            self._budget(rollout),
        )
        weights, scale = torch.from_numpy(by_filter), None if drawn.scale is None else torch.from_numpy(drawn.scale)
        drawn = Draw(self._trim(torch.from_numpy(drawn.counts), batch.generator), scale)
        self._weights, self._drawn = weights, drawn
        self.metrics = filter_metrics(batch, drawn.counts, rollout.scores, rollout.rewards) | flat | self._of_filter()
        self.metrics |= refill_metrics(self.given, len(rollout.groups))
        if self.stop_rule is not None:
            if not self.given.sample_filter_probe:
                self._look(rollout)
            self.metrics |= self.stop_rule.metrics()
        kept = self._keep(batch)
        logger.info(
            f"Sample filter {self.given.sample_filter}: {len(rollout.samples)} samples scored, {len(kept)} kept for "
            f"actor, critic and reference, {int(drawn.counts.sum())} drawn for training"
        )
        if self.log is not None:
            tokenizer = self._log_tokenizer
            self.log.write(self.step + 1, lambda: rollout.log_parts(weights, drawn, batch, tokenizer))
        if not kept:
            self._refuse_without_rewards(batch)
            raise NothingToTrain(self._why_nothing(batch))
        return super().make_experience_batch(filled_up(alike(kept), self._ranks))

    def score(self, rollout: Rollout, true_score: TrueScore | None = None) -> None:
        """Let the reward models score every sample, unless a reward function or an agent has done so, or they have
        while others were generated; then the true score, where the samples bring none.
        """
        self._score_by_models(rollout)
        if true_score is not None:
            true_score(rollout.samples, self.tokenizer)
            rollout.truly_scored = True

    def _score_by_models(self, rollout: Rollout) -> None:
        samples = rollout.samples
        if self.reward_model_group is None or all(sample.rewards is not None for sample in samples):
            return
        rewards = self._forward_rewards(samples)
        for sample, reward in zip(samples, rewards.split(1)):
            sample.rewards = sample.info["reward"] = reward
        names = reward_models(self.given)
        if names:
            main = self.given.reward.model_name_or_path
            scored = [rewards if name == main else self._forward_rewards(samples, name) for name in names]
            rollout.model_names = names
            rollout.model_rewards = torch.stack(scored).double().reshape(len(names), -1, rollout.n_samples)

    def observe(self, samples: list[Experience], true_score: TrueScore | None = None) -> None:
        """Score samples that do not train, N of each prompt side by side, and show them to a filter that learns and to
        the rule that stops training.
        """
        rollout = Rollout(samples, self.filter.n_samples)
        self.score(rollout, true_score)
        if hasattr(self.filter, "observe"):
            self.filter.observe(self._batch_of(rollout))
        if self.stop_rule is not None:
            self._look(rollout)

    def _look(self, rollout: Rollout) -> None:
        """Show a rollout to the rule that stops training; say once if it has nothing to go by."""
        if rollout.scores is not None:
            self.stop_rule.observe(rollout.rewards, rollout.scores)
        elif not self._warned_of_no_scores:
            self._warned_of_no_scores = True
            logger.warning(
                "--sample_filter_stop_below cannot end training: there are no true scores beside the rewards; have "
                "the reward function return scores, or give --sample_filter_probe and --sample_filter_probe_score."
            )

    def _batch_of(self, rollout: Rollout) -> FilterBatch:
        """What the filter sees, with the random numbers of this step."""
        generator = make_generator(mixed(self.seed, self.step))
        rank_by = self.given.sample_filter_rank_by or "reward"
        return rollout.filter_batch(rank_by, generator, self.step, self.tokenizer)

    def _forward_rewards(self, samples: list[Experience], model: str | None = None) -> Tensor:
        """(samples,) the scores of a reward model: OpenRLHF's, or the one of the ensemble that is named."""
        ranks = ranks_of(self.reward_model_group)
        read = (*READ, *(["total_length"] if self.args.train.dynamic_batch_enable else []))
        batches = self._batches(filled_up(samples, ranks), ranks, read)
        places = [place for batch in batches for place in batch.index]
        refs = self._dispatch_forward(
            self.reward_model_group,
            self.args.train.colocate_all or self.args.train.colocate_critic_reward,
            **inputs_of(batches),
            **({} if model is None else {"model": [model] * len(batches)}),
        )
        del batches  # they have been sent, and the answer may take a while
        scored = torch.cat(self._flatten_results(refs, self.reward_model_group.duplicate_actors))
        rewards = torch.empty(len(scored), dtype=scored.dtype)
        rewards[places] = scored
        return rewards[: len(samples)]

    def _weigh(self, batch: FilterBatch) -> tuple[np.ndarray, dict[str, float]]:
        """The filter's weights less the prompts that --sample_filter_drop leaves out, and how many those are."""
        weights = self.filter(batch)
        drop = drops(self.given)
        if drop is None:
            return weights, {}
        out = left_out(self.given, FilterBatch(self.rollout.rewards, scores=self.rollout.scores))
        weights = weights * ~out[:, None]
        if self.filter.scope == "batch":
            weights = scaled(weights, weights.sum())
        return weights, {f"filter/dropped_{drop}_prompts": float(out.sum())}

    def _budget(self, rollout: Rollout) -> int:
        """Samples that a batch filter draws: k a prompt, but none for those that others took the place of."""
        prompts = len(rollout.groups)
        if self.given.sample_filter_refill is not None:
            prompts = min(prompts, prompts_of_a_step(self.given))
        return prompts * self.filter.keep

    def _of_filter(self) -> dict[str, float]:
        """The metrics of the filter itself; what it has to say goes to the log."""
        if self.filter.log_message:
            logger.info(f"Sample filter {self.given.sample_filter}: {self.filter.log_message}")
        return {f"filter/{name}": value for name, value in self.filter.metrics().items() if not math.isnan(value)}

    def _trim(self, counts: Tensor, generator: np.random.Generator) -> Tensor:
        """Drop as little as the ranks cannot share evenly: whole prompts, or single samples where they stand alone.

        At random, because prompts that finish last have the longest responses.
        """
        unit = self._samples_unit
        if self.stand_alone:
            draws = torch.repeat_interleave(counts.flatten())
            surplus = draws[torch.from_numpy(generator.permutation(len(draws)))[: len(draws) % unit]]
            return counts - torch.bincount(surplus, minlength=counts.numel()).reshape(counts.shape)
        unit //= math.gcd(unit, self.filter.keep)
        trained = counts.sum(dim=1).nonzero().squeeze(1)
        surplus = trained[torch.from_numpy(generator.permutation(len(trained)))[: len(trained) % unit]]
        return counts.index_fill(0, surplus, 0)

    def _keep(self, batch: FilterBatch) -> list[Experience]:
        """List the kept samples prompt by prompt, best first; note the draws where one was drawn more than once."""
        places: list[int] = []
        repeats: list[int] = []
        for group, (count, ranked) in enumerate(zip(self._drawn.counts.tolist(), batch.order.tolist())):
            for sample in ranked:
                if count[sample]:
                    repeats += [len(places)] * count[sample]
                    places.append(group * self.filter.n_samples + sample)
        self._repeats = repeats if len(repeats) > len(places) else None
        self._places = [places[kept] for kept in repeats]
        return [self.rollout.samples[place] for place in places]

    def _refuse_without_rewards(self, batch: FilterBatch) -> None:
        prompts, n_samples = batch.rewards.shape
        if prompts > 1 and not batch.usable.any():
            reward = self.given.reward
            source = self.given.train.agent_func_path or reward.remote_url or reward.model_name_or_path
            raise NoRewards(
                f"none of the {prompts} x {n_samples} samples of step {self.step + 1} has a usable reward from "
                f"{', '.join(source) if isinstance(source, list) else source}"
            )

    def _why_nothing(self, batch: FilterBatch) -> str:
        rewards = batch.rewards[batch.usable]
        if not len(rewards):
            return "no sample has a usable reward: see to the reward model or function"
        among = f"among rewards from {float(rewards.min()):g} to {float(rewards.max()):g}"
        if not self._weights.any():
            return (
                f"--sample_filter {self.given.sample_filter} keeps no sample {among}: see to its thresholds, or to "
                "what else it asks for"
            )
        return f"--sample_filter {self.given.sample_filter} keeps fewer samples than the ranks can share {among}"

    # ── What the parent calls ──

    def split_rollout_samples(self, rollout_samples: list[Experience]) -> list[Experience]:
        """Cut the kept samples into micro-batches, the same number of the same size for every rank."""
        return self._batches(rollout_samples, self._ranks)

    def _batches(self, samples: list[Experience], ranks: int, read: Sequence[str] = ()) -> list[Experience]:
        """The samples in micro-batches, with their places as ``index``; where some are named, these fields alone."""

        def part(sample: Experience, place: int | None = None) -> Experience:
            seen = part_of(sample, read) if read else sample
            seen.index = [place]
            return seen

        if self.args.train.dynamic_batch_enable:
            return super().split_rollout_samples([part(sample) for sample in samples])
        places = itertools.count()
        # Parts of a batch at a time: a million of small objects would keep the garbage collector busy.
        return [
            Experience.concat_experiences([part(*pair) for pair in zip(batch, places)], self.tokenizer.pad_token_id)
            for batch in micro_batches(samples, self.args.rollout.micro_batch_size, ranks)
        ]

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """Do as the parent does, on samples repeated as drawn, with our baseline and scale where asked for."""
        if self._repeats is not None:
            experiences = self._repeat(experiences, self._repeats)
        if self.own_baseline:
            shaped = self.shaped_rewards()
            self._put_rewards(experiences, self._centred(shaped))
        experiences = super().compute_advantages_and_returns(experiences)
        if self.own_baseline:
            self._put_rewards(experiences, shaped)
        if self._drawn.scale is not None:
            # Mean 1 over those that are left, whatever trimming took away.
            scale = self._drawn.scale.flatten()[self._places]
            scale = (scale / scale.mean()).float()
            for experience in experiences:
                experience.advantages = experience.advantages * scale[experience.index].unsqueeze(1)
        self.metrics |= masked_after_draw(experiences, self.given)
        return experiences

    def _repeat(self, experiences: list[Experience], repeats: list[int]) -> list[Experience]:
        places = [place for experience in experiences for place in experience.index]
        singles = [item for experience in experiences for item in split_experience_batch(experience)]
        by_place = dict(zip(places, remove_padding_in_sequences(singles)))
        items = [replace(by_place[place], index=[i]) for i, place in enumerate(repeats)]
        batches = micro_batches(items, self.args.rollout.micro_batch_size, self._ranks)
        repeated = [stack_experiences(batch) for batch in batches]
        for experience in repeated:
            experience.info = {key: torch.stack(values) for key, values in experience.info.items()}
        return repeated

    # ── Baselines over samples that do not train, or over weighted samples ──

    def shaped_rewards(self) -> Tensor:
        """(G, N) float32 rewards after length penalties, NaN where one is not usable."""
        rewards = self.rollout.rewards.float()
        usable = rewards.isfinite()
        rewards[usable] = self.rollout.shaped(self.given).rewards
        return rewards.masked_fill(~usable, math.nan)

    def _centred(self, shaped: Tensor) -> Tensor:
        """(G, N) ``shaped`` less the baseline of each prompt, or of the batch where the estimator has one for all."""
        rows = shaped.shape if self.baseline_per_prompt else (1, shaped.numel())
        if self.given.sample_filter_baseline == "group":
            share = shaped.isfinite().double().reshape(rows)
            members = share.sum(dim=1)
        else:
            # Over draws from the weights, the other samples' mean reward is in expectation the weighted mean.
            share, members = self._weights.reshape(rows), torch.tensor([math.inf])
        share = torch.from_numpy(scaled(share.numpy(), share.sum(dim=1, keepdim=True).numpy()))
        return centred(self.advantage_estimator, shaped.reshape(rows), share, members).reshape(shaped.shape)

    def _put_rewards(self, experiences: list[Experience], rewards: Tensor) -> None:
        rewards = rewards.flatten()[self._places]
        for experience in experiences:
            experience.rewards = rewards[experience.index]
            experience.info["reward"] = experience.rewards.clone()
