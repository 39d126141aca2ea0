"""What a run that was killed leaves behind, and what is said when a process of the training fails."""

import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from openrlhf_pf.training.startup import checkpoints, faults

ray_exceptions = pytest.importorskip("ray.exceptions")

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
    checkpoints.choose_checkpoint(args)
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
    checkpoints.choose_checkpoint(args)
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
    checkpoints.choose_checkpoint(args)
    assert latest(tmp_path) == {"_actor": "global_step2", "_critic": "global_step2"}
    assert f"({file} of _critic/global_step4 is damaged)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "emptied, named, said",
    [
        (["_actor"], "", ""),  # a full disk has emptied the file
        (["_actor", "_critic"], "global_step4", "(_actor/global_step4 is not there)"),  # OpenRLHF removed the worst
    ],
)
def test_where_latest_names_nothing_the_newest_is_taken(args, tmp_path, capsys, emptied, named, said):
    for model in ("_actor", "_critic"):
        save(tmp_path, model, "global_step3")
    for model in emptied:
        (tmp_path / model / "latest").write_text(named)
    checkpoints.choose_checkpoint(args)
    assert latest(tmp_path) == {"_actor": "global_step3", "_critic": "global_step3"}
    assert said in capsys.readouterr().err


def test_where_none_was_ever_finished_training_starts_from_the_beginning(args, tmp_path, capsys):
    save(tmp_path, "_actor", "global_step1", shards=0)
    (tmp_path / "_actor" / "latest").unlink()
    checkpoints.choose_checkpoint(args)
    assert args.ckpt.load_enable is False and "starts from the beginning" in capsys.readouterr().err


def test_where_all_are_torn_training_is_refused(args, tmp_path):
    for model in ("_actor", "_critic"):
        save(tmp_path, model, "global_step1")
    cut(tmp_path / "_actor" / "global_step1" / MODEL, 50)
    with pytest.raises(
        ValueError, match=rf"can be loaded \({MODEL} of _actor/global_step1 is damaged\): put one back"
    ):
        checkpoints.choose_checkpoint(args)
    assert args.ckpt.load_enable


def test_without_critic_shards_or_checkpoints(args, tmp_path):
    checkpoints.choose_checkpoint(args)  # nothing there
    save(tmp_path, "_actor", "global_step9", shards=0)
    args.ckpt.load_enable = False
    checkpoints.choose_checkpoint(args)  # nothing is resumed
    assert latest(tmp_path) == {"_actor": "global_step9"}
    args.ckpt.load_enable = True
    args.critic = SimpleNamespace(model_name_or_path=None, num_nodes=1, num_gpus_per_node=1)
    args.ds.zero_stage = 0
    save(tmp_path, "_critic", "global_step7")  # of another run in the same folder
    checkpoints.choose_checkpoint(args)
    assert latest(tmp_path)["_actor"] == "global_step9"


def test_a_single_checkpoint_is_warned_of(args, capsys):
    args.ckpt.max_num = 1
    checkpoints.choose_checkpoint(args)
    assert "--ckpt.max_num 1" in capsys.readouterr().err
    for name, value in ("save_steps", -1), ("disable_ds", True):  # where none is written, none is removed
        others = SimpleNamespace(**vars(args.ckpt) | {name: value})
        checkpoints.choose_checkpoint(SimpleNamespace(**vars(args) | {"ckpt": others}))
        assert capsys.readouterr().err == "", name


# ── Faults ──

#: As Ray 2.55 writes it.
DIED = """ray::FilteringPPOTrainer.fit() (pid=70, ip=10.0.0.1)
  File "ppo_trainer.py", line 480, in fit
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: {}
\tactor_id: b9fbe6a74f1c1a8e3ed4f1f101000000
\tpid: 4711
\tnamespace: 41c2
\tip: 10.0.0.2
The actor is dead because its worker process has died."""


