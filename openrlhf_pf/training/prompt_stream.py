"""Choose the prompts of each rollout by the results of earlier rollouts.

``PromptStream`` replaces OpenRLHF's loader of prompts: an episode has as many prompts as before, so that the number of
steps and the learning-rate schedule stay, but a ``PromptSelection`` decides which ones when a rollout begins.
"""

import copy
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils.logging_utils import init_logger

from openrlhf_pf.selection import build_selection
from openrlhf_pf.training.flags.prompts import check_enough_prompts, prompts_per_generation
from openrlhf_pf.training.rollout import attach_context, derive_seed, numbers_of

logger = init_logger(__name__)


def _hash(prompt: str, label: Any) -> int:
    digest = hashlib.blake2b(f"{len(prompt)}:{prompt}{label}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class PromptStream:
    """What OpenRLHF needs of its loader: iteration, length, data set and state.

    Rows with the same prompt and label are one prompt: generated samples do not say which row they came from.

    Args:
        loader: OpenRLHF's.
        args: its nested arguments.

    Raises:
        ValueError: the data set has too few prompts.
    """

    def __init__(self, loader: Any, args: SimpleNamespace) -> None:
        self.dataset = loader.dataset
        self.args = args
        self.per_rollout = prompts_per_generation(args)
        hashes = np.array([_hash(*pair) for pair in zip(self.dataset.prompts, self.dataset.labels)], dtype=np.int64)
        # Of each prompt: its hash, and where its rows begin in _rows.
        self._hashes, prompt_of_row = np.unique(hashes, return_inverse=True)
        self._rows = prompt_of_row.argsort(kind="stable")
        self._first = np.searchsorted(prompt_of_row[self._rows], np.arange(len(self._hashes) + 1))
        check_enough_prompts(len(self._hashes), args)
        options = args.prompt_selection_options or ()
        self.selection = build_selection(args.prompt_selection, len(self._hashes), options)
        self.seed = args.train.seed if args.prompt_selection_seed is None else args.prompt_selection_seed
        self.metrics: dict[str, float] = {}
        self._rollouts = self._place = 0  # selections so far; prompts of this episode so far
        self._ended = False  # the iteration has reached its end, and the next one begins an episode
        self._selected: deque[int] = deque()  # for this rollout, not yet taken
        self._in_flight: set[int] = set()  # taken, not yet observed

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple]:
        if self._ended:
            self._place, self._ended = 0, False
        while self._place < len(self):
            if not self._selected:
                self._select(min(self.per_rollout, len(self) - self._place))
            prompt = self._selected.popleft()
            self._place += 1
            yield self.dataset.collate_fn([self.dataset[self._row_of(prompt)]])
        self._ended = True

    def select_further(self, count: int) -> int:
        """Add prompts to the same rollout, none of which is in flight.

        Returns:
            How many: fewer than ``count`` if the episode or the data set has no more.
        """
        assert not self._selected, "a rollout takes all that are selected for it before it asks for more"
        count = min(count, len(self) - self._place, len(self._hashes) - len(self._in_flight))
        if count > 0:
            self._select(count)
        return count

    def _select(self, count: int) -> None:
        generator = np.random.default_rng(derive_seed(self.seed, self._rollouts))
        # A small data set may have none left.
        exclude = self._in_flight if len(self._hashes) - len(self._in_flight) >= count else ()
        self._selected = deque(self.selection.select(count, generator, exclude).tolist())
        self._in_flight.update(self._selected)
        self._rollouts += 1

    def _row_of(self, prompt: int) -> int:
        """Return a row of the prompt; its rows take turns, because they may have different images."""
        rows = self._rows[self._first[prompt] : self._first[prompt + 1]]
        return int(rows[(int(self.selection.visits[prompt]) - 1) % len(rows)])

    # ── Results ──

    def observe(self, samples: Sequence[Experience], values: NDArray) -> None:
        """Learn from scored samples, the N of each prompt contiguous.

        Args:
            samples: G N experiences of one sample each.
            values: (G, N) their true scores or rewards; NaN where there is none.

        Raises:
            ValueError: a value is not between 0 and 1, and there is no threshold for a success.
        """
        above, usable = self.args.prompt_selection_success_above, np.isfinite(values)
        if above is None and not ((values >= 0) & (values <= 1))[usable].all():
            wrong = values[usable & ~((values >= 0) & (values <= 1))][0]
            raise ValueError(
                f"--prompt_selection needs successes between 0 and 1, got {wrong:g}: give the value above which a "
                "response succeeds with --prompt_selection_success_above."
            )
        value = values if above is None else (values > above).astype(np.float64)
        prompts = self._prompts_of(samples[:: values.shape[1]])
        # Rollouts that overlap may hold a prompt twice: its responses belong together.
        prompts, place = np.unique(prompts, return_inverse=True)
        successes, counts = (
            np.bincount(place, weights=row.sum(axis=1), minlength=len(prompts))
            for row in (np.where(usable, value, 0.0), usable)
        )
        figures = self.selection.metrics(prompts, successes, counts)
        self.metrics = {f"selection/{name}": value for name, value in figures.items()}
        self.selection.observe(prompts, successes, counts)
        self._in_flight.difference_update(prompts.tolist())
        logger.info("Prompt selection: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))

    def attach_posterior(self, samples: Sequence[Experience]) -> None:
        """Attach to samples just generated, the N of each prompt contiguous, what was known of their prompts when
        these were selected.

        Called before they are observed, so that it is the same wherever that is done.
        """
        n_samples = self.args.rollout.n_samples_per_prompt
        prompts = self._prompts_of(samples[::n_samples]).repeat(n_samples)
        means = self.selection.posterior.means(prompts).tolist()
        visits = (self.selection.visits[prompts].astype(np.int64) - 1).tolist()  # without the one they come from
        for sample, mean, earlier in zip(samples, means, visits):
            attach_context(sample, posterior_mean=mean, visits=earlier)

    def _prompts_of(self, samples: Sequence[Experience]) -> NDArray[np.int64]:
        """Return the number of each sample's prompt.

        Raises:
            ValueError: it is not in the data set.
        """
        hashes = np.array([_hash(s.prompts[0], s.labels[0] if s.labels else "") for s in samples], dtype=np.int64)
        prompts = np.searchsorted(self._hashes, hashes).clip(max=len(self._hashes) - 1)
        if not (self._hashes[prompts] == hashes).all():
            raise ValueError(
                "--prompt_selection cannot find the prompt of a response in the data set: the agent or generation "
                "changes prompts or labels."
            )
        return prompts

    # ── Checkpoints ──

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; prompts in flight are lost with the run, as the loader's own are."""
        return {
            "prompt_selection": self.args.prompt_selection,
            "data": hashlib.blake2b(self._hashes.tobytes(), digest_size=16).hexdigest(),
            "selection": self.selection.state_dict(),
            "rollouts": self._rollouts,
            "place": self._place,
            "metrics": self.metrics,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: it is of another data set, of another selection, or of a run without one.
        """
        mine = self.state_dict()
        if state.get("prompt_selection") != mine["prompt_selection"] or state.get("data") != mine["data"]:
            raise ValueError(
                f"the checkpoint is of --prompt_selection {state.get('prompt_selection', 'none')}"
                f"{' and other prompts' if state.get('data', mine['data']) != mine['data'] else ''}: resume with what "
                "the run began with, or start another one."
            )
        self.selection.load_state_dict(copy.deepcopy(state["selection"]))  # Ray's arrays are read-only
        self._rollouts, self._place, self.metrics = state["rollouts"], state["place"], state["metrics"]
        # At the end of an episode, the next iteration yields nothing: OpenRLHF then counts it as over.
        self._ended, self._selected, self._in_flight = False, deque(), set()


def success_values(samples: Sequence[Experience], args: SimpleNamespace) -> NDArray[np.float64] | None:
    """Return (G, N) true scores, or rewards, of generated samples; None if they have neither."""
    use_rewards = args.prompt_selection_success == "reward" or all(sample.scores is None for sample in samples)
    name = "rewards" if use_rewards else "scores"
    if all(getattr(sample, name) is None for sample in samples):
        return None
    return numbers_of(samples, name, args.rollout.n_samples_per_prompt)
