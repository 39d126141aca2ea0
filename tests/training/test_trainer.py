"""What a filtered run counts: schedule, KL controller, rollout statistics; on OpenRLHF's own trainer, without Ray."""

import logging
import queue
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

import openrlhf.trainer.ppo_trainer as host
import openrlhf.trainer.ppo_utils.experience_maker as host_maker
from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy
from rollouts import ModelGroup, namespace, rollout_of

from openrlhf_pf.filters import FilterBatch, NoFilter
from openrlhf_pf.training import trainer as trainer_module
from openrlhf_pf.training.experience_maker import NoRewards
from openrlhf_pf.training.trainer import (
    FilteredSchedule,
    FilteringGenerateSamplesActor,
    FilteringTrainer,
    FilteringTrainingActor,
)
from openrlhf_pf.training.true_score import StopRule, StopTraining, TrueScore


class RecordingKL:
    """Stands where the KL controller does and notes the counts that it is given."""

    value = 0.1

    def __init__(self):
        self.counts = []

    def update(self, current, n_steps):
        self.counts.append(n_steps)


class ActorGroup(ModelGroup):
    def __init__(self):
        super().__init__(ranks=1)
        self.appended = []

    def async_run_method_batch(self, method_name, **kwargs):
        if method_name == "append":
            self.appended += kwargs["experience"]
            return []
        return [torch.zeros(len(s), s.shape[1] - 1) for s in kwargs["sequences"]]

    def async_run_method(self, method_name, **kwargs):
        return [{"kl": 0.5}] if method_name == "fit" else []


@pytest.fixture
def trainer(monkeypatch):
    local_ray = SimpleNamespace(get=lambda refs: refs, put=lambda rows: [row[0] for row in rows])
    monkeypatch.setattr(host, "ray", local_ray)
    monkeypatch.setattr(host_maker, "ray", local_ray)
    monkeypatch.setattr(trainer_module.FilteringExperienceMaker, "_flatten_results", lambda self, refs, factor: refs)

    class Trainer(FilteringTrainer, host.BasePPOTrainer):
        pass

    settings = {"rollout.batch_size": 2, "critic.freezing_steps": -1, "ds.enable_sleep": False}
    settings |= {"algo.kl.target": None, "algo.kl.init_coef": 0.1, "algo.kl.horizon": 100, "ckpt.best_metric_key": ""}
    args = namespace(**settings, **{"logger.wandb.key": None, "logger.tensorboard_dir": None})
    tokenizer = SimpleNamespace(pad_token_id=0, decode=lambda *args, **kwargs: ["text"])
    made = Trainer(SimpleNamespace(args=args), ActorGroup(), None, None, None, None, tokenizer)
    made.kl_ctl = made.experience_maker.kl_ctl = RecordingKL()
    return made


def test_rollout_statistics_are_of_all_samples_and_the_kl_controller_counts_the_kept(trainer):
    status, step = trainer.train_step(rollout_of([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 4.0]]), 4)
    assert step == 5
    assert status["rollout/reward_mean"] == 2.0 and status["rollout/num_samples"] == 8
    assert status["filter/kept_reward_mean"] == 2.75  # (6 + 1 + 4 + 0) / 4
    assert trainer.kl_ctl.counts == [2 * 2]  # rollout.batch_size x kept, not x drawn
    assert sum(len(e.sequences) for e in trainer.actor_model_group.appended) == 4


def test_rollout_statistics_see_the_length_penalty_that_training_sees(trainer):
    trainer.args.reward.stop_properly_penalty_coef = 0.0
    samples = rollout_of([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 4.0]])
    samples[3].truncated = torch.tensor([True])
    status, _ = trainer.train_step(samples, 0)
    assert status["rollout/reward_mean"] == 10 / 8  # 16 less the truncated 6
    assert float(samples[3].rewards) == 6.0


