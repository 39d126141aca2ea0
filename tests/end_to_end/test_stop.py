"""Training that ends by itself, on the real stack."""

import pytest

# The reward is high for what the true score is low for.
AGAINST = """
def reward_func(queries, prompts, labels):
    response = queries[0][len(prompts[0]) :].replace("<eos>", "").replace("<pad>", "")
    characters = sum(character.isascii() for character in response)
    return {"rewards": [float(-characters)], "scores": [float(characters)]}
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_reward_that_is_wrong_ends_training_with_a_checkpoint(stack, tmp_path, kind):
    """Of 8 steps it takes the two that its window needs; asynchronously a rollout more may be under way."""
    reward = tmp_path / "reward.py"
    reward.write_text(AGAINST)
    run = stack.train(
        tmp_path / "run",
        32,
        f"--sample_filter best_worst --sample_filter_stop_below 0.5 --sample_filter_stop_window 2 "
        f"--reward.remote_url {reward} --algo.advantage.estimator reinforce --rollout.batch_size 4 "
        + ("--train.async_enable" if kind == "async" else "--algo.kl.init_coef 0"),
    )
    assert list(run.steps) == [1, 2]
    assert "Training ends here: over the last 2 rollouts with true scores, rewards order 0." in run.log
    assert "step 2 is saved" in run.log
    assert (tmp_path / "run" / "checkpoints" / "_actor" / "latest").read_text() == "global_step2"
    assert (tmp_path / "run" / "out" / "config.json").exists(), "the model is saved as at the end of any training"
    assert len(run.scalars()["train/filter/pairwise_accuracy"]) == 2
    assert run.samples("ActorPPOTrainer", "train") == 2 * 4 * 2
