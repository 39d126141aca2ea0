"""The stream that replaces OpenRLHF's loader of prompts: an episode, its results, and its state."""

import copy
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator, _collect_prompt_batch
from rollouts import namespace

from openrlhf_pf.training import generation
from openrlhf_pf.training.flags import data as data_checks
from openrlhf_pf.training.generation import CheckedGenerator
from openrlhf_pf.training.prompt_stream import PromptStream, success_values
from openrlhf_pf.training.rollout import read_context
from openrlhf_pf.training.startup import launch

N = 4


class Data:
    """As ``PromptDataset``: rows with what is made of them."""

    def __init__(self, prompts, labels=None):
        self.prompts, self.labels = list(prompts), labels or [""] * len(prompts)

    def __len__(self):
        return len(self.prompts)

    def __getitem__(self, row):
        return "default", self.prompts[row], self.labels[row], f"image {row}"

    def collate_fn(self, rows):
        return tuple(map(list, zip(*rows)))


def arguments(name="vade", **changes):
    settings = {f"prompt_selection_{flag}": value for flag, value in changes.items()} | {"prompt_selection": name}
    given = {"sample_filter": "none", "rollout.batch_size": 4, "reward.remote_url": ["reward.py"], "train.seed": 5}
    return namespace(**given, **settings)


def stream_of(data, **changes):
    return PromptStream(SimpleNamespace(dataset=data), arguments(**changes))


def samples_of(prompts, labels=None):
    """N experiences of each, with what the stream reads."""
    labels = labels or [""] * len(prompts)
    return [SimpleNamespace(prompts=[p], labels=[label]) for p, label in zip(prompts, labels) for _ in range(N)]


def taken(iterator, count):
    return [next(iterator)[1][0] for _ in range(count)]


def chance(prompt):
    """Each prompt has its own share of successes: prompt 7 of 20 has .35."""
    return int(prompt.split()[1]) / 20


def rollout(stream, iterator, count=4):
    prompts = taken(iterator, count)
    right = np.array([[float(place < round(N * chance(p))) for place in range(N)] for p in prompts])
    stream.observe(samples_of(prompts), right)
    return prompts


DATA = Data([f"prompt {i}" for i in range(20)])


def test_an_episode_has_as_many_prompts_as_the_data_set():
    stream = stream_of(DATA)
    for _ in range(3):
        iterator = iter(stream)
        rollouts = [rollout(stream, iterator) for _ in range(5)]
        assert all(len(set(prompts)) == 4 for prompts in rollouts)
        assert next(iterator, None) is None
    assert len(stream) == 20 and stream.dataset is DATA


def test_the_middle_is_taken_more_often():
    stream = stream_of(DATA, options=["gain=variance", "decay=1,1"])
    found = Counter()
    for _ in range(20):
        iterator = iter(stream)
        for _ in range(5):
            found.update(rollout(stream, iterator))
        assert next(iterator, None) is None
    ends = sum(found[f"prompt {i}"] for i in (0, 1, 2, 18, 19))
    middle = sum(found[f"prompt {i}"] for i in (8, 9, 10, 11, 12))
    assert middle > 3 * ends and len(found) == 20


def test_rows_with_the_same_prompt_and_label_are_one_prompt_and_take_turns():
    data = Data(["a", "b", "a", "c", "d", "e", "a"], ["1", "1", "1", "1", "1", "1", "2"])
    stream = stream_of(data, name="uniform")
    assert stream.selection.n_prompts == 6
    images = []
    for _ in range(12):
        for _, prompts, labels, (image,) in stream:
            stream.observe(samples_of(prompts, labels), np.ones((1, N)))
            images += [image] if (prompts, labels) == (["a"], ["1"]) else []
    assert set(images) == {"image 0", "image 2"} and abs(images.count("image 0") - images.count("image 2")) <= 1


def test_what_counts_as_a_success():
    cases = [
        ({}, [1.0, 0.0, 0.5, float("nan")], (1.5, 3)),
        ({"success_above": 0.4}, [1.0, 0.0, 0.5, float("nan")], (2, 3)),
        ({"success_above": 10.0}, [11.0, 10.0, -3.0, float("inf")], (1, 3)),
        ({}, [float("nan")] * 4, (0, 0)),
    ]
    for changes, values, (right, counted) in cases:
        stream = stream_of(DATA, options=["decay=1,1"], **changes)
        stream.observe(samples_of(["prompt 3"]), np.array([values]))
        assert stream.selection.posterior.counts().sum(axis=1).tolist() == [right, counted - right]


