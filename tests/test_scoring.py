"""Finished prompts are scored while others are generated; OpenRLHF's generator and experience maker, without Ray."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("openrlhf")

import openrlhf.trainer.ppo_utils.experience_maker as host_maker
import openrlhf.trainer.ppo_utils.samples_generator as host_generator
from openrlhf.trainer.ppo_utils.experience import Experience
from rollouts import namespace, without_a_cluster  # noqa: F401
from torchdata.stateful_dataloader import StatefulDataLoader

from openrlhf_pf.training import scoring
from openrlhf_pf.training.experience_maker import FilteringExperienceMaker
from openrlhf_pf.training.refill import loader_and_generator
from openrlhf_pf.training.rollout import Rollout
from openrlhf_pf.training.scoring import IN_FLIGHT, AheadScorer, ranks_of

N = 4


class Answer:
    """In the place of a reference of Ray's: what a worker will say, and whether it has."""

    def __init__(self, value):
        self.value, self.there = value, False


class Workers:
    """In the place of a reward model's workers and of Ray. Answers come in an order of their own.

    A reward tells in which row of how wide a micro-batch the sample was, as rounding does.
    """

    def __init__(self, ranks=1, duplicates=1, seed=0, answering=True):
        self._actor_handlers, self.duplicate_actors = [None] * ranks * duplicates, duplicates
        self.random, self.answering = random.Random(seed), answering
        self.sent = []  # the micro-batches of every call
        self.unanswered = []  # calls under way, when one more is sent
        self.waited = False  # somebody has for an answer
        self.answers = []

    def async_run_method_batch(self, method_name, sequences, attention_mask, pad_sequence):
        assert method_name == "forward" and pad_sequence == [True] * len(sequences)
        ranks = ranks_of(self)
        assert len(sequences) % ranks == 0, "as many for every rank"
        self.unanswered.append(sum(not all(a.there for a in call) for call in self.answers))
        batches = zip(sequences, attention_mask, strict=True)
        self.sent.append([(batch.tolist(), mask.tolist()) for batch, mask in batches])
        rewards = [names_in(batch) + 100 * batch.shape[1] + torch.arange(len(batch)) / 10 for batch in sequences]
        share = len(rewards) // ranks
        answers = [Answer(rewards[rank * share : (rank + 1) * share]) for rank in range(ranks)]
        answers = [answer for answer in answers for _ in range(self.duplicate_actors)]
        self.answers.append(answers)
        return answers

    def wait(self, refs, num_returns, timeout):
        assert (num_returns, timeout) == (len(refs), 0)
        for ref in refs:
            ref.there |= self.answering and self.random.random() < 0.5
        return [ref for ref in refs if ref.there], [ref for ref in refs if not ref.there]

    def get(self, refs):
        for ref in refs:
            if isinstance(ref.value, Exception):
                raise ref.value
        self.waited |= not all(ref.there for ref in refs)
        for ref in refs:
            ref.there = True
        return [ref.value for ref in refs]

    def put(self, rows):
        return [row[0] for row in rows]


def prompts_of(count):
    """(count, N) samples of 3 to 9 tokens, the largest of which is their name: 10, 11, ...."""
    lengths = random.Random(0)
    return [[sample(g, 10 + N * g + n, lengths.randint(3, 9)) for n in range(N)] for g in range(count)]


def names_in(batch):
    return batch.max(dim=1).values


def sample(prompt, name, tokens):
    return Experience(
        sequences=torch.tensor([[1] * (tokens - 1) + [name]]),
        attention_mask=torch.ones(1, tokens, dtype=torch.long),
        prompts=[f"prompt {prompt}"],
        labels=[""],
        total_length=torch.tensor([float(tokens)]),
        info={},
    )


def rewards_of(samples):
    """By the sample's name."""
    return {int(names_in(s.sequences)): float(s.rewards) for s in samples}


def scored_afterwards(prompts, workers, size, monkeypatch):
    """What the experience maker makes of them."""
    monkeypatch.setattr(host_maker, "ray", workers)
    args = namespace(**{"rollout.n_samples_per_prompt": N, "rollout.micro_batch_size": size})
    tokenizer, strategy = SimpleNamespace(pad_token_id=0), SimpleNamespace(args=args)
    maker = FilteringExperienceMaker(None, None, workers, None, None, strategy, tokenizer)
    rollout = Rollout([s for prompt in prompts for s in prompt], N)
    maker.score(rollout)
    return rewards_of(rollout.samples)


