"""What a CPU cannot run, by OpenRLHF's own functions on what we hand them; the table is in docs/clusters.md.

Ring attention and tensor parallelism, dynamic batches, packing and sleeping engines; and whether the cases of
tests/end_to_end/test_parallel.py bring every pair of parallel modes together.
"""

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from parallel_cases import CASES, FACTORS, Case, refused
from tiny_model import write_model

pytest.importorskip("openrlhf")

import openrlhf.models.ring_attn_utils as ring_attn_utils
import openrlhf.trainer.ppo_utils.experience_maker as host
import openrlhf.trainer.ppo_utils.replay_buffer as replay_buffer
import openrlhf.trainer.ppo_utils.samples_generator as samples_generator
import openrlhf.trainer.ray.launcher as launcher
import openrlhf.utils.loss_utils as loss_utils
from openrlhf.models import Actor, PolicyLoss
from openrlhf.trainer.ppo_utils.experience import balance_experiences
from rollouts import FLAT, SPREAD, Data, N, generator_of, namespace, sample

from openrlhf_pf.training import generation
from openrlhf_pf.training.experience_maker import FilteringExperienceMaker
from openrlhf_pf.training.generation import PromptSampler


def test_the_cases_bring_every_pair_that_openrlhf_starts_together():
    possible = [case for values in itertools.product(*FACTORS.values()) if not refused(case := Case(*values))]
    assert list(FACTORS) == list(Case._fields) and set(CASES) <= set(possible)

    def pairs(cases):
        return {pair for case in cases for pair in itertools.combinations(zip(Case._fields, case), 2)}

    assert pairs(CASES) == pairs(possible) and len(pairs(possible)) == 278


# ── OpenRLHF's groups of workers, whose workers answer at once ──


class Workers(launcher.RayActorGroup):
    """``duplicates`` workers share one rank's samples, as with ring attention and tensor parallelism."""

    def __init__(self, ranks, duplicates=1):
        self.duplicate_actors = duplicates
        self.asked = [[] for _ in range(ranks * duplicates)]
        self._actor_handlers = [
            SimpleNamespace(execute_batch=SimpleNamespace(remote=partial(self.answer, asked))) for asked in self.asked
        ]

    def answer(self, asked, method, chunk, start, end):
        assert method == "forward"
        asked += chunk["sequences"][start:end]
        if "action_mask" in chunk:
            return [torch.zeros(mask.shape) for mask in chunk["action_mask"]]
        return [sequences[:, 0].float() for sequences in chunk["sequences"]]  # the reward is the first token


def of_length(prompt, number, length):
    """A sample of a prompt of two tokens and a response of ``length``; the first token names it."""
    made = sample(prompt, None)
    made.sequences = torch.tensor([[100 * prompt + number + 1, prompt + 1, *range(2, 2 + length)]])
    made.attention_mask = torch.ones_like(made.sequences)
    made.action_mask = torch.ones(1, length + 1, dtype=torch.long)
    made.action_mask[0, 0] = 0
    made.total_length = torch.tensor([2.0 + length])
    return made


def rollout(prompts):
    return [
        of_length(prompt, number, 1 + (7 * prompt + 5 * number) % 9)
        for prompt in range(prompts)
        for number in range(N)
    ]


@pytest.fixture
def maker_of(monkeypatch):
    """Our experience maker between OpenRLHF's own groups of workers."""
    at_once = SimpleNamespace(put=lambda value: value, get=lambda refs: refs)
    monkeypatch.setattr(host, "ray", at_once)
    monkeypatch.setattr(launcher, "ray", at_once)

    def make(ranks, duplicates=1, reward_ranks=1, **flat):
        args = namespace(**{"algo.advantage.estimator": "reinforce", "train.micro_batch_size": 2, **flat})
        return FilteringExperienceMaker(
            Workers(ranks, duplicates),
            None,
            Workers(reward_ranks, duplicates),
            None,
            SimpleNamespace(value=0.0),
            SimpleNamespace(args=args),
            SimpleNamespace(pad_token_id=0),
        )

    return make


def names(sequences):
    """The first tokens of a worker's micro-batches."""
    return [int(token) for batch in sequences for token in batch[:, 0]]