@pytest.mark.parametrize(
    "samples, values, sentence",
    [
        (samples_of(["prompt 3"]), [1.0, 2.0, 0.0, 0.0], "needs successes between 0 and 1, got 2: give the value"),
        (samples_of(["prompt 99"]), [1.0, 1.0, 0.0, 0.0], "cannot find the prompt of a response"),
    ],
)
def test_what_cannot_be_learnt_from(samples, values, sentence):
    stream = stream_of(DATA)
    with pytest.raises(ValueError, match=sentence):
        stream.observe(samples, np.array([values]))


def test_a_prompt_that_overlapping_rollouts_hold_twice_is_observed_once():
    stream = stream_of(DATA, options=["decay=1,1"])
    stream.observe(samples_of(["prompt 3", "prompt 3"]), np.array([[1.0] * 4, [0.0] * 4]))
    assert stream.selection.posterior.counts().sum(axis=1).tolist() == [4, 4]


def test_prompts_in_flight_are_not_taken_again_while_others_are_left():
    stream = stream_of(DATA)
    iterator = iter(stream)
    assert len(set(taken(iterator, 20))) == 20, "nothing was observed in between"
    assert next(iterator, None) is None
    assert len(set(taken(iter(stream), 4))) == 4, "none is left: any may be taken"


def test_an_episode_that_was_over_is_not_repeated_by_a_resumed_run():
    """The last rollout is short, so that the end is found before the checkpoint; OpenRLHF asks for the rest of it."""
    unbroken = stream_of(Data([f"prompt {i}" for i in range(10)]))
    iterator = iter(unbroken)
    for count in (4, 4, 2):
        rollout(unbroken, iterator, count)
    assert next(iterator, None) is None
    resumed = stream_of(unbroken.dataset)
    resumed.load_state_dict(copy.deepcopy(unbroken.state_dict()))
    assert list(resumed) == []
    iterator, again = iter(unbroken), iter(resumed)
    for count in (4, 4, 2):
        assert rollout(unbroken, iterator, count) == rollout(resumed, again, count), "the next episode"
    assert resumed.metrics == unbroken.metrics


def test_further_prompts_of_a_rollout_are_others_and_belong_to_the_episode():
    stream = stream_of(Data([f"prompt {i}" for i in range(10)]))
    iterator = iter(stream)
    first = taken(iterator, 4)
    assert stream.select_further(3) == 3
    seven = [*first, *taken(iterator, 3)]
    assert len(set(seven)) == 7
    stream.observe(samples_of(seven), np.ones((7, N)))
    assert stream.select_further(5) == 3, "the episode has no more, the data set would"
    assert len(taken(iterator, 3)) == 3 and next(iterator, None) is None


def test_further_prompts_are_not_those_in_flight():
    stream = stream_of(Data(["a", "b", "c", "d", "e"] * 4))
    iterator = iter(stream)
    first = taken(iterator, 4)
    assert stream.select_further(3) == 1 and len({*first, *taken(iterator, 1)}) == 5
    assert stream.select_further(3) == 0


