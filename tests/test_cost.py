"""The cost model's arithmetic, by hand, and its command line."""

import json
import math
import subprocess
import sys

import pytest

from openrlhf_pf.cli import cost
from openrlhf_pf.cost import PRESETS, Calibration, Efficiency, Hardware, Model, Setting, compare, memory, step, work
from openrlhf_pf.cost.arguments import model_of
from openrlhf_pf.cost.calibration import fitted, from_tensorboard
from openrlhf_pf.cost.step import LOGGED

#: One second computes, reads, or moves one unit.
UNIT = Hardware("unit", 1.0, 1000.0, 1.0, 1.0, 1.0)
ALL = Efficiency(1, 1, 1, 1, 1, 0)


def seconds(amount: float) -> Model:
    """A model whose forward pass over the one token of a sample takes so many seconds (2 P, and next to nothing)."""
    return Model(amount / 2, layers=1, width=1e-9, kv_width=1e-9, vocabulary=0)


def setting(**changes) -> Setting:
    """Reward, actor, critic and reference of 1, 2, 4 and 8 seconds a sample; 2 prompts x 4 samples, 1 of 4 trains."""
    values = {
        "actor": seconds(2),
        "critic": seconds(4),
        "reward": seconds(1),
        "reference": seconds(8),
        "hardware": UNIT,
        "gpus": dict.fromkeys(("actor", "critic", "reward", "reference", "vllm"), 1),
        "prompts": 2,
        "prompt_tokens": 0.5,
        "response_tokens": 0.5,
        "samples": 4,
        "keep": 1,
        "updates": 1,
        "sleep": False,
        "zero_stage": 0,
        "checkpointing": False,
        "micro_batch": 1,
        "train_micro_batch": 1,
        "efficiency": ALL,
    }
    return Setting(**values | changes)


# ── Operations, bytes, memory ──


def test_operations_of_a_forward_pass():
    # 5 tokens x (2 x 10 weights + 2 x 2 layers x 5 tokens x width 3).
    model = Model(10, layers=2, width=3)
    assert work.forward_flops(model, 5) == 5 * (20 + 60)
    assert work.train_flops(model, 5, checkpointing=False) == 3 * 400
    assert work.train_flops(model, 5, checkpointing=True) == 4 * 400


def test_operations_and_bytes_of_decoding():
    model = Model(10, layers=2, width=3, kv_width=1)
    # 7 tokens before it: a query meets 7 keys and 7 values of width 3 in 2 layers, two operations each.
    assert work.decode_flops(model, 7) == 20 + 2 * 7 * 3 * 2 * 2
    # A key and a value of 2 bytes in 2 layers are 8 bytes a token; 5 sequences of 7 tokens, and 10 weights of 2 bytes.
    assert work.kv_bytes(model) == 8
    assert work.decode_bytes(model, 5, 7) == 20 + 5 * 7 * 8


@pytest.mark.parametrize("size, layers, width", [("7B", 33, 4204), ("70B", 71, 9064)])
def test_a_size_alone_gives_a_decoder_128_times_as_wide_as_deep(size, layers, width):
    model = model_of(size)
    assert (model.layers, model.width, model.kv_width) == (layers, width, width)
    assert 12 * layers * width**2 == pytest.approx(model.parameters, rel=1e-3)


def test_what_zero_exchanges():
    model, three = Model(10), setting(zero_stage=3, updates=5)
    assert work.gathered_bytes(model, three, 2, training=False, micro_batches=4) == 4 * 20
    assert work.gathered_bytes(model, three, 2, training=True, micro_batches=4) == 4 * 60
    assert work.gathered_bytes(model, three, 1, training=True, micro_batches=4) == 0
    # Before stage 3: gradients reduced and shared out again, once an update.
    assert work.gathered_bytes(model, three.but(zero_stage=2), 2, training=True, micro_batches=4) == 5 * 40
    assert work.gathered_bytes(model, three.but(zero_stage=2), 2, training=False, micro_batches=4) == 0


