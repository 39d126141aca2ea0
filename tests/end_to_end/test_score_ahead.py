"""Finished prompts are scored while others are generated, on the real stack."""

import json
import re
from pathlib import Path

ENTRY = (str(Path(__file__).parent / "scored_twice.py"),)


def test_rewards_and_choice_are_those_of_scoring_afterwards(stack, tmp_path):
    """Two ranks score 8, 8 and 3 prompts x 4, the last of which are no even number of micro-batches. Sequences differ
    in length by their prompts, and within a micro-batch wherever a response has ended early.
    """
    run = stack.train(
        tmp_path / "run",
        19,
        f"--reward.model_name_or_path {stack.reward} --reward.num_gpus_per_node 2 "
        "--sample_filter best_random --sample_filter_score_ahead --algo.advantage.estimator reinforce "
        "--algo.kl.init_coef 0",
        entry=ENTRY,
    )
    told = [json.loads(line) for line in (tmp_path / "run" / "observed" / "scored_twice.txt").read_text().splitlines()]
    assert [step["ahead"] for step in told] == [True, True, False]
    for step, prompts in zip(told, (8, 8, 3)):
        (ahead, afterwards), (kept, kept_afterwards) = step["rewards"], step["kept"]
        assert len(set(ahead)) > prompts and ahead == afterwards
        assert kept == kept_afterwards and sum(map(sum, kept)) == 2 * prompts
    assert len(re.findall(r"Scored ahead: \d+ of 32 samples", run.log)) == 2
