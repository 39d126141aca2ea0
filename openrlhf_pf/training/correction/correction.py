"""Keep the reward model right on the policy that it trains, with few true scores of the policy's own samples.

Each rollout, all responses to a few prompts get a true score, and these scores are their rewards. A linear head on the
reward model's last state learns from their pairs what the reward gets wrong. It corrects the rewards of the other
prompts if cross-validation over prompts finds that they order responses better. The less rewards are correlated with
true scores, the more a true score weighs. Shapes: G prompts (groups), N samples of each, d dimensions of a state.
"""

import math
import os
from collections import deque
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.reliability.measures.metrics import count_pairs
from openrlhf_pf.training.correction.head import (
    Head,
    cross_validate,
    fit_head,
    in_logits,
    log_loss,
    pairs_of,
    scale_to,
    slope_within,
)
from openrlhf_pf.training.flags.true_scores import SHARE, load_reward_func
from openrlhf_pf.training.rollout import Rollout, derive_seed
from openrlhf_pf.training.true_score import TrueScore

logger = init_logger(__name__)

#: Labelled prompts with pairs: how many, the newest, the head learns from, how many of these decide whether it is
#: trusted, and how many are needed at least.
WINDOW, COMPARED, NEEDED = 256, 64, 8
#: Of rewards and true scores within prompts. It bounds how much more a true score weighs: ten times as much.
LEAST_CORRELATION = 0.1


class Labelled(NamedTuple):
    """A prompt whose responses have true scores.

    Attributes:
        prompt: a number that equal prompts share.
        rewards: (N,) of the reward model as given.
        states: (N, d) its last states.
        scores: (N,) true scores, NaN where one is missing.
    """

    prompt: int
    rewards: NDArray[np.float32]
    states: NDArray[np.float32]
    scores: NDArray[np.float64]