@pytest.mark.parametrize("stage, weights, states", [(0, 20, 140), (1, 20, 50), (2, 20, 35), (3, 5, 35)])
def test_memory_by_stage(stage, weights, states):
    # 10 parameters on 4 GPUs: weights 20 bytes, gradients 20, optimizer 120.
    found = setting(zero_stage=stage)
    assert memory.weights(Model(10), found, 4) == weights
    assert memory.states(Model(10), found, 4) == states
    assert memory.states(Model(10), found.but(adam_offload=True), 4) == states - (120 if stage == 0 else 30)


def test_memory_of_activations():
    model = Model(10, layers=2, width=3, vocabulary=7)
    found = setting(prompts=3, prompt_tokens=1, response_tokens=4, micro_batch=2, train_micro_batch=3)
    assert memory.activations(model, found, training=False, logits=False) == 34 * 10 * 3
    assert memory.activations(model, found, training=True, logits=False) == 2 * 34 * 15 * 3
    kept = found.but(checkpointing=True)
    assert memory.activations(model, kept, training=True, logits=True) == 34 * 45 + 2 * 45 * 2 + 15 * 7 * 10


def test_models_that_sleep_make_room():
    awake, asleep = (PRESETS["7b-8"].but(sleep=sleep) for sleep in (False, True))
    awake, asleep = (memory.per_gpu(each)["all"] for each in (awake, asleep))
    # Actor's and critic's 14 bytes x 7e9 / 8 while others work; vLLM's half of 80 GB while it does not.
    assert awake["generation"] - asleep["generation"] == pytest.approx(2 * 14 * 7e9 / 8)
    assert awake["make_experience"] - asleep["make_experience"] == pytest.approx(2 * 14 * 7e9 / 8 + 40e9)
    assert memory.largest(PRESETS["70b-8"]) > 80e9 > memory.largest(PRESETS["70b-64"])


# ── Seconds ──


@pytest.mark.parametrize(
    "order, forward, train",
    [
        ("none", 8 * (1 + 2 + 4 + 8), 8 * 3 * (2 + 4)),
        ("filter", 8 * 1 + 2 * (2 + 4 + 8), 2 * 3 * (2 + 4)),
        ("forward_first", 8 * (1 + 2 + 4 + 8), 2 * 3 * (2 + 4)),
        ("ideal", 8 * 1 + 2 * (2 + 4 + 8), 2 * 3 * (2 + 4)),
    ],
)
def test_who_sees_what_in_each_order(order, forward, train):
    # Adam moves 28 bytes a parameter: 28 x (1 + 2) seconds for the 1 + 2 parameters of actor and critic.
    found = step(setting(), order)
    adam = 28 * 3 * (0.25 if order == "ideal" else 1)
    assert found.logged["make_experience"] == pytest.approx(forward)
    assert found.logged["ppo_train"] == pytest.approx(train + adam)
    assert found.total == pytest.approx(sum(found.logged.values()))


@pytest.mark.parametrize(
    "colocate, order, expected",
    [
        ((), "none", 64),  # all at the same time
        ((), "filter", 8 + 16),  # rewards first, then the slowest of the others
        (("actor_ref",), "none", 16 + 64),  # OpenRLHF waits for the actor before it asks the critic
        (("actor_ref",), "filter", 8 + 4 + 16),
        (("critic_reward",), "none", 8 + 32 + 64),  # and for the critic before it asks the reference
        (("actor_ref", "critic_reward"), "none", 16 + 32 + 64),
        (("actor_ref", "critic_reward"), "filter", 8 + 4 + 8 + 16),
    ],
)
def test_what_runs_at_the_same_time(colocate, order, expected):
    assert step(setting(colocate=colocate), order).logged["make_experience"] == pytest.approx(expected)


def test_actor_and_critic_train_at_the_same_time_on_gpus_of_their_own():
    apart = step(setting(colocate=()), "none")
    assert apart.logged["ppo_train"] == max(apart.parts["actor_train"], apart.parts["critic_train"])
    assert step(setting(colocate=(), sleep=True), "none") == apart, "models sleep where all share their GPUs"


def test_what_sleeps_moves_to_the_host_and_back():
    # 14 bytes of gradients and optimizer for the 1 + 2 parameters of actor and critic, and vLLM's weights of 2 bytes.
    assert step(setting(sleep=True), "none").parts["state_moves"] == 2 * 14 * 3 + 2 * 2
    assert step(setting(), "none").parts["state_moves"] == 0


