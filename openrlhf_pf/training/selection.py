"""The prompts of each rollout, by how earlier rollouts of them went.

``PromptStream`` stands in the place of OpenRLHF's loader of prompts: an episode has as many prompts as before, so that
the number of steps and the learning-rate schedule stay, but which ones is asked of a ``PromptSelection`` when a
rollout begins.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils.logging_utils import init_logger
from torch import Tensor

from openrlhf_pf.selection import build_selection
from openrlhf_pf.training.context import NotingGenerator, note
from openrlhf_pf.training.rollout import beside_rewards, number
from openrlhf_pf.training.seeds import mixed
from openrlhf_pf.training.selection_arguments import check_enough, prompts_at_once, scored_where_generated

logger = init_logger(__name__)


def _key(prompt: str, label: Any) -> int:
    digest = hashlib.blake2b(f"{len(prompt)}:{prompt}{label}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class PromptStream:
    """What OpenRLHF asks of its loader: iteration, length, data set and state.

    Rows with the same prompt and label are one prompt: what generation brings back names no row.

    Args:
        loader: OpenRLHF's.
        args: its nested arguments.

    Raises:
        ValueError: the data set has too few prompts.
    """

    def __init__(self, loader: Any, args: SimpleNamespace) -> None:
        self.dataset = loader.dataset
        self.args = args
        self.per_rollout = prompts_at_once(args)
        keys = np.array([_key(*pair) for pair in zip(self.dataset.prompts, self.dataset.labels)], dtype=np.int64)
        # Of each prompt: its key; where its rows are in _rows.
        self._keys, prompt_of_row = np.unique(keys, return_inverse=True)
        self._rows = prompt_of_row.argsort(kind="stable")
        self._first = np.searchsorted(prompt_of_row[self._rows], np.arange(len(self._keys) + 1))
        check_enough(len(self._keys), args)
        options = args.prompt_selection_options or ()
        self.selection = build_selection(args.prompt_selection, len(self._keys), options)
        self.seed = args.train.seed if args.prompt_selection_seed is None else args.prompt_selection_seed
        self.metrics: dict[str, float] = {}
        self._rollouts = self._place = 0  # selections so far; prompts of this episode so far
        self._ended = False  # the iteration has come to its end, and the next one begins an episode
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
            yield self.dataset.collate_fn([self.dataset[self._row(prompt)]])
        self._ended = True

    def select_further(self, count: int) -> int:
        """Have the iteration go on with prompts of the same rollout, none of which is in flight.

        Returns:
            How many: fewer than ``count`` where the episode or the data set has no more.
        """
        assert not self._selected, "a rollout takes all that are selected for it before it asks for more"
        count = min(count, len(self) - self._place, len(self._keys) - len(self._in_flight))
        if count > 0:
            self._select(count)
        return count

    def _select(self, count: int) -> None:
        generator = np.random.default_rng(mixed(self.seed, self._rollouts))
        # With few prompts, none would be left.
        exclude = self._in_flight if len(self._keys) - len(self._in_flight) >= count else ()
        self._selected = deque(self.selection.select(count, generator, exclude).tolist())
        self._in_flight.update(self._selected)
        self._rollouts += 1

    def _row(self, prompt: int) -> int:
        """The rows of a prompt take turns: they may have different images."""
        rows = self._rows[self._first[prompt] : self._first[prompt + 1]]
        return int(rows[(int(self.selection.visits[prompt]) - 1) % len(rows)])

    # ── What came of it ──

    def observe(self, samples: Sequence[Experience], values: Tensor) -> None:
        """Learn from scored samples, the N of each prompt side by side.

        Args:
            samples: G N experiences of one sample each.
            values: (G, N) their true scores or rewards; NaN where there is none.

        Raises:
            ValueError: a value is not between 0 and 1, and no threshold says what a success is.
        """
        above, usable = self.args.prompt_selection_success_above, values.isfinite()
        if above is None and not ((values >= 0) & (values <= 1))[usable].all():
            wrong = values[usable & ~((values >= 0) & (values <= 1))][0]
            raise ValueError(
                f"--prompt_selection needs successes between 0 and 1, got {float(wrong):g}: say above which value a "
                "response has succeeded with --prompt_selection_success_above."
            )
        value = values if above is None else (values > above).double()
        counts, successes = usable.sum(dim=1), torch.where(usable, value, 0.0).sum(dim=1)
        prompts = self._prompts_of(samples[:: values.shape[1]])
        # Rollouts that overlap may hold a prompt twice: its responses belong together.
        found, place = np.unique(prompts, return_inverse=True)
        successes, counts = (np.bincount(place, x.numpy(), len(found)) for x in (successes, counts))
        figures = self.selection.metrics(found, successes, counts)
        self.metrics = {f"selection/{name}": value for name, value in figures.items()}
        self.selection.observe(found, successes, counts)
        self._in_flight.difference_update(found.tolist())
        logger.info("Prompt selection: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))

    def note(self, samples: Sequence[Experience]) -> None:
        """Note on samples that were just generated, the N of each prompt side by side, what was known of their prompts
        when these were selected.

        Called before they are observed, so that it is the same whether that is done here or where training is.
        """
        n_samples = self.args.rollout.n_samples_per_prompt
        prompts = self._prompts_of(samples[::n_samples]).repeat(n_samples)
        means = self.selection.posterior.means(prompts).tolist()
        visits = (self.selection.visits[prompts].astype(np.int64) - 1).tolist()  # less the one that they come from
        for sample, mean, earlier in zip(samples, means, visits):
            note(sample, posterior_mean=mean, visits=earlier)

    def _prompts_of(self, samples: Sequence[Experience]) -> NDArray[np.int64]:
        """The number of each sample's prompt.

        Raises:
            ValueError: it is none of the data set's.
        """
        keys = np.array([_key(s.prompts[0], s.labels[0] if s.labels else "") for s in samples], dtype=np.int64)
        prompts = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        if not (self._keys[prompts] == keys).all():
            raise ValueError(
                "--prompt_selection cannot tell which prompt a response belongs to: the agent or generation changes "
                "prompts or labels."
            )
        return prompts

    # ── Checkpoints ──

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; prompts in flight are lost with the run, as the loader's own are."""
        return {
            "prompt_selection": self.args.prompt_selection,
            "data": hashlib.blake2b(self._keys.tobytes(), digest_size=16).hexdigest(),
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
        self.selection.load_state_dict(state["selection"])
        self._rollouts, self._place, self.metrics = state["rollouts"], state["place"], state["metrics"]
        # At the end of an episode, the next iteration yields nothing: OpenRLHF then counts it as over.
        self._ended, self._selected, self._in_flight = False, deque(), set()


class SelectingGenerator(NotingGenerator):
    """OpenRLHF's generator, which notes what the stream knows of prompts, and tells it how they went where responses
    come back scored.
    """

    #: Samples of this call that are not among those that it returns.
    held_back: Sequence[Experience] = ()
    _looked_at_scores = False

    def _generate_vllm(self, dataloader_iter: Any, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        samples, consumed, exhausted = super()._generate_vllm(dataloader_iter, *args, **kwargs)
        if self._trains(dataloader_iter):
            seen = [*samples, *self.held_back]
            if seen:
                self.prompts_dataloader.note(seen)
            # Of a local reward model's rewards the trainer tells the stream, even where they are there already.
            values = values_of(seen, self.args) if seen and scored_where_generated(self.args) else None
            if values is not None:
                self._look_at_scores(seen)
                self.prompts_dataloader.observe(seen, values)
        return samples, consumed, exhausted

    def _look_at_scores(self, samples: Sequence[Experience]) -> None:
        """Say so where true scores are asked for and the first rollout shows none."""
        if self._looked_at_scores or self.args.prompt_selection_success != "score":
            return
        self._looked_at_scores = True
        scores, rewards = (
            torch.tensor([number(getattr(sample, name)) for sample in samples], dtype=torch.float64)
            for name in ("scores", "rewards")
        )
        if beside_rewards(scores, rewards) is None:
            logger.warning(
                "--prompt_selection_success score goes by the rewards: every score of the first rollout is its "
                "reward, as OpenRLHF has it where the reward function or the agent returns none."
            )


def values_of(samples: Sequence[Experience], args: SimpleNamespace) -> Tensor | None:
    """(G, N) float64 true scores, or rewards, of samples as generation returns them; None where they have neither."""
    wanted = args.prompt_selection_success
    scores, rewards = ([getattr(sample, name) for sample in samples] for name in ("scores", "rewards"))
    chosen = rewards if wanted == "reward" or all(score is None for score in scores) else scores
    if all(value is None for value in chosen):
        return None
    numbers = [float("nan") if value is None else float(value) for value in chosen]
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, args.rollout.n_samples_per_prompt)
