"""Rollouts, arguments and an experience maker by hand, on OpenRLHF's own Experience, for tests of training."""

import inspect
import math
import random
from types import SimpleNamespace

import openrlhf.trainer.ppo_utils.experience_maker as host
import pytest
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils.config import hierarchize
from torchdata.stateful_dataloader import StatefulDataLoader

from openrlhf_pf.training import generation
from openrlhf_pf.training.experience_maker import FilteringExperienceMaker
from openrlhf_pf.training.generation import CheckedGenerator
from openrlhf_pf.training.prompt_stream import PromptStream

#: OpenRLHF has it since 0.11.2.
HAS_FLASH_REINFORCE = "flash_reinforce" in inspect.getsource(host)

#: The smallest command line of a training that passes every check.
MINIMAL = (
    "--actor.model_name_or_path absent --reward.model_name_or_path absent --data.prompt_dataset absent "
    "--vllm.num_engines 1 --actor.num_gpus_per_node 2 --critic.num_gpus_per_node 2 --reward.num_gpus_per_node 1 "
    "--ref.num_gpus_per_node 2 --rollout.n_samples_per_prompt 5 --rollout.batch_size 8 --train.batch_size 16 "
    "--train.micro_batch_size 4"
).split()

FLAGS = """
keep mode options baseline drop drop_tolerance drop_share drop_band reward_models rank_by
reward correct true_share stop_below stop_window probe probe_every probe_score log seed report refill
""".split()


def namespace(**flat):
    values = {
        "sample_filter": "best_worst",
        **{f"sample_filter_{flag}": None for flag in FLAGS},
        "prompt_selection": "none",
        **{f"prompt_selection_{flag}": None for flag in ("options", "seed", "success", "success_above")},
        "train.seed": 7,
        "train.batch_size": 4,
        "train.micro_batch_size": 1,
        "train.dynamic_batch_enable": False,
        "train.colocate_all": False,
        "train.colocate_actor_ref": False,
        "train.colocate_critic_reward": False,
        "rollout.n_samples_per_prompt": 4,
        "rollout.micro_batch_size": 2,
        "rollout.max_new_tokens": 4,
        "train.agent_func_path": None,
        "reward.model_name_or_path": "main",
        "reward.remote_url": None,
        "reward.clip_range": (-10, 10),
        "reward.overlong_buffer_len": None,
        "reward.stop_properly_penalty_coef": None,
        "algo.advantage.estimator": "reinforce",
        "algo.advantage.gamma": 1.0,
        "algo.advantage.no_std_norm": True,
        "algo.kl.use_loss": False,
        "algo.kl.estimator": "k1",
        "ds.ring_attn_size": 1,
        "ds.tensor_parallel_size": 1,
    }
    return hierarchize(SimpleNamespace(**{**values, **flat}))


class ModelGroup(SimpleNamespace):
    """What the maker reads of a RayActorGroup, and a record of what each rank was asked to do."""

    def __init__(self, ranks):
        super().__init__(_actor_handlers=[None] * ranks, duplicate_actors=1, calls=[], models=[])