class Correction:
    """Has some prompts of each rollout judged, and fits the head that corrects the rewards.

    Args:
        args: OpenRLHF's nested arguments.
        seed: of the choice of prompts.
    """

    def __init__(self, args: SimpleNamespace, seed: int) -> None:
        self.share = SHARE if args.sample_filter_true_share is None else args.sample_filter_true_share
        self.seed = seed
        function = load_reward_func(args.sample_filter_probe_score, "--sample_filter_probe_score")
        self.judge = TrueScore(function, workers=os.cpu_count())
        self.labelled: deque[Labelled] = deque(maxlen=WINDOW)
        self.labels = 0
        #: Of the prompts judged in the last rollout: their places and (N,) true scores.
        self.known: dict[int, NDArray[np.float64]] = {}
        #: How far true scores are apart where rewards, corrected if the head is trusted, are 1 apart: a regression
        #: within prompts that the head has not seen. 0 before there are enough of them.
        self.slope = 0.0
        #: Of rewards and true scores within the same prompts. A true score weighs 1 / correlation times as much.
        self.correlation = math.nan
        self.trusted = False
        self.head: Head | None = None
        #: Share of the labelled prompts' pairs that are ordered right: by the given rewards, and by the head.
        self.accuracy = (math.nan, math.nan)

    def corrected(self, rewards: NDArray[np.float32], states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rewards of samples without true scores: corrected if the head is trusted, else as given.

        Args:
            rewards: of any shape, of the reward model as given.
            states: the same shape with d more.
        """
        return self.head(rewards, states).astype(np.float32) if self.trusted else rewards

    def estimate(self, rewards: NDArray[np.float32], states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (G, N) rewards that train, of the rollout that :meth:`learn` had judged last.

        Within a prompt, each is the best estimate of the true score: the score itself, or what the reward predicts of
        it. Prompts keep the mean of their rewards, and the rollout its mean and spread within prompts.

        Args:
            rewards: (G, N) of the reward model as given.
            states: (G, N, d) its last states.
        """
        predicted = self.corrected(rewards, states)
        if not self.slope:
            return predicted
        found = predicted.astype(float)
        for place, scores in self.known.items():
            if np.isfinite(scores).all() and np.isfinite(found[place]).all():
                found[place] = found[place].mean() + (scores - scores.mean()) / self.slope
        factor, shift = scale_to(found, rewards)
        return (factor * found + shift).astype(np.float32)

    def choose(self, n_prompts: int, step: int) -> list[int]:
        """Return the places of the prompts that get true scores in this step, at random by the seed."""
        number = min(n_prompts, max(1, round(self.share * n_prompts)))
        generator = np.random.default_rng(derive_seed(self.seed, f"label/{step}"))
        return sorted(generator.permutation(n_prompts)[:number].tolist())

    def learn(
        self, rollout: Rollout, rewards: NDArray[np.float32], states: NDArray[np.float32], step: int, tokenizer: Any
    ) -> None:
        """Have a share of the rollout's prompts judged, and fit the head.

        Args:
            rollout: the chosen samples get their ``scores``.
            rewards: (G, N) of the reward model as given.
            states: (G, N, d) its last states.
            step: of training.
            tokenizer: the policy's.
        """
        chosen = self.choose(len(rollout.groups), step)
        samples = [sample for place in chosen for sample in rollout.groups[place]]
        self.judge(samples, tokenizer)
        if warning := self.judge.take_failures(f"{len(samples)} samples"):
            logger.warning(warning)
        scores = np.array([float(sample.scores) for sample in samples]).reshape(len(chosen), -1)
        for place in set(range(len(rollout.groups))) - set(chosen):
            for sample in rollout.groups[place]:
                sample.scores = None  # a reward function's own score, or its reward again
        self.labels += int(np.isfinite(scores).sum())
        self.known = dict(zip(chosen, scores))
        for place, score in zip(chosen, scores):
            finite = np.isfinite(rewards[place]) & np.isfinite(states[place]).all(axis=1)
            score = np.where(finite, score, np.nan)
            if pairs_of(score[None]).any():
                prompt = derive_seed(0, rollout.groups[place][0].prompts[0])
                reward, state = np.where(finite, rewards[place], 0), np.where(finite[:, None], states[place], 0)
                self.labelled.append(Labelled(prompt, reward, state, score))
        if self.labelled:
            self._fit()
            if self.head is not None:
                factor, shift = scale_to(self.head(rewards, states), rewards)
                self.head = self.head.scaled(factor, shift)
                self.slope /= factor if self.trusted else 1.0

    def _fit(self) -> None:
        """Fit the head on all labelled prompts, and decide whether to trust it.

        It is trusted while its log-loss on prompts that it has not seen is lower than that of the given rewards, for
        which their scale is chosen that suits these prompts best.
        """
        prompts, rewards, states, scores = map(np.stack, zip(*self.labelled))
        held_out = rewards
        if states.shape[-1]:
            self.head = fit_head(rewards, states, scores)
            held_out = cross_validate(rewards, states, scores, prompts)
        given, held_out, scores = rewards[-COMPARED:], held_out[-COMPARED:], scores[-COMPARED:]
        losses = [log_loss(x, scores).mean() for x in (in_logits(given, scores), held_out)]
        self.trusted = len(scores) >= NEEDED and self.head is not None and bool(losses[1] < losses[0])
        right, total = np.stack([count_pairs(x, scores)[0] for x in (given, held_out)], axis=1)
        self.accuracy = tuple((right / total).mean(axis=1).tolist())
        if len(scores) >= NEEDED:
            found = slope_within(held_out if self.trusted else given, scores, LEAST_CORRELATION)
            self.slope, self.correlation = found

    def metrics(self) -> dict[str, float]:
        """Return the figures of a step by name."""
        found = {"filter/true_scores": float(self.labels), "filter/correct_trusted": float(self.trusted)}
        if self.slope:
            found["filter/reward_correlation"] = self.correlation
        if self.labelled:
            found |= dict(zip(("filter/plain_accuracy", "filter/correct_accuracy"), self.accuracy))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        head = None if self.head is None else (self.head.gain, self.head.direction, self.head.shift)
        numbers = {name: getattr(self, name) for name in ("labels", "trusted", "accuracy", "slope", "correlation")}
        return numbers | {"head": head, "labelled": [tuple(prompt) for prompt in self.labelled]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.labels, self.trusted, self.accuracy = state["labels"], state["trusted"], tuple(state["accuracy"])
        self.slope, self.correlation = state["slope"], state["correlation"]
        self.head = None if state["head"] is None else Head(*state["head"])
        self.labelled = deque((Labelled(*prompt) for prompt in state["labelled"]), maxlen=WINDOW)
