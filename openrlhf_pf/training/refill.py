"""Replace the prompts of which nothing would train by further ones of the data set, while a step is generated.

The replaced prompts go on to the experience maker, too: it leaves them out by the same rule, so that statistics, the
rollout log and filters that learn see all that was sampled.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator, _collect_prompt_batch
from openrlhf.utils.logging_utils import init_logger
from tqdm import tqdm

from openrlhf_pf.filters import FilterBatch, SampleFilter
from openrlhf_pf.filters.prompts import VARIANCE_SHARE, band, variance_top_p
from openrlhf_pf.training import selection_arguments
from openrlhf_pf.training.arguments import drops, filter_from_args, prompts_of_a_step
from openrlhf_pf.training.context import NotingGenerator
from openrlhf_pf.training.rollout import beside_rewards, number
from openrlhf_pf.training.scoring import ScoringGenerator
from openrlhf_pf.training.selection import PromptStream, SelectingGenerator

logger = init_logger(__name__)

#: Finished prompts are judged once they are this share of those that the engines still have: what is asked for sooner
#: would only wait there, and judging all of G prompts after each of them would cost G² in all.
_WORTH_A_LOOK = 1 / 16


def left_out(args: SimpleNamespace, batch: FilterBatch) -> np.ndarray:
    """(G,) bool: prompts that ``--sample_filter_drop`` leaves out whole.

    Args:
        args: OpenRLHF's nested arguments.
        batch: the rewards that train, whatever the filter ranks by, and the true scores beside them.
    """
    drop = drops(args)
    if drop is None:
        return np.zeros(len(batch.rewards), dtype=bool)
    if drop == "flat":
        return batch.flat_within(args.sample_filter_drop_tolerance or 0.0)
    if drop == "variance_top_p":
        return ~variance_top_p(batch, args.sample_filter_drop_share or VARIANCE_SHARE)
    return ~band(batch, *args.sample_filter_drop_band)


def refill_metrics(args: SimpleNamespace, n_prompts: int) -> dict[str, float]:
    """How many of the ``n_prompts`` of a step took the place of others, and the share of its rollouts that this is."""
    if args.sample_filter_refill is None:
        return {}
    replaced = max(0, n_prompts - prompts_of_a_step(args))
    return {"filter/replaced_prompts": float(replaced), "filter/replaced_share": replaced / n_prompts}


class FinishedPrompts:
    """The prompts of a step whose responses are there, and which of them will train.

    All are judged together each time, as the experience maker will judge them: ``variance_top_p`` compares them with
    each other, and whether there are true scores shows in all of them.
    """

    def __init__(self, args: SimpleNamespace, sample_filter: SampleFilter) -> None:
        self.args = args
        self.filter = sample_filter
        self.groups: list[list[Experience]] = []
        self._values = torch.empty(2, 0, sample_filter.n_samples, dtype=torch.float64)  # rewards, scores
        self._unjudged: list[list[list[float]]] = []  # the same of the last prompts

    def add(self, group: list[Experience]) -> None:
        """One more, with its N samples."""
        self.groups.append(group)
        self._unjudged.append([[number(getattr(sample, name)) for sample in group] for name in ("rewards", "scores")])

    def worth_a_look(self, pending: int) -> bool:
        """Whether enough have come since the last look, with so many that are still to come."""
        return len(self._unjudged) >= _WORTH_A_LOOK * pending

    def trains(self) -> np.ndarray:
        """(G,) bool, in the order in which they came."""
        if self._unjudged:
            values = torch.tensor(self._unjudged, dtype=torch.float64).transpose(0, 1)
            self._values, self._unjudged = torch.cat([self._values, values], dim=1), []
        rewards, scores = self._values
        if not len(rewards):
            return np.zeros(0, dtype=bool)
        batch = FilterBatch(rewards, scores=beside_rewards(scores, rewards))
        return ~(self.filter.too_few_usable(batch) | left_out(self.args, batch))


class RefillingGenerator(NotingGenerator):
    """OpenRLHF's generator with a loop of its own, which asks for a further prompt as soon as one is left out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filter = filter_from_args(self.args)
        #: Samples of the replaced prompts, until they are handed on behind those that fill the step.
        self.held_back: list[Experience] = []
        self._warned = False

    @torch.no_grad()
    def generate_samples(self, **generate_kwargs: Any) -> tuple[list[Experience], float | None, int, bool]:
        samples, pass_rate, consumed, exhausted = super().generate_samples(**generate_kwargs)
        samples, self.held_back = samples + self.held_back, []
        return samples, pass_rate, consumed, exhausted

    def _generate_vllm(
        self, dataloader_iter: Any, num_prompts: int, dynamic_filtering: bool, **generate_kwargs: Any
    ) -> tuple[list[Experience], int, bool]:
        if not self._trains(dataloader_iter):
            return super()._generate_vllm(dataloader_iter, num_prompts, dynamic_filtering, **generate_kwargs)
        finished = FinishedPrompts(self.args, self.filter)
        most = int(num_prompts * self.args.sample_filter_refill)
        rows = self._watch(dataloader_iter)
        pending, exhausted = self._ask_for(rows, num_prompts, generate_kwargs)
        if not pending:
            return [], 0, True
        wanted = taken = len(pending)
        with tqdm(total=wanted, desc="Generate samples") as bar:
            while pending:
                ready, pending = _wait(pending)
                for responses in ray.get(ready):
                    finished.add([self._process_response_into_experience(r, **generate_kwargs) for r in responses])
                if not finished.worth_a_look(len(pending)):
                    continue
                trained = int(finished.trains().sum())
                bar.update(trained - bar.n)
                missing = min(wanted - trained - len(pending), most - taken)
                if missing > 0 and not exhausted:
                    further, exhausted = self._ask_for(rows, missing, generate_kwargs, further=True)
                    pending, taken = pending + further, taken + len(further)
        if not exhausted:
            self._warn_if_short(trained, wanted, taken, most)
        samples: dict[bool, list[Experience]] = {True: [], False: []}
        for group, train in zip(finished.groups, finished.trains().tolist()):
            samples[train] += group
            self._note_sources(group)
        self.held_back = samples[False]
        self._warn_of_wrong()
        return samples[True], taken, exhausted

    def _ask_for(
        self, rows: Any, count: int, generate_kwargs: dict[str, Any], further: bool = False
    ) -> tuple[list[Any], bool]:
        """Send prompts to the engines, as many as there are: their answers to be, and whether the data set ended."""
        if further and isinstance(self.prompts_dataloader, PromptStream):
            count = self.prompts_dataloader.select_further(count)
        prompts, labels, images, exhausted = _collect_prompt_batch(rows, count)
        return self._dispatch_prompts_to_vllm(prompts, labels, images=images, **generate_kwargs), exhausted

    def _warn_if_short(self, trained: int, wanted: int, taken: int, most: int) -> None:
        if trained == wanted or self._warned:
            return
        self._warned = True
        why = f"--sample_filter_refill {self.args.sample_filter_refill:g} allows no more"
        logger.warning(
            f"A step goes on with {trained} of {wanted} prompts: {taken} were sampled for it, and "
            f"{why if taken == most else 'the data set has no others'}. This is said once."
        )