@pytest.mark.parametrize("ring, tensor", [(2, 1), (1, 2), (2, 2)])
def test_workers_that_share_a_sequence_get_the_same_samples(maker_of, ring, tensor):
    """5 prompts x 4 on two ranks of ring x tensor workers: 8 of the 10 kept samples are whole micro-batches of 2."""
    together = {"ds.ring_attn_size": ring, "ds.tensor_parallel_size": tensor}
    maker = maker_of(ranks=2, duplicates=ring * tensor, reward_ranks=2, **together)
    experiences = maker.make_experience_batch(rollout(5))
    assert [float(s.rewards) for s in maker.rollout.samples] == [int(s.sequences[0, 0]) for s in maker.rollout.samples]
    for workers, samples in ((maker.actor_model_group, 8), (maker.reward_model_group, 20)):
        ranks = [workers.asked[r * ring * tensor : (r + 1) * ring * tensor] for r in range(2)]
        for rank in ranks:
            assert all(names(worker) == names(rank[0]) for worker in rank)
        assert [len(names(rank[0])) for rank in ranks] == [samples // 2] * 2
        assert len(ranks[0][0]) == len(ranks[1][0]), "forward passes differ between ranks"
    trained = [int(token) for experience in experiences for token in experience.sequences[:, 0]]
    assert all(token % 100 in (1, N) for token in trained) and len(trained) == len(set(trained)) == 8


@pytest.mark.parametrize("mode", ["select", "resample"])
def test_dynamic_batches_hold_every_sample_once_and_end_together(monkeypatch, maker_of, mode):
    """Of 17 prompts x 2 kept, two optimizer steps of 12 are made, which three ranks cut by tokens."""
    ranks, most = 3, 16
    dynamic = {"train.dynamic_batch_enable": True, "train.batch_size": 12, "train.max_tokens_per_gpu": most}
    sizes = {"rollout.max_tokens_per_gpu": most, "rollout.batch_size": 17, "actor.num_nodes": 1}
    maker = maker_of(ranks, sample_filter_mode=mode, **dynamic, **sizes, **{"actor.num_gpus_per_node": ranks})
    experiences = maker.make_experience_batch(rollout(17))
    drawn = sorted(int(token) for experience in experiences for token in experience.sequences[:, 0])
    assert len(drawn) == 24 and set(drawn) <= {100 * prompt + number for prompt in range(17) for number in (1, N)}
    shares = balance_experiences(experiences, maker.given)
    assert len(shares) == ranks

    counts = []  # micro-batches of each optimizer step, of each rank
    reduce = SimpleNamespace(SUM=None, MIN=None)
    monkeypatch.setattr(
        replay_buffer,
        "dist",
        SimpleNamespace(get_world_size=lambda group: ranks, all_reduce=lambda *_, **__: None, ReduceOp=reduce),
    )

    def buffer_of(share, all_reduce):
        buffer = replay_buffer.NaiveReplayBuffer(1, packing_samples=True, dynamic_batch=True)
        buffer.append(share)
        mesh = {"dp": SimpleNamespace(get_group=lambda: None)}
        buffer.setup_dynamic_batch(SimpleNamespace(args=maker.given, ds_device_mesh=mesh, all_reduce=all_reduce))
        return buffer

    def noted(mine, op):
        counts.append(mine)
        return mine

    for share in shares:
        buffer_of(share, noted)
    largest = torch.stack(counts).amax(dim=0)  # what "max" over the ranks gives
    buffers = [buffer_of(share, lambda mine, op: largest) for share in shares]
    assert {len(buffer.items) for buffer in buffers} == {8}
    assert [buffer.dynamic_optimizer_step for buffer in buffers] == [buffers[0].dynamic_optimizer_step] * ranks
    assert sum(buffers[0].dynamic_optimizer_step) == 2
    trained = []
    for buffer in buffers:
        for batch in (buffer.collate_fn([buffer[place]]) for place in range(len(buffer))):
            assert batch.attention_mask.sum() <= most
            trained += batch.sequences[:, 0].tolist()
    assert sorted(trained) == drawn


# ── Packing ──


def test_packed_samples_have_the_log_probs_of_padded_ones(monkeypatch, maker_of, tmp_path):
    """OpenRLHF's own packing of the micro-batches that the actor gets; flash-attention's part of it is indexing."""

    def unpad(values, mask):
        places = mask.flatten().nonzero().flatten()
        return values.flatten(0, 1)[places], places, None, None, None

    def pad(values, places, batch, length):
        padded = values.new_zeros(batch * length, *values.shape[1:])
        padded[places] = values
        return padded.unflatten(0, (batch, length))

    monkeypatch.setattr(ring_attn_utils, "unpad_input", unpad)
    monkeypatch.setattr(ring_attn_utils, "pad_input", pad)
    monkeypatch.setattr(ring_attn_utils, "index_first_axis", lambda values, places: values[places])
    monkeypatch.setattr(ring_attn_utils, "rearrange", lambda values, pattern: values.flatten(0, 1))
    policy = str(write_model(tmp_path / "policy", seed=3))
    padded, packed = (
        Actor(policy, attn_implementation="eager", packing_samples=packing).float() for packing in (False, True)
    )
    maker = maker_of(ranks=1, **{"rollout.micro_batch_size": 3})
    samples = rollout(2)
    for one in samples:  # their names lie beyond the vocabulary
        one.sequences = one.sequences.clamp(max=200)
    for batch in maker.make_experience_batch(samples):
        inputs = (batch.sequences, batch.action_mask, batch.attention_mask)
        assert batch.attention_mask.min() == 0, "nothing is padded here"
        with torch.no_grad():
            difference = (padded(*inputs) - packed(*inputs)).abs().max()
        assert difference < 1e-4


# ── The sum of gradients over ranks ──


def test_the_update_does_not_depend_on_the_number_of_ranks(monkeypatch, maker_of):
    """OpenRLHF's loss over all micro-batches of all ranks, as DeepSpeed adds them up, in a policy of one table."""

    def gradient(ranks):
        maker = maker_of(ranks, **{"train.batch_size": 16, "algo.advantage.no_std_norm": False})
        experiences = maker.make_experience_batch(rollout(8))
        share = len(experiences) // ranks
        masks = torch.cat([experience.action_mask.flatten() for experience in experiences])
        table = torch.zeros(1000, requires_grad=True)
        micro_batches = []
        for rank in range(ranks):
            buffer = replay_buffer.NaiveReplayBuffer(2)
            for experience in experiences[rank * share : (rank + 1) * share]:
                buffer.append(experience)
            micro_batches.append([buffer.collate_fn(buffer.items[i : i + 2]) for i in range(0, len(buffer), 2)])
        totals = itertools.cycle([float(masks.sum()), 16.0])  # tokens and samples of all ranks, as they are reduced
        fake = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            get_world_size=lambda group: ranks,
            all_reduce=lambda mine, op, group: mine.fill_(next(totals)),
            ReduceOp=SimpleNamespace(SUM=None),
        )
        monkeypatch.setattr(loss_utils, "dist", fake)
        monkeypatch.setattr(loss_utils, "_get_dp_group", lambda strategy: None)
        for mine in micro_batches:
            steps = len(mine)  # accumulated before the optimizer's step
            for batch, norm in loss_utils.iter_grad_accum_global_norm(mine, None, steps, lambda e: e.action_mask):
                log_probs = table[batch.sequences[:, 1:]] * batch.action_mask
                loss = PolicyLoss()(log_probs, log_probs.detach(), batch.advantages, batch.action_mask, **norm)[0]
                (loss / steps / ranks).backward()
        return table.grad

    alone = gradient(1)
    assert alone.norm() > 1e-2
    for ranks in (2, 4):
        assert torch.allclose(gradient(ranks), alone, atol=1e-6)