def sample(prompt, reward, token=None, score=None):
    """One sample of three tokens; ``token`` is what the stand-in reward model reads."""
    info = {} if reward is None else {"reward": torch.tensor([reward])}
    return Experience(
        sequences=torch.tensor([[token or 1, prompt + 1, 9]]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        action_mask=torch.tensor([[0, 1]]),
        prompts=[f"prompt {prompt}"],
        labels=[""],
        images=[None],
        mm_train_inputs=[None],
        rewards=None if reward is None else torch.tensor([reward]),
        scores=None if score is None else torch.tensor([score]),
        response_length=torch.tensor([1]),
        truncated=torch.tensor([False]),
        total_length=torch.tensor([3.0]),
        info=info,
    )


def rollout_of(rewards, scores=None):
    return [
        sample(g, reward, token=100 * g + n + 1, score=None if scores is None else scores[g][n])
        for g, group in enumerate(rewards)
        for n, reward in enumerate(group)
    ]


@pytest.fixture(scope="module", autouse=True)
def without_a_cluster():
    """The parent puts placeholders for absent models into Ray's object store; here they stay where they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "ray", SimpleNamespace(put=lambda rows: [row[0] for row in rows]))
        yield


class Maker(FilteringExperienceMaker):
    """Answers forward calls in place of Ray: log-probs 0 for the policies, the first token as the reward."""

    def _dispatch_forward(self, group, sync_condition, **kwargs):
        batches = kwargs["sequences"]
        ranks = len(group._actor_handlers)
        share = math.ceil(len(batches) / ranks)  # as RayActorGroup.async_run_method_batch cuts them
        group.calls.append([[len(b) for b in batches[r * share : (r + 1) * share]] for r in range(ranks)])
        if group is self.reward_model_group:
            models = kwargs.get("model", [None] * len(batches))
            group.models += sorted(set(models), key=str)
            return [self.reward(batch[:, 0].float(), model) for batch, model in zip(batches, models)]
        return [torch.zeros(batch.shape[0], batch.shape[1] - 1) for batch in batches]

    @staticmethod
    def reward(token, model):
        """By the token; the further model "upside" thinks most of 28."""
        return -(token - 28).abs() if model == "upside" else token

    def _flatten_results(self, refs, duplicate_factor):
        return refs


def make_maker(ranks=1, critic_ranks=None, reward_ranks=1, local_reward=True, **flat):
    maker = Maker(
        ModelGroup(ranks),
        ModelGroup(critic_ranks) if critic_ranks else None,
        ModelGroup(reward_ranks) if local_reward else None,
        None,
        SimpleNamespace(value=0.0),
        SimpleNamespace(args=namespace(**flat)),
        SimpleNamespace(pad_token_id=0, decode=lambda tokens, **kwargs: " ".join(map(str, tokens))),
    )
    return maker


def trained_tokens(experiences):
    """The first token of every training sample: it names the sample."""
    return sorted(int(row[0]) for experience in experiences for row in experience.sequences)


# ── Generation ──

N, NAN = 4, math.nan
SPREAD, FLAT, FAILED = [0.0, 1.0, 2.0, 3.0], [1.0] * N, [NAN, None, None, NAN]


class Data(list):
    """As ``PromptDataset``: the answers to prompt i have the rewards ``self[i]``."""

    @property
    def prompts(self):
        return [f"prompt {place}" for place in range(len(self))]

    @property
    def labels(self):
        return [""] * len(self)

    def __getitem__(self, place):
        return "default", f"prompt {place}", "", None

    def collate_fn(self, rows):
        return tuple(map(list, zip(*rows)))

    def rewards(self, prompt):
        return list.__getitem__(self, int(prompt.split()[1]))


class Engines(SimpleNamespace):
    """In the place of Ray: prompts finish in an order of its own; records how many are pending at a time."""

    def __init__(self, seed):
        super().__init__(pending=[], random=random.Random(seed))

    def wait(self, refs, num_returns, timeout=None):
        self.pending.append(len(refs))
        ready = self.random.sample(refs, num_returns if timeout is None else self.random.randrange(len(refs) + 1))
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, refs):
        return refs


def generator_of(data, monkeypatch, loader=None, seed=0, **flat):
    """The generator and its engines; by default 2 of 4 train, flat prompts do not, and a step of 4 has 12 at most."""
    engines = Engines(seed)
    monkeypatch.setattr(generation, "ray", engines)
    given = {
        "sample_filter_drop": "flat",
        "sample_filter_refill": 3.0,
        "rollout.batch_size": 4,
        "vllm.enable_sleep": False,
        "algo.dynamic_filtering_enable": False,
        "reward.remote_url": ["reward.py"],
        **flat,
    }
    args = namespace(**given)
    monkeypatch.setattr(
        CheckedGenerator,
        "_dispatch_prompts_to_vllm",
        lambda self, prompts, labels, images, **kwargs: [
            [(int(prompt.split()[1]), reward) for reward in data.rewards(prompt)] for prompt in prompts
        ],
    )
    monkeypatch.setattr(
        CheckedGenerator, "_process_response_into_experience", lambda self, response, **kwargs: sample(*response)
    )
    loader = loader or StatefulDataLoader(data, batch_size=1, collate_fn=data.collate_fn)
    if args.prompt_selection != "none":
        loader = PromptStream(loader, args)
    return CheckedGenerator(SimpleNamespace(args=args), loader, None, None, []), engines
