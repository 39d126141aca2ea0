"""The prompts of each rollout, by how earlier rollouts of them went.

``PromptStream`` stands in the place of OpenRLHF's loader of prompts: an episode has as many prompts as before, so that
the number of steps and the learning-rate schedule stay, but which ones is asked of a ``PromptSelection`` when a
rollout begins.
"""

import hashlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.utils.logging_utils import init_logger
from torch import Tensor

from openrlhf_pf.selection import build_selection
from openrlhf_pf.training.generation import CheckedGenerator
from openrlhf_pf.training.seeds import mixed

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
        self.per_rollout = getattr(args.rollout, "vllm_generate_batch_size", None) or args.rollout.batch_size
        keys = np.array([_key(*pair) for pair in zip(self.dataset.prompts, self.dataset.labels)], dtype=np.int64)
        # Of each prompt: its key; where its rows are in _rows.
        self._keys, prompt_of_row = np.unique(keys, return_inverse=True)
        self._rows = prompt_of_row.argsort(kind="stable")
        self._first = np.searchsorted(prompt_of_row[self._rows], np.arange(len(self._keys) + 1))
        if len(self._keys) <= self.per_rollout:
            raise ValueError(
                f"--prompt_selection has nothing to choose from: a rollout takes {self.per_rollout} of "
                f"{len(self._keys)} different prompts; lower --rollout.batch_size or give more prompts."
            )
        options = args.prompt_selection_options or ()
        self.selection = build_selection(args.prompt_selection, len(self._keys), options)
        self.seed = args.train.seed if args.prompt_selection_seed is None else args.prompt_selection_seed
        self.metrics: dict[str, float] = {}
        self._rollouts = self._place = 0  # selections so far; prompts of this episode so far
        self._selected: list[int] = []  # for this rollout, not yet taken
        self._in_flight: set[int] = set()  # taken, not yet observed

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple]:
        while self._place < len(self):
            if not self._selected:
                self._select(min(self.per_rollout, len(self) - self._place))
            prompt = self._selected.pop(0)
            self._place += 1
            yield self.dataset.collate_fn([self.dataset[self._row(prompt)]])
        self._place = 0

    def _select(self, count: int) -> None:
        generator = torch.Generator().manual_seed(mixed(self.seed, self._rollouts))
        # With few prompts, none would be left.
        exclude = self._in_flight if len(self._keys) - len(self._in_flight) >= count else ()
        self._selected = self.selection.select(count, generator, exclude).tolist()
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
        first = samples[:: values.shape[1]]
        keys = np.array([_key(s.prompts[0], s.labels[0] if s.labels else "") for s in first], dtype=np.int64)
        prompts = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        if not (self._keys[prompts] == keys).all():
            raise ValueError(
                "--prompt_selection cannot tell which prompt a response belongs to: the agent or generation changes "
                "prompts or labels."
            )
        # Rollouts that overlap may hold a prompt twice: its responses belong together.
        found, place = np.unique(prompts, return_inverse=True)
        zeros = torch.zeros(len(found), dtype=torch.float64)
        successes, counts = (zeros.index_add(0, torch.tensor(place), x.double()) for x in (successes, counts))
        found = torch.tensor(found)
        figures = self.selection.metrics(found, successes, counts)
        self.metrics = {f"selection/{name}": value for name, value in figures.items()}
        self.selection.observe(found, successes, counts)
        self._in_flight.difference_update(found.tolist())
        logger.info("Prompt selection: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))

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
        self._selected, self._in_flight = [], set()


class SelectingGenerator(CheckedGenerator):
    """A generator which tells the stream how prompts went where responses come back scored."""

    def _generate_vllm(self, dataloader_iter: Any, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        samples, consumed, exhausted = super()._generate_vllm(dataloader_iter, *args, **kwargs)
        if samples and dataloader_iter is getattr(self, "_dataloader_iter", None):
            values = values_of(samples, self.args)
            if values is not None:
                self.prompts_dataloader.observe(samples, values)
        return samples, consumed, exhausted


def values_of(samples: Sequence[Experience], args: SimpleNamespace) -> Tensor | None:
    """(G, N) float64 true scores, or rewards, of samples as generation returns them; None where they have neither."""
    wanted = args.prompt_selection_success
    scores, rewards = ([getattr(sample, name) for sample in samples] for name in ("scores", "rewards"))
    chosen = rewards if wanted == "reward" or all(score is None for score in scores) else scores
    if all(value is None for value in chosen):
        return None
    numbers = [float("nan") if value is None else float(value) for value in chosen]
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, args.rollout.n_samples_per_prompt)


def selecting(generator: SamplesGenerator, loader: Any) -> tuple[PromptStream, SelectingGenerator]:
    """A stream in the place of the loader, and a generator that is fed by it."""
    stream = PromptStream(loader, generator.args)
    made = SelectingGenerator(
        generator.strategy, stream, generator.eval_dataloader, generator.tokenizer, generator.vllm_engines
    )
    return stream, made