class Counting(NoFilter):
    """A filter that learns: it counts its rollouts."""

    def __init__(self, n_samples, keep):
        super().__init__(n_samples, keep)
        self.count = np.zeros(1)

    def weigh(self, batch):
        self.count[0] += 1
        return super().weigh(batch)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_a_filter_that_learns_is_saved_with_the_checkpoint_and_restored_from_it(trainer):
    saved = {}
    trainer.actor_model_group.async_run_method = lambda method_name, **kwargs: saved.update(kwargs) or []
    trainer.args.ckpt.save_steps, trainer.args.logger.logging_steps = 1, 1
    trainer.experience_maker.filter = Counting(4, 4)
    trainer.experience_maker.filter.count = np.array([5.0])
    states = {"global_step": 3}
    trainer.save_logs_and_checkpoints(3, {}, states)
    assert states["global_step"] == 3
    assert saved["client_states"]["sample_filter"]["state"] == {"count": 5.0}

    saved["client_states"]["sample_filter"]["state"]["count"].flags.writeable = False  # as Ray hands arrays over
    trainer.experience_maker.filter = Counting(4, 4)
    trainer.restore_best_checkpoint_state(saved["client_states"])
    trainer.experience_maker.filter.weigh(FilterBatch(np.ones((1, 4))))
    assert trainer.experience_maker.filter.count == 6

    trainer.experience_maker.filter = Counting(4, 4)
    trainer.args.sample_filter = "another"
    trainer.restore_best_checkpoint_state(saved["client_states"])
    assert trainer.experience_maker.filter.count == 0
    trainer.restore_best_checkpoint_state({})


def test_statistics_leave_unusable_rewards_out(trainer):
    status, _ = trainer.train_step(rollout_of([[None, 2.0, float("nan"), 6.0], [0.0, 0.0, 0.0, 4.0]]), 0)
    assert status["rollout/reward_mean"] == 2.0 and status["rollout/num_samples"] == 6


def test_a_prompt_without_rewards_alone_in_its_rollout_is_a_step_that_trains_nothing(trainer):
    status, step = trainer.train_step(rollout_of([[None] * 4]), 4)
    assert step == 5
    assert status["filter/unusable_rewards"] == 4 and status["filter/kept_fraction"] == 0
    assert trainer.actor_model_group.appended == [] and trainer.kl_ctl.counts == []


@pytest.mark.parametrize("reward", [None, float("nan")])
def test_several_prompts_without_any_reward_end_training(trainer, reward):
    trainer.experience_maker.given.reward.remote_url = ["http://a/score", "http://b/score"]
    message = "none of the 2 x 4 samples of step 5 has a usable reward from http://a/score, http://b/score"
    with pytest.raises(NoRewards, match=message):
        trainer.train_step(rollout_of([[reward] * 4] * 2), 4)
    assert trainer.actor_model_group.appended == []
    trainer.train_step(rollout_of([[reward] * 4, [1.0, 2.0, 3.0, 4.0]]), 4)
    assert trainer.experience_maker.metrics["filter/unusable_rewards"] == 4


def test_a_checkpoint_waits_for_the_log_of_its_step(trainer):
    order = []
    trainer.actor_model_group.async_run_method = lambda method_name, tag, **kwargs: order.append(tag) or []
    trainer.args.ckpt.save_steps, trainer.args.logger.logging_steps = 2, 1
    trainer.experience_maker.log = SimpleNamespace(flush=lambda: order.append("the log"))
    for step in (1, 2, 3):
        trainer.save_logs_and_checkpoints(step, {}, {})
    assert order == ["the log", "global_step2"]


