"""The reward model's trainer with policy samples, on a tiny model of OpenRLHF's own kind: no DeepSpeed, no Ray."""

import argparse
import copy
import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("openrlhf")

import pyarrow.parquet as pq
from openrlhf.models import get_llm_for_sequence_regression
from openrlhf.utils.config import hierarchize
from preference_samples import samples, table_of
from tiny_model import write_model
from transformers import AutoTokenizer

from openrlhf_pf.rlp.multi_view import HEADS
from openrlhf_pf.training import reward_model
from openrlhf_pf.training.flags.policy_samples import add_arguments, check_arguments, load_views, resolve


def arguments(path, **flat):
    values = {
        "policy_samples": str(path),
        "policy_samples_weight": 0.5,
        "policy_samples_batch": 4,
        "policy_samples_dim": 8,
        "policy_samples_ramp": 0,
        "policy_samples_checkpoint": None,
        "model.loss_type": "sigmoid",
        "model.aux_loss_coef": 0.0,
        "model.margin_loss_enable": False,
        "model.compute_fp32_loss_enable": False,
        "ds.packing_samples": False,
        "ds.ring_attn_size": 1,
        "ds.tensor_parallel_size": 1,
        "ds.zero_stage": 2,
        "ds.lora.rank": 0,
        "ds.load_in_4bit": False,
        "logger.wandb.key": None,
        "logger.tensorboard_dir": None,
        "logger.logging_steps": 1,
        "eval.steps": -1,
        "ckpt.save_steps": -1,
        "train.seed": 1,
        "train.batch_size": 2,
        "data.max_len": 32,
    }
    return hierarchize(SimpleNamespace(**{**values, **flat}))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("samples") / "samples.parquet"
    pq.write_table(table_of(samples(6)), file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), seed=0)


class Strategy:
    """What the trainer asks of OpenRLHF's strategy, for one process without DeepSpeed."""

    accumulated_gradient, ring_attn_group = 1, None

    def __init__(self, args):
        self.args, self.losses = args, []

    def setup_dataloader(self, data, batch_size, pin_memory, shuffle, collate_fn):
        return torch.utils.data.DataLoader(data, batch_size, shuffle, collate_fn=collate_fn, drop_last=True)

    def backward(self, loss, model, optimizer):
        self.losses.append(loss.item())
        loss.backward()

    def optimizer_step(self, optimizer, model, scheduler):
        optimizer.step()

    def _unwrap_model(self, model):
        return model

    def is_rank_0(self):
        return True

    def print(self, *words):
        pass

    def all_reduce(self, values):
        return values

    def get_grad_norm(self, model):
        return 0.0


@pytest.fixture
def trainer(path, folder):
    return made(arguments(path), folder)


def made(args, folder):
    build = lambda name, kind, **options: get_llm_for_sequence_regression(name, kind, **options)  # noqa: E731
    entry = SimpleNamespace(get_llm_for_sequence_regression=build, RewardModelTrainer=None)
    reward_model.install(copy.deepcopy(args), entry)  # OpenRLHF's entry module nests its own
    torch.manual_seed(0)
    model = entry.get_llm_for_sequence_regression(
        str(folder), "reward", init_value_head=True, attn_implementation="eager", param_dtype="bf16"
    ).float()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    ids = torch.randint(2, 200, (4, 7))
    batch = (ids[:2, None], torch.ones(2, 1, 7).long(), ids[2:, None], torch.ones(2, 1, 7).long(), [0, 0])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scheduler = SimpleNamespace(get_last_lr=lambda: [0.0])

    class Loader(list):
        sampler = None

    loader = Loader([batch])
    return entry.RewardModelTrainer(model, Strategy(args), optimizer, loader, None, scheduler, tokenizer, max_epochs=1)


def test_the_models_last_layer_and_every_head_get_a_gradient(trainer):
    model = trainer.model
    batch = [part.squeeze(1) for part in trainer.train_dataloader[0][:4]]
    chosen, rejected, loss = trainer.concatenated_forward(model, *batch)
    assert chosen.shape == rejected.shape == (2,) and loss.dtype == torch.float32
    loss.backward()
    for name in HEADS:
        assert all(parameter.grad.abs().sum() > 0 for parameter in getattr(model, name).parameters())
    assert model.score.weight.grad is None, "the views have no part in the reward's own head"
    layers = [parameter for name, parameter in model.named_parameters() if ".layers." in name and "rlp" not in name]
    assert layers and all(parameter.grad.abs().sum() > 0 for parameter in layers)


def test_the_rewards_of_pairs_are_the_parents_and_evaluation_takes_no_views(trainer):
    batch = [part.squeeze(1) for part in trainer.train_dataloader[0][:4]]
    ours = trainer.concatenated_forward(trainer.model, *batch)
    parents = super(reward_model.PolicyRewardTrainer, trainer).concatenated_forward(trainer.model, *batch)
    assert torch.equal(ours[0], parents[0]) and torch.equal(ours[1], parents[1])
    trainer._batches = iter(())
    with torch.no_grad():
        trainer.concatenated_forward(trainer.model, *batch)
    with pytest.raises(StopIteration):
        trainer.concatenated_forward(trainer.model, *batch)


