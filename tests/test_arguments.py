"""The flags, through OpenRLHF's own parser and checks, in a process that must not get as far as Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openrlhf")

MINIMAL = (
    "--actor.model_name_or_path absent --reward.model_name_or_path absent --data.prompt_dataset absent "
    "--vllm.num_engines 1 --actor.num_gpus_per_node 2 --critic.num_gpus_per_node 2 --reward.num_gpus_per_node 1 "
    "--ref.num_gpus_per_node 2 --rollout.n_samples_per_prompt 5 --rollout.batch_size 8 --train.batch_size 16 "
    "--train.micro_batch_size 4"
).split()

# Runs the launcher with ray.init replaced by a marker: whoever gets there has passed every check.
DRIVER = """
import sys, ray
def stop(**kwargs):
    import openrlhf.trainer.ppo_trainer as sync, openrlhf.trainer.ppo_trainer_async as asynchronous
    names = [c.__ray_metadata__.class_name for c in (sync.PPOTrainer, asynchronous.TrainingActor)]
    print("REACHED RAY", *names)
    raise SystemExit(0)
ray.init = stop
from openrlhf_pf.training.launch import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["train_ppo", *line.split("\\t")]
    try:
        main()
    except SystemExit as exit:
        print("STATUS", exit.code)
        print("EXIT", flush=True)
        sys.stderr.write("EXIT\\n")
        sys.stderr.flush()
"""


BAD = [
    ("--sample_filter best_wurst", "did you mean 'best_worst'"),
    ("--sample_filter best_worst --sample_filter_keep 6", "between 1 and the 5 samples of a prompt, got 6"),
    ("--sample_filter best_worst --rollout.n_samples_per_prompt 1", "draw at least 2 samples"),
    ("--sample_filter rank_weights --sample_filter_weights 1 0 1", "each of the 5 samples of a prompt, got 3"),
    ("--sample_filter best_worst --sample_filter_weights 1 0 0 0 1", "takes no weights"),
    ("--sample_filter none --sample_filter_keep 2", "--sample_filter_keep has no effect with --sample_filter none"),
    ("--sample_filter_seed 3", "--sample_filter_seed has no effect"),
    ("--sample_filter best_worst --train.batch_size 12", "gives 16 samples, which is not a whole number of"),
    ("--sample_filter best_of_n", "gives 8 samples, which is not a whole number of --train.batch_size 16"),
    ("--sample_filter best_worst --train.micro_batch_size 16", "must be a multiple of 32"),
    ("--sample_filter best_worst --ref.num_gpus_per_node 3", "cannot share in whole micro-batches of 4"),
    (
        "--sample_filter best_of_n --algo.advantage.estimator rloo --train.batch_size 8",
        "needs at least 2, but --sample_filter best_of_n keeps 1",
    ),
]


SCRIPTS = sorted((Path(__file__).parent.parent / "examples" / "scripts").glob("*.sh"))


def submitted_by(script: Path, folder: Path) -> str:
    """The tab-separated arguments that a script submits; a stand-in for Ray's job client on PATH writes them down."""
    client = folder / "ray"
    client.write_text('#!/usr/bin/env bash\nprintf "%s\\t" "$@"\n')
    client.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "POLICY": "p", "REWARD": "r", "PROMPTS": "d"}
    written = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, check=True, env={**environment, "REWARD_URL": "r.py"}
    ).stdout.rstrip("\t")
    head, _, arguments = written.partition("\t-m\topenrlhf.cli.train_ppo\t")
    assert head.startswith("job\tsubmit") and arguments
    return arguments


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Every command line, by name, in one process, because importing vLLM takes ten seconds: (stdout, stderr) each."""
    minimal = "\t".join(MINIMAL)
    lines = {"none": minimal + "\t--sample_filter\tnone"}  # first: a filter leaves our trainers in the process
    lines |= {extra: "\t".join([minimal, *extra.split()]) for extra, _ in BAD}
    lines["filter"] = minimal + "\t--sample_filter\tbest_worst"
    lines |= {script.stem: submitted_by(script, tmp_path_factory.mktemp("client")) for script in SCRIPTS}
    lines["help"] = "--help"
    result = subprocess.run(
        [sys.executable, "-c", DRIVER], input="\n".join(lines.values()), capture_output=True, text=True
    )
    blocks = list(zip(result.stdout.split("EXIT\n"), result.stderr.split("EXIT\n")))
    assert len(blocks) == len(lines) + 1, result.stdout[-3000:] + result.stderr[-3000:]
    return dict(zip(lines, blocks))


@pytest.mark.parametrize("extra, words", BAD)
def test_a_bad_flag_is_refused_in_one_sentence_before_ray_starts(launched, extra, words):
    out, err = launched[extra]
    sentences = [line for line in err.splitlines() if line.startswith("openrlhf_pf: ")]
    assert len(sentences) == 1 and words in sentences[0], err
    assert "STATUS 2" in out and "REACHED RAY" not in out


def test_a_filter_puts_our_trainers_in_place(launched):
    assert "REACHED RAY FilteringPPOTrainer FilteringTrainingActor" in launched["filter"][0]


def test_none_leaves_openrlhfs_own_trainers_in_place(launched):
    assert "REACHED RAY PPOTrainer TrainingActor" in launched["none"][0]


def test_help_lists_our_flags_in_a_group_of_their_own(launched):
    out, _ = launched["help"]
    theirs, _, ours = out.partition("policy filtration (openrlhf_pf)")
    assert "--rollout.n_samples_per_prompt" in theirs
    for flag in ("--sample_filter NAME", "--sample_filter_keep", "--sample_filter_weights", "--sample_filter_seed"):
        assert flag in ours


@pytest.mark.parametrize("script", [script.stem for script in SCRIPTS])
def test_the_arguments_of_an_example_script_pass_the_real_parser_and_its_checks(launched, script):
    out, err = launched[script]
    assert "REACHED RAY Filtering" in out, out + err[-2000:]
