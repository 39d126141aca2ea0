"""PF-PPO in the order of its authors' code, for comparison only: every forward pass on all N, then the filter.

    python tests/benchmarks/forward_first.py <flags of openrlhf.cli.train_ppo>

The same samples are kept and trained on as by the package, which asks actor, critic and reference about the kept ones
alone.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from openrlhf.trainer.ppo_utils.experience import make_experience_batch as stack_experiences
from openrlhf.trainer.ppo_utils.experience import remove_padding_in_sequences, split_experience_batch

from openrlhf_pf.training import launch
from openrlhf_pf.training.argument_checks import check_arguments
from openrlhf_pf.training.arguments import add_arguments
from openrlhf_pf.training.experience_maker import FilteringExperienceMaker, filled_up


class ForwardFirstMaker(FilteringExperienceMaker):
    """Scores by asking all models about all samples, and makes experience of what they said."""

    def _score_by_models(self, rollout):
        batches = self._batches(filled_up(rollout.samples, self._ranks), self._ranks)
        made = super().make_experience(batches)
        places = [place for batch in made for place in batch.index]
        singles = [item for batch in made for item in split_experience_batch(batch)]
        self._known = dict(zip(places, remove_padding_in_sequences(singles)))
        for place, sample in enumerate(rollout.samples):
            sample.rewards = sample.info["reward"] = self._known[place].rewards.reshape(1)

    def make_experience(self, samples_list):
        made = []
        for batch in samples_list:
            known = [self._known[self._places[kept % len(self._places)]] for kept in batch.index]
            experience = stack_experiences(known)
            experience.index = batch.index
            experience.info = {key: torch.stack(values) for key, values in experience.info.items()}
            made.append(experience)
        return made


def install(args, entry):
    from openrlhf_pf.training import trainer

    # Travels with the trainer's class, by value, because a class of the main module does.
    trainer.FilteringExperienceMaker = ForwardFirstMaker
    trainer.install(args, entry)


if __name__ == "__main__":
    launch.run(add_arguments, check_arguments, install)
