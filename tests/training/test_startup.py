"""From the command line to OpenRLHF's entry module: import hook, preflight, compatibility checks, stale locks."""

import argparse
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import ray
import torch

pytest.importorskip("openrlhf")

from rollouts import MINIMAL, namespace
from torch.utils.file_baton import FileBaton

from openrlhf_pf import _import_hook
from openrlhf_pf.training.startup import compatibility, launch, waits
from openrlhf_pf.training.startup.compatibility import check_interface, check_parameters, check_version
from openrlhf_pf.training.startup.launch import Refused, preflight
from openrlhf_pf.training.startup.waits import find_unheld_locks, remove_stale_locks

FLAGS = " ".join(MINIMAL)
HEAVY = {"openrlhf.trainer", "openrlhf.utils", "vllm", "deepspeed", "ray", "transformers", "torch"}
ROOT = Path(__file__).parents[2]
PTH = ROOT / "openrlhf_pf" / "openrlhf_pf.pth"


# ── Preflight: help and refusals come before OpenRLHF, vLLM, DeepSpeed and Ray are imported ──


def run(module: str, flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", module, *flags.split()]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"}, timeout=300)


TRAIN = "openrlhf.cli.train_ppo"


@pytest.mark.parametrize(
    "module, flags, status, words",
    [
        (TRAIN, "--help", 0, "--sample_filter_keep"),
        (TRAIN, f"{FLAGS} --sample_filtre best_worst", 2, "no flag --sample_filtre: did you mean '--sample_filter'?"),
        (TRAIN, f"{FLAGS} --rollout.batchsize=8", 2, "there is no flag --rollout.batchsize: did you mean '--rollout."),
        (TRAIN, f"{FLAGS} --sample_filter_keep two", 2, "invalid int value: 'two'; --help lists all flags."),
        (TRAIN, f"{FLAGS} --algo.dynamic_filtering_enable", 2, "refuses these arguments: remote_rm_url or agent_func"),
        ("openrlhf_pf.cli.collect", "--help", 0, "--collect.max_prompts"),
        ("openrlhf_pf.cli.collect", f"{FLAGS} --collect.output out", 2, "--collect.score FILE.py"),
    ],
)
def test_an_answer_needs_no_part_of_the_stack(module, flags, status, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(module, flags)
    imported = set(re.findall(r"^import time:.*\|\s+(\S+)$", result.stderr, re.M))
    errors = "\n".join(line for line in result.stderr.splitlines() if not line.startswith("import time:"))
    assert (result.returncode, words in result.stdout + errors) == (status, True), result.stdout + errors
    assert "argparse" in imported and not HEAVY & imported
    assert (result.stdout + errors).count("usage:") == (status == 0), "the help is printed once, and only as an answer"
    assert status == 0 or (errors.startswith("openrlhf_pf: ") and len(errors.strip().splitlines()) == 1)
    assert not list(tmp_path.iterdir()), "a refusal leaves nothing behind"


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """A function that writes an entry module with that body under ``if __name__ == "__main__"``."""

    def write(body: str) -> str:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        text = f"import argparse\nimport heavy_part\n\nif __name__ == '__main__':\n{lines}"
        (tmp_path / "entry_module.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return "entry_module"

    return write


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    return argparse.Namespace(size=3)


@pytest.mark.parametrize(
    "words, shown", [(", 'size is 3'", "OpenRLHF refuses these arguments: size is 3"), ("", "assert args.size > 3")]
)
def test_the_checks_of_the_entry_module_are_run_without_what_it_imports(entry, words, shown):
    name = entry(f"args = argparse.ArgumentParser().parse_args()\nassert args.size > 3{words}\ntrain(args)")
    with pytest.raises(Refused, match=f"{shown}$"):
        preflight(name, parse)


def test_the_parser_is_as_before_where_openrlhf_cannot_be_read(entry, monkeypatch):
    own = argparse.ArgumentParser.parse_args
    monkeypatch.setattr("openrlhf_pf.training.startup.launch._NESTING", "openrlhf.utils.no_such_module")
    monkeypatch.setattr("openrlhf_pf.training.startup.launch._load_nesting", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        preflight(entry("pass"), parse)
    assert argparse.ArgumentParser.parse_args is own


def test_what_needs_more_than_the_standard_library_is_left_to_the_run(entry, capsys):
    own = argparse.ArgumentParser.parse_args
    preflight(entry("print('warned')\nheavy_part.check(argparse.ArgumentParser().parse_args())"), parse)
    assert argparse.ArgumentParser.parse_args is own
    assert capsys.readouterr().out == "", "the run says it again"


@pytest.fixture
def unreachable(entry, monkeypatch):
    """An entry module that preflight cannot follow as far as its parser: a name that only its imports define."""
    name = entry(
        "heavy_part.VALUE\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', type=int)\n"
        "parser.set_defaults(**{'rollout.n_samples_per_prompt': 1})\nargs = parser.parse_args()\nprint('went on')"
    )
    monkeypatch.setattr(launch, "ENTRY_MODULE", name)
    monkeypatch.setattr(launch.sample_filter, "resolve", lambda flat: None)
    monkeypatch.setattr(launch, "check_interface", lambda: None)
    monkeypatch.setattr(sys, "argv", ["train", "--size", "3"])
    monkeypatch.setitem(sys.modules, "heavy_part", argparse.Namespace(VALUE=1))


@pytest.mark.parametrize("stage", ["resolve", "check"])
@pytest.mark.usefixtures("unreachable")
def test_arguments_that_preflight_could_not_reach_are_checked_all_the_same(stage, monkeypatch, capsys):
    def refuse(args):
        raise ValueError("the size is wrong.")

    if stage == "resolve":
        monkeypatch.setattr(launch.sample_filter, "resolve", refuse)
    with pytest.raises(SystemExit) as exit_:
        check = refuse if stage == "check" else lambda args: None
        launch.run(lambda parser: None, check, lambda args, entry: None)
    said = capsys.readouterr()
    assert (exit_.value.code, said.err, said.out) == (2, "openrlhf_pf: the size is wrong.\n", "")


# ── Compatibility: the contract with OpenRLHF holds for the installed one, and a breach is named ──


def test_the_installed_openrlhf_fits():
    assert check_version() == metadata.version("openrlhf")
    check_interface()


@pytest.mark.parametrize(
    "version, words",
    [
        *((version, f"<0.12,>=0.11.0 is supported, found {version}") for version in ("0.10.4", "0.12.0", "1.0")),
        (None, "is needed, but it is not installed"),
    ],
)
def test_another_version_or_none_is_named(monkeypatch, version, words):
    def find(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", find)
    with pytest.raises(ImportError, match=words):
        check_version()


def test_a_method_that_changed_or_is_gone_is_named():
    path = "openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker.make_experience"
    with pytest.raises(ImportError) as error:
        check_parameters(path, ("self", "samples"))
    assert str(error.value) == f"expected {path} to take (self, samples), found (self, samples_list)."
    with pytest.raises(ImportError, match="expected OpenRLHF to have .*:PPOTrainer.gone, found nothing"):
        check_parameters("openrlhf.trainer.ppo_trainer:PPOTrainer.gone", ())


def test_a_missing_experience_field_is_named(monkeypatch):
    monkeypatch.setattr(compatibility, "EXPECTED_EXPERIENCE_FIELDS", frozenset({"sequences", "verdict"}))
    with pytest.raises(ImportError, match="no Experience.verdict"):
        check_interface()


@pytest.mark.parametrize(
    "instructions, dtype",
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, None),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, None),
        ({"architecture": "aarch64"}, None),
    ],
)
def test_the_cpu_patch_computes_in_float32_where_the_cpu_has_no_bfloat16(monkeypatch, instructions, dtype):
    from openrlhf.utils import utils
    from openrlhf.utils.deepspeed.deepspeed_utils import get_eval_ds_config, get_train_ds_config

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    if dtype is None:  # what is left to PyTorch's own answer
        dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    assert utils.convert_to_torch_dtype("bf16") is dtype
    for config in (get_train_ds_config(offload=False), get_eval_ds_config(offload=False)):
        assert config["bf16"]["enabled"] == (dtype is torch.bfloat16)


def test_the_cpu_patch_leaves_accelerators_and_other_types_alone(monkeypatch):
    from openrlhf.utils import utils

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert utils.convert_to_torch_dtype("bf16") is torch.bfloat16
    assert utils.convert_to_torch_dtype("fp16") is torch.float16


# ── The import hook ──


def write_openrlhf(site: Path, module: str) -> None:
    """A package openrlhf.cli in `site` whose module says that it is OpenRLHF's own."""
    cli = site / "openrlhf" / "cli"
    cli.mkdir(parents=True)
    for folder in (cli.parent, cli):
        (folder / "__init__.py").touch()
    (cli / f"{module}.py").write_text(f"print('{module} of OpenRLHF')\n")


def run_python(site: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Python without any installed package but `site`, after the line of our .pth file."""
    line = PTH.read_text().strip()
    start = "import runpy, sys; sys.argv = sys.argv[1:]; "
    code = f"{line}; {start}" + "exec(sys.argv[1]) if sys.argv[0] == '-c' else runpy._run_module_as_main(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-S", "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, timeout=60)


def test_the_one_name_gets_the_launcher_and_every_other_one_is_left_alone() -> None:
    find_spec = _import_hook.TrainPPOFinder.find_spec
    for name in ("openrlhf", "openrlhf.cli", "openrlhf.cli.train_ppo_ray", "openrlhf.cli.train_pp", ""):
        assert find_spec(name) is None
    launcher = Path(_import_hook.__file__).parent / "cli" / "train_ppo.py"
    assert launcher.is_file() and find_spec("openrlhf.cli.train_ppo").origin == str(launcher)


FIND = "import importlib.util as u; print(u.find_spec('openrlhf.cli.train_ppo').origin)"


@pytest.mark.parametrize(
    "own, arguments, status, last",
    [
        ("train_sft", ("-c", FIND), 0, str(ROOT / "openrlhf_pf" / "cli" / "train_ppo.py")),
        ("train_sft", ("-m", "openrlhf.cli.train_sft"), 0, "train_sft of OpenRLHF"),
        ("train_ppo", ("-m", "openrlhf.cli.train_ppo"), 0, "train_ppo of OpenRLHF"),
        (None, ("-c", "import openrlhf.cli.train_ppo"), 1, "ModuleNotFoundError: No module named 'openrlhf'"),
    ],
)
def test_the_name_is_served_where_openrlhf_lacks_it(tmp_path: Path, own, arguments, status, last) -> None:
    if own is not None:
        write_openrlhf(tmp_path, own)
    result = run_python(tmp_path, *arguments)
    assert (result.returncode, (result.stdout + result.stderr).splitlines()[-1]) == (status, last)


def test_start_up_imports_the_hook_and_nothing_else(tmp_path: Path) -> None:
    # Every Python process of the environment pays for this: not even the standard library's typing is worth it.
    code = (
        f"import site, sys; old = set(sys.modules); {PTH.read_text().strip()}; print(sorted(set(sys.modules) - old))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "['openrlhf_pf', 'openrlhf_pf._import_hook']", result.stderr


# ── Placement: the GPUs that the flags ask for ──

PLACEMENT = {
    "train.async_enable": False,
    "algo.kl.init_coef": 0.1,
    "critic.model_name_or_path": "c",
    "vllm.num_engines": 1,
    "vllm.tensor_parallel_size": 2,
    **{f"{name}.num_nodes": 1 for name in ("actor", "critic", "reward", "ref")},
    **{f"{name}.num_gpus_per_node": 4 for name in ("actor", "critic", "ref")},
    "reward.num_gpus_per_node": 1,
}


@pytest.mark.parametrize(
    "flags, expected",
    [
        ({}, {"actor": 4, "ref": 4, "critic": 4, "reward": 1, "vllm": 2}),
        ({"algo.kl.init_coef": 0.0, "reward.remote_url": "r.py"}, {"actor": 4, "critic": 4, "vllm": 2}),
        ({"train.colocate_actor_ref": True}, {"actor": 4, "critic": 4, "reward": 1, "vllm": 2}),
        ({"train.colocate_critic_reward": True}, {"actor": 4, "ref": 4, "critic and reward": 4, "vllm": 2}),
        ({"critic.model_name_or_path": None}, {"actor": 4, "ref": 4, "reward": 1, "vllm": 2}),
        ({"train.colocate_all": True}, {"actor": 4}),
        ({"train.colocate_all": True, "train.async_enable": True}, {"actor": 4, "vllm": 2}),
    ],
)
def test_requested_gpus_are_what_openrlhf_places(flags, expected):
    assert waits.requested_gpus(namespace(**PLACEMENT | flags)) == expected


def with_gpus(monkeypatch, counts, head):
    """A Ray cluster that has these GPUs, one number for each time that it is asked."""
    counts = iter(counts)
    node = argparse.Namespace(head=head)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(next(counts))})
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    monkeypatch.setattr(waits.time, "sleep", lambda seconds: None)


def wait_for_13(capsys):
    """What is printed while 13 GPUs are waited for, and whether that ended in vain."""
    try:
        waits.wait_for_gpus({"actor": 8, "vllm": 5})
    except SystemExit as end:
        return capsys.readouterr().err.splitlines(), end.code
    return capsys.readouterr().err.splitlines(), None


def test_too_few_gpus_of_this_machine_are_refused_in_one_sentence(monkeypatch, capsys):
    with_gpus(monkeypatch, [8], head=True)
    (sentence,), code = wait_for_13(capsys)
    assert code == 2 and "ask for 13 GPUs (8 actor, 5 vllm), and the Ray cluster has 8: lower" in sentence
    with_gpus(monkeypatch, [13], head=True)
    assert wait_for_13(capsys) == ([], None)


def test_a_cluster_that_grows_is_waited_for_what_is_missing_is_named(monkeypatch, capsys):
    with_gpus(monkeypatch, [8, 10, 13], head=False)
    (first, second), code = wait_for_13(capsys)
    assert code is None
    assert first.endswith("has 8: waiting for 5 more.") and second.endswith("has 10: waiting for 3 more.")
    with_gpus(monkeypatch, [8, 8, 8], head=False)
    clock = iter([0.0, 0.0, 0.0, 100.0, 700.0])
    monkeypatch.setattr(waits.time, "monotonic", lambda: next(clock))
    lines, code = wait_for_13(capsys)
    assert code == 2 and "or add 5 GPUs." in lines[-1]


# ── Stale locks of compiled extensions ──


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock that a killed process has left in an extension's folder long ago."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    file = tmp_path / "py311_cpu" / "fused_adam" / "lock"
    file.parent.mkdir(parents=True)
    baton = FileBaton(str(file))
    assert baton.try_acquire() and find_unheld_locks() == [], "PyTorch keeps its lock open"
    os.close(baton.fd)
    os.utime(file, (0, 0))
    return file


def test_a_lock_that_was_left_behind_is_removed_with_a_word(lock, capsys):
    other = lock.parents[2] / "cpu_adam" / "lock"  # one folder level only
    other.parent.mkdir()
    other.touch()
    assert sorted(find_unheld_locks()) == [other, lock]
    other.unlink()
    remove_stale_locks()
    assert not lock.exists()
    assert capsys.readouterr().err == (
        f"openrlhf_pf: removed {lock}, left behind by a process that was killed while it compiled.\n"
    )
    remove_stale_locks()
    assert capsys.readouterr().err == ""


def test_a_lock_that_somebody_holds_stays(lock, capsys):
    with open(lock):
        assert find_unheld_locks() == []
        remove_stale_locks()
    assert lock.exists() and capsys.readouterr().err == ""


@pytest.mark.parametrize("doubt", ["young", "another user's", "on a network file system"])
def test_a_lock_that_another_machine_or_container_may_hold_is_named_and_stays(lock, doubt, monkeypatch, capsys):
    if doubt == "young":
        os.utime(lock)
    elif doubt == "another user's":
        monkeypatch.setattr(os, "getuid", lambda: lock.stat().st_uid + 1)
    else:
        monkeypatch.setattr(waits, "_LOCAL", {"nfs4"})
    remove_stale_locks()
    assert lock.exists() and f"no process on this machine holds {lock}, and the run waits" in capsys.readouterr().err


def test_a_lock_that_is_released_meanwhile_is_no_matter(lock, monkeypatch, capsys):
    """Another process may finish compiling between listing and reading the folder."""
    looked_at = waits.Path.glob

    def glob_then_release(self, pattern):
        found = list(looked_at(self, pattern))
        if lock in found:
            lock.unlink()
        return found

    monkeypatch.setattr(waits.Path, "glob", glob_then_release)
    assert find_unheld_locks() == []
    lock.touch()
    monkeypatch.setattr(waits, "find_unheld_locks", lambda: [lock.with_name("gone")])
    remove_stale_locks()
    assert capsys.readouterr().err == ""


def test_a_process_that_ends_meanwhile_is_no_matter(lock, monkeypatch):
    scan = os.scandir

    def scan_or_miss(path):
        if str(path).endswith("/fd"):
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_or_miss)
    assert find_unheld_locks() == [lock]
