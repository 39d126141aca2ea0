"""A reward model that keeps learning from few true scores: whom it asks, what it learns from, when it is trusted."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openrlhf")

from rollouts import Maker, make_maker, namespace, rollout_of, trained_tokens, without_a_cluster  # noqa: F401

from openrlhf_pf.training import flags as all_flags
from openrlhf_pf.training.correction import learning, workers
from openrlhf_pf.training.correction.labels import COMPARED, NEEDED, Batch, Correction, Labelled
from openrlhf_pf.training.flags import sample_filter, true_scores
from openrlhf_pf.training.flags.correction import REFRESHED, check_correction, correction_options
from openrlhf_pf.training.rollout import Rollout

NAN = math.nan
TOKENIZER = SimpleNamespace(decode=lambda tokens, **_: " ".join(map(str, tokens)))
N = 4


@pytest.fixture
def judge(tmp_path):
    """A file whose true score is 1 where a response's first token is even, and fails where it is 13."""
    file = tmp_path / "judge.py"
    file.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    token = int(queries[0].split()[0])\n"
        "    if token == 13:\n"
        "        raise RuntimeError('no judge for 13')\n"
        "    return {'rewards': [float(token % 2 == 0)]}\n"
    )
    return str(file)


def flags(judge, **flat):
    given = {
        "sample_filter": "none",
        "sample_filter_correct": "refresh",
        "sample_filter_true_share": 0.5,
        "sample_filter_probe_score": judge,
        "ds.load_in_4bit": False,
        "ds.enable_sleep": False,
    }
    return given | flat


def correction(judge, ranks=1, options=None, **flat):
    return Correction(namespace(**flags(judge, sample_filter_correct_options=options, **flat)), seed=3, ranks=ranks)


def labelled(scores, given=None, length=3, token=1):
    sequences = [np.full(length + place, token) for place in range(len(scores))]
    return Labelled(sequences, np.array(scores, float), np.array(scores if given is None else given, float))


# ── Who is asked ──


@pytest.mark.parametrize("share, prompts, number", [(0.5, 8, 4), (0.05, 64, 3), (0.01, 8, 1), (1.0, 8, 8)])
def test_a_share_of_the_prompts_is_labelled_at_least_one(judge, share, prompts, number):
    found = correction(judge, sample_filter_true_share=share)
    steps = [found.choose(prompts, step) for step in range(20)]
    assert {len(chosen) for chosen in steps} == {number} and all(len(set(c)) == number for c in steps)
    assert steps == [correction(judge, sample_filter_true_share=share).choose(prompts, step) for step in range(20)]
    if number < prompts:
        assert len({tuple(chosen) for chosen in steps}) > 1, "other prompts in other steps"


def test_whole_groups_are_judged_and_both_models_are_compared_on_their_pairs(judge):
    found = correction(judge, sample_filter_true_share=1.0)
    rollout = Rollout(rollout_of([[1.0] * N, [1.0] * N]), N)  # tokens 1 to 4 and 101 to 104

    def forward(samples, learned):
        tokens = np.array([float(sample.sequences[0, 0]) for sample in samples])
        return np.where(tokens % 2 == 0, 1.0, 0.0) if learned else tokens

    found.observe(rollout, 0, TOKENIZER, forward)
    assert rollout.scores.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]
    # By the token: 2 > 1, 4 > 1 and 4 > 3 are right, 2 > 3 is wrong.
    assert list(found.compared) == [(0.75, 1.0), (0.75, 1.0)]
    assert found.metrics() == {
        "filter/true_scores": 8,
        "filter/correct_trusted": 0,
        "filter/plain_accuracy": 0.75,
        "filter/correct_accuracy": 1.0,
    }
    assert [len(prompt.pairs()) for prompt in found.labelled] == [4, 4]


def test_a_judge_that_fails_costs_its_sample_alone(judge, caplog):
    found = correction(judge, sample_filter_true_share=1.0)
    samples = rollout_of([[1.0] * N])
    samples[0].sequences[0, 0] = 13
    found.observe(Rollout(samples, N), 0, TOKENIZER, lambda samples, learned: np.arange(len(samples), dtype=float))
    assert found.labels == 3
    (prompt,) = found.labelled
    assert len(prompt.pairs()) == 2, "2 and 4 before 3"


