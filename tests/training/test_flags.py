"""The flags, through OpenRLHF's own parser and checks, in a process that must not get as far as Ray."""

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("openrlhf")

from rollouts import FLAGS, HAS_FLASH_REINFORCE, MINIMAL, namespace

from openrlhf_pf.cli import preferences
from openrlhf_pf.training.flags import collect, data, prompts, sample_filter
from openrlhf_pf.training.startup import launch
from openrlhf_pf.training.startup.launch import nest, preflight

# Runs the launcher with ray.init replaced by a marker: whoever gets there has passed every check.
DRIVER = """
import sys, ray
def stop(**kwargs):
    import openrlhf.trainer.ppo_trainer as sync, openrlhf.trainer.ppo_trainer_async as asynchronous
    worker = sys.modules["__main__"].RewardModelActor  # OpenRLHF's entry module, as runpy runs it
    names = [c.__ray_metadata__.class_name for c in (sync.PPOTrainer, asynchronous.TrainingActor, worker)]
    print("REACHED RAY", *names)
    raise SystemExit(0)
ray.init = stop
from openrlhf_pf.training.startup.launch import main
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


#: What is given on top of the smallest command line, and a part of the sentence that refuses it.
BAD = """
--sample_filter best_wurst | did you mean 'best_worst'
--sample_filter top --sample_filter_options high=1 high=2 | sample filter 'top' is given high twice
--sample_filter absent.py:Mine | absent.py
--sample_filter none --sample_filter_keep 2 | --sample_filter_keep has no effect with --sample_filter none
--sample_filter_seed 3 | --sample_filter_seed has no effect
--sample_filter_probe_every 3 | --sample_filter_probe_every has no effect with --sample_filter none
--prompt_selection_seed 3 | --prompt_selection_seed has no effect with --prompt_selection none
--prompt_selection vade --prompt_selection_options rate=1 | prompt selection 'vade' takes no rate
{SELECT} --rollout.n_samples_per_prompt 1 | but only 1 is drawn per prompt: raise --rollout.n_samples_per_prompt
{SELECT} --algo.dynamic_filtering_enable | both look for the same ones: leave one of them out
{SELECT} --prompt_selection_success score | --prompt_selection_success score needs true scores
{SELECT} --train.async_enable | give --reward.remote_url or an agent, or leave --train.async_enable out
{SELECT} --sample_filter_seed 1 | --sample_filter_seed has no
--prompt_selection vade | a local reward model's rewards are no successes: give the reward above which
{TOP} --sample_filter_keep 2 --sample_filter_mode reweight | has no effect with --sample_filter top and
{TOP} --algo.advantage.estimator rloo | needs the group of a prompt: choose gae or reinforce, or a filter
{TOP} --train.batch_size 32 | x at most 2 kept samples per prompt gives 16
--sample_filter best_worst --train.batch_size 12 | gives 16 samples, which is not a whole number of
--sample_filter best_worst --train.micro_batch_size 16 | must be a multiple of 32
--sample_filter best_worst --ds.tensor_parallel_size 4 | 4 workers share each sample, and a model has 2
--sample_filter best_worst --ref.num_gpus_per_node 3 | cannot share in whole micro-batches of 4
{BEST} --algo.advantage.estimator rloo | needs at least 2, but --sample_filter best_of_n keeps 1
--sample_filter best_worst --sample_filter_baseline group | has no effect with --algo.advantage.estimator gae
--sample_filter best_worst --sample_filter_drop_tolerance 0.1 | has no effect without --sample_filter_drop flat
--sample_filter_drop flat --sample_filter_drop_tolerance -1 | must be 0 or more, in units of the reward, got -1
--sample_filter_drop variance_top_p --sample_filter_drop_share 0 | must be above 0 and at most 1, got 0
--sample_filter_drop band | needs the lowest and the highest mean score of a prompt that trains
--sample_filter_drop band --sample_filter_drop_band 1 0 | must be the lower number first, got 1.0 0.0
--sample_filter_refill 2 | has no effect without a --sample_filter or a --sample_filter_drop
--sample_filter_drop flat --sample_filter_refill nan | must allow a step more than its 8 prompts, got a factor of nan
{REFILL} --algo.dynamic_filtering_enable | both replace prompts while a step is sampled: leave one of them out
--sample_filter best_worst --sample_filter_refill 2 | come when all are sampled: give --reward.remote_url or an agent
{REFILL} --sample_filter_drop variance_top_p {ASYNC} | make it --rollout.batch_size 8, or choose another
--sample_filter_stop_window 3 | has no effect without --sample_filter_stop_below R
--sample_filter_stop_below 1.5 | --sample_filter_stop_below must be above 0 and at most 1, got 1.5
--sample_filter_stop_below 0.5 | compares rewards with true scores, and a local reward model gives none
--sample_filter ensemble_agreement | ensemble_agreement compares several reward models, but there are none
--sample_filter best_worst --sample_filter_rank_by lower_bound | lower_bound compares several reward models
--sample_filter best_worst --sample_filter_reward_models a,a | needs two or more different checkpoints
--sample_filter best_worst --sample_filter_reward worst | combines several reward models, but there is one
--sample_filter best_worst --sample_filter_log {FILE}/log | /log
--sample_filter best_worst --sample_filter_probe p.jsonl | which learns nothing from true scores: choose adaptive
--sample_filter adaptive | learns from true scores, and a local reward model gives none: give prompts to learn
--sample_filter adaptive --sample_filter_probe p.jsonl | a local reward model gives none: name a reward_func
--sample_filter adaptive --sample_filter_probe_every 3 | has no effect without --sample_filter_probe DATA
{PROBE} --sample_filter_probe_every 0 | --sample_filter_probe_every must be 1 or more, got 0
{PROBE} | absent.py gives no reward_func (FileNotFoundError
--sample_filter auto | takes the filter from a report on the reward model
--sample_filter best_worst --sample_filter_report r.json | has no effect without --sample_filter auto
--sample_filter auto --sample_filter_report absent.json | 'absent.json' cannot be read
{AUTO} --sample_filter_options high=1 | --sample_filter_options cannot be combined with --sample_filter auto
{AUTO} --algo.advantage.estimator rloo | --sample_filter top_bottom draws from the whole batch
"""
GOOD = """
{AUTO}
--sample_filter best_worst
{BEST} --sample_filter_baseline group --algo.advantage.estimator rloo --train.batch_size 8
--sample_filter rank_weights --sample_filter_options weights=0.5,0,0,0,0.5
--sample_filter best_random --sample_filter_mode reweight --train.batch_size 32
{TOP} --sample_filter_keep 3
--sample_filter {EXAMPLES}/filters/custom_filter.py:ShortestCorrect
--sample_filter none --sample_filter_drop flat --train.batch_size 8
--sample_filter ensemble_agreement --sample_filter_reward_models a,b
--sample_filter best_worst --sample_filter_reward lower --sample_filter_reward_models b
"""
FLASH = """
{BEST} --sample_filter_baseline group --algo.advantage.estimator flash_reinforce --train.batch_size 8
{TOP} --sample_filter_baseline group --algo.advantage.estimator flash_reinforce
"""

TESTS = Path(__file__).parents[1]
WORDS = {
    "SELECT": "--prompt_selection vade --prompt_selection_success_above 0",
    "TOP": "--sample_filter top --sample_filter_options high=0.5",
    "BEST": "--sample_filter best_of_n --algo.advantage.estimator reinforce",
    "REFILL": "--sample_filter best_worst --sample_filter_refill 2 --reward.remote_url r.py",
    "ASYNC": "--train.async_enable --rollout.vllm_generate_batch_size 16",
    "PROBE": "--sample_filter adaptive --sample_filter_probe p.jsonl --sample_filter_probe_score absent.py",
    "AUTO": f"--sample_filter auto --sample_filter_report {TESTS / 'reports' / 'decided.json'}",
    "REPORTS": TESTS / "reports",
    "EXAMPLES": TESTS.parent / "examples",
    "FILE": __file__,
}
BAD = [tuple(line.format(**WORDS).split(" | ")) for line in BAD.strip().splitlines()]
GOOD = (GOOD + FLASH if HAS_FLASH_REINFORCE else GOOD).format(**WORDS).split("\n")
GOOD = [line for line in GOOD if line]
SEVERAL_MODELS = next(line for line in GOOD if "ensemble_agreement" in line)


SCRIPTS = sorted((TESTS.parent / "examples" / "scripts").glob("*.sh"))
TRUE_SCORE = TESTS.parent / "examples" / "true_score.py"


def commands_of(script: Path, folder: Path, **environment: str) -> list[list[str]]:
    """The commands that a script runs, word by word; stand-ins on PATH write them down and do nothing."""
    for name in ("ray", "deepspeed", "python3"):
        program = folder / name
        program.write_text(f'#!/usr/bin/env bash\nprintf "%s\\t" {name} "$@"\necho\n')
        program.chmod(0o755)
    given = {"POLICY": "p", "REWARD": "r", "PROMPTS": "d"}
    given |= {"REWARD_URL": "r.py", "PAIRS": "D.jsonl", "HELDOUT": "h.jsonl", "SCORE": str(TRUE_SCORE)}
    paths = {"PATH": f"{folder}:{os.environ['PATH']}", "OUTPUT": str(folder / "out")}
    written = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, check=True, env={**paths, **given, **environment}
    ).stdout
    return [line.rstrip("\t").split("\t") for line in written.splitlines()]


def submitted_by(script: Path, folder: Path) -> str:
    """The tab-separated arguments of the training by PPO that a script ends with."""
    *head, arguments = "\t".join(commands_of(script, folder)[-1]).partition("\t-m\topenrlhf.cli.train_ppo\t")
    assert head[0].startswith("ray\tjob\tsubmit") and arguments
    return arguments


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Every command line, by name, in one process, because importing vLLM takes ten seconds: (stdout, stderr) each."""
    minimal = "\t".join(MINIMAL)
    lines = {"none": minimal + "\t--sample_filter\tnone"}  # first: a filter leaves our trainers in the process
    undecided = f"--sample_filter auto --sample_filter_report {TESTS / 'reports' / 'undecided.json'}"
    lines["undecided"] = "\t".join([minimal, *undecided.split(), "--sample_filter_keep", "2"])
    lines |= {extra: "\t".join([minimal, *extra.split()]) for extra in [*(extra for extra, _ in BAD), *GOOD]}
    lines |= {script.stem: submitted_by(script, tmp_path_factory.mktemp("client")) for script in SCRIPTS}
    lines["help"] = "--help"
    in_a_cluster = {**os.environ, "RAY_ADDRESS": "auto"}  # where files may be on other nodes
    result = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input="\n".join(lines.values()),
        capture_output=True,
        text=True,
        env=in_a_cluster,
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


@pytest.mark.parametrize("extra", GOOD)
def test_a_filter_puts_our_trainers_in_place(launched, extra):
    assert "REACHED RAY FilteringPPOTrainer FilteringTrainingActor" in launched[extra][0], launched[extra][1]


def test_several_reward_models_put_our_worker_in_place_and_none_leaves_openrlhfs_own_trainers(launched):
    assert "EnsembleRewardModelActor" in launched[SEVERAL_MODELS][0]
    assert "EnsembleRewardModelActor" not in launched[GOOD[1]][0]
    assert "REACHED RAY PPOTrainer TrainingActor" in launched["none"][0]


def test_auto_takes_no_filter_if_the_report_recommends_none_and_prints_it_once(launched):
    out, err = launched["undecided"]
    line = "openrlhf_pf: the report recommends no sample filter (Filtering saves time only): all samples train.\n"
    assert (out + err).count(line) == 1 and "REACHED RAY PPOTrainer TrainingActor" in out


def test_help_lists_our_flags_in_a_group_of_their_own(launched):
    out, _ = launched["help"]
    theirs, _, ours = out.partition("policy filtration (openrlhf_pf)")
    assert "--rollout.n_samples_per_prompt" in theirs
    for flag in ("", *(f"_{flag}" for flag in FLAGS)):
        assert f"--sample_filter{flag}" in ours.split(), flag


@pytest.mark.parametrize("script", [script.stem for script in SCRIPTS])
def test_the_arguments_of_an_example_script_pass_the_real_parser_and_its_checks(launched, script):
    out, err = launched[script]
    assert "REACHED RAY Filtering" in out, out + err[-2000:]


def checked(words: list[str], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What OpenRLHF's own parser and checks, and ours for collect, make of a command; nothing is imported of it."""
    found = []
    own = argparse.ArgumentParser.parse_args

    def keep(args: SimpleNamespace) -> None:
        collect.check_arguments(args)
        found.append(args)

    def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
        flat = own(parser)
        found.append(nest(flat))
        return flat

    parts = {
        "openrlhf_pf.cli.collect": (launch.ENTRY_MODULE, launch._parser_with(collect.add_arguments, keep)),
        **{module: (module, parse_args) for module in ("openrlhf.cli.train_rm", "openrlhf.cli.train_sft")},
    }
    (module,) = parts.keys() & set(words)
    monkeypatch.setattr(sys, "argv", words[words.index(module) :])
    preflight(*parts[module])
    return found[0]


@pytest.mark.parametrize("flag", ["reward.remote_url", "train.agent_func_path"])
def test_code_that_python_cannot_read_is_refused_before_an_engine_loads_it(flag, tmp_path):
    file = tmp_path / "own.py"
    given = {"reward.remote_url": None, "train.agent_func_path": None, flag: str(file)}
    args = namespace(**given)
    data.check_user_code(args)  # OpenRLHF may find what is not there yet
    file.write_text("def reward_func(queries, prompts, labels):\n    return {'rewards': 1}\n")
    data.check_user_code(args)
    file.write_text("import json\nprogram = 'import time\nlater'\n")
    with pytest.raises(ValueError, match=rf"--{flag} .*own.py is no Python .*line 2\): fix it"):
        data.check_user_code(args)
    if flag == "reward.remote_url":
        args.reward.remote_url = ["http://localhost:5000/get", str(file)]  # as OpenRLHF has split it
        with pytest.raises(ValueError, match="line 2"):
            data.check_user_code(args)


BREAKS_THE_CONTRACT = """
import numpy as np
from openrlhf_pf import PromptSelection, SampleFilter

class Negative(SampleFilter):
    def weigh(self, batch):
        return -np.ones(batch.rewards.shape)

class Nothing(PromptSelection):
    def priorities(self, generator):
        return None
"""


def test_a_users_filter_or_selection_that_breaks_its_contract_is_refused_in_one_sentence(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(BREAKS_THE_CONTRACT)
    with pytest.raises(ValueError) as error:
        sample_filter.check_contract(namespace(sample_filter=f"{file}:Negative"))
    assert f"--sample_filter {file}:Negative fails the check 'weights': " in str(error.value)
    assert "none negative" in str(error.value) and "\n" not in str(error.value)
    sample_filter.check_contract(namespace(sample_filter="best_worst"))
    sample_filter.check_contract(namespace(sample_filter=f"{TESTS / 'end_to_end' / 'rotation.py'}:Group"))
    with pytest.raises(
        ValueError, match=f"--prompt_selection {file}:Nothing fails the check .*priorities must return"
    ):
        prompts.check_selection(namespace(prompt_selection=f"{file}:Nothing", **{"algo.dynamic_filtering_enable": 0}))


@pytest.mark.parametrize(
    "flag, name, missing",
    [
        ("reward.model_name_or_path", "./reward", True),
        ("critic.model_name_or_path", "models/critic/last", True),
        ("actor.model_name_or_path", "Qwen/Qwen2.5-0.5B", False),
        ("actor.model_name_or_path", "{tmp}", False),
        ("data.prompt_dataset", "OpenRLHF/prompts@data,{tmp}", False),
        ("eval.dataset", "eval.parquet", True),
        ("reward.remote_url", "http://localhost:5000/get,reward.py", True),
        ("train.agent_func_path", "agent.py", True),
        ("sample_filter_probe", "probe.jsonl", True),
        ("sample_filter_reward_models", "Qwen/A,{tmp}/B", True),
    ],
)
def test_a_missing_path_is_refused_unless_it_may_be_on_another_node(flag, name, missing, tmp_path, monkeypatch):
    names = {f"{model}.model_name_or_path": None for model in ("actor", "critic", "reward")}
    args = {**names, "data.prompt_dataset": None, "eval.dataset": None, flag: name.format(tmp=tmp_path)}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if missing:
        with pytest.raises(ValueError, match=f"--{flag} .*: there is no such file or directory; give one that exists"):
            data.check_paths(namespace(**args))
    else:
        data.check_paths(namespace(**args))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    data.check_paths(namespace(**args))


def test_each_step_of_the_loop_passes_its_parser_and_the_next_one_reads_what_it_wrote(tmp_path, monkeypatch):
    script = next(script for script in SCRIPTS if script.stem == "train_rlp")
    collecting, pairing, training, ppo = commands_of(script, tmp_path, SFT="s")
    args = checked(collecting, monkeypatch)
    assert collecting[:3] == ["ray", "job", "submit"] and args.actor.model_name_or_path == "p"
    assert args.rollout.n_samples_per_prompt == 10 and args.rollout.temperature == 1 and args.collect.unscored
    options = preferences.parser().parse_args(pairing[pairing.index("openrlhf_pf.cli.preferences") + 1 :])
    assert options.samples == [args.collect.output]

    args = checked(training, monkeypatch)
    assert training[:2] == ["deepspeed", "--module"] and args.model.model_name_or_path == "s"
    assert args.data.dataset == f"D.jsonl,{options.output}"
    flags = dict(itertools.pairwise(ppo))
    assert flags["--reward.model_name_or_path"] == flags["--critic.model_name_or_path"] == args.ckpt.output_dir
    assert flags["--actor.model_name_or_path"] == "s"


def test_true_scores_fine_tune_the_policy_that_ppo_trains(tmp_path, monkeypatch):
    script = next(script for script in SCRIPTS if script.stem == "train_true_scores")
    collecting, selecting, tuning, ppo = commands_of(script, tmp_path)
    args = checked(collecting, monkeypatch)
    assert args.collect.score == str(TRUE_SCORE) and args.actor.model_name_or_path == "p"
    *_, samples, right = selecting
    assert samples == args.collect.output
    args = checked(tuning, monkeypatch)
    assert (args.data.dataset, args.data.input_key, args.data.output_key) == (right, "input", "output")
    assert dict(itertools.pairwise(ppo))["--actor.model_name_or_path"] == args.ckpt.output_dir


def test_a_step_that_is_there_is_left_out(tmp_path):
    script = next(script for script in SCRIPTS if script.stem == "train_rlp")
    (tmp_path / "out" / "spg-reward").mkdir(parents=True)
    for name in ("spg.jsonl", "spg-reward/config.json"):
        (tmp_path / "out" / name).touch()
    names = [words[0] for words in commands_of(script, tmp_path)]
    assert names == ["ray", "ray"], "samples are gone on with by collect itself"
