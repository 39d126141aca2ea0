"""Keep the reward model right on the policy that it trains, with few true scores of the policy's own samples.

Each rollout, all responses to a few prompts get a true score. They first measure: how many of their pairs does the
reward model as given order right, how many the copy that learns? Then the copy learns from them. Its rewards train the
policy once it is ahead by a standard error, until it falls behind. Shapes: G prompts (groups), N samples of each.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.reliability.measures.pairs import count_pairs
from openrlhf_pf.training.flags.correction import SHARE, correction_options
from openrlhf_pf.training.flags.true_scores import load_reward_func
from openrlhf_pf.training.rollout import Rollout, derive_seed
from openrlhf_pf.training.true_score import TrueScore

logger = init_logger(__name__)

#: Labelled prompts with pairs whose order is compared, the newest, and how many are needed at least.
COMPARED, NEEDED = 32, 8
#: Labelled prompts, the newest, by which the scale of the learned rewards is set.
CALIBRATION = 32


class Labelled(NamedTuple):
    """A prompt whose N responses have true scores.

    Attributes:
        sequences: N of (T,) tokens, prompt and response.
        scores: (N,) true scores, NaN where one is missing.
        given: (N,) rewards of the reward model as given.
    """

    sequences: list[NDArray[np.int64]]
    scores: NDArray[np.float64]
    given: NDArray[np.float64]

    def pairs(self) -> NDArray[np.int64]:
        """Return (P, 2) places of the better and the worse response, for all pairs with different true scores."""
        return np.argwhere(self.scores[:, None] > self.scores[None, :])


def pad_sequences(prompts: Sequence[Labelled], pad_token: int) -> dict[str, torch.Tensor]:
    """Return ``sequences`` and ``attention_mask``, (S, T) each, of all responses, padded on the right."""
    sequences = [torch.from_numpy(tokens) for prompt in prompts for tokens in prompt.sequences]
    padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad_token)
    lengths = torch.tensor([len(tokens) for tokens in sequences])
    return {"sequences": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


class Batch(NamedTuple):
    """What one rank learns from in one optimizer step: labelled prompts."""

    prompts: Sequence[Labelled]

    def tensors(self, pad_token: int) -> dict[str, torch.Tensor]:
        """Return the arguments of ``RefreshedRewardModelActor.refresh``; each prompt has the same weight."""
        starts = np.cumsum([0, *(len(prompt.sequences) for prompt in self.prompts)])
        pairs = [prompt.pairs() for prompt in self.prompts]
        weights = [np.full(len(p), 1 / len(p) / len(pairs)) for p in pairs]
        places = np.concatenate([p + start for p, start in zip(pairs, starts)])
        return {
            **pad_sequences(self.prompts, pad_token),
            "pairs": torch.from_numpy(places),
            "weights": torch.from_numpy(np.concatenate(weights)).float(),
        }


class Correction:
    """The controller's half: labels, compares, decides what trains, and says what the copy learns from.

    Args:
        args: OpenRLHF's nested arguments.
        seed: of the choice of prompts and of batches.
        ranks: data-parallel ranks of the reward model.
    """

    def __init__(self, args: SimpleNamespace, seed: int, ranks: int) -> None:
        self.options = correction_options(args)
        self.share = SHARE if args.sample_filter_true_share is None else args.sample_filter_true_share
        self.seed, self.ranks = seed, ranks
        function = load_reward_func(args.sample_filter_probe_score, "--sample_filter_probe_score")
        self.judge = TrueScore(function, workers=os.cpu_count())
        self.labelled: deque[Labelled] = deque(maxlen=self.options.window)
        #: Of each compared prompt: the share of its pairs ordered right by the model as given, and by the copy.
        self.compared: deque[tuple[float, float]] = deque(maxlen=COMPARED)
        self.trusted = False
        self.labels = 0
        self._unlearned = 0  # labelled prompts with pairs since the copy last learned
        #: The learned rewards are multiplied and shifted to the given model's scale.
        self.scale, self.shift = 1.0, 0.0

    # ── Which model's rewards train ──

    def lead(self) -> tuple[float, float]:
        """Return by how much pair accuracy the copy is ahead of the model as given, and the standard error."""
        if len(self.compared) < 2:
            return math.nan, math.nan
        ahead = np.diff(np.array(self.compared), axis=1)
        return float(ahead.mean()), float(ahead.std(ddof=1) / math.sqrt(len(ahead)))

    def compare(self, given: NDArray[np.float64], learned: NDArray[np.float64]) -> None:
        """Take the pair accuracies of both models on new prompts, and decide which one's rewards train.

        The copy's, once it is ahead by more than a standard error, until it falls behind.
        """
        self.compared.extend(zip(given.tolist(), learned.tolist()))
        ahead, error = self.lead()
        self.trusted = len(self.compared) >= NEEDED and (ahead > error or (self.trusted and ahead >= 0))

    def corrected(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return the copy's rewards on the scale of the model as given."""
        return rewards * self.scale + self.shift

    # ── Labels ──

    def choose(self, n_prompts: int, step: int) -> list[int]:
        """Return the places of the prompts that get true scores in this step, at random by the seed."""
        number = min(n_prompts, max(1, round(self.share * n_prompts)))
        chosen = self._generator(step, "label").permutation(n_prompts)[:number]
        return sorted(chosen.tolist())

    def observe(
        self, rollout: Rollout, step: int, tokenizer: Any, forward: Callable[[list, bool], NDArray[np.float64]]
    ) -> None:
        """Have a share of the rollout's prompts judged, and compare both models on them.

        Args:
            rollout: the rollout; the chosen samples get their ``scores``.
            step: of training.
            tokenizer: the policy's.
            forward: returns the rewards of samples by the model as given, or by the copy.
        """
        groups = [rollout.groups[place] for place in self.choose(len(rollout.groups), step)]
        samples = [sample for group in groups for sample in group]
        self.judge(samples, tokenizer)
        if warning := self.judge.take_failures(f"{len(samples)} samples"):
            logger.warning(warning)
        scores = np.array([float(sample.scores) for sample in samples]).reshape(len(groups), -1)
        given, learned = (forward(samples, copy).reshape(scores.shape) for copy in (False, True))
        right, total = np.stack([count_pairs(rewards, scores)[0] for rewards in (given, learned)], axis=1)
        has_pairs = total[0] > 0
        self.compare(*(right[:, has_pairs] / total[:, has_pairs]))
        self.labels += int(np.isfinite(scores).sum())
        for group, score, reward in zip(groups, scores, given):
            tokens = [sample.sequences[0][sample.attention_mask[0].bool()].numpy() for sample in group]
            prompt = Labelled(tokens, score, reward)
            self.labelled.append(prompt)
            self._unlearned += len(prompt.pairs()) > 0

    # ── Learning ──

    def batches(self, step: int) -> list[list[Batch]]:
        """Return what each rank learns from in each optimizer step, (ranks, steps); nothing without new pairs."""
        known = [prompt for prompt in self.labelled if len(prompt.pairs())]
        visits = self._multiple_of_ranks(self.options.passes * self._unlearned)
        self._unlearned = 0
        if not visits:
            return []
        generator, size = self._generator(step, "learn"), self._multiple_of_ranks(self.options.batch)
        rounds = math.ceil(visits / len(known))
        order = np.concatenate([generator.permutation(len(known)) for _ in range(rounds)])[:visits]
        steps = [order[start : start + size] for start in range(0, visits, size)]
        ranks = range(self.ranks)
        return [[Batch([known[i] for i in chosen[rank :: self.ranks]]) for chosen in steps] for rank in ranks]

    def _multiple_of_ranks(self, number: int) -> int:
        return math.ceil(number / self.ranks) * self.ranks

    def calibrate(self, forward: Callable[[Sequence[Labelled]], NDArray[np.float64]]) -> None:
        """Set scale and shift so that the copy has the spread within prompts, and the mean, of the model as given."""
        newest = list(self.labelled)[-CALIBRATION:]
        learned, given = forward(newest), np.stack([prompt.given for prompt in newest])
        usable = np.isfinite(learned).all(axis=1) & np.isfinite(given).all(axis=1)
        if usable.any() and spread(learned[usable]) > 0:
            self.scale = spread(given[usable]) / spread(learned[usable])
            self.shift = float(given[usable].mean() - self.scale * learned[usable].mean())

    def _generator(self, step: int, purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, f"{purpose}/{step}"))

    # ── Metrics, and what a resumed run needs ──

    def metrics(self) -> dict[str, float]:
        """Return the figures of a step by name."""
        found = {"filter/true_scores": float(self.labels), "filter/correct_trusted": float(self.trusted)}
        if self.compared:
            given, learned = np.mean(np.array(self.compared), axis=0).tolist()
            found |= {"filter/plain_accuracy": given, "filter/correct_accuracy": learned}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; the copy's weights are in the reward model's own checkpoint."""
        names = ("labels", "trusted", "scale", "shift", "_unlearned")
        numbers = {name: getattr(self, name) for name in names}
        return numbers | {"compared": list(self.compared), "labelled": [tuple(prompt) for prompt in self.labelled]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, value in state.items():
            if name == "labelled":
                self.labelled.extend(Labelled(*prompt) for prompt in value)
            elif name == "compared":
                self.compared.extend(map(tuple, value))
            else:
                setattr(self, name, value)


def spread(rewards: NDArray[np.float64]) -> float:
    """Return the root mean square of (G, N) rewards around their prompts' means."""
    return float(np.sqrt(np.mean((rewards - rewards.mean(axis=1, keepdims=True)) ** 2)))
