"""The script that tells a cluster's user whether the plugin works there: what it refuses, and what it checks."""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "gpu" / "run.sh"


def run(*arguments, path="/usr/bin:/bin", python=sys.executable):
    environment = {**os.environ, "PATH": str(path), "PYTHON": str(python)}
    command = ["bash", str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    return done.returncode, done.stderr


def with_nvidia_smi(folder, gpus):
    """A PATH on which nvidia-smi lists this number of GPUs."""
    smi = folder / "nvidia-smi"
    smi.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {i}: NVIDIA H100 (UUID: {i})'\n" for i in range(gpus)))
    smi.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def python_that(folder, body):
    """A stand-in for the interpreter."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    "arguments, gpus, message",
    [
        (["--gpus", "0"], 1, "--gpus takes a number from 1 on, got '0'"),
        (["--gpus"], 1, "--gpus takes a number from 1 on, got ''"),
        (["--fast"], 1, "there is no option '--fast': give --gpus NUMBER, --cpu or nothing"),
        ([], None, "there is no nvidia-smi"),
        ([], 0, "nvidia-smi lists no GPU"),
        (["--gpus", "3"], 2, "--gpus 3 asks for more than the 2 that are here"),
        (["--cpu"], None, "lacks what training needs: pip install"),
    ],
)
def test_what_it_refuses_before_anything_starts(tmp_path, arguments, gpus, message):
    for name in ("bash", "dirname", "grep", "sh"):
        (tmp_path / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    path = tmp_path if gpus is None else with_nvidia_smi(tmp_path, gpus)
    code, err = run(*arguments, path=path, python=python_that(tmp_path, "exit 1"))
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_it_goes_on_with_the_gpus_that_there_are(tmp_path):
    python, path = python_that(tmp_path, '[ "$1" = -c ] || echo "$@" >&2'), with_nvidia_smi(tmp_path, 4)
    for arguments, gpus in (([], 4), (["--gpus", "2"], 2), (["--cpu"], 0)):
        assert run(*arguments, path=path, python=python) == (0, f"{ROOT}/tests/gpu/check.py --gpus {gpus}\n")
    code, err = run("--cpu", python=tmp_path / "absent")
    assert code == 2 and "activate the environment that trains, or set PYTHON" in err


# ── What is checked ──


@pytest.fixture(scope="module")
def check():
    pytest.importorskip("openrlhf")
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tests" / "gpu" / "check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def a_run(check, folder, *, forwarded=(2, 2), fraction=0.25, loss=0.5):
    """3 steps of 8 prompts a rank on two ranks, as its workers and its log tell of it."""
    size = check.ON_A_CPU
    (folder / "observed").mkdir(parents=True)
    for rank in (0, 1):
        lines = []
        for model, event, samples in (
            ("RewardModelActor", "forward", 8),
            ("PolicyModelActor", "forward", forwarded[rank]),
            ("CriticModelActor", "forward", 2),
            ("ReferenceModelActor", "forward", 2),
            ("ActorPPOTrainer", "train", 2),
            ("CriticPPOTrainer", "train", 2),
        ):
            took = {"model": model, "event": f"{event}_took", "rank": rank, "wall": samples, "cpu": samples}
            lines += [{"model": model, "event": event, "rank": rank, "rows": [samples] * size.prompts}, took] * 3
        (folder / "observed" / f"{rank}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    timing = {f"timing/{phase}": 1.0 for phase in ("generation", "make_experience", "ppo_train", "broadcast")}
    metrics = {"policy_loss": loss, "kl": 0.0, "filter/kept_fraction": fraction} | timing
    log = "".join(f"Global step {step}: {metrics}\n" for step in (1, 2, 3))
    return check.Run(folder, log, 0)


def failing(check, run):
    return [name for name, fine, _ in check.checks("best_worst", run, check.ON_A_CPU, ranks=2) if not fine]


def test_what_a_run_has_to_be_like(check, tmp_path):
    assert failing(check, a_run(check, tmp_path / "good")) == []
    # A rank that goes forward on one sample more, and a step in which nothing can be computed.
    uneven = failing(check, a_run(check, tmp_path / "uneven", forwarded=(2, 3)))
    assert uneven == ["actor forward: samples a rank"]
    assert failing(check, a_run(check, tmp_path / "none", fraction=1.0)) == ["kept fraction"]
    assert failing(check, a_run(check, tmp_path / "nan", loss=float("nan"))) == ["loss and KL are numbers"]


@pytest.mark.parametrize(
    "gpus, said",
    [
        (8, ["PASSED: all 18 checks. The plugin works on these GPUs.", "On 8 GPUs", "GPU 7", "driver 570.1", "torch"]),
        (
            0,
            [
                "PASSED on a CPU: all 18 checks. This says that the script works, and nothing about any GPU.",
                "On a CPU",
            ],
        ),
    ],
)
def test_the_table_to_send_back(check, tmp_path, monkeypatch, gpus, said):
    run = a_run(check, tmp_path)
    monkeypatch.setattr(check, "query_gpus", lambda *query: [["NVIDIA H100 80GB HBM3", "81559", "570.1"]] * 8)
    console = check.Console(record=True, width=200)
    found = {arm: check.checks("best_worst", run, check.ON_A_CPU, 2) for arm in check.ARMS}
    runs = dict.fromkeys(check.ARMS, run)
    assert check.show(console, runs, found, {"none": "9 GB", "best_worst": "8 GB"}, gpus)
    text = console.export_text()
    assert [words for words in said if words not in text] == []
    assert text.count("not tried: needs a GPU") == (0 if gpus else len(check.NEED_GPUS))
    assert "1.000 (1.000 to 1.000)" in next(line for line in text.splitlines() if "ppo_train" in line)


def test_a_training_that_fails_is_said_with_its_log(check, tmp_path, monkeypatch, capsys):
    class Failing:
        """Ends with an error."""

        reward = Path("reward")

        def __init__(self, *_, **__):
            pass

        def close(self):
            pass

        def train(self, folder, *_):
            folder.mkdir()
            (folder / "log.txt").write_text("CUDA out of memory")
            raise AssertionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "Stack", Failing)
    monkeypatch.setattr(sys, "argv", ["check.py", "--gpus", "0"])
    assert check.main() == 1
    text = (tmp_path / "gpu-check.txt").read_text()
    failed, send = text.splitlines()[-2:]
    assert failed == "FAILED: training ends by itself (none 8)" and str(tmp_path / "gpu-check.txt") in send
    assert "its log: gpu-check-none.log" in text
    assert (tmp_path / "gpu-check-none.log").read_text() == "CUDA out of memory"


def test_the_flags_train_two_optimizer_steps_per_rollout(check):
    for gpus in (0, 8):
        size = check.ON_GPUS if gpus else check.ON_A_CPU
        words = check.flags_of("best_worst", size, gpus, Path("reward")).split()
        flags = dict(pairwise(words))
        assert int(flags["--rollout.batch_size"]) == size.prompts * max(1, gpus)
        assert 2 * int(flags["--train.batch_size"]) == size.prompts * max(1, gpus) * check.K
        assert ("--train.colocate_all" in words) == ("--ds.enable_sleep" in words) == bool(gpus)