def test_prompts_without_pairs_teach_nothing(judge):
    found = correction(judge, sample_filter_true_share=1.0)
    samples = rollout_of([[1.0] * N])
    for sample in samples:
        sample.sequences[0, 0] = 2
    found.observe(Rollout(samples, N), 0, TOKENIZER, lambda samples, learned: np.arange(len(samples), dtype=float))
    assert not found.compared and found.batches(0) == []


# ── What is learned from ──


def test_a_batch_has_the_pairs_of_each_prompt_with_the_same_weight_for_each_prompt():
    batch = Batch([labelled([1, 0]), labelled([0, 1, 1, 0], length=5)]).tensors(pad_token=7)
    assert batch["pairs"].tolist() == [[0, 1], [3, 2], [3, 5], [4, 2], [4, 5]]
    assert batch["weights"].tolist() == pytest.approx([1 / 2, *[1 / 8] * 4])
    assert batch["sequences"].shape == batch["attention_mask"].shape == (6, 8)
    assert batch["attention_mask"].sum(1).tolist() == [3, 4, 5, 6, 7, 8]
    assert (batch["sequences"][batch["attention_mask"] == 0] == 7).all()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_takes_as_many_steps_and_each_new_prompt_is_visited_as_often_as_asked(judge, ranks):
    found = correction(judge, ranks, ["batch=4", "passes=2"])
    for place in range(7):
        found.labelled.append(labelled([1, 0], token=place))
    found.labelled.append(labelled([1, 1]))
    found._unlearned = 5
    batches = found.batches(step=1)
    sizes = [[len(batch.prompts) for batch in rank] for rank in batches]
    assert len(sizes) == ranks and all(rank == sizes[0] for rank in sizes)
    assert sum(map(sum, sizes)) == math.ceil(10 / ranks) * ranks
    assert all(len(prompt.pairs()) for rank in batches for batch in rank for prompt in batch.prompts)
    assert found.batches(step=2) == [], "nothing new"


def test_one_step_on_pairs_is_a_step_of_the_bradley_terry_loss(judge, monkeypatch):
    head = torch.nn.Embedding(9, 1)
    worker = workers.RefreshedRewardModelActor.__new__(workers.RefreshedRewardModelActor)
    worker.refreshed = type(
        "Model", (torch.nn.Module,), {"forward": lambda self, s, m, **_: head(s[:, 0]).squeeze(1)}
    )()
    worker.strategy = SimpleNamespace(ring_attn_group=None)
    worker.optimizer, worker.scheduler, losses = None, None, []
    worker.refresh_strategy = SimpleNamespace(
        backward=lambda loss, *_: (losses.append(loss.item()), loss.backward()), optimizer_step=lambda *_, **__: None
    )
    batch = Batch([Labelled([np.array([1]), np.array([2])], np.array([0.0, 1.0]), np.zeros(2))]).tensors(0)
    loss = worker.refresh(**batch)
    margin = (head.weight[2] - head.weight[1]).item()
    assert loss == losses[0] == pytest.approx(math.log(1 + math.exp(-margin)), rel=1e-5)
    assert head.weight.grad[2].item() == pytest.approx(-1 / (1 + math.exp(margin)), rel=1e-5)
    assert head.weight.grad[1].item() == pytest.approx(1 / (1 + math.exp(margin)), rel=1e-5)


def test_learned_rewards_get_the_mean_and_the_spread_within_prompts_of_the_given_ones(judge):
    found = correction(judge)
    generator = np.random.default_rng(0)
    given = generator.normal(2.0, 3.0, (6, N))
    for row in given:
        found.labelled.append(labelled([1, 0, 1, 0], row))
    learned = generator.normal(-40.0, 0.1, (6, N))
    found.calibrate(lambda prompts: learned)
    rewards = found.corrected(torch.from_numpy(learned)).numpy()
    centred = [x - x.mean(axis=1, keepdims=True) for x in (rewards, given)]
    assert np.mean(centred[0] ** 2) == pytest.approx(np.mean(centred[1] ** 2))
    assert rewards.mean() == pytest.approx(given.mean())
    scale = found.scale
    found.calibrate(lambda prompts: np.full((6, N), 5.0))
    assert found.scale == scale, "a copy that gives one reward to all keeps the scale it had"
    learned[0] = NAN
    found.calibrate(lambda prompts: learned)
    assert np.isfinite([found.scale, found.shift]).all(), "without the prompt that has no reward"