def test_asynchronous_generation_hides_behind_training_or_hides_it():
    both = {"colocate": (), "asynchronous": True}
    found = step(setting(**both), "none")
    assert found.total == sum(found.logged.values()) - found.logged["generation"]
    slow = step(setting(**both, efficiency=Efficiency(1, 1, 1, 1, 1, decode_step=1e6)), "none")
    assert slow.total == slow.logged["generation"] + slow.logged["broadcast"] > 1e5


def test_prompts_are_computed_and_responses_are_read():
    actor = Model(10, layers=2, width=1, kv_width=1)
    found = setting(
        actor=actor,
        prompts=3,
        prompt_tokens=4,
        response_tokens=6,
        samples=2,
        hardware=Hardware("unit", 10.0, 1e6, 5.0, 1.0, 1.0),
    )
    prefill, decode = step(found, "none").parts["prefill"], step(found, "none").parts["decode"]
    assert prefill == pytest.approx(6 * 4 * (20 + 2 * 2 * 4) / 10)
    # 6 sequences at a time, 6 steps; a step reads 20 bytes of weights and 6 x 7 tokens of 8 bytes.
    assert decode == pytest.approx(6 * max((20 + 6 * 7 * 8) / 5, 6 * (20 + 4 * 2 * 7) / 10))
    assert step(found.but(prefix_caching=True), "none").parts["prefill"] == pytest.approx(prefill / 2)
    # Two at a time take three rounds.
    two = step(found.but(max_sequences=2), "none").parts["decode"]
    assert two == pytest.approx(18 * max((20 + 2 * 7 * 8) / 5, 2 * (20 + 4 * 2 * 7) / 10))
    # The longest response has its steps, however few tokens the others have.
    assert step(found.but(longest=60), "none").parts["decode"] == pytest.approx(10 * decode)


def test_exchanging_weights_counts_where_it_is_slower_than_computing():
    slow = setting(gpus=dict.fromkeys(("actor", "critic", "reward", "reference", "vllm"), 2), zero_stage=3)
    # The reward model's 8 samples on two GPUs: 4 seconds to compute; weights of 1 byte, 4 times.
    assert step(slow, "none").parts["reward_forward"] == pytest.approx(4)
    slower = slow.but(hardware=Hardware("unit", 1.0, 1000.0, 1.0, 0.1, 1.0))
    assert step(slower, "none").parts["reward_forward"] == pytest.approx(40)


def test_samples_that_the_gpus_cannot_share_do_not_train():
    # 6 prompts x 3: micro-batches of 2 on 2 GPUs are 4 samples, 4 prompts make whole ones.
    gpus = {"actor": 2, "critic": 2, "reward": 1, "reference": 2, "vllm": 1}
    found = setting(gpus=gpus, colocate=(), prompts=6, keep=3, train_micro_batch=2)
    assert found.trained == 12
    assert found.but(gpus=gpus | {"critic": 3}, prompts=14).trained == 36
    with pytest.raises(ValueError, match="3 prompts x 3 samples are too few for 2 GPUs"):
        found.but(prompts=3)


# ── What follows ──


def test_the_share_of_the_ideal_saving():
    found = compare(setting())
    none, ours, first, ideal = (found.steps[name].learning for name in ("none", "filter", "forward_first", "ideal"))
    assert found.share == pytest.approx((none - ours) / (none - ideal))
    # Forward passes of 120 and 36 seconds, training of 144 and 36, Adam 84 and, ideally, 21.
    assert (none, ours, first, ideal) == pytest.approx((348, 156, 240, 93))
    assert found.share_forward_first == pytest.approx(108 / 255)


@pytest.mark.parametrize("name", ["7b-8", "7b-512", "70b-64"])
def test_break_even(name):
    found = PRESETS[name]
    comparison = compare(found)
    none = comparison.steps["none"].total

    def takes(**changes):
        return step(found.but(**changes), "filter").total

    assert takes(keep=comparison.keep_at_most) <= none
    assert takes(samples=comparison.samples_at_most) <= none < takes(samples=comparison.samples_at_most + 1)
    assert comparison.times_as_many == pytest.approx(none / takes())


