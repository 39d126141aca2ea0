"""Prompts of which nothing trains are replaced, on the real stack."""

import re
from collections import Counter

import pytest
from test_training import steps_of

# Of every five prompts one is flat and one has no reward; those of the others differ by what was written.
SOME_FLAT = """
import re
import zlib

def reward_func(queries, prompts, labels):
    kind = int(re.search(r"add (\\d+)", prompts[0])[1]) % 5
    if kind == 2:
        raise RuntimeError("this prompt's reward cannot be had")
    return {"rewards": [1.0 if kind == 1 else zlib.crc32(queries[0].encode()) / 2**32]}
"""


def kinds_of(rows) -> list[int]:
    """Of each prompt of a step; the groups tell copies of a prompt apart."""
    return [int(re.search(r"add (\d+)", prompt)[1]) % 5 for prompt in rows.groupby("group").prompt.first()]


def test_steps_are_full_until_the_prompts_are_used_up(stack, tmp_path):
    """Two asynchronous episodes of 19 prompts, of which one is there twice: 11 train, in steps of 4, 4 and 3."""
    reward = tmp_path / "reward.py"
    reward.write_text(SOME_FLAT)
    run = stack.train(
        tmp_path / "run",
        19,
        "--sample_filter best_worst --sample_filter_drop flat --sample_filter_refill 4 "
        f"--reward.remote_url {reward} --sample_filter_log {tmp_path / 'run' / 'log'} --train.async_enable "
        "--algo.advantage.estimator reinforce --algo.kl.init_coef 0 --rollout.batch_size 4 --train.micro_batch_size 2 "
        "--train.num_episodes 2",
    )
    log = steps_of(tmp_path / "run")
    assert list(log) == list(run.steps) == [1, 2, 3, 4, 5, 6]
    for episode in ((1, 2, 3), (4, 5, 6)):
        prompts = [log[step].groupby("group").prompt.first() for step in episode]
        assert Counter(text for step in prompts for text in step) == {
            **{f"add {i} + {i}?": 1 for i in range(1, 18)},
            "add 0 + 0?": 2,
        }, "each row is taken once"
    for (step, rows), full in zip(log.items(), [4, 4, 3] * 2):
        kinds, metrics = kinds_of(rows), run.steps[step]
        trained = [kinds_of(group)[0] for _, group in rows.groupby("group") if group.kept.any()]
        assert len(trained) == full and not {1, 2} & set(trained)
        assert metrics["rollout/num_samples"] == 4 * sum(kind != 2 for kind in kinds)
        assert metrics["filter/dropped_prompts"] == len(kinds) - full
        replaced = max(0, len(kinds) - 4)
        assert metrics["filter/replaced_prompts"] == replaced
        assert metrics["filter/replaced_share"] == pytest.approx(replaced / len(kinds))
    assert run.samples("PolicyModelActor", "forward") == run.samples("ActorPPOTrainer", "train") == 2 * 11 * 2
    assert "A step continues with" not in run.log