# ── Engines that sleep ──


class Engine:
    """Notes when it is woken and put to sleep, and is asked for nothing in between."""

    def __init__(self):
        self.awake, self.calls = False, []

    def note(self, engines, call):
        assert self.awake == (call == "sleep"), f"{call} twice"
        self.awake = not self.awake
        self.calls.append(call)

    def dispatch(self, prompts, labels, images=None, **kwargs):
        assert self.awake, "a sleeping engine was asked"
        self.calls.append(len(prompts))
        return [[(int(prompt.split()[1]), reward) for reward in SPREAD] for prompt in prompts]


@pytest.fixture
def engine(monkeypatch):
    made = Engine()
    for module in (samples_generator, generation):
        monkeypatch.setattr(module, "batch_vllm_engine_call", made.note)
    return made


def connected(generator, engine):
    generator._dispatch_prompts_to_vllm = engine.dispatch
    generator._process_response_into_experience = lambda response, **kwargs: sample(*response)
    return generator


@pytest.mark.parametrize(
    "refill", [{}, {"sample_filter_drop": None, "sample_filter_refill": None}], ids=["refill", "-"]
)
@pytest.mark.parametrize("selection", ["none", "uniform"])
def test_engines_are_awake_while_a_step_is_generated_and_at_no_other_time(monkeypatch, engine, refill, selection):
    data = Data([FLAT, *[SPREAD] * 11])
    monkeypatch.setattr(
        samples_generator, "ray", SimpleNamespace(wait=lambda refs, **_: (refs, []), get=lambda refs: refs)
    )
    settings = {"prompt_selection": selection, "prompt_selection_success_above": 1.5, "sample_filter_log": None}
    loader = SimpleNamespace(dataset=data) if selection != "none" else None
    generator, _ = generator_of(data, monkeypatch, loader, **refill, **settings, **{"vllm.enable_sleep": True})
    for _ in range(2):
        samples, *_ = connected(generator, engine).generate_samples()
        assert len(samples) >= 4 * N
    assert engine.calls == ["wake_up", 4, "sleep"] * 2


def test_engines_are_woken_for_prompts_of_our_own_and_sleep_again(monkeypatch, engine):
    flat = {"vllm.enable_sleep": True, "rollout.temperature": 1.0, "rollout.top_p": 1.0, "data.max_len": 64}
    keys = {"data.input_key": "input", "data.label_key": None, "data.image_key": "images", "data.input_template": None}
    args = namespace(**flat, **keys, **{"data.apply_chat_template": False, "algo.dynamic_filtering_enable": False})
    monkeypatch.setattr(
        samples_generator, "ray", SimpleNamespace(wait=lambda refs, **_: ([refs[0]], refs[1:]), get=lambda ref: ref)
    )
    sampler = PromptSampler(SimpleNamespace(args=args), SimpleNamespace(apply_chat_template=None), [])
    connected(sampler.generator, engine)
    assert len(sampler([{"input": "prompt 0"}, {"input": "prompt 1"}])) == 2 * N
    assert engine.calls == ["wake_up", 2, "sleep"]