class RefillingSelectingGenerator(SelectingGenerator, RefillingGenerator):
    """Likewise, with further prompts that are selected; the stream learns from the replaced ones, too."""


def _wait(refs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Those that are ready, one at least, and the others."""
    ready, rest = ray.wait(refs, num_returns=1)
    also, rest = ray.wait(rest, num_returns=len(rest), timeout=0) if rest else ([], [])
    return ready + also, rest


class ScoringSelectingGenerator(SelectingGenerator, ScoringGenerator):
    """Scores prompts that are selected as they finish."""


def loader_and_generator(loader: Any, generator: SamplesGenerator) -> tuple[Any, SamplesGenerator]:
    """What the arguments ask for in the place of OpenRLHF's own, of which these are: a stream that selects prompts, a
    generator that replaces some or has finished ones scored, and in any case one that notes what is known of them.
    """
    args = generator.args
    plain, selecting = NotingGenerator, SelectingGenerator
    if args.sample_filter_refill is not None:
        plain, selecting = RefillingGenerator, RefillingSelectingGenerator
    elif args.sample_filter_score_ahead:
        plain, selecting = ScoringGenerator, ScoringSelectingGenerator
    selects = selection_arguments.is_active(args)
    if selects:
        loader = PromptStream(loader, args)
    rest = (generator.eval_dataloader, generator.tokenizer, generator.vllm_engines)
    return loader, (selecting if selects else plain)(generator.strategy, loader, *rest)