@pytest.mark.parametrize(
    "samples, n, keep, batch, expected",
    [(103, 5, 2, 32, 103 * 2 // 32 * 3), (64, 5, None, 16, 64 * 2 // 16 * 3), (10, 4, 4, 8, 10 * 4 // 8 * 3)],
)
def test_the_schedule_counts_the_kept_samples(samples, n, keep, batch, expected):
    sizes = {"rollout.n_samples_per_prompt": n, "sample_filter_keep": keep, "train.batch_size": batch}
    args = namespace(**sizes, **{"train.num_episodes": 3, "train.max_epochs": 1})
    owner = FilteredSchedule.__new__(FilteredSchedule)
    owner.prompts_dataloader = SimpleNamespace(dataset=range(samples))
    owner.samples_generator = SimpleNamespace(args=args)
    assert owner.get_max_steps() == expected


def test_prompts_come_in_an_order_that_the_seed_decides(monkeypatch):
    monkeypatch.setattr(
        trainer_module, "CheckedGenerator", lambda strategy, *rest: SimpleNamespace(args=strategy.args)
    )

    class Theirs:
        """OpenRLHF's own data loader, as it makes one where no process group is."""

        def __init__(self, seed):
            strategy = SimpleNamespace(seed=seed)
            self.prompts_dataloader = DeepspeedStrategy.setup_dataloader(
                strategy, list(range(50)), 1, True, True, list
            )
            args = namespace(**{"train.seed": seed})
            others = {"eval_dataloader": None, "tokenizer": None, "vllm_engines": []}
            self.samples_generator = SimpleNamespace(args=args, strategy=SimpleNamespace(args=args), **others)

    class Ours(FilteredSchedule, Theirs):
        pass

    def order(cls, seed):
        owner = cls(seed)
        return [[row for (row,) in owner.prompts_dataloader] for _ in range(2)]

    assert order(Theirs, 1) != order(Theirs, 1), "why this is needed"
    first, second = order(Ours, 1)
    assert [first, second] == order(Ours, 1) and first != second and [first, second] != order(Ours, 2)
    assert sorted(first) == list(range(50))


def test_where_the_reward_is_blind_the_step_is_saved_and_training_ends(trainer):
    saved = {}
    trainer.actor_model_group.async_run_method = lambda method_name, **kwargs: saved.update(kwargs) or []
    trainer.args.ckpt.save_steps, trainer.args.logger.logging_steps = float("inf"), 1
    trainer.experience_maker.stop_rule = StopRule(0.5, window=2)
    for step in range(2):
        against = rollout_of([[1.0, 2.0, 3.0, 6.0]] * 4, scores=[[1.0, 1.0, 0.0, 0.0]] * 4)
        status, _ = trainer.train_step(against, step)
        assert status["filter/pairwise_accuracy"] == 0.0
        if step == 0:
            trainer.save_logs_and_checkpoints(1, status, {})
            assert "tag" not in saved, "the window is not full"
    with pytest.raises(StopTraining, match=r"order 0\.000 of the pairs .* step 2 is saved"):
        trainer.save_logs_and_checkpoints(2, status, {})
    assert saved["tag"] == "global_step2"

    trainer.experience_maker.stop_rule = StopRule(0.5, window=2)
    trainer.restore_best_checkpoint_state(saved["client_states"])
    assert trainer.experience_maker.stop_rule.reason()


def test_training_ends_where_the_generating_half_gives_back_a_token_meanwhile():
    slots, rollouts = queue.Queue(maxsize=1), queue.Queue(maxsize=1)
    slots.put(0)

    def nothing_found(**kwargs):
        while not slots.full():  # until it has to end
            time.sleep(0.01)
        return [], None, 5, True

    generating, training = object.__new__(FilteringGenerateSamplesActor), object.__new__(FilteringTrainingActor)
    vars(generating).update(
        args=SimpleNamespace(train=SimpleNamespace(num_episodes=1)),
        prompts_dataloader=[],
        eval_dataloader=None,
        generate_kwargs={},
        samples_generator=SimpleNamespace(generate_samples=nothing_found),
        _partial_rollout=True,
        _eval_just_done=False,
    )
    vars(training).update(wandb_logger=None, tensorboard_logger=None)
    for half in (generating, training):
        half.rollout_slots, half.rollout_queue = slots, rollouts
    generator = threading.Thread(target=generating.fit, args=(0, 0), daemon=True)
    generator.start()
    while not slots.empty():  # until it has its token
        time.sleep(0.01)
    trainer = threading.Thread(target=training.finish, daemon=True)
    trainer.start()
    for half in (trainer, generator):
        half.join(timeout=20)
    assert not trainer.is_alive() and not generator.is_alive()


def test_a_probe_says_which_true_scores_it_could_not_get(trainer, caplog, monkeypatch):
    def reward_func(queries, prompts, labels):
        raise OSError("no judge")

    monkeypatch.setattr(logging.getLogger(trainer_module.__name__), "propagate", True)
    probe = object.__new__(trainer_module.Probe)
    vars(probe).update(maker=trainer.experience_maker, every=2, rows=[], true_score=TrueScore(reward_func, workers=1))
    probe.sample = lambda rows: rollout_of([[1.0, 2.0, 3.0, 4.0]])
    for step in range(3):  # the last evaluation is the second one
        caplog.clear()
        probe.evaluate(step)
    assert "4 of 4 samples of the probe have no true score; the last reason: OSError: no judge" in caplog.text
    assert probe.true_score.failed == 0, "the next evaluation counts from 0"