# ── When it is trusted ──


@pytest.mark.parametrize(
    "given, learned, prompts, trusted",
    [
        ([0.5], [1.0], NEEDED - 1, False),  # too few
        ([0.5], [1.0], NEEDED, True),
        ([0.5], [0.5], 20, False),  # level
        ([1.0], [0.5], 20, False),
        ([0.5, 0.5, 1.0], [1.0, 0.5, 0.5], 30, False),  # as often worse as better
        ([0.5, 0.5, 0.5], [1.0, 1.0, 0.25], 30, True),
    ],
)
def test_the_copy_is_trusted_once_it_is_ahead_by_a_standard_error(judge, given, learned, prompts, trusted):
    found = correction(judge)
    found.compare(*(np.resize(accuracies, prompts) for accuracies in (given, learned)))
    assert found.trusted == trusted


def test_the_copy_stays_trusted_until_it_falls_behind(judge):
    found = correction(judge)
    found.compare(np.full(COMPARED, 0.5), np.full(COMPARED, 0.6))
    assert found.trusted
    found.compare(np.resize([0.0, 1.0], COMPARED), np.resize([1.0, 0.0], COMPARED))
    assert found.trusted, "level"
    found.compare(np.array([0.9]), np.array([0.8]))
    assert not found.trusted
    found.compare(np.array([0.8]), np.array([0.95]))
    assert not found.trusted, "ahead, but by less than a standard error"


def test_a_resumed_correction_equals_the_unbroken_one(judge):
    found = correction(judge, options=["window=9"])
    for place in range(6):
        found.labelled.append(labelled([1, 0, 1], token=place))
        found.compare(np.array([0.5]), np.array([0.5 + 0.05 * place]))
    found.labels, found.scale, found.shift, found._unlearned = 18, 2.0, -1.0, 6
    again = correction(judge, options=["window=9"])
    again.load_state_dict(found.state_dict())
    assert again.metrics() == found.metrics() and again.lead() == found.lead()
    assert again.corrected(torch.tensor([3.0])) == found.corrected(torch.tensor([3.0])) == 5.0
    pairs = [[[b.tensors(0)["sequences"].tolist() for b in rank] for rank in c.batches(4)] for c in (found, again)]
    assert pairs[0] == pairs[1] and pairs[0]


# ── In the experience maker ──


class LearningGroup:
    """Stands where the reward model's workers are; notes what they are asked to do."""

    def __init__(self, group):
        self.group, self.asked = group, []

    def __getattr__(self, name):
        return getattr(self.group, name)

    def async_run_method_batch(self, method_name, **kwargs):
        self.asked.append((method_name, len(kwargs["sequences"])))
        return [0.7]

    def async_run_method(self, method_name, **kwargs):
        self.asked.append((method_name, *kwargs.values()))
        return [None]


class CorrectedMaker(Maker):
    @staticmethod
    def reward(token, model):
        """The copy knows which tokens are even."""
        return (token % 2 == 0).float() if model == REFRESHED else token


@pytest.fixture
def maker(judge, monkeypatch):
    monkeypatch.setattr(learning, "ray", SimpleNamespace(get=lambda refs: refs))
    found = make_maker(**flags(judge, sample_filter_true_share=1.0))
    found.__class__ = CorrectedMaker
    found.learning.group = LearningGroup(found.reward_model_group)
    return found


def unscored(prompts=4):
    rollout = rollout_of([[0.0] * N] * prompts)
    for sample in rollout:
        sample.rewards, sample.info = None, {}
    return rollout


def test_the_reward_model_as_given_trains_until_the_copy_is_ahead(maker):
    trained = [maker.make_experience_batch(unscored()) for _ in range(2)]
    tokens = [float(t) for t in trained_tokens(trained[0])]
    assert sorted(torch.cat([e.info["reward"] for e in trained[0]]).tolist()) == tokens, "4 prompts are too few"
    assert maker.metrics["filter/correct_trusted"] == 0
    maker.step = 2
    corrected = torch.cat([e.info["reward"] for e in maker.make_experience_batch(unscored())])
    assert maker.metrics["filter/correct_trusted"] == 1
    assert len(corrected.unique()) == 2, "even or odd"
    given = torch.tensor(tokens)
    assert corrected.mean().item() == pytest.approx(given.mean().item(), rel=1e-4)
    # Four new prompts a rollout, each visited five times on average, 16 to a step.
    assert maker.learning.group.asked == [("refresh", 2)] * 3


