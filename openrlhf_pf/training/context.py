"""What is known of a rollout's prompts where they are taken from the data set, noted on their samples.

Filters are where training is; the data set and the prompt selection are where responses are generated, which is
another process in asynchronous training. So what filters may ask of a prompt travels with its samples, as an attribute
that OpenRLHF neither reads nor copies: its ``info`` would be logged, and may hold numbers only.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

_ATTRIBUTE = "prompt_context"


def note(sample: Experience, **known: Any) -> None:
    """Add what is known of the sample's prompt, by name."""
    vars(sample).setdefault(_ATTRIBUTE, {}).update(known)


def noted(groups: Sequence[Sequence[Experience]], name: str) -> list[Any] | None:
    """(G,) what was noted of each prompt, of samples group by group; None where a prompt lacks it."""
    values = [vars(group[0]).get(_ATTRIBUTE, {}).get(name) for group in groups]
    return None if not values or any(value is None for value in values) else values


class NotingGenerator(SamplesGenerator):
    """OpenRLHF's generator, which notes the ``datasource`` of each prompt that trains; OpenRLHF itself drops it."""

    def _trains(self, dataloader_iter: Any) -> bool:
        """Whether these are not the prompts of an evaluation."""
        return dataloader_iter is getattr(self, "_dataloader_iter", None)

    def _generate_vllm(self, dataloader_iter: Any, *args: Any, **kwargs: Any) -> tuple[list[Experience], int, bool]:
        if not self._trains(dataloader_iter):
            return super()._generate_vllm(dataloader_iter, *args, **kwargs)
        sources: dict[tuple[str, str], str] = {}
        found = super()._generate_vllm(_watched(dataloader_iter, sources), *args, **kwargs)
        for sample in found[0]:
            note(sample, datasource=sources.get((sample.prompts[0], str(sample.labels[0] if sample.labels else ""))))
        return found


def _watched(rows: Iterator[tuple], sources: dict[tuple[str, str], str]) -> Iterator[tuple]:
    """The batches of a loader as they come; the data source of each prompt and label goes to ``sources``."""
    for datasources, prompts, labels, images in rows:
        sources.update({(p, str(label)): str(source) for source, p, label in zip(datasources, prompts, labels)})
        yield datasources, prompts, labels, images


def noting(generator: SamplesGenerator, cls: type[NotingGenerator] = NotingGenerator, loader: Any = None) -> Any:
    """A generator of this class in the place of OpenRLHF's, with another loader of prompts where one is given."""
    loader = generator.prompts_dataloader if loader is None else loader
    rest = (generator.eval_dataloader, generator.tokenizer, generator.vllm_engines)
    return cls(generator.strategy, loader, *rest)
