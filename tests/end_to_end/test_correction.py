"""Few true scores correct the reward model while it trains a policy, on the whole stack."""

import pytest
from safetensors.torch import load_file
from test_training import steps_of

#: Right are responses with more than six ASCII characters; the reward model, with random weights, does not tell them.
JUDGE = """
def reward_func(queries, prompts, labels):
    response = queries[0][len(prompts[0]) :].replace("<eos>", "").replace("<pad>", "")
    return {"rewards": [float(sum(character.isascii() for character in response) > 6)]}
"""

KINDS = {"sync": "", "async": "--train.async_enable", "two ranks": "--reward.num_gpus_per_node 2 --ds.zero_stage 3"}


@pytest.mark.parametrize("kind", ["sync", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[1:])])
def test_true_scores_correct_the_rewards_and_a_resumed_run_continues(stack, tmp_path, kind):
    judge, folder = tmp_path / "judge.py", tmp_path / "run"
    judge.write_text(JUDGE)
    flags = (
        f"--reward.model_name_or_path {stack.reward} {KINDS[kind]} "
        f"--sample_filter_correct head --sample_filter_true_share 0.5 --sample_filter_probe_score {judge} "
        f"--algo.advantage.estimator reinforce --algo.kl.init_coef 0 --ckpt.save_steps 1 "
        f"--sample_filter_log {folder / 'log'}"
    )
    run = stack.train(folder, 48, flags)
    steps = list(run.steps.values())
    assert list(run.steps) == [1, 2, 3, 4, 5, 6]
    assert [step["filter/true_scores"] for step in steps] == [16, 32, 48, 64, 80, 96]
    plain, corrected = ([s[f"filter/{k}_accuracy"] for s in steps[2:]] for k in ("plain", "correct"))
    assert all(0 <= x <= 1 for x in plain + corrected)
    assert plain != corrected, "the head orders otherwise"
    assert "filter/reward_correlation" not in steps[0], "a few true scores are too few to be rewards"
    assert 0.1 <= steps[-1]["filter/reward_correlation"] <= 1
    for rows in steps_of(folder).values():
        assert rows.groupby("group").score.count().isin([0, 4]).all() and rows.score.count() == 16
    assert (folder / "out_reward").exists() == bool(steps[-1]["filter/correct_trusted"])
    if steps[-1]["filter/correct_trusted"]:
        given, corrected = (load_file(path / "model.safetensors") for path in (stack.reward, folder / "out_reward"))
        shared = given.keys() & corrected.keys()
        assert len(shared) > 5 and all((corrected[name] == given[name]).all() for name in shared)
        assert "score.weight" in corrected.keys() - given.keys(), "the model given has no head of its own"
    if kind == "sync":
        for model in folder.glob("checkpoints/_*/latest"):
            model.write_text("global_step4")
        resumed = stack.train(folder, 48, f"{flags} --ckpt.load_enable")
        assert {s: v["filter/true_scores"] for s, v in resumed.steps.items()} == {5: 80, 6: 96}


@pytest.mark.slow
def test_true_scores_are_rewards_next_to_those_of_a_function(stack, tmp_path):
    judge, function, folder = tmp_path / "judge.py", tmp_path / "function.py", tmp_path / "run"
    judge.write_text(JUDGE)
    function.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    return {'rewards': [float(len(set(query)) % 7) for query in queries]}\n"
    )
    run = stack.train(
        folder,
        32,
        f"--reward.remote_url {function} --sample_filter_correct scores --sample_filter_true_share 0.75 "
        f"--sample_filter_probe_score {judge} --algo.advantage.estimator reinforce --algo.kl.init_coef 0 "
        f"--sample_filter_log {folder / 'log'}",
    )
    assert [step["filter/true_scores"] for step in run.steps.values()] == [24, 48, 72, 96]
    assert 0.1 <= run.steps[4]["filter/reward_correlation"] <= 1
    assert not any(step["filter/correct_trusted"] for step in run.steps.values())
    for rows in steps_of(folder).values():
        assert set(rows.reward) <= set(range(7)), "the log has the function's rewards"
        assert rows.score.isin([0, 1]).sum() == 24 and rows.score.isna().sum() == 8
