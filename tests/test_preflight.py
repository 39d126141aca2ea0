"""Help and refusals come before OpenRLHF, vLLM, DeepSpeed and Ray are imported, and lose no check on the way."""

import argparse
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("openrlhf")

from rollouts import MINIMAL

from openrlhf_pf.training import launch
from openrlhf_pf.training.preflight import Refused, preflight

FLAGS = " ".join(MINIMAL)
HEAVY = {"openrlhf.trainer", "openrlhf.utils", "vllm", "deepspeed", "ray", "transformers"}


def run(module: str, flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", module, *flags.split()]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"}, timeout=300)


@pytest.mark.parametrize(
    "module, flags, status, words",
    [
        ("openrlhf.cli.train_ppo", "--help", 0, "--sample_filter_keep"),
        (
            "openrlhf.cli.train_ppo",
            f"{FLAGS} --sample_filtre best_worst",
            2,
            "unrecognized arguments: --sample_filtre",
        ),
        ("openrlhf.cli.train_ppo", f"{FLAGS} --sample_filter best_wurst", 2, "did you mean 'best_worst'?"),
        (
            "openrlhf.cli.train_ppo",
            f"{FLAGS} --sample_filter best_worst --train.batch_size 17",
            2,
            "which is not a whole number of --train.batch_size 17",
        ),
        (
            "openrlhf.cli.train_ppo",
            f"{FLAGS} --algo.dynamic_filtering_enable",
            2,
            "openrlhf_pf: OpenRLHF refuses these arguments: remote_rm_url or agent_func_path must be specified",
        ),
        ("openrlhf_pf.cli.train_rm", "--help", 0, "--policy_samples_weight"),
        ("openrlhf_pf.cli.train_rm", "--policy_samples absent", 2, "there is no file or directory 'absent'"),
        (
            "openrlhf_pf.cli.train_rm",
            "--policy_samples_weight 0.5",
            2,
            "openrlhf_pf: --policy_samples_weight has no effect without --policy_samples: name",
        ),
        ("openrlhf_pf.cli.collect", "--help", 0, "--collect.max_prompts"),
        ("openrlhf_pf.cli.collect", f"{FLAGS} --collect.output out", 2, "--collect.score FILE.py"),
    ],
)
def test_an_answer_needs_no_part_of_the_stack(module, flags, status, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(module, flags)
    imported = set(re.findall(r"^import time:.*\|\s+(\S+)$", result.stderr, re.M))
    said = "\n".join(line for line in result.stderr.splitlines() if not line.startswith("import time:"))
    assert (result.returncode, words in result.stdout + said) == (status, True), result.stdout + said
    assert "torch" in imported and not HEAVY & {name for name in imported}
    assert result.stdout.count("usage:") == (status == 0), "the help is said once"
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


def test_the_checks_of_the_entry_module_are_run_without_what_it_imports(entry):
    name = entry("args = argparse.ArgumentParser().parse_args()\nassert args.size > 3, 'size is 3'\ntrain(args)")
    with pytest.raises(Refused, match=r"^OpenRLHF refuses these arguments: size is 3$"):
        preflight(name, parse)


def test_an_assertion_without_words_is_shown_itself(entry):
    name = entry("args = argparse.ArgumentParser().parse_args()\nassert args.size > 3")
    with pytest.raises(Refused, match="assert args.size > 3$"):
        preflight(name, parse)


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
    monkeypatch.setattr(launch, "check_interface", lambda: None)
    monkeypatch.setattr(sys, "argv", ["train", "--size", "3"])
    monkeypatch.setitem(sys.modules, "heavy_part", argparse.Namespace(VALUE=1))
    return launch.Host(name, "rollout.n_samples_per_prompt", settle=lambda flat: None)


@pytest.mark.parametrize("stage", ["settle", "check"])
def test_arguments_that_preflight_could_not_reach_are_checked_all_the_same(stage, unreachable, capsys):
    def refuse(args):
        raise ValueError("the size is wrong.")

    if stage == "settle":
        unreachable = replace(unreachable, settle=refuse)
    with pytest.raises(SystemExit) as exit_:
        check = refuse if stage == "check" else lambda args: None
        launch.run(lambda parser: None, check, lambda args, entry: None, unreachable)
    said = capsys.readouterr()
    assert (exit_.value.code, said.err, said.out) == (2, "openrlhf_pf: the size is wrong.\n", "")
