"""Generation: what a reward source returns, and prompts that are replaced; OpenRLHF's generator, without Ray."""

import copy
import math
import random
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from rollouts import (  # noqa: F401 (one is a fixture)
    FAILED,
    FLAT,
    NAN,
    SPREAD,
    Data,
    Engines,
    N,
    generator_of,
    make_maker,
    namespace,
    sample,
    trained_tokens,
    without_a_cluster,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from openrlhf_pf.filters import FilterBatch
from openrlhf_pf.training import generation
from openrlhf_pf.training.generation import CheckedGenerator, FinishedPrompts, keep_numbers
from openrlhf_pf.training.rollout import read_context
from openrlhf_pf.training.true_score import one_number

HALVES = [0.5, [0.5], [[0.5]], torch.tensor(0.5), torch.tensor([[0.5]]), np.float32(0.5)]
NO_NUMBERS = [None, "0.5", "good", [], [0.5, 0.7], torch.ones(2), {}, {"reward": 0.5}, ["a"]]


@pytest.mark.parametrize(
    "value, expected",
    [*((value, 0.5) for value in HALVES), *((value, None) for value in NO_NUMBERS), (NAN, NAN), (True, 1.0), (3, 3)],
)
def test_one_number_however_it_is_packed(value, expected):
    assert one_number(value) == (None if expected is None else pytest.approx(expected, nan_ok=True))


def response(**answer):
    return {
        "prompt": "p",
        "label": "",
        "observation_tokens": [1, 2, 3],
        "action_ranges": [(1, 3)],
        "rollout_log_probs": None,
        "truncated": False,
        **answer,
    }


def generator(dynamic=False, cls=CheckedGenerator):
    args = SimpleNamespace(algo=SimpleNamespace(dynamic_filtering_enable=dynamic), sample_filter_refill=None)
    return cls(SimpleNamespace(args=args), None, None, None, [])


def test_what_is_not_one_number_is_left_out_and_named():
    made, wrong = keep_numbers(response(reward=[1.0, 2.0], scores="high", extra_logs={"a": [3], "b": "text"}))
    assert (made["reward"], made["scores"], made["extra_logs"]) == (None, None, {"a": 3.0})
    assert wrong == ["reward [1.0, 2.0]", "scores 'high'", "b 'text'"]
    assert keep_numbers(response(extra_logs=["x"]))[1] == ["extra_logs ['x']"]
    assert keep_numbers(response(reward=None, scores=None, extra_logs=None))[1] == []
    # Extra logs of the same name are neither reward nor score.
    made, wrong = keep_numbers(response(reward=[0.25], scores=None, extra_logs={"reward": "good", "scores": [1.0]}))
    assert (made["reward"], made["scores"], made["extra_logs"]) == (0.25, None, {"scores": 1.0})
    assert wrong == ["reward 'good'"]


def test_a_good_answer_becomes_what_openrlhf_makes_of_it():
    answer = {"reward": torch.tensor([0.25]), "scores": 1.0, "extra_logs": {"calls": torch.tensor([2.0])}}
    ours, theirs = (
        generator(cls=cls)._process_response_into_experience(response(**answer))
        for cls in (CheckedGenerator, SamplesGenerator)
    )
    for name in ("rewards", "scores"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.info.keys() == theirs.info.keys()
    assert all(torch.equal(ours.info[key], theirs.info[key]) for key in ours.info)


def test_a_rollout_says_once_what_was_left_out(monkeypatch):
    answers, warnings = [[1.0, 2.0], 0.5, "good"], []

    def generate(self, *args, **kwargs):
        return [self._process_response_into_experience(response(reward=answer)) for answer in answers], 3, True

    monkeypatch.setattr(SamplesGenerator, "_generate_vllm", generate)
    monkeypatch.setattr(generation.logger, "warning", warnings.append)
    made = generator()
    samples, *rest = made._generate_vllm(None, 3, False)
    assert [sample.rewards is None for sample in samples] == [True, False, True] and rest == [3, True]
    assert warnings == [
        "2 responses came back with something else than one number, which is left out: reward [1.0, 2.0]."
    ]
    answers[:] = [0.5]
    made._generate_vllm(None, 1, False)
    assert len(warnings) == 1


def test_dynamic_filtering_does_not_look_for_a_prompt_without_nan():
    nan = response(reward=math.nan, scores=math.nan)
    assert generator(dynamic=True)._process_response_into_experience(nan).scores is None
    assert generator(dynamic=False)._process_response_into_experience(nan).scores.isnan()
    assert generator(dynamic=True)._process_response_into_experience(response(scores=2.0)).scores.tolist() == [2.0]


def test_an_evaluation_leaves_out_prompts_whose_rewards_are_not_all_there(monkeypatch):
    rewards, warnings = [1.0, 0.0, None, 1.0, 1.0, math.nan], []

    def generate(self, **kwargs):
        return [self._process_response_into_experience(response(reward=reward)) for reward in rewards]

    monkeypatch.setattr(SamplesGenerator, "generate_eval_samples", generate)
    monkeypatch.setattr(generation.logger, "warning", warnings.append)
    left = generator().generate_eval_samples(n_samples_per_prompt=2)
    assert [float(sample.rewards) for sample in left] == [1.0, 0.0]
    assert warnings == ["2 of 3 prompts are left out of the evaluation: a response has no usable reward."]


# ── Refill ──


class Copies(Data):
    """Of six prompts."""

    @property
    def prompts(self):
        return [f"prompt {place % 6}" for place in range(len(self))]

    def __getitem__(self, place):
        return super().__getitem__(place % 6)


def prompts_of(samples):
    """The number of each sample's prompt, the N of a prompt as one."""
    assert [s.prompts for s in samples[::N]] == [s.prompts for s in samples[N - 1 :: N]], "side by side"
    return [int(s.prompts[0].split()[1]) for s in samples[::N]]


def number(samples):
    """Give each sample a first token of its own, which names it."""
    for place, one in enumerate(samples):
        one.sequences = torch.tensor([[place + 1, int(one.prompts[0].split()[1]) + 1, 9]])


def episode_of(generator):
    """The prompts of each step of an episode."""
    steps, exhausted = [], False
    while not exhausted:
        samples, _, _, exhausted = generator.generate_samples()
        steps += [prompts_of(samples)] if samples else []
    return steps


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_filled_prompt_by_prompt(monkeypatch, seed):
    """Every second prompt is flat: of 0 to 3 two are left out, of 4 and 5 one, ...: the step takes 0 to 6."""
    data = Data([SPREAD if place % 2 == 0 else FLAT for place in range(40)])
    generator, engines = generator_of(data, monkeypatch, seed=seed)
    samples, _, consumed, exhausted = generator.generate_samples()
    assert consumed == 7 and not exhausted
    found = prompts_of(samples)
    assert sorted(found[:4]) == [0, 2, 4, 6] and sorted(found[4:]) == [1, 3, 5]
    assert max(engines.pending) == 4, "no more are pending than are missing"
    again = prompts_of(generator.generate_samples()[0])
    assert sorted(again) == list(range(7, 15)), "the next step begins where this one ended"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "flags",
    [
        {"sample_filter_drop": "flat", "sample_filter_drop_tolerance": 1.0},
        {"sample_filter_drop": "variance_top_p", "sample_filter_drop_share": 0.7},
        {"sample_filter_drop": "band", "sample_filter_drop_band": [0.5, 1.5]},
        {"sample_filter_drop": None},
        {"sample_filter_drop": "flat", "sample_filter": "top", "sample_filter_options": ["high=-1"]},
    ],
)
def test_a_filled_step_trains_all_its_prompts_under_every_rule(monkeypatch, flags, seed):
    dice = random.Random(seed)
    values = [0.0, 0.0, 1.0, 1.0, 2.0, 3.0, NAN, None]
    data = Data([FAILED, *([dice.choice(values) for _ in range(N)] for _ in range(60))])
    generator, _ = generator_of(data, monkeypatch, seed=seed, **{"sample_filter_refill": 10.0, **flags})
    samples, _, consumed, _ = generator.generate_samples()
    assert consumed == len(samples) / N > 4
    number(samples)
    maker = make_maker(local_reward=False, **{"sample_filter_refill": 10.0, "rollout.batch_size": 4, **flags})
    experiences = maker.make_experience_batch(samples)
    assert len(trained_tokens(experiences)) == 4 * 2
    if maker.filter.scope == "group":
        assert int(maker._drawn.counts.any(axis=1).sum()) == 4
    assert maker.metrics["filter/replaced_prompts"] == consumed - 4
    assert maker.metrics["filter/replaced_share"] == (consumed - 4) / consumed


def test_the_band_goes_by_true_scores_as_soon_as_any_prompt_has_them():
    """A score that equals its reward may be a copy of it, and one that is missing says nothing: the first prompt alone
    has no true scores and is judged by its rewards; with the second it is one whose scores are unknown.
    """
    args = namespace(sample_filter_drop="band", sample_filter_drop_band=[0.4, 0.6])
    finished = FinishedPrompts(args, make_maker().filter)
    finished.add([sample(0, reward, score=NAN) for reward in (0.0, 1.0, 0.0, 1.0)])
    assert finished.trains().tolist() == [True]
    finished.add([sample(1, 9.0, score=score) for score in (0.0, 1.0, 0.0, 1.0)])
    assert finished.trains().tolist() == [False, True]


def test_at_the_bound_a_step_goes_on_with_fewer_and_says_so_once(monkeypatch):
    said = []
    monkeypatch.setattr(generation.logger, "warning", said.append)
    data = Data([SPREAD, *[FLAT] * 50])
    generator, _ = generator_of(data, monkeypatch, sample_filter_refill=2.5)
    first, second = (generator.generate_samples() for _ in range(2))
    assert sorted(prompts_of(first[0])) == list(range(10)) and first[2] == 10 and not first[3]
    assert prompts_of(first[0])[0] == 0
    assert len(prompts_of(second[0])) == 10, "nothing of it trains, which the trainer says"
    assert said == [
        "A step continues with 1 of 4 prompts: 10 were sampled for it, and --sample_filter_refill 2.5 allows no more. "
        "This is said once."
    ]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_at_the_end_of_an_episode(monkeypatch, seed):
    data = Data([FLAT if place % 3 == 0 else SPREAD for place in range(23)])
    generator, _ = generator_of(data, monkeypatch, seed=seed)
    for _ in range(2):
        steps = episode_of(generator)
        assert sorted(chain.from_iterable(steps)) == list(range(23)), "each prompt once"
        assert [sum(place % 3 > 0 for place in step) for step in steps] == [4, 4, 4, 3]


def test_evaluation_is_left_alone(monkeypatch):
    generator, _ = generator_of(Data([FLAT] * 9), monkeypatch)
    answer = sample(0, 1.0)
    monkeypatch.setattr(SamplesGenerator, "_generate_vllm", lambda self, *args, **kwargs: ([answer], 1, True))
    generator.eval_dataloader = ["prompt"]
    assert generator.generate_eval_samples(n_samples_per_prompt=1) == [answer]


def test_more_prompts_at_once_than_a_step_has(monkeypatch):
    """8 at once in steps of 4: both are full, and the replaced ones go with the first."""
    data = Data([SPREAD if place % 2 == 0 else FLAT for place in range(40)])
    generator, _ = generator_of(data, monkeypatch, **{"rollout.vllm_generate_batch_size": 8})
    first, second = (prompts_of(generator.generate_samples()[0]) for _ in range(2))
    assert [place % 2 for place in first] == [0] * 4 + [1] * 7 and [place % 2 for place in second] == [0] * 4
    assert sorted(first + second) == list(range(15))


# ── With selected prompts ──


def selecting(data, monkeypatch, **flat):
    settings = {"prompt_selection": "vade", "prompt_selection_success_above": 1.5, "sample_filter_log": None}
    return generator_of(data, monkeypatch, SimpleNamespace(dataset=data), **settings, **flat)[0]


def test_selected_prompts_are_replaced_by_selected_ones(monkeypatch):
    """The stream learns from what is replaced, too."""
    data = Data([SPREAD if place % 2 == 0 else FLAT for place in range(40)])
    generator = selecting(data, monkeypatch)
    stream = generator.prompts_dataloader
    samples, _, consumed, _ = generator.generate_samples()
    found = prompts_of(samples)
    assert len(set(found)) == consumed == len(found) and all(place % 2 == 0 for place in found[:4])
    assert all(place % 2 for place in found[4:]) and len(found) > 4
    first = [[sample] for sample in samples[::N]]
    assert (
        read_context(first, "visits") == [0] * consumed and read_context(first, "posterior_mean") == [0.5] * consumed
    )
    assert read_context(first, "datasource"), "filters see the same of a prompt that took another one's place"
    assert stream.selection.visits.sum() == consumed and stream._in_flight == set()
    assert (stream.selection.posterior.counts().sum(axis=0) > 0).sum() == consumed
    steps = episode_of(generator)
    assert consumed + sum(map(len, steps)) == 40, "an episode has as many prompts as the data set"


def test_no_prompt_is_taken_twice_for_a_step(monkeypatch):
    """Six prompts, four times each, one of which can train: each is tried once, although the bound allows 12."""
    said = []
    monkeypatch.setattr(generation.logger, "warning", said.append)
    generator = selecting(Copies([SPREAD, *[FLAT] * 23]), monkeypatch)
    samples, _, consumed, exhausted = generator.generate_samples()
    found = prompts_of(samples)
    assert sorted(found) == list(range(6)) and found[0] == 0 and consumed == 6 and not exhausted
    assert said == [
        "A step continues with 1 of 4 prompts: 6 were sampled for it, and the data set has no others. This is said "
        "once."
    ]


# ── Resumed ──


@pytest.mark.parametrize("selection", ["none", "vade"])
@pytest.mark.parametrize("stopped_after", range(1, 7))
def test_a_resumed_run_takes_the_prompts_that_the_unbroken_one_takes(monkeypatch, selection, stopped_after):
    """Two episodes of 20 prompts, 7 of which are flat; the engines answer in order, so that nothing differs."""
    monkeypatch.setattr(Engines, "wait", lambda self, refs, num_returns, **timeout: (refs[:1], refs[1:]))
    data = Data([FLAT if place % 3 == 0 else SPREAD for place in range(20)])

    def run(state=None):
        """Yields the prompts of a step and what OpenRLHF's trainer saves after it."""
        if selection == "none":
            torch.manual_seed(3)  # of the shuffle
            loader = StatefulDataLoader(data, batch_size=1, collate_fn=data.collate_fn, shuffle=True)
            generator, _ = generator_of(data, monkeypatch, loader)
        else:
            generator = selecting(data, monkeypatch)
        if state:
            generator.prompts_dataloader.load_state_dict(state["data_loader_state_dict"])
        for episode in range(state["episode"] if state else 0, 2):
            exhausted = False
            while not exhausted:
                samples, _, _, exhausted = generator.generate_samples()
                if samples:
                    loader_state = copy.deepcopy(generator.prompts_dataloader.state_dict())
                    for array in arrays_in(loader_state):
                        array.flags.writeable = False  # as Ray hands arrays over
                    saved = as_saved({"episode": episode, "data_loader_state_dict": loader_state})
                    yield (episode, sorted(prompts_of(samples))), saved

    unbroken = list(run())
    steps = [step for step, _ in unbroken]
    if selection == "none":
        assert Counter(place for _, step in steps for place in step) == dict.fromkeys(range(20), 2)
    assert {episode for episode, _ in steps} == {0, 1} and len(steps) >= 6
    resumed = [step for step, _ in run(unbroken[stopped_after - 1][1])]
    assert resumed == steps[stopped_after:]


def arrays_in(state):
    """The arrays of nested dictionaries."""
    nested = [value for value in state.values() if isinstance(value, dict)]
    return [v for v in state.values() if isinstance(v, np.ndarray)] + [a for part in nested for a in arrays_in(part)]


def as_saved(states):
    """What our trainer makes of what OpenRLHF's is about to save."""
    from openrlhf_pf.training.trainer import FilteringTrainer

    saved = {}

    class Host:
        def save_logs_and_checkpoints(self, global_step, logs_dict, client_states):
            saved.update(client_states)

    class Trainer(FilteringTrainer, Host):
        def __init__(self):
            self.args = namespace(**{"ckpt.save_steps": 1})
            self.experience_maker = SimpleNamespace(
                filter=make_maker().filter, stop_rule=None, log=None, correction=None
            )

    Trainer().save_logs_and_checkpoints(1, {}, states)
    return saved


def judged(monkeypatch, prompts):
    """How often a prompt is judged, in a step of ``prompts`` prompts, of which every fourth is flat."""
    looked_at = []

    def counting(rewards, **columns):
        looked_at.append(len(rewards))
        return FilterBatch(rewards, **columns)

    monkeypatch.setattr(generation, "FilterBatch", counting)
    data = Data([FLAT if place % 4 == 0 else SPREAD for place in range(2 * prompts)])
    generator, _ = generator_of(data, monkeypatch, **{"rollout.batch_size": prompts})
    monkeypatch.setattr(generation, "_wait", lambda refs: (refs[:1], refs[1:]))  # one comes after another
    assert len(prompts_of(generator.generate_samples()[0])) >= prompts
    return sum(looked_at)


def test_how_often_prompts_are_judged_grows_with_their_number_only(monkeypatch):
    """After each prompt, all that are there would be looked at: 8 x 8 times as often with 8 times the prompts."""
    few, many = judged(monkeypatch, 256), judged(monkeypatch, 2048)
    assert many < 2.5 * 8 * few