@pytest.mark.parametrize(
    "other, sentence",
    [
        (stream_of(Data([f"task {i}" for i in range(20)])), "is of --prompt_selection vade and other prompts"),
        (stream_of(DATA, name="target"), "is of --prompt_selection target: resume with what the run began with"),
        (SimpleNamespace(state_dict=lambda: {"_num_yielded": 3}), "is of --prompt_selection none: resume"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(other, sentence):
    with pytest.raises(ValueError, match=sentence):
        stream_of(DATA).load_state_dict(other.state_dict())


# ── What samples bring along ──


@pytest.fixture
def engines(monkeypatch):
    """OpenRLHF's generator with answers that come last prompt first, N of each, right by each prompt's chance."""

    def generate(self, dataloader_iter, num_prompts, dynamic_filtering, **kwargs):
        prompts, labels, _, exhausted = _collect_prompt_batch(dataloader_iter, num_prompts)
        samples = samples_of(prompts[::-1], labels[::-1])
        for place, sample in enumerate(samples):
            sample.rewards = torch.tensor([float(place % N < round(N * chance(sample.prompts[0])))])
            sample.scores = None
        return samples, len(prompts), exhausted

    monkeypatch.setattr(SamplesGenerator, "_generate_vllm", generate)


def generator_of(loader, args):
    return CheckedGenerator(SimpleNamespace(args=args), loader, None, None, [])


def groups(samples):
    return [samples[start : start + N] for start in range(0, len(samples), N)]


def test_samples_bring_what_was_known_of_their_prompt_before_them(engines):
    stream = stream_of(Data([f"prompt {i}" for i in range(5)]), options=["decay=1,1"])
    generator = generator_of(stream, stream.args)
    taken = Counter()
    for _ in range(6):  # episodes of 5 prompts, in rollouts of 4 and 1
        generator._dataloader_iter = iter(stream)
        for count in (4, 1):
            samples, _, _ = generator._generate_vllm(generator._dataloader_iter, count, False)
            names = [group[0].prompts[0] for group in groups(samples)]
            # Of N responses in each earlier rollout, with a successes and b failures: (a + 1) / (a + b + 2).
            expected = [(round(N * chance(n)) * taken[n] + 1) / (N * taken[n] + 2) for n in names]
            assert read_context(groups(samples), "posterior_mean") == pytest.approx(expected)
            assert read_context(groups(samples), "visits") == [taken[n] for n in names]
            taken.update(names)
        assert generator._generate_vllm(generator._dataloader_iter, 4, False) == ([], 0, True)
    assert sum(taken.values()) == 30 and max(taken.values()) > min(taken.values()) > 0


class Sourced(Data):
    def __getitem__(self, row):
        return f"source {row % 3}", self.prompts[row], self.labels[row], None


def test_samples_bring_the_data_source_of_their_prompt_without_selection_too(engines):
    data = Sourced([f"prompt {i}" for i in range(7)])
    generator = generator_of(SimpleNamespace(dataset=data), arguments(name="none"))
    rows = (data.collate_fn([data[i]]) for i in range(7))
    generator._dataloader_iter = iter(rows)
    samples, consumed, exhausted = generator._generate_vllm(generator._dataloader_iter, 5, False)
    assert (consumed, exhausted) == (5, False)
    assert read_context(groups(samples), "datasource") == [f"source {i % 3}" for i in (4, 3, 2, 1, 0)]
    assert read_context(groups(samples), "posterior_mean") is None and read_context([], "datasource") is None
    samples, consumed, exhausted = generator._generate_vllm(generator._dataloader_iter, 5, False)
    assert (consumed, exhausted) == (2, True), "nothing was taken ahead"
    assert read_context(groups(samples), "datasource") == ["source 0", "source 2"]
    evaluation = iter([data.collate_fn([data[0]])])
    samples, _, _ = generator._generate_vllm(evaluation, 1, False)
    assert read_context(groups(samples), "datasource") is None


def test_too_few_prompts_are_refused_before_anything_is_loaded(tmp_path):
    """Three different ones in ten rows; a label makes a fourth."""
    rows = tmp_path / "prompts.jsonl"
    args = arguments()
    names = {"prompt_probs": None, "max_samples": 1e8, "prompt_split": "train", "input_key": "input"}
    args.data = SimpleNamespace(prompt_dataset=str(rows), label_key=None, **names)
    rows.write_text("".join(json.dumps({"input": "abc"[i % 3], "label": i % 2}) + "\n" for i in range(10)))
    with pytest.raises(ValueError, match="a rollout takes 4 of 3 different prompts; lower --rollout.batch_size"):
        launch.install_trainers(args, None)
    args.data.label_key = "label"
    data_checks.check_prompt_count(args)
    args.data.max_samples = 4
    with pytest.raises(ValueError, match="a rollout takes 4 of 4 different prompts"):
        data_checks.check_prompt_count(args)
    args.data.prompt_dataset = str(tmp_path / "on another node.jsonl")
    data_checks.check_prompt_count(args)


@pytest.mark.parametrize(
    "success, score, warns", [("score", 0.5, True), ("score", 1.0, False), (None, 0.5, False), ("reward", 0.5, False)]
)
def test_scores_that_are_copies_of_the_rewards_are_warned_of_once(monkeypatch, success, score, warns):
    """All rewards are 0.5; OpenRLHF copies them into the scores if the function returns none."""
    warnings = []
    monkeypatch.setattr(generation.logger, "warning", warnings.append)
    stream = stream_of(DATA, success=success)
    generator = generator_of(stream, stream.args)
    for _ in range(2):
        samples = samples_of(["prompt 3"])
        for one in samples:
            one.rewards, one.scores = torch.tensor([0.5]), torch.tensor([score])
        generator._update_selection(samples)
    assert len(warnings) == warns and all("score uses the rewards: every score" in text for text in warnings)


def test_scores_where_there_are_some_else_rewards():
    def samples(scores, rewards):
        columns = [[x if x is None else torch.tensor([x]) for x in values] for values in (scores, rewards)]
        return [SimpleNamespace(scores=score, rewards=reward) for score, reward in zip(*columns)]

    both = samples([1.0, None, 0.0, 1.0], [0.1, 0.2, 0.3, None])
    assert success_values(both, arguments())[0].tolist() == pytest.approx([1, float("nan"), 0, 1], nan_ok=True)
    found = success_values(both, arguments(success="reward"))[0].tolist()
    assert found == pytest.approx([0.1, 0.2, 0.3, float("nan")], nan_ok=True)
    assert success_values(samples([None] * 4, [0.0, 1.0, 1.0, 1.0]), arguments())[0].tolist() == [0, 1, 1, 1]
    assert success_values(samples([None] * 4, [None] * 4), arguments()) is None