def test_a_filter_that_waits_for_rewards_can_be_slower():
    # On GPUs of its own the reward model runs beside the reference, but not with a filter; training is little here.
    slow = setting(colocate=(), reward=seconds(1000), reference=seconds(1000))
    assert compare(slow).keep_at_most == 0 and compare(slow).samples_at_most == 3


def test_without_critic_reward_and_reference():
    found = compare(setting(critic=None, reward=None, reference=None))
    assert set(found.steps["none"].parts) == {
        *("prefill", "decode", "actor_forward", "actor_train", "state_moves", "broadcast"),
    }
    assert found.steps["filter"].logged["make_experience"] == pytest.approx(2 * 2)


# ── Measured runs ──


@pytest.mark.parametrize(
    "points, expected",
    [
        ([(2, 6)], (3, 0)),
        ([(1, 5), (2, 7)], (2, 3)),
        ([(1, 5), (2, 7), (3, 9)], (2, 3)),
        ([(2, 6), (2, 6)], (3, 0)),
        ([(1, 2), (2, 6)], (2.4, 0)),  # an overhead below 0 is none: errors 2 f / 2 - 1... are least at 2.4
        ([(1, 4), (2, 4)], (0, 4)),
        ([(1, 5), (2, 4)], (0, 180 / 41)),
    ],
)
def test_factor_and_overhead(points, expected):
    if expected == (2.4, 0):
        rows = [x / m for x, m in points]
        expected = (sum(rows) / sum(row * row for row in rows), 0)
    assert fitted(points) == pytest.approx(expected, abs=1e-9)


def test_a_narrow_model_reaches_less_of_the_peak():
    # At width 30 of half width 10, 3/4 of the shares of very wide models; of the memory's bandwidth as much as before.
    wide, narrow = Model(10, layers=2, width=30), Model(10, layers=2, width=10)
    found = setting(reward=wide, actor=narrow, hardware=Hardware("unit", 1.0, 1000.0, 1e-3, 1.0, 1.0))
    half = found.but(efficiency=Efficiency(1, 1, 1, 1, 1, 0, half_width=10))
    full, less = step(found, "none").parts, step(half, "none").parts
    assert less["reward_forward"] == pytest.approx(full["reward_forward"] * 4 / 3)
    for part in ("actor_forward", "prefill"):
        assert less[part] == pytest.approx(2 * full[part])
    assert less["actor_train"] - full["actor_train"] == pytest.approx(8 * 3 * (20 + 2 * 2 * 10))
    assert less["decode"] == full["decode"], "bound by the memory"


def of_width(width):
    """Four models alike, of 4 layers, without Adam's share; their forward passes and training take as long as wide."""
    model = Model(40 * width**2, layers=4, width=width)
    roles = dict.fromkeys(("actor", "critic", "reward", "reference"), model)
    return setting(**roles, hardware=Hardware("unit", 1.0, 1e9, 1e30, 1.0, 1.0))


def measured_at(width, order, half_width=220.0):
    """What a machine would take that is twice as slow as it should be and reaches half of that at ``half_width``."""
    real = of_width(width).but(efficiency=Efficiency(1, 1, 1, 1, 1, 0, half_width=half_width))
    predicted = step(real, order).logged
    return {phase: 2 * predicted[phase] for phase in ("make_experience", "ppo_train")}


@pytest.mark.parametrize("half_width", [0.0, 3.0, 220.0, 5000.0])
def test_runs_of_two_widths_predict_a_third(half_width):
    calibration = Calibration()
    for width in (256, 512):
        calibration.add(of_width(width), "none", measured_at(width, "none", half_width))
    assert calibration.half_width() == pytest.approx(half_width, rel=1e-2, abs=1e-6)
    for width, order in ((128, "none"), (1024, "filter"), (384, "forward_first")):
        told = step(calibration.applied_to(of_width(width)), order).logged
        for phase, seconds in measured_at(width, order, half_width).items():
            assert told[phase] == pytest.approx(seconds, rel=1e-2)


def test_runs_of_one_width_leave_the_half_width_as_it_is():
    calibration = Calibration()
    for order in ("none", "filter"):
        calibration.add(of_width(256), order, measured_at(256, order))
    assert calibration.half_width() is None
    given = of_width(512).but(efficiency=Efficiency(half_width=7))
    assert calibration.applied_to(given).efficiency.half_width == 7


