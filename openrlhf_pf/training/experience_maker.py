"""Score all samples, filter, draw, and hand the kept ones to OpenRLHF's own experience maker.

Shapes: G prompts (groups), N scored samples per prompt, k samples per prompt that train, M reward models.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience import make_experience_batch as stack_experiences
from openrlhf.trainer.ppo_utils.experience import remove_padding_in_sequences, split_experience_batch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.utils.logging_utils import init_logger
from torch import Tensor

from openrlhf_pf.filters import Draw, FilterBatch, draw, make_generator, scaled
from openrlhf_pf.rollout_log import RolloutLog
from openrlhf_pf.training.correction.correction import Correction
from openrlhf_pf.training.flags.prompts import drop_rule, dropped_prompts, prompts_per_step
from openrlhf_pf.training.flags.reward_models import member_models, reward_models, reward_rule
from openrlhf_pf.training.flags.sample_filter import (
    BASELINE_ESTIMATORS,
    GROUP_ESTIMATORS,
    corrects,
    draw_mode,
    filter_from_args,
    has_ragged_groups,
)
from openrlhf_pf.training.flags.true_scores import STOP_WINDOW
from openrlhf_pf.training.metrics import filter_metrics, masked_after_draw
from openrlhf_pf.training.rewards import assign_members, center_rewards, combine_members, without_baseline
from openrlhf_pf.training.rollout import Rollout, derive_seed, numbers_of
from openrlhf_pf.training.true_score import StopRule, TrueScore

logger = init_logger(__name__)


class NothingToTrain(Exception):
    """A rollout of which no sample can train: no usable reward, no weight, or too few for the ranks to share."""


class NoRewards(RuntimeError):
    """A rollout of several prompts without one usable reward: its source has failed, and prompts would be wasted."""


def with_samples_per_prompt(args: SimpleNamespace, n_samples: int) -> SimpleNamespace:
    """Return ``args`` with another ``rollout.n_samples_per_prompt``; everything else is shared, nothing is changed."""
    args = copy.copy(args)
    args.rollout = copy.copy(args.rollout)
    args.rollout.n_samples_per_prompt = n_samples
    return args


def data_parallel_ranks(group: Any) -> int:
    """Return a model's workers divided by those that ring attention and tensor parallelism join."""
    return len(group._actor_handlers) // group.duplicate_actors


