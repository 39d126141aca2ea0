"""Which checkpoint a resumed run starts from, whatever a killed run or a full disk has left."""

import zipfile
from types import SimpleNamespace

import pytest

from openrlhf_pf.training import checkpoints

MODEL, SHARD = "mp_rank_00_model_states.pt", "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"


@pytest.fixture
def args(tmp_path):
    model = SimpleNamespace(model_name_or_path="model", num_nodes=1, num_gpus_per_node=2)
    return SimpleNamespace(
        ckpt=SimpleNamespace(path=str(tmp_path), load_enable=True, max_num=3, save_steps=1, disable_ds=False),
        actor=model,
        critic=model,
        ds=SimpleNamespace(zero_stage=2, tensor_parallel_size=1),
    )


def save(folder, model, tag, shards=2):
    place = folder / model / tag
    place.mkdir(parents=True)
    for name in (MODEL, *(SHARD.format(rank) for rank in range(shards))):
        with zipfile.ZipFile(place / name, "w") as archive:
            archive.writestr("data.pkl", "weights" * 100)
    (folder / model / "latest").write_text(tag)


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


def latest(folder):
    return {path.parent.name: path.read_text() for path in folder.glob("*/latest")}


def test_what_is_whole_stays_as_it_is_and_nothing_is_said(args, tmp_path, capsys):
    for tag in ("global_step1", "global_step2", "best_global_step2"):
        for model in ("_actor", "_critic"):
            save(tmp_path, model, tag)
    before = (tmp_path / "_actor" / "latest").stat()
    checkpoints.settle(args)
    assert latest(tmp_path) == {"_actor": "best_global_step2", "_critic": "best_global_step2"}
    assert (tmp_path / "_actor" / "latest").stat() == before and capsys.readouterr().err == ""


@pytest.mark.parametrize("ahead, behind", [("_actor", "_critic"), ("_critic", "_actor")])
@pytest.mark.parametrize("left", ["nothing", "a shard", "all but its name"])
def test_a_run_killed_between_actor_and_critic(args, tmp_path, capsys, ahead, behind, left):
    for model in (ahead, behind):
        save(tmp_path, model, "global_step9")
    save(tmp_path, ahead, "global_step10")
    if left != "nothing":
        save(tmp_path, behind, "global_step10", shards=1 if left == "a shard" else 2)
        (tmp_path / behind / "latest").write_text("global_step9")
    checkpoints.settle(args)
    expected = "global_step10" if left == "all but its name" else "global_step9"
    assert latest(tmp_path) == {"_actor": expected, "_critic": expected}
    (said,) = capsys.readouterr().err.splitlines()
    assert f"training resumes from {expected}," in said
    assert {
        "nothing": f"({behind}/global_step10 is not there)",
        "a shard": f"({behind}/global_step10 has 1 of 2 shards)",
        "all but its name": "every model.",
    }[left] in said


@pytest.mark.parametrize("size", [0, 1, 100, -1])
@pytest.mark.parametrize("file", [MODEL, SHARD.format(1)])
def test_a_torn_file_costs_its_checkpoint_and_no_other(args, tmp_path, capsys, file, size):
    for tag in ("global_step2", "global_step4"):
        for model in ("_actor", "_critic"):
            save(tmp_path, model, tag)
    cut(tmp_path / "_critic" / "global_step4" / file, size)
    checkpoints.settle(args)
    assert latest(tmp_path) == {"_actor": "global_step2", "_critic": "global_step2"}
    assert f"({file} of _critic/global_step4 is torn)" in capsys.readouterr().err


def test_a_full_disk_that_has_emptied_latest(args, tmp_path):
    for model in ("_actor", "_critic"):
        save(tmp_path, model, "global_step3")
    (tmp_path / "_actor" / "latest").write_text("")
    checkpoints.settle(args)
    assert latest(tmp_path) == {"_actor": "global_step3", "_critic": "global_step3"}


def test_the_named_checkpoint_was_removed_as_the_worst(args, tmp_path, capsys):
    for model in ("_actor", "_critic"):
        save(tmp_path, model, "global_step2")
        (tmp_path / model / "latest").write_text("global_step3")
    checkpoints.settle(args)
    assert latest(tmp_path) == {"_actor": "global_step2", "_critic": "global_step2"}
    assert "(_actor/global_step3 is not there)" in capsys.readouterr().err


def test_where_none_was_ever_finished_training_starts_from_the_beginning(args, tmp_path, capsys):
    save(tmp_path, "_actor", "global_step1", shards=0)
    (tmp_path / "_actor" / "latest").unlink()
    checkpoints.settle(args)
    assert args.ckpt.load_enable is False and "starts from the beginning" in capsys.readouterr().err


def test_where_all_are_torn_training_is_refused(args, tmp_path):
    for model in ("_actor", "_critic"):
        save(tmp_path, model, "global_step1")
    cut(tmp_path / "_actor" / "global_step1" / MODEL, 50)
    with pytest.raises(ValueError, match=rf"can be loaded \({MODEL} of _actor/global_step1 is torn\): put one back"):
        checkpoints.settle(args)
    assert args.ckpt.load_enable


def test_without_critic_shards_or_checkpoints(args, tmp_path):
    checkpoints.settle(args)  # nothing there
    assert args.ckpt.load_enable
    args.critic = SimpleNamespace(model_name_or_path=None, num_nodes=1, num_gpus_per_node=1)
    args.ds.zero_stage = 0
    save(tmp_path, "_actor", "global_step1", shards=0)
    save(tmp_path, "_critic", "global_step7")  # of another run in the same folder
    checkpoints.settle(args)
    assert latest(tmp_path)["_actor"] == "global_step1"


def test_what_is_not_resumed_is_not_looked_at(args, tmp_path):
    save(tmp_path, "_actor", "global_step1", shards=0)
    args.ckpt.load_enable = False
    checkpoints.settle(args)
    assert latest(tmp_path) == {"_actor": "global_step1"}


def test_a_single_checkpoint_is_warned_of(args, capsys):
    args.ckpt.max_num = 1
    checkpoints.settle(args)
    assert "--ckpt.max_num 1" in capsys.readouterr().err
    for name, value in ("save_steps", -1), ("disable_ds", True):  # where none is written, none is removed
        others = SimpleNamespace(**vars(args.ckpt) | {name: value})
        checkpoints.settle(SimpleNamespace(**vars(args) | {"ckpt": others}))
        assert capsys.readouterr().err == "", name