def test_a_calibration_gives_back_what_was_measured_and_predicts_the_next():
    calibration = Calibration()
    for order in ("none", "filter"):
        predicted = step(setting(), order).logged
        calibration.add(
            setting(), order, {phase: 2 * predicted[phase] + 5 for phase in ("make_experience", "ppo_train")}
        )
    assert calibration.corrections() == {
        "make_experience": pytest.approx((2, 5)),
        "ppo_train": pytest.approx((2, 5)),
    }
    larger = setting(prompts=20)
    told = step(calibration.applied_to(larger), "forward_first")
    for phase in ("make_experience", "ppo_train"):
        assert told.logged[phase] == pytest.approx(2 * step(larger, "forward_first").logged[phase] + 5)
    assert told.logged["broadcast"] == step(larger, "none").logged["broadcast"]
    assert told.total == pytest.approx(sum(told.logged.values()))


def test_a_calibration_survives_its_file(tmp_path):
    calibration = Calibration()
    calibration.add(
        PRESETS["70b-64"].but(colocate=("actor_ref",), sleep=False, critic=None), "none", {"ppo_train": 3.5}
    )
    calibration.write(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json").runs == calibration.runs


@pytest.mark.parametrize(
    "seconds, message",
    [
        ({"train": 1.0}, "no phase is called 'train': give seconds of generation, make_experience"),
        ({"ppo_train": 0}, "more than 0 seconds"),
        ({"ppo_train": "long"}, "more than 0 seconds"),
        ({}, "more than 0 seconds"),
    ],
)
def test_times_that_are_none(seconds, message):
    with pytest.raises(ValueError, match=message):
        Calibration().add(setting(), "none", seconds)


def write_events(folder, steps):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for number, taken in enumerate(steps, start=1):
        for tag, value in (("train/timing/ppo_train", taken), ("train/timing/step_total", 99.0), ("train/kl", 0.1)):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=number, wall_time=number, summary=summary))
    writer.close()


def test_times_of_a_tensorboard_folder_are_medians_without_the_first_step(tmp_path):
    write_events(tmp_path / "run", [50.0, 2.0, 3.0, 7.0])
    assert from_tensorboard(tmp_path) == {"ppo_train": 3.0}
    write_events(tmp_path / "short" / "run", [50.0])
    with pytest.raises(ValueError, match="no times of at least two steps"):
        from_tensorboard(tmp_path / "short")


# ── The command line ──


def run(capsys, *arguments):
    code = cost.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_preset_with_changes(capsys, tmp_path):
    code, out, _ = run(
        capsys,
        *("--preset", "7b-64", "--samples", 16, "--keep", 4, "--gpus", 16, "vllm=32", "--colocate", "actor_ref"),
        *(
            "--no_sleep",
            "--critic",
            "none",
            "--flops",
            500,
            "--efficiency",
            "train=0.3",
            "--json",
            tmp_path / "c.json",
        ),
    )
    assert code == 0
    found = json.loads((tmp_path / "c.json").read_text())
    setting = Setting.of(found["setting"])
    assert setting.gpus == {"vllm": 32, "reward": 16, "actor": 16, "critic": 16, "reference": 16}
    assert (setting.samples, setting.keep, setting.critic, setting.sleep) == (16, 4, None, False)
    assert (setting.hardware.flops, setting.efficiency.train, setting.efficiency.forward) == (500e12, 0.3, 0.4)
    comparison = compare(setting)
    assert found["steps"]["filter"]["total"] == comparison.steps["filter"].total
    assert f"takes {1 - found['saved']:.2f} of the time without a filter" in " ".join(out.split())
    assert f"{comparison.times_as_many:.2f} times as many steps" in out
    assert "4 of 16 train, 4096 in all" in out and "16 for actor+reference + 32 for vllm" in out


def test_all_presets_in_a_table(capsys):
    code, out, _ = run(capsys, "--presets")
    assert code == 0 and all(name in out for name in PRESETS)
    assert out.count("too much") == 1, "a 70B policy with a 70B critic does not fit on 8 GPUs"