def micro_batches(items: list, size: int, ranks: int) -> list[list]:
    """Split ``items`` into micro-batches of at most ``size``, the same number of the same sizes for every rank.

    OpenRLHF gives each of R ranks ceil(micro-batches / R). With any other number, the last ranks get fewer forward
    passes or none, and a collective in one of them (ZeRO-3, gradient reduction) waits for ever.
    """
    assert len(items) % ranks == 0, f"{len(items)} items for {ranks} ranks"
    number = ranks * math.ceil(len(items) / ranks / size)
    edges = [len(items) * i // number for i in range(number + 1)]
    return [items[start:end] for start, end in pairwise(edges)]


def pad_to_multiple(samples: list[Experience], ranks: int) -> list[Experience]:
    """Append copies until every rank has the same number of samples; for forward passes whose answer is not used."""
    return samples + [replace(samples[i % len(samples)]) for i in range(-len(samples) % ranks)]


def keep_common_info(samples: list[Experience]) -> list[Experience]:
    """Return the samples with the scores and extra logs that all of them have; OpenRLHF cannot batch any others."""
    names = set.intersection(*(set(sample.info) for sample in samples))
    scored = all(sample.scores is not None for sample in samples)
    if all(sample.info.keys() == names and (sample.scores is not None) == scored for sample in samples):
        return samples
    return [
        replace(
            sample,
            info={name: value for name, value in sample.info.items() if name in names},
            scores=sample.scores if scored else None,
        )
        for sample in samples
    ]


class FilteringExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker with a sample filter.

    The reward model (or the remote reward) scores all N samples of a prompt; actor, critic and reference run on the
    kept ones only. The filter uses the reward model's own score: KL, clipping and length penalties come later.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: OpenRLHF's arguments as given; ``self.args`` is what the parent reads, with k samples per prompt.
        self.given = given = self.args
        self.filter = filter_from_args(given)
        self.mode = draw_mode(given)
        self.ragged = has_ragged_groups(given, self.filter)
        # Ragged batches have no (prompts, k) shape, so per-prompt baselines are computed here. A baseline of the whole
        # batch needs no shape, but scaled samples count in it by their weight, which OpenRLHF does not know.
        self.baseline_per_prompt = self.advantage_estimator in GROUP_ESTIMATORS
        self.own_baseline = self.advantage_estimator in BASELINE_ESTIMATORS and (
            given.sample_filter_baseline == "group"
            or (self.ragged if self.baseline_per_prompt else self.mode == "reweight")
        )
        self.seed = given.train.seed if given.sample_filter_seed is None else given.sample_filter_seed
        #: Step whose rollout is made next, set by the trainer: with the seed it decides every draw.
        self.step = 0
        #: The last rollout: its scored samples, the metrics of its filtering, which of them trained and how.
        self.rollout: Rollout | None = None
        self.metrics: dict[str, float] = {}
        self._weights: NDArray | None = None
        self._drawn: Draw | None = None
        self._places: list[int] = []  # in the rollout, of each training sample
        self._repeats: list[int] | None = None  # of each draw, which kept sample; None if all are drawn once

        self.stop_rule: StopRule | None = None
        if given.sample_filter_stop_below is not None:
            self.stop_rule = StopRule(given.sample_filter_stop_below, given.sample_filter_stop_window or STOP_WINDOW)
        self._warned_of_no_scores = False
        self.correction = Correction(given, self.seed) if corrects(given) else None
        self.log: RolloutLog | None = None
        if given.sample_filter_log:
            # The log's thread decodes texts while the trainer uses its tokenizer, which must not be shared.
            self._log_tokenizer = copy.deepcopy(self.tokenizer)
            about = {"filter": given.sample_filter, "keep": self.filter.keep, "mode": self.mode, "seed": self.seed}
            self.log = RolloutLog(given.sample_filter_log, {name: str(value) for name, value in about.items()})
        # The parent reshapes rewards to (prompts, samples per prompt): it gets the shape that trains.
        self.args = with_samples_per_prompt(given, 1 if self.ragged or self.own_baseline else self.filter.keep)
        if self.own_baseline:
            self.args = without_baseline(self.args)
        self.strategy = copy.copy(self.strategy)
        self.strategy.args = self.args

    # ── Ranks ──

    @property
    def _ranks(self) -> int:
        """Shares that the kept samples are split into: each model's ranks get the same number of them."""
        groups = (self.actor_model_group, self.critic_model_group, self.initial_model_group)
        return math.lcm(*(data_parallel_ranks(group) for group in groups if group is not None))

    # ── From a rollout to experiences: score, filter, draw, hand on ──

    @torch.no_grad()
    def make_experience_batch(self, rollout_samples: list[Experience]) -> list[Experience]:
        """Turn a rollout of G x N scored or unscored samples into experiences of the kept ones.

        Raises:
            NothingToTrain: no sample can train; the message says why.
            NoRewards: none of several prompts has a usable reward.
        """
        self.rollout = rollout = Rollout(rollout_samples, self.filter.n_samples)
        self._score_by_models(rollout, learns=True)
        batch = self._filter_batch(rollout)
        weights, dropped = self._weigh(batch)
        # What a batch filter draws: k per prompt, but none for replaced prompts.
        most = math.inf if self.given.sample_filter_refill is None else prompts_per_step(self.given)
        budget = min(len(rollout.groups), most) * self.filter.keep
        drawn = draw(self.mode, weights, self.filter.keep, self.filter.scope, batch.order, batch.generator, budget)
        drawn = drawn._replace(counts=self._trim(drawn.counts, batch.generator))
        self._weights, self._drawn = weights, drawn
        self.metrics = (
            filter_metrics(batch, drawn.counts, rollout.scores, rollout.rewards, rollout.measured_rewards) | dropped
        )
        self.metrics |= {} if self.correction is None else self.correction.metrics()
        self.metrics |= self._metrics_of_filter()
        if self.given.sample_filter_refill is not None:
            replaced = max(0, len(rollout.groups) - most)
            self.metrics["filter/replaced_prompts"] = float(replaced)
            self.metrics["filter/replaced_share"] = replaced / len(rollout.groups)
        if self.stop_rule is not None:
            if not self.given.sample_filter_probe:
                self._update_stop_rule(rollout)
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
            self._raise_reason(batch)
        return super().make_experience_batch(pad_to_multiple(keep_common_info(kept), self._ranks))

    def score(self, rollout: Rollout, true_score: TrueScore | None = None) -> None:
        """Score every sample by the reward models, unless a reward function or an agent has done so; then by the true
        score, if the samples bring none.
        """
        self._score_by_models(rollout)
        if true_score is not None:
            true_score(rollout.samples, self.tokenizer)
            rollout.has_true_scores = True

    def _score_by_models(self, rollout: Rollout, learns: bool = False) -> None:
        """Score every sample by the reward models; ``learns``: have some judged, from which the correction learns."""
        samples = rollout.samples
        if self.reward_model_group is None or all(sample.rewards is not None for sample in samples):
            if learns and self.correction is not None:
                given = torch.from_numpy(numbers_of(samples, "rewards", 1).ravel()).float()
                _give_rewards(samples, self._correct(rollout, given, learns))
            return
        rule, main = reward_rule(self.given), self.given.reward.model_name_or_path
        names = reward_models(self.given) if rule == "main" else member_models(self.given)
        seed = derive_seed(self.seed, f"member/{self.step}")
        asked = assign_members(rule, len(names), len(rollout.groups), seed).repeat(rollout.n_samples, axis=1)
        by_model = np.full(asked.shape, np.nan)
        if rule == "main":
            scored = self.forward_rewards(samples)
            _give_rewards(samples, scored if self.correction is None else self._correct(rollout, scored, learns))
            by_model[[name == main for name in names]] = scored.reshape(len(scored), -1)[:, 0].double().numpy()
        for rewards, name, places in zip(by_model, names, map(np.flatnonzero, asked)):
            if len(places) and (rule != "main" or name != main):
                model = None if name == main else name
                rewards[places] = self.forward_rewards([samples[p] for p in places], model).double().numpy()
        if names:
            rollout.model_names = names
            rollout.model_rewards = by_model.reshape(len(names), -1, rollout.n_samples)
        if rule != "main":
            _give_rewards(samples, torch.from_numpy(combine_members(rule, rollout.model_rewards).ravel()).float())

    def _correct(self, rollout: Rollout, scored: Tensor, learns: bool) -> Tensor:
        """Return the (samples,) rewards that train: the given ones, bit for bit, before there are enough labels.

        Args:
            scored: (samples,) rewards, or (samples, 1 + d) with the states that they were read from.
            learns: have some of the samples judged.
        """
        table = scored.reshape(len(scored), -1)
        columns = table.float().numpy().reshape(-1, rollout.n_samples, table.shape[1])
        rewards, states = columns[..., 0], columns[..., 1:]
        found = self.correction.corrected(rewards, states)
        if learns:
            rollout.unseen_rewards = found.astype(float)
            self.correction.learn(rollout, rewards, states, self.step, self.tokenizer)
            found = self.correction.estimate(rewards, states)
        return table[:, 0] if found is rewards else torch.from_numpy(found.ravel())

    def observe(self, samples: list[Experience], true_score: TrueScore | None = None) -> None:
        """Score samples that do not train, the N of each prompt contiguous, and show them to a filter that learns and
        to the stop rule.
        """
        rollout = Rollout(samples, self.filter.n_samples)
        self.score(rollout, true_score)
        if hasattr(self.filter, "observe"):
            self.filter.observe(self._filter_batch(rollout))
        if self.stop_rule is not None:
            self._update_stop_rule(rollout)

    def _update_stop_rule(self, rollout: Rollout) -> None:
        """Show a rollout to the stop rule; warn once if there are no true scores."""
        if rollout.scores is not None:
            self.stop_rule.observe(rollout.measured_rewards, rollout.scores)
        elif not self._warned_of_no_scores:
            self._warned_of_no_scores = True
            logger.warning(
                "--sample_filter_stop_below cannot end training: there are no true scores in addition to the rewards; "
                "have the reward function return scores, or give --sample_filter_probe and "
                "--sample_filter_probe_score."
            )

    def _filter_batch(self, rollout: Rollout) -> FilterBatch:
        """Return what the filter reads, with the random numbers of this step."""
        generator = make_generator(derive_seed(self.seed, self.step))
        rank_by = self.given.sample_filter_rank_by or "reward"
        return rollout.filter_batch(rank_by, generator, self.step, self.tokenizer)

    def forward_rewards(self, samples: list[Experience], model: str | None = None) -> Tensor:
        """Return the (samples,) scores of a reward model: OpenRLHF's, or the named one of the ensemble.

        With a correction, (samples, 1 + d) of OpenRLHF's: the scores and the states that they were read from.
        """
        ranks = data_parallel_ranks(self.reward_model_group)
        # Only what a reward model reads, so that no batch holds a copy of everything else.
        fields = ["sequences", "attention_mask", *(["total_length"] if self.args.train.dynamic_batch_enable else [])]
        batches = self._batches(pad_to_multiple(samples, ranks), ranks, fields)
        places = [place for batch in batches for place in batch.index]
        refs = self._dispatch_forward(
            self.reward_model_group,
            self.args.train.colocate_all or self.args.train.colocate_critic_reward,
            sequences=[batch.sequences for batch in batches],
            attention_mask=[batch.attention_mask for batch in batches],
            pad_sequence=[True] * len(batches),
            **({} if model is None else {"model": [model] * len(batches)}),
        )
        del batches  # they have been sent, and the answer may take a while
        scored = torch.cat(self._flatten_results(refs, self.reward_model_group.duplicate_actors))
        rewards = torch.empty_like(scored)
        rewards[places] = scored
        return rewards[: len(samples)]

    def _weigh(self, batch: FilterBatch) -> tuple[NDArray, dict[str, float]]:
        """Return the filter's weights without the prompts that --sample_filter_drop leaves out, and their number."""
        weights = self.filter(batch)
        rule = drop_rule(self.given)
        if rule is None:
            return weights, {}
        out = dropped_prompts(self.given, FilterBatch(self.rollout.rewards, scores=self.rollout.scores))
        weights = weights * ~out[:, None]
        if self.filter.scope == "batch":
            weights = scaled(weights, weights.sum())
        return weights, {f"filter/dropped_{rule}_prompts": float(out.sum())}

    def _metrics_of_filter(self) -> dict[str, float]:
        """Return the filter's own metrics, and log its message."""
        if self.filter.log_message:
            logger.info(f"Sample filter {self.given.sample_filter}: {self.filter.log_message}")
        return {f"filter/{name}": value for name, value in self.filter.metrics().items() if not math.isnan(value)}

    def _trim(self, counts: NDArray, generator: Any) -> NDArray:
        """Drop as little as the ranks cannot share evenly: whole prompts, or single samples if groups are ragged.

        At random, because prompts that finish last have the longest responses.
        """
        train = self.args.train  # every rank trains whole micro-batches, or whole optimizer steps of dynamic ones
        dynamic = train.dynamic_batch_enable
        unit = math.lcm(self._ranks, train.batch_size) if dynamic else self._ranks * train.micro_batch_size
        if self.ragged:
            draws = np.repeat(np.arange(counts.size), counts.ravel())
            surplus = draws[generator.permutation(len(draws))[: len(draws) % unit]]
            return counts - np.bincount(surplus, minlength=counts.size).reshape(counts.shape)
        unit //= math.gcd(unit, self.filter.keep)
        trained = counts.sum(axis=1).nonzero()[0]
        trimmed = counts.copy()
        trimmed[trained[generator.permutation(len(trained))[: len(trained) % unit]]] = 0
        return trimmed

    def _keep(self, batch: FilterBatch) -> list[Experience]:
        """List the kept samples prompt by prompt, best first; record the draws if one was drawn more than once."""
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

    def _raise_reason(self, batch: FilterBatch) -> NoReturn:
        given, (prompts, n_samples) = self.given, batch.rewards.shape
        if batch.usable.any():
            rewards = batch.rewards[batch.usable]
            what = "fewer samples than the ranks can share" if self._weights.any() else "no sample"
            among = f"among rewards from {float(rewards.min()):g} to {float(rewards.max()):g}"
            hint = "" if self._weights.any() else ": check its options"
            raise NothingToTrain(f"--sample_filter {given.sample_filter} keeps {what} {among}{hint}")
        if prompts == 1:
            raise NothingToTrain("no sample has a usable reward: check the reward model or function")
        source = given.train.agent_func_path or given.reward.remote_url or given.reward.model_name_or_path
        raise NoRewards(
            f"none of the {prompts} x {n_samples} samples of step {self.step + 1} has a usable reward from "
            f"{', '.join(source) if isinstance(source, list) else source}"
        )

    # ── What the parent calls ──

    def split_rollout_samples(self, rollout_samples: list[Experience]) -> list[Experience]:
        """Split the kept samples into micro-batches, the same number of the same sizes for every rank."""
        return self._batches(rollout_samples, self._ranks)

    def _batches(self, samples: list[Experience], ranks: int, fields: Sequence[str] = ()) -> list[Experience]:
        """Return the samples in micro-batches, with their places as ``index``; only the named fields, if any are."""

        def part(sample: Experience, place: int | None = None) -> Experience:
            copied = Experience(**{name: getattr(sample, name) for name in fields}) if fields else sample
            copied.index = [place]
            return copied

        if self.args.train.dynamic_batch_enable:
            return super().split_rollout_samples([part(sample) for sample in samples])
        places = itertools.count()
        # Parts of one batch at a time: a million small objects would keep the garbage collector busy.
        return [
            Experience.concat_experiences([part(*pair) for pair in zip(batch, places)], self.tokenizer.pad_token_id)
            for batch in micro_batches(samples, self.args.rollout.micro_batch_size, ranks)
        ]

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        """As the parent, on samples repeated as drawn, with our baseline and scale if asked for."""
        if self._repeats is not None:
            experiences = self._repeat(experiences, self._repeats)
        if self.own_baseline:
            shaped = self.shaped_rewards()
            self._set_rewards(experiences, self._center(shaped))
        experiences = super().compute_advantages_and_returns(experiences)
        if self.own_baseline:
            self._set_rewards(experiences, shaped)
        if self._drawn.scale is not None:
            # Mean 1 over those that are left after trimming.
            scale = torch.from_numpy(self._drawn.scale.ravel()[self._places])
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
        """Return (G, N) float32 rewards after length penalties, NaN where one is not usable."""
        rewards = torch.from_numpy(self.rollout.rewards).float()
        usable = rewards.isfinite()
        rewards[usable] = self.rollout.penalized(self.given).rewards
        return rewards.masked_fill(~usable, math.nan)

    def _center(self, shaped: Tensor) -> Tensor:
        """Return (G, N) ``shaped`` minus the baseline of each prompt, or of the batch if the estimator has one."""
        rows = shaped.shape if self.baseline_per_prompt else (1, shaped.numel())
        if self.given.sample_filter_baseline == "group":
            share = shaped.isfinite().double().reshape(rows)
            members = share.sum(dim=1)
        else:
            # Over draws from the weights, the other samples' mean reward is in expectation the weighted mean.
            share, members = torch.from_numpy(self._weights).reshape(rows), torch.tensor([math.inf])
        total = share.sum(dim=1, keepdim=True)
        share = torch.where(total > 0, share / total, 0.0)
        return center_rewards(self.advantage_estimator, shaped.reshape(rows), share, members).reshape(shaped.shape)

    def _set_rewards(self, experiences: list[Experience], rewards: Tensor) -> None:
        rewards = rewards.flatten()[self._places]
        for experience in experiences:
            experience.rewards = rewards[experience.index]
            experience.info["reward"] = experience.rewards.clone()


def _give_rewards(samples: list[Experience], rewards: Tensor) -> None:
    """Set the (samples,) rewards."""
    for sample, reward in zip(samples, rewards.split(1)):
        sample.rewards = sample.info["reward"] = reward
