"""What is said when a process of the training has died or failed, and that the end comes."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from openrlhf_pf.training import faults

ray_exceptions = pytest.importorskip("ray.exceptions")

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


UNBORN = """The actor died because of an error raised in its creation task, \x1b[36mray::{}.__init__()\x1b[39m (pid=47)
  File "agent.py", line 337, in __init__
FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/r.py'"""


@pytest.fixture
def args(tmp_path):
    model = SimpleNamespace(model_name_or_path="model", num_nodes=1, num_gpus_per_node=1)
    return SimpleNamespace(
        ckpt=SimpleNamespace(path=str(tmp_path), load_enable=False, max_num=3, save_steps=1, disable_ds=False),
        actor=model,
        critic=model,
        ds=SimpleNamespace(zero_stage=0, tensor_parallel_size=1),
    )


def task_error(cause):
    return ray_exceptions.RayTaskError("fit", "Traceback", cause, "title", 70, "10.0.0.1").as_instanceof_cause()


@pytest.mark.parametrize(
    "kind, said",
    [
        ("RolloutRayActor", "a vLLM engine (process 4711 on 10.0.0.2) died"),
        ("PolicyModelActor", "a worker of the actor (process 4711 on 10.0.0.2) died"),
        ("FilteringTrainingActor", "the process of FilteringTrainingActor (process 4711 on 10.0.0.2) died"),
    ],
)
def test_who_died_is_named(args, kind, said):
    assert faults.reason(RuntimeError(DIED.format(kind)), args) == said


def test_who_could_not_start_is_named_and_why(args):
    said = "a vLLM engine could not start (FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/r.py')"
    assert faults.reason(RuntimeError(UNBORN.format("RolloutRayActor")), args) == said


def test_of_nested_failures_the_innermost_is_named(args):
    error = task_error(task_error(ValueError("no reward\nand more")))
    assert faults.reason(error, args) == "ValueError: no reward"
    assert faults.reason(RuntimeError(), args) == "RuntimeError"


@pytest.mark.parametrize("said", ["858] . PytorchStreamWriter failed writing", "672] . unexpected pos 128 vs 0"])
def test_a_full_disk_is_named(args, said):
    error = task_error(RuntimeError(f"[enforce fail at inline_container.cc:{said}"))
    assert faults.reason(error, args).endswith(f"is there room in {args.ckpt.path}?")


def test_where_training_goes_on(args, tmp_path):
    assert "no checkpoint" in faults.what_next(args)
    place = tmp_path / "_actor" / "global_step4"
    place.mkdir(parents=True)
    (place / "mp_rank_00_model_states.pt").write_bytes(b"older format")
    assert (
        faults.what_next(args) == f"the same command with --ckpt.load_enable goes on from global_step4 in {tmp_path}"
    )


def test_a_failure_is_one_sentence_after_the_traceback_and_status_1(args, capsys, monkeypatch):
    monkeypatch.setattr(faults.atexit, "register", lambda function: None)

    def train(given):
        assert given is args
        raise task_error(ValueError("the reason"))

    with pytest.raises(SystemExit) as end:
        faults.guarded(train)(args)
    *traceback, sentence = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and traceback[0].startswith("Traceback")
    assert sentence == (
        f"openrlhf_pf: training ended: ValueError: the reason; there is no checkpoint in {args.ckpt.path} "
        "(--ckpt.save_steps) to go on from."
    )


def test_nothing_begins_where_no_checkpoint_can_be_loaded(args, tmp_path, capsys):
    args.ckpt.load_enable = True
    for model in ("_actor", "_critic"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "latest").write_text("global_step1")
    with pytest.raises(SystemExit) as end:
        faults.guarded(lambda args: pytest.fail("training began"))(args)
    assert end.value.code == 2 and "global_step1 is not there" in capsys.readouterr().err


def test_the_end_comes_though_what_is_to_be_ended_hangs():
    """As Ray's own end would, if a process of its did not answer."""
    program = (
        "import atexit, threading\n"
        "from types import SimpleNamespace\n"
        "atexit.register(threading.Event().wait)\n"
        "from openrlhf_pf.training import faults\n"
        "faults.END_WITHIN = 0.5\n"
        "faults.checkpoints.settle = lambda args: None\n"
        "faults.what_next = lambda args: 'nothing'\n"
        "def train(args): raise ValueError('the reason')\n"
        "faults.guarded(train)(SimpleNamespace())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith("openrlhf_pf: training ended: ValueErr")