INIT_FAILED = """The actor died because of an error raised in its creation task, \x1b[36mray::{}.__init__()
  File "agent.py", line 337, in __init__
FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/r.py'"""


def task_error(cause):
    return ray_exceptions.RayTaskError("fit", "Traceback", cause, "title", 70, "10.0.0.1").as_instanceof_cause()


@pytest.mark.parametrize(
    "error, said",
    [
        (RuntimeError(DIED.format("RolloutRayActor")), "a vLLM engine (process 4711 on 10.0.0.2) died"),
        (RuntimeError(DIED.format("PolicyModelActor")), "a worker of the actor (process 4711 on 10.0.0.2) died"),
        (
            RuntimeError(DIED.format("CorrectedRewardModelActor")),
            "a worker of the reward models (process 4711 on 10.0.0.2) died",
        ),
        (
            RuntimeError(DIED.format("FilteringTrainingActor")),
            "the process of FilteringTrainingActor (process 4711 on 10.0.0.2) died",
        ),
        (
            RuntimeError(INIT_FAILED.format("RolloutRayActor")),
            "a vLLM engine could not start (FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/r.py')",
        ),
        (task_error(task_error(ValueError("no reward\nand more"))), "ValueError: no reward"),
        (RuntimeError(), "RuntimeError"),
        *(
            (task_error(RuntimeError(cause)), f"a file could not be written ({cause}): is there space in {{path}}?")
            for cause in ("cc:858] . PytorchStreamWriter failed writing", "cc:672] . unexpected pos 128 vs 0")
        ),
    ],
)
def test_what_has_failed_is_named_and_of_nested_failures_the_innermost(args, error, said):
    assert faults.find_reason(error, args) == said.format(path=args.ckpt.path)


def test_the_hint_names_the_checkpoint_to_resume_from(args, tmp_path):
    args.ds.zero_stage = 0
    assert "no checkpoint" in faults.resume_hint(args)
    place = tmp_path / "_actor" / "global_step4"
    place.mkdir(parents=True)
    (place / "mp_rank_00_model_states.pt").write_bytes(b"older format")
    hint = f"the same command with --ckpt.load_enable resumes from global_step4 in {tmp_path}"
    assert faults.resume_hint(args) == hint


def test_a_failure_is_one_sentence_after_the_traceback_and_status_1(args, capsys, monkeypatch):
    monkeypatch.setattr(faults.atexit, "register", lambda function: None)

    def train(given):
        assert given is args
        raise task_error(ValueError("the reason"))

    with pytest.raises(SystemExit) as end:
        faults.guard(train)(args)
    *traceback, sentence = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and traceback[0].startswith("Traceback")
    assert sentence == (
        f"openrlhf_pf: training ended: ValueError: the reason; there is no checkpoint in {args.ckpt.path} "
        "(--ckpt.save_steps) to resume from."
    )


def test_nothing_begins_where_no_checkpoint_can_be_loaded(args, tmp_path, capsys):
    args.ckpt.load_enable = True
    for model in ("_actor", "_critic"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "latest").write_text("global_step1")
    with pytest.raises(SystemExit) as end:
        faults.guard(lambda args: pytest.fail("training began"))(args)
    assert end.value.code == 2 and "global_step1 is not there" in capsys.readouterr().err


def test_the_end_comes_though_what_is_to_be_ended_hangs():
    """As Ray's own end would, if a process of its did not answer."""
    program = (
        "import atexit, threading\n"
        "from types import SimpleNamespace\n"
        "atexit.register(threading.Event().wait)\n"
        "from openrlhf_pf.training.startup import faults\n"
        "faults.SHUTDOWN_TIMEOUT = 0.5\n"
        "faults.checkpoints.choose_checkpoint = lambda args: None\n"
        "faults.resume_hint = lambda args: 'nothing'\n"
        "def train(args): raise ValueError('the reason')\n"
        "faults.guard(train)(SimpleNamespace())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith("openrlhf_pf: training ended: ValueErr")
