"""Filtered training on the real stack."""

import json
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from definitions import check_batch, check_group
from real_stack import end
from rotation import BATCH, GROUP
from tiny_model import write_prompts

from openrlhf_pf import rollout_log
from openrlhf_pf.training.rewards import combine_members

HERE = Path(__file__).parent


def rotating(kind: str, folder: Path) -> str:
    """The flags of a filter that takes another strategy each step, with a log of what it does."""
    return f"--sample_filter {HERE / 'rotation.py'}:{kind} --sample_filter_log {folder / 'log'}"


def steps_of(folder: Path) -> dict[int, pd.DataFrame]:
    """The rollout log of a run, step by step."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a torn file would be skipped with a warning
        table = rollout_log.read(folder / "log").to_pandas()
    return dict(list(table.groupby("step")))


def test_every_group_strategy_on_two_ranks_with_two_reward_models(stack, tmp_path):
    """9 strategies, one a step, on 4 prompts x 4 samples each; then 3 prompts are left, too few to share."""
    run = stack.train(
        tmp_path / "run",
        39,
        f"{rotating('Group', tmp_path / 'run')} "
        f"--reward.model_name_or_path {stack.reward} "
        f"--sample_filter_reward_models {stack.reward},{stack.second_reward} "
        "--rollout.batch_size 4 --train.micro_batch_size 2 --ds.zero_stage 2 --actor.num_gpus_per_node 2 "
        "--critic.num_gpus_per_node 2 --ref.num_gpus_per_node 2 --reward.num_gpus_per_node 2",
    )
    # Both reward models score all 39 x 4. Of 9 x 4 + 3 prompts two samples each are kept; two ranks x 2 can
    # share 8 of each step's 8, and 4 of the last step's 6, so that one prompt is dropped.
    scored = run.rows("EnsembleRewardModelActor", "forward")
    assert {rank: sum(rows) for rank, rows in scored.items()} == {0: 39 * 4, 1: 39 * 4}
    for model in ("PolicyModelActor", "CriticModelActor", "ReferenceModelActor"):
        assert {rank: sum(rows) for rank, rows in run.rows(model, "forward").items()} == {0: 38, 1: 38}, model
    for trainer in ("ActorPPOTrainer", "CriticPPOTrainer"):
        assert run.rows(trainer, "train") == {0: [2] * 19, 1: [2] * 19}, trainer

    log = steps_of(tmp_path / "run")
    assert list(log) == list(range(1, 11)) and list(run.steps) == list(log)
    for (step, rows), name in zip(log.items(), [*GROUP, GROUP[0]]):
        prompts = [prompt for _, prompt in rows.groupby("group")]
        trained = [prompt for prompt in prompts if prompt.kept.any()]
        assert (len(prompts), len(trained)) == ((4, 4) if step < 10 else (3, 2))
        assert all(len(dict(models)) == 2 for models in rows.model_rewards)
        for prompt in trained:
            assert prompt.kept.sum() == prompt.draws.sum() == 2
            check_group(name, prompt)
        metrics = run.steps[step]
        assert metrics["rollout/num_samples"] == len(rows)
        assert metrics["rollout/reward_mean"] == pytest.approx(rows.reward.mean(), abs=1e-3)
        assert metrics["filter/kept_fraction"] == rows.kept.mean()
        assert metrics["filter/dropped_prompts"] == len(prompts) - len(trained)
        assert metrics["filter/kept_reward_mean"] == pytest.approx(rows.reward[rows.kept].mean(), abs=1e-6)
        assert metrics["filter/ensemble_spread"] > 0 and metrics["filter/reward_gap"] > 0
    assert log[1].response.str.len().max() > 0 and set(log[1].label) <= {f"{i}?" for i in range(100)}
    # 39 prompts x 2 kept // 8 = 9 optimizer steps in all, and the schedule ends with them, at a tenth of 1e-6.
    assert run.steps[10]["actor_lr"] == pytest.approx(1e-7)
    scalars = run.scalars()
    for tag in ("kept_fraction", "kept_reward_mean", "reward_gap", "flat_groups", "unusable_rewards", "kept_rank_2"):
        assert len(scalars[f"train/filter/{tag}"]) == 10, tag


def test_every_group_strategy_async_with_a_baseline_of_the_whole_group(stack, tmp_path):
    run = stack.train(
        tmp_path / "run",
        36,
        f"{rotating('Group', tmp_path / 'run')} "
        f"--reward.model_name_or_path {stack.reward} "
        f"--sample_filter_reward_models {stack.reward},{stack.second_reward} "
        "--sample_filter_reward mean "
        "--train.async_enable --algo.advantage.estimator rloo --sample_filter_baseline group --algo.kl.init_coef 0 "
        f"--rollout.batch_size 4 --logger.wandb.key {'0' * 40}",
    )
    log = steps_of(tmp_path / "run")
    assert list(log) == list(range(1, 10))
    for rows, name in zip(log.values(), GROUP):
        paths = [str(stack.reward), str(stack.second_reward)]
        scored = np.array([[dict(models)[path] for models in rows.model_rewards] for path in paths])
        combined = combine_members("mean", scored.reshape(2, -1, 4)).ravel()
        np.testing.assert_allclose(rows.reward, combined, atol=1e-4)
        for _, prompt in rows.groupby("group"):
            assert prompt.kept.sum() == 2
            check_group(name, prompt)
    assert run.samples("PolicyModelActor", "forward") == run.samples("ActorPPOTrainer", "train") == 36 * 2
    assert run.rows("CriticModelActor", "forward") == run.rows("ReferenceModelActor", "forward") == {}
    # Leave-one-out advantages over the whole group: those of best-of-N (step 1) are above 0, all kept ones of it.
    assert run.steps[1]["return"] > 0
    (recorded,) = (tmp_path / "run" / "observed" / "wandb").glob("offline-run-*/*.wandb")
    for name in (b"train/filter/kept_fraction", b"train/filter/ensemble_spread", b"train/rollout/reward_mean"):
        assert name in recorded.read_bytes()


def test_every_batch_strategy_async_with_a_reward_function_that_fails_for_some(stack, tmp_path):
    """4 strategies on 8 prompts each; the reward of 'add 3' cannot be had at all, some of 'add 4' are NaN. The true
    scores come from programs in the sandbox, inside of Ray's worker.
    """
    run = stack.train(
        tmp_path / "run",
        32,
        f"{rotating('Batch', tmp_path / 'run')} "
        f"--reward.remote_url {HERE / 'rewards.py'} --train.async_enable --algo.advantage.estimator reinforce "
        "--algo.kl.init_coef 0 --train.micro_batch_size 2",
    )
    log = steps_of(tmp_path / "run")
    assert sum(step["filter/unusable_rewards"] for step in run.steps.values()) >= 4
    for (step, rows), name in zip(log.items(), BATCH):
        trained = int(rows.draws.sum())
        assert trained % 2 == 0 and run.steps[step]["filter/kept_fraction"] == rows.kept.mean()
        check_batch(name, rows, "select", budget=16, trained=trained)
        assert trained >= min(16, (rows.weight > 0).sum()) - 1, "more than a micro-batch's remainder was trimmed"
        scored = [dict(logs) for logs in rows.extra_logs[rows.reward.notna()]]
        assert all(logs["length"] > 0 and logs["calls"] == 1 for logs in scored), "a program was not run"
        assert set(rows.score.dropna()) <= {0.0, 1.0}
        assert -1 <= run.steps[step]["filter/r2_all"] <= 1
    drawn = sum(int(rows.draws.sum()) for rows in log.values())
    assert run.samples("PolicyModelActor", "forward") == run.samples("ActorPPOTrainer", "train") == drawn


def test_every_batch_strategy_resampled_with_all_models_on_one_gpu_in_an_initialised_driver(stack, tmp_path):
    """Draws repeat samples: a sample goes forward once and trains as often as it was drawn."""
    driver = (
        "import ray; ray.init(); from openrlhf_pf.training.startup.launch import main; main(); print('STILL HERE')"
    )
    run = stack.train(
        tmp_path / "run",
        32,
        f"{rotating('Batch', tmp_path / 'run')} "
        "--sample_filter_mode resample --train.colocate_all --ds.zero_stage 3 "
        f"--reward.model_name_or_path {stack.reward}",
        entry=("-c", driver),
    )
    assert "STILL HERE" in run.log
    assert run.samples("RewardModelActor", "forward") == 32 * 4
    log = steps_of(tmp_path / "run")
    for rows, name in zip(log.values(), BATCH):
        check_batch(name, rows, "resample", budget=16, trained=16)
    kept = sum(int(rows.kept.sum()) for rows in log.values())
    assert kept < 64, "64 draws of 4 steps repeated none"
    for model in ("PolicyModelActor", "CriticModelActor", "ReferenceModelActor"):
        assert run.samples(model, "forward") == kept, model
    assert run.samples("ActorPPOTrainer", "train") == run.samples("CriticPPOTrainer", "train") == 64


def test_an_agent_reweighted_with_dynamic_filtering_and_evaluation(stack, tmp_path):
    evaluation = write_prompts(tmp_path / "evaluation.jsonl", 3)
    run = stack.train(
        tmp_path / "run",
        16,
        "--sample_filter rank_weights --sample_filter_options weights=4,2,1,0 --sample_filter_mode reweight "
        f"--train.agent_func_path {HERE / 'agent.py'} --algo.dynamic_filtering_enable "
        "--algo.advantage.estimator group_norm --rollout.batch_size 4 "
        f"--eval.dataset {evaluation} --eval.steps 1 --eval.n_samples_per_prompt 3 --ckpt.best_metric_key none",
    )
    assert run.scalars()["eval/eval_num_samples"][0] == 3 * 3  # evaluation is not filtered
    for step in run.steps.values():
        # 3 of 4 samples have weight; what the micro-batches of 4 cannot share is trimmed.
        prompts = step["rollout/num_samples"] / 4
        assert step["filter/kept_fraction"] == 3 * prompts // 4 * 4 / (4 * prompts)
        assert step.get("filter/kept_rank_4", 0) == 0  # a last step of one prompt has too few to share
        assert step["dynamic_filtering_pass_rate"] > 0
    scored = sum(step["rollout/num_samples"] for step in run.steps.values())
    assert 0 < run.samples("PolicyModelActor", "forward") <= scored * 3 / 4


def test_adaptive_learns_from_a_probe_that_does_not_train(stack, tmp_path):
    """16 prompts in 4 asynchronous steps; 6 prompts of a probe are sampled and scored before steps 1 and 3."""
    probe = write_prompts(tmp_path / "probe.jsonl", 6)
    run = stack.train(
        tmp_path / "run",
        16,
        "--sample_filter adaptive --sample_filter_options candidates=best_worst,best_random patience=1 "
        f"--sample_filter_probe {probe} --sample_filter_probe_every 2 "
        f"--sample_filter_probe_score {HERE / 'true_score.py'} "
        f"--reward.model_name_or_path {stack.reward} --algo.advantage.estimator reinforce "
        "--train.async_enable --algo.kl.init_coef 0 --rollout.batch_size 4",
    )
    assert list(run.steps) == [1, 2, 3, 4]
    assert run.samples("PolicyModelActor", "forward") == run.samples("ActorPPOTrainer", "train") == 16 * 2
    assert run.steps[4]["rollout/num_samples"] == 16
    assert run.samples("RewardModelActor", "forward") == (16 + 2 * 6) * 4
    first, second, third, _ = (step["filter/gain_best_worst"] for step in run.steps.values())
    assert -1 <= first <= 1 and first == second != third
    assert run.steps[4]["filter/strategy"] in (0, 1)


def test_a_killed_run_resumes_where_it_was_and_so_does_its_filter(stack, tmp_path):
    """Four steps with a checkpoint after each and an HTTP reward; killed after the second, then started again. Its
    prompts are selected: the posterior is in the checkpoint, too.
    """
    names = ["best_worst", "best_of_n", "shortest", "best_random"]
    folder = tmp_path / "run"
    flags = (
        f"{rotating('Group', folder)} --sample_filter_options names={','.join(names)} "
        "--algo.advantage.estimator reinforce --rollout.batch_size 4 "
        "--ckpt.save_steps 1 --ckpt.load_enable --ckpt.max_num 10 "
        "--prompt_selection target --prompt_selection_success_above 12"
    )
    with RewardServer() as server:
        flags += f" --reward.remote_url {server.url}"
        process = stack.start(folder, 16, flags, RAY_ADDRESS="local")
        try:
            wait_for(folder / "checkpoints" / "_actor" / "latest", "global_step2", process)
        finally:
            end(process)
        killed = server.scored
        run = stack.train(folder, 16, flags, RAY_ADDRESS="local")
    assert 32 <= killed <= 64 and server.scored > killed
    assert min(run.steps) in (3, 4) and max(run.steps) == 4
    assert all(
        step["rollout/num_samples"] == 16 and step["filter/kept_fraction"] == 0.5 for step in run.steps.values()
    )
    log = steps_of(folder)
    assert list(log) == [1, 2, 3, 4], "a step was lost, or left torn"
    for rows, name in zip(log.values(), names):
        for _, prompt in rows.groupby("group"):
            check_group(name, prompt)
        assert rows.prompt.nunique() == 4
    taken = [set(rows.prompt) for rows in log.values()]
    figures = run.scalars()["train/selection/seen"]
    assert figures[-1] == pytest.approx(len(set.union(*taken)) / 15), "it knows what the killed run took"


class RewardServer:
    """Scores a response over HTTP, as OpenRLHF's remote reward models do."""

    def __enter__(self):
        outer = self
        self.scored = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.scored += len(asked["query"])
                answer = json.dumps({"rewards": float(len(set(asked["query"][0])))}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


def wait_for(file: Path, content: str, process, timeout: float = 900) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if file.exists() and content in file.read_text():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.2)
    raise AssertionError(f"no {content} in {file} within {timeout} seconds")