def test_a_checkpoint_waits_for_what_is_being_learned(maker):
    maker.make_experience_batch(unscored())
    assert maker.learning._running
    maker.learning.save_checkpoint("global_step1")
    assert not maker.learning._running and maker.learning.group.asked[-1] == ("save_checkpoint", "global_step1")


# ── Flags ──


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sample_filter_true_share": 0.0}, "above 0 and at most 1, got 0"),
        ({"sample_filter_true_share": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"sample_filter_probe_score": None}, "name a reward_func with --sample_filter_probe_score"),
        ({"sample_filter_probe_score": "absent.py"}, "--sample_filter_probe_score absent.py gives no reward_func"),
        ({"reward.remote_url": "mine.py"}, "give --reward.model_name_or_path"),
        ({"train.agent_func_path": "agent.py"}, "rewards come from --reward.remote_url or an agent"),
        ({"reward.model_name_or_path": None}, "give --reward.model_name_or_path"),
        ({"sample_filter_drop": "band"}, "leave one of the two out"),
        ({"ds.ring_attn_size": 2}, "--ds.ring_attn_size"),
        ({"ds.load_in_4bit": True}, "--ds.load_in_4bit"),
        ({"rollout.n_samples_per_prompt": 1}, "give 2 or more"),
        ({"sample_filter_correct_options": ["rate=1"]}, "takes no rate; it takes learning_rate, passes"),
        ({"sample_filter_correct_options": ["passes=many"]}, "passes of --sample_filter_correct must be int"),
        ({"sample_filter_correct_options": ["learning_rate=0"]}, "learning_rate of --sample_filter_correct must be"),
        ({"sample_filter_correct": None}, "--sample_filter_true_share has no effect without --sample_filter_correct"),
    ],
)
def test_what_cannot_be_corrected_is_refused_in_one_sentence(judge, change, words):
    with pytest.raises(ValueError) as refused:
        check_correction(namespace(**flags(judge, **change)))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_good_flags_pass_and_have_defaults(judge):
    args = namespace(
        **flags(judge, sample_filter_true_share=None, sample_filter_correct_options=["learning_rate=1e-4"])
    )
    check_correction(args)
    assert correction_options(args).learning_rate == 1e-4 and correction_options(args).passes == 5


def test_a_correction_needs_no_filter_and_no_probe(judge):
    args = namespace(**flags(judge, sample_filter_stop_below=0.6))
    sample_filter.check_unused(args)
    true_scores.check_probe(args, sample_filter.filter_from_args(args))
    true_scores.check_stop(args)
    assert sample_filter.is_active(args)


@pytest.mark.parametrize(
    "given",
    [
        {"sample_filter_true_share": 0.1},
        {"sample_filter_correct_options": ["passes=2"]},
        {"sample_filter_correct": "none", "sample_filter_true_share": 0.1},
        {"sample_filter_correct": "none", "sample_filter_probe_score": "judge.py"},
    ],
)
def test_a_flag_of_a_correction_is_refused_where_nothing_is_corrected(given):
    args = namespace(
        sample_filter="none", **{"algo.dynamic_filtering_enable": False, "rollout.batch_size": 8, **given}
    )
    with pytest.raises(ValueError, match="has no effect"):
        all_flags.check_arguments(args)


def test_the_main_model_scores_once_until_the_copy_trains(judge, monkeypatch):
    monkeypatch.setattr(learning, "ray", SimpleNamespace(get=lambda refs: refs))
    found = make_maker(**flags(judge, sample_filter_reward_models="main,upside", sample_filter_true_share=0.01))
    found.learning.group = LearningGroup(found.reward_model_group)
    rollout = Rollout(unscored(), N)
    found.score(rollout)
    assert found.reward_model_group.models == [None, "upside"]
    found.learning.correction.trusted = True
    again = Rollout(unscored(), N)
    found.score(again)
    assert found.reward_model_group.models[2:] == [REFRESHED, "main", "upside"]
    np.testing.assert_array_equal(again.model_rewards, rollout.model_rewards)