def test_what_does_not_fit_is_said(capsys):
    assert "IT DOES NOT FIT" in run(capsys, "--preset", "70b-8")[1]


def test_a_measured_run_and_the_next(capsys, tmp_path):
    measured, file = tmp_path / "seconds.json", tmp_path / "mine.json"
    predicted = step(PRESETS["7b-8"], "filter").logged
    measured.write_text(json.dumps({phase: 2 * predicted[phase] for phase in LOGGED}))
    assert run(capsys, "--measured", measured, "--calibration", file)[0] == 0
    code, out, _ = run(capsys, "--preset", "7b-64", "--calibration", file, "--json", tmp_path / "c.json")
    assert code == 0 and "measured: ppo_train x 2 + 0 s" in out
    found = json.loads((tmp_path / "c.json").read_text())["steps"]["none"]["total"]
    assert found == pytest.approx(2 * step(PRESETS["7b-64"], "none").total)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--keep", "9"], "k is between 1 and N, got k = 9 of N = 8"),
        (["--prompts", "0"], "prompts is at least 1, got 0"),
        (["--response_tokens", "0"], "response_tokens is more than 0"),
        (["--longest", "9"], "the longest response has 9 tokens and the mean one 1024"),
        (["--model", "big"], "'big' is no model's size: write 7B, 500M or 7e9"),
        (["--model", "7B:depth=3"], "has 'depth', of which nothing is known"),
        (["--model", "7B:layers=x"], "which is no number: write layers=NUMBER"),
        (["--model=-7B"], "more than 0 parameters"),
        (["--actor", "none"], "'none' is no model's size"),
        (["--gpus", "many"], "--gpus takes NUMBER and ROLE=NUMBER"),
        (["--gpus", "vllm=8"], "reward has no GPU"),
        (["--gpus", "8", "critic=4"], "all share their GPUs, so they have as many, got 8 and 4 for critic"),
        (["--colocate", "everything"], "nothing is colocated as 'everything'"),
        (["--tensor_parallel", "3"], "are not whole engines of 3"),
        (["--zero_stage", "4"], "stages are 0, 1, 2 and 3, got 4"),
        (["--efficiency", "train=2"], "the efficiency train is 2: shares of a peak are in (0, 1]"),
        (["--efficiency", "half_width=-1"], "the efficiency half_width is -1: it is 0 or more"),
        (["--efficiency", "speed=1"], "--efficiency has 'speed'"),
        (["--vllm_memory", "0"], "share of the memory is in (0, 1]"),
        (["--flops", "-1"], "a GPU's flops is more than 0"),
        (["--model", "70B", "--vllm_memory", "0.1"], "has no room for 140 GB of weights"),
        (["--prompts", "8"], "are too few for 8 GPUs"),
        (["--calibration", "absent.json"], "there is no absent.json: give --measured"),
        (["--measured", "absent.json"], "No such file"),
        (["--json", "absent/c.json"], "No such file"),
    ],
)
def test_refusals(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("text, message", [("no", "is no JSON"), ("[1]", "holds no phases"), ('{"a": 1}', "'a'")])
def test_measured_files_that_are_none(capsys, tmp_path, text, message):
    file = tmp_path / "m.json"
    file.write_text(text)
    code, _, err = run(capsys, "--measured", file)
    assert code == 2 and message in err


def test_a_calibration_file_that_is_none(capsys, tmp_path):
    (tmp_path / "c.json").write_text('{"runs": [{"setting": {}}]}')
    code, _, err = run(capsys, "--calibration", tmp_path / "c.json")
    assert code == 2 and "is no calibration" in err and len(err.splitlines()) == 1


def test_the_room_imports_nothing_heavy():
    code = (
        "import sys; from openrlhf_pf.cost import arguments, calibration, report; from openrlhf_pf.cli import cost;"
        "print(sorted({'torch', 'numpy', 'rich', 'openrlhf', 'tensorboard'} & sys.modules.keys()))"
        "; print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('openrlhf_pf.') and '._' not in m}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert out == ["[]", "['cli', 'cost']"]


def test_seconds_are_finite_for_every_preset():
    for found in PRESETS.values():
        assert all(math.isfinite(each.total) for each in compare(found).steps.values())