@pytest.mark.parametrize("ranks, duplicates", [(1, 1), (2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_rewards_are_those_of_the_experience_maker_in_whatever_order_prompts_finish(
    ranks, duplicates, size, monkeypatch
):
    workers = Workers(ranks, duplicates, seed=size)
    monkeypatch.setattr(scoring, "ray", workers)
    scorer = AheadScorer(workers, N, size, 0)
    prompts = prompts_of(12)
    for prompt in workers.random.sample(prompts, len(prompts)):
        scorer.add(prompt)
    assert not workers.waited
    scorer.finish()
    found = [s for prompt in prompts for s in prompt]
    assert all(s.rewards.shape == (1,) and s.info["reward"] is s.rewards for s in found)

    reference = Workers(ranks, duplicates)
    assert rewards_of(found) == scored_afterwards(prompts_of(12), reference, size, monkeypatch)
    # Each micro-batch was the same, too, and none was sent twice.
    sent, expected = (Counter(repr(batch) for call in w.sent for batch in call) for w in (workers, reference))
    assert sent == expected and sent.total() == 12 * N // size


@pytest.mark.parametrize("ranks, size, prompts_of_a_wave", [(1, 1, 1), (1, 4, 1), (2, 4, 2), (8, 1, 2), (3, 2, 3)])
def test_waves_are_whole_prompts_in_order_and_few_at_a_time(ranks, size, prompts_of_a_wave, monkeypatch):
    workers = Workers(ranks)
    monkeypatch.setattr(scoring, "ray", workers)
    scorer = AheadScorer(workers, N, size, 0)
    for prompt in prompts_of(12):
        scorer.add(prompt)
    scorer.finish()
    waves = [[max(row) for rows, _ in call for row in rows] for call in workers.sent]
    assert [name for wave in waves for name in wave] == list(range(10, 10 + 12 * N)), "as they came"
    assert [len(wave) for wave in waves] == [prompts_of_a_wave * N] * (12 // prompts_of_a_wave)
    assert max(workers.unanswered) < IN_FLIGHT


def test_adding_waits_for_nobody(monkeypatch):
    workers = Workers(answering=False)
    monkeypatch.setattr(scoring, "ray", workers)
    scorer = AheadScorer(workers, N, N, 0)
    prompts = prompts_of(5)
    for prompt in prompts:
        scorer.add(prompt)
    assert len(workers.sent) == IN_FLIGHT
    assert all(s.rewards is None for prompt in prompts for s in prompt)
    assert scorer.finish() == 5 * N and len(workers.sent) == 5


@pytest.mark.parametrize("then", [lambda scorer: scorer.add([]), lambda scorer: scorer.finish()])
def test_a_worker_that_has_died_is_not_waited_for(then, monkeypatch):
    """Of two ranks one waits for the other, which has died: whatever comes next says so."""
    workers = Workers(ranks=2, answering=False)
    monkeypatch.setattr(scoring, "ray", workers)
    scorer = AheadScorer(workers, N, N, 0)
    for prompt in prompts_of(2):
        scorer.add(prompt)
    ((_, dead),) = workers.answers
    dead.value, dead.there = RuntimeError("died"), True
    with pytest.raises(RuntimeError, match="died"):
        then(scorer)


# ── The generator ──


def response(prompt, name, tokens):
    return {
        "prompt": f"prompt {prompt}",
        "label": "",
        "observation_tokens": [1] * (tokens - 1) + [name],
        "action_ranges": [(1, tokens)],
        "rollout_log_probs": None,
    }


class Data(list):
    """As ``PromptDataset``."""

    @property
    def prompts(self):
        return list(self)

    @property
    def labels(self):
        return [""] * len(self)

    def __getitem__(self, place):
        return "default", list.__getitem__(self, place), "", None

    def collate_fn(self, rows):
        return tuple(map(list, zip(*rows)))


def generator_of(monkeypatch, workers, prompts=12, **flat):
    """A generator and its loader of ``prompts`` prompts, 6 a step; OpenRLHF's own loop reads what engines answer."""
    args = namespace(
        **{
            "sample_filter_score_ahead": True,
            "rollout.batch_size": 6,
            "rollout.n_samples_per_prompt": N,
            "rollout.micro_batch_size": 4,
            "vllm.enable_sleep": False,
            "algo.dynamic_filtering_enable": False,
            **{f"prompt_selection_{name}": None for name in ("options", "seed", "success", "success_above")},
            **flat,
        }
    )
    monkeypatch.setattr(scoring, "ray", workers)
    monkeypatch.setattr(host_generator, "ray", Engines())
    monkeypatch.setattr(host_generator.SamplesGenerator, "_dispatch_prompts_to_vllm", answers_of_engines)
    data = Data(f"prompt {g}" for g in range(prompts))
    loader = StatefulDataLoader(data, batch_size=1, collate_fn=data.collate_fn)
    host = SimpleNamespace(
        args=args,
        strategy=SimpleNamespace(args=args),
        eval_dataloader=loader,
        tokenizer=SimpleNamespace(pad_token_id=0),
        vllm_engines=[],
    )
    loader, generator = loader_and_generator(loader, host)
    generator.reward_model_group = workers
    return generator, loader


class Engines:
    """In the place of Ray: the last prompt finishes first."""

    def wait(self, refs, num_returns, timeout):
        return refs[-1:], refs[:-1]

    def get(self, ref):
        return ref


def answers_of_engines(self, prompts, labels, *, images=None, **kwargs):
    numbers = [int(prompt.split()[1]) for prompt in prompts]
    return [[response(g, 10 + N * g + n, 3 + n) for n in range(N)] for g in numbers]


def test_a_step_comes_back_scored_and_leaves_nothing_behind(monkeypatch, caplog):
    workers = Workers(ranks=2)
    generator, _ = generator_of(monkeypatch, workers)
    for _ in range(2):
        samples, *_ = generator.generate_samples()
        assert [s.prompts for s in samples[::N]] == [s.prompts for s in samples[N - 1 :: N]]
        # Its name, the width of its micro-batch (6 tokens) and its row there.
        rewards = {name: pytest.approx(name + 600 + (name - 10) % N / 10) for name in rewards_of(samples)}
        assert len(samples) == 6 * N and rewards_of(samples) == rewards
        assert generator._scorer is None
    assert [len(call) for call in workers.sent] == [2] * 6


def test_what_ranks_cannot_share_is_left_to_the_experience_maker(monkeypatch):
    """The last step has 3 prompts, and the workers are two."""
    workers = Workers(ranks=2)
    generator, _ = generator_of(monkeypatch, workers, prompts=9)
    assert all(s.rewards is not None for s in generator.generate_samples()[0])
    samples, *_, exhausted = generator.generate_samples()
    assert exhausted and len(samples) == 3 * N
    assert all(s.rewards is None and "reward" not in s.info for s in samples)
    assert sum(map(len, workers.sent)) == 6


def test_an_evaluation_is_not_scored(monkeypatch):
    workers = Workers()
    generator, _ = generator_of(monkeypatch, workers)
    generator.generate_samples()
    sent = len(workers.sent)
    made = []
    monkeypatch.setattr(  # what is not scored has no place among the means of an evaluation
        "openrlhf_pf.training.generation._is_usable", lambda reward: made.append(reward) or True
    )
    generator.generate_eval_samples(n_samples_per_prompt=N)
    assert made == [None] * 12 * N and len(workers.sent) == sent


def test_a_rollout_that_fails_leaves_nothing_to_the_next(monkeypatch):
    workers = Workers()
    generator, _ = generator_of(monkeypatch, workers)

    def die(ref):
        raise RuntimeError("an engine died")

    monkeypatch.setattr(Engines, "get", lambda self, ref: die(ref))
    with pytest.raises(RuntimeError, match="an engine died"):
        generator.generate_samples()
    assert generator._scorer is None and not generator._trains_now


def test_the_trainer_tells_the_selection_of_rewards_once(monkeypatch):
    """A local reward model's are observed after the step, whether they are there before or not."""
    above = {"prompt_selection": "target", "prompt_selection_success_above": 0.0, "train.seed": 0}
    generator, stream = generator_of(monkeypatch, Workers(), **above)
    monkeypatch.setattr(stream, "observe", lambda *what: pytest.fail("observed where generated"))
    samples, *_ = generator.generate_samples()
    assert all(s.rewards is not None for s in samples)
