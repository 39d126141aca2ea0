"""Training in which the experience maker asks the reward model once more about samples that were scored ahead.

    python tests/end_to_end/scored_twice.py <flags of openrlhf.cli.train_ppo>

What it hears afterwards, and which samples the filter keeps by it, is written beside what was heard ahead, one JSON
line a step, to scored_twice.txt in $OBSERVE_DIR; training goes on with the latter.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from openrlhf_pf.filters import draw
from openrlhf_pf.training import launch
from openrlhf_pf.training.argument_checks import check_arguments
from openrlhf_pf.training.arguments import add_arguments
from openrlhf_pf.training.experience_maker import FilteringExperienceMaker
from openrlhf_pf.training.rollout import Rollout


class ScoringTwice(FilteringExperienceMaker):
    def _score_by_models(self, rollout):
        ahead = all(sample.rewards is not None for sample in rollout.samples)
        again = Rollout([replace(sample, rewards=None, info={}) for sample in rollout.samples], rollout.n_samples)
        super()._score_by_models(again)
        super()._score_by_models(rollout)
        told = {"ahead": ahead, "rewards": [], "kept": []}
        for scored in (rollout, again):
            told["rewards"].append([float(sample.rewards) for sample in scored.samples])
            batch = self._batch_of(scored)
            drawn = draw(
                self.mode, self.filter(batch), self.filter.keep, self.filter.scope, batch.order, batch.generator
            )
            told["kept"].append(drawn.counts.tolist())
        with open(os.path.join(os.environ["OBSERVE_DIR"], "scored_twice.txt"), "a") as file:
            file.write(json.dumps(told) + "\n")


def install(args, entry):
    from openrlhf_pf.training import trainer

    # Travels with the trainer's class, by value, because a class of the main module does.
    trainer.FilteringExperienceMaker = ScoringTwice
    trainer.install(args, entry)


if __name__ == "__main__":
    launch.run(add_arguments, check_arguments, install)
