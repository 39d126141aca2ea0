"""What is known of a rollout's prompts where they are taken from the data set, noted on their samples.

Filters are where training is; the data set and the prompt selection are where responses are generated, which is
another process in asynchronous training. So what filters may ask of a prompt travels with its samples, as an attribute
that OpenRLHF neither reads nor copies: its ``info`` would be logged, and may hold numbers only.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_pf.training.generation import CheckedGenerator

_ATTRIBUTE = "prompt_context"


def note(sample: Experience, **known: Any) -> None:
    """Add what is known of the sample's prompt, by name."""
    vars(sample).setdefault(_ATTRIBUTE, {}).update(known)


def noted(groups: Sequence[Sequence[Experience]], name: str) -> list[Any] | None:
    """(G,) what was noted of each prompt, of samples group by group; None where a prompt lacks it."""
    values = [vars(group[0]).get(_ATTRIBUTE, {}).get(name) for group in groups]
    return None if not values or any(value is None for value in values) else values


class NotingGenerator(CheckedGenerator):
    """A generator that notes the ``datasource`` of each prompt that trains; OpenRLHF itself drops it."""

    _sources: dict[tuple[str, str], str]

    def _trains(self, dataloader_iter: Any) -> bool:
        """Whether these are not the prompts of an evaluation."""
        return dataloader_iter is getattr(self, "_dataloader_iter", None)

    def _generate_vllm(self, dataloader_iter: Any, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        if not self._trains(dataloader_iter):
            return super()._generate_vllm(dataloader_iter, *args, **kwargs)
        found = super()._generate_vllm(self._watch(dataloader_iter), *args, **kwargs)
        self._note_sources(found[0])
        return found

    def _watch(self, dataloader_iter: Any) -> Iterator[tuple]:
        """The same rows, of which the data sources are remembered until the next call."""
        self._sources = {}
        return _watched(dataloader_iter, self._sources)

    def _note_sources(self, samples: Sequence[Experience]) -> None:
        for sample in samples:
            key = (sample.prompts[0], str(sample.labels[0] if sample.labels else ""))
            note(sample, datasource=self._sources.get(key))


def _watched(rows: Iterator[tuple], sources: dict[tuple[str, str], str]) -> Iterator[tuple]:
    """The batches of a loader as they come; the data source of each prompt and label goes to ``sources``."""
    for datasources, prompts, labels, images in rows:
        sources.update({(p, str(label)): str(source) for source, p, label in zip(datasources, prompts, labels)})
        yield datasources, prompts, labels, images