def test_a_fit_adds_the_weighted_loss_logs_it_and_leaves_an_ordinary_model(trainer, folder, monkeypatch):
    logged = []
    parent = reward_model.RewardModelTrainer
    monkeypatch.setattr(
        parent, "save_logs_and_checkpoints", lambda self, a, step, bar, logs, states: logged.append(logs)
    )
    trainer.fit(trainer.args, num_update_steps_per_epoch=1)
    (logs,) = logged
    assert trainer.strategy.losses == [pytest.approx(logs["loss"] + 0.5 * logs["aux_loss"], abs=1e-5)]
    assert {"rlp/mi_nwj", "rlp/mi_jsd", "rlp/skl", "rlp/std", "rlp/reward_spread"} < logs.keys()
    assert logs["aux_loss"] == pytest.approx(logs["rlp/skl"] - logs["rlp/mi_jsd"], abs=1e-5)
    # Heads that know nothing yet are near the trivial value of 2 log 2.
    assert logs["rlp/mi_jsd"] == pytest.approx(-2 * math.log(2), abs=0.1)
    plain = get_llm_for_sequence_regression(
        str(folder), "reward", init_value_head=True, attn_implementation="eager", param_dtype="bf16"
    )
    assert trainer.model.state_dict().keys() == plain.state_dict().keys()


def test_views_are_ended_as_openrlhf_ends_the_texts_of_pairs(trainer):
    """Longer than --data.max_len: the end token stands last all the same."""
    tokens, mask = trainer.tokenize([("p", "a", "long " * 20), ("p2", "bb\n", "c<eos>")])
    end, pad = trainer.tokenizer.eos_token_id, trainer.tokenizer.pad_token_id
    assert tokens.shape == mask.shape == (4, 32) and (tokens[:, -1] == end).all() and (mask[:, -1] == 1).all()
    texts = [trainer.tokenizer.decode(row[kept.bool()]) for row, kept in zip(tokens, mask)]
    assert texts[0] == "pa <eos>" and texts[1] == "p2bb <eos>" and texts[3] == "p2c<eos>"
    assert (tokens[mask == 0] == pad).all() and mask[2].all()


def test_every_pass_has_an_order_of_its_own(trainer):
    passes = []

    class Loader(list):
        sampler = SimpleNamespace(set_epoch=passes.append)

    batches = trainer._endless(Loader(["one", "two"]))
    assert [next(batches) for _ in range(5)] == ["one", "two", "one", "two", "one"]
    assert passes == [0, 1, 2]


def test_the_weight_of_skl_ramps_up(trainer):
    trainer.args.policy_samples_ramp = 4
    found = []
    for trainer._step in (0, 1, 4, 9):
        found.append(trainer._skl_weight())
    assert found == [0, 0.25, 1, 1]


def test_samples_of_a_checkpoint_that_is_a_number(tmp_path):
    pq.write_table(table_of(samples(6), checkpoint=[100] * 30 + [200] * 30), tmp_path / "a.parquet")
    assert len(load_views(arguments(tmp_path / "a.parquet", policy_samples_checkpoint="200"))) == 3


@pytest.mark.parametrize(
    "flat, words",
    [
        ({"policy_samples_weight": -0.1}, "--policy_samples_weight must be 0 or more, got -0.1"),
        ({"policy_samples_weight": math.nan}, "--policy_samples_weight must be 0 or more"),
        ({"policy_samples_batch": 1}, "--policy_samples_batch must be 2 or more, got 1"),
        ({"policy_samples_dim": 0}, "--policy_samples_dim must be 1 or more"),
        ({"policy_samples_batch": 7}, "--policy_samples_batch 7 is more than the 6 prompts that have two different"),
        ({"policy_samples": "absent"}, "there is no file or directory 'absent'"),
        ({"policy_samples_checkpoint": "b"}, "there are no samples of the checkpoint 'b'"),
        ({"ds.packing_samples": True}, "--policy_samples does not work with --ds.packing_samples"),
        ({"ds.zero_stage": 3}, "does not work with --ds.zero_stage 3"),
        ({"ds.lora.rank": 8}, "does not work with --ds.lora.rank"),
        ({"ds.ring_attn_size": 2}, "does not work with --ds.ring_attn_size"),
        ({"model.aux_loss_coef": 0.1}, "does not work with --model.aux_loss_coef"),
    ],
)
def test_a_bad_flag_gets_one_sentence(path, flat, words):
    with pytest.raises(ValueError) as error:
        check_arguments(arguments(path, **flat))
    assert words in str(error.value) and "\n" not in str(error.value)


def parsed(*flags):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(flags)
    resolve(args)
    return vars(args)


@pytest.mark.parametrize("flag, value", [("weight", "0.5"), ("batch", "8"), ("dim", "64"), ("ramp", "0")])
def test_a_flag_of_views_without_samples_is_refused(flag, value):
    """The default's own value too: whoever gives it expects it to matter."""
    with pytest.raises(ValueError, match=f"^--policy_samples_{flag} has no effect without --policy_samples: name "):
        parsed(f"--policy_samples_{flag}", value)


def test_flags_that_are_not_given_are_filled_in():
    defaults = {"weight": 0.5, "batch": 16, "dim": 64, "ramp": 0, "checkpoint": None}
    expected = {f"policy_samples_{name}": value for name, value in defaults.items()}
    assert parsed() == {"policy_samples": None, **expected}
    given = parsed("--policy_samples", "d", "--policy_samples_weight", "0", "--policy_samples_checkpoint", "a")
    assert given == expected | {
        "policy_samples": "d",
        "policy_samples_weight": 0,
        "policy_samples_checkpoint": "a",
    }


@pytest.mark.parametrize("flat", [{"policy_samples": None}, {"policy_samples_weight": 0.0}])
def test_without_samples_or_weight_nothing_is_installed(path, flat):
    from openrlhf_pf.cli.train_rm import _prepare

    args = arguments(path, **{**flat, "ds.zero_stage": 3})
    check_arguments(args)
    entry = SimpleNamespace(get_llm_for_sequence_regression="theirs", RewardModelTrainer="theirs")
    _prepare(args, entry)
    assert vars(entry) == {"get_llm_for_sequence_regression": "theirs", "RewardModelTrainer": "theirs"}
    assert args.model.aux_loss_coef == 0
