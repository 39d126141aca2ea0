"""Studies of micro-code: arms, judges, reward models, comparisons, reward learning. No training."""

import itertools
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from examples.micro_code import sampling
from examples.micro_code.config import PRESETS, PPOConfig, override
from examples.micro_code.phases import Run, read_rows, write_rows
from examples.micro_code.score import passes
from examples.micro_code.tasks import Task
from examples.studies import tables
from examples.studies.micro_code import arms, clusters, frozen_judge, judge, rewards, rlp, rlp_results, runs
from examples.studies.micro_code.uncertainty import find_wrong_signs, measure, measure_members

SAME = "def f(n):\n    return n"


@pytest.fixture
def made(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "study.json").write_text(json.dumps(PRESETS["quickstart"].as_dict()))
    return runs.Runs(base, tmp_path / "out")


# ── Arms ──


def test_an_arm_and_its_variants_change_what_they_name():
    base = PPOConfig(steps=16)
    plain = arms.config_of(base, "best_worst")
    assert (plain.sample_filter, plain.keep, plain.flags) == ("best_worst", 2, ())
    both = arms.config_of(base, "random+group+updates")
    assert both.weights == (1.0,) * 5 and both.batch_size == 32
    assert both.flags == ("--algo.advantage.estimator", "rloo", "--sample_filter_baseline", "group")
    assert both.actor_updates(16) == 2 * arms.config_of(base, "random").actor_updates(16) == 52
    assert arms.config_of(base, "ranks_2_4").weights == (0, 1, 0, 1, 0)
    assert arms.config_of(base, "judge_none").flags[1] == arms.JUDGES["judge"]
    everything, some = arms.config_of(base, "none+n16"), arms.config_of(base, "random+n16")
    assert (everything.samples, everything.keep) == (16, 16)
    assert (some.samples, some.keep, some.weights) == (16, 2, (1.0,) * 16)
    assert arms.probe_flags(plain, Path("p")) == () != arms.probe_flags(arms.config_of(base, "adaptive"), Path("p"))


@pytest.mark.parametrize("name", [*arms.ARMS, "ranks_2_5", "judge_none", "frozen_best_worst"])
def test_every_arm_trains_whole_batches_of_kept_samples(name):
    config = arms.config_of(PRESETS["study"].ppo, name)
    kept = config.rollout_prompts * config.keep
    assert kept % config.batch_size == 0 and config.batch_size % config.micro_batch_size == 0
    assert len(config.weights) in (0, config.samples)
    assert config.keep == config.samples or config.sample_filter != "none"


@pytest.mark.parametrize(
    "name, message", [("nome", "no arm 'nome'"), ("none+lr", "no variant 'lr'"), ("judge_top", "no arm 'judge_top'")]
)
def test_an_unknown_arm_or_variant_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        arms.config_of(PPOConfig(), name)


# ── Judges and reward models ──


def test_the_judge_is_accurate_at_the_extremes_and_its_errors_are_independent(monkeypatch):
    monkeypatch.setattr(judge, "_CALLS", Counter())
    monkeypatch.setattr(judge, "_TRUE_SCORE", lambda queries, *_: {"rewards": [float(q[-1]) for q in queries]})
    queries = [f"{i} {i % 2}" for i in range(4000)]
    first, second = (np.array(judge.reward_func(queries, queries, queries)["rewards"]) for _ in range(2))
    right = np.arange(4000) % 2 * 2 - 1
    extreme = np.abs(first) > judge.END
    assert (np.sign(first) == right)[extreme].all() and extreme.mean() == pytest.approx(judge.SURE, abs=0.03)
    assert (np.sign(first) == right)[~extreme].mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(first - right * extreme, second - right * extreme)[0, 1]) < 0.1
    monkeypatch.setattr(judge, "_CALLS", Counter())
    shuffled = judge.reward_func(queries[::-1], queries, queries)["rewards"][::-1]
    assert shuffled == first.tolist(), "the order of queries does not matter"
    monkeypatch.setitem(frozen_judge._JUDGE, "_TRUE_SCORE", judge._TRUE_SCORE)
    for _ in range(2):
        assert frozen_judge.reward_func(queries, queries, queries)["rewards"] == first.tolist(), "errors repeat"


def test_reward_models_change_the_pairs_they_should():
    rows = [{"prompt": "p", "chosen": f"def f(n):\n    return {n}", "rejected": SAME} for n in range(10)] * 100
    broken = [row | {"rejected": "def f(n) retun"} for row in rows]
    swapped = [rewards.swap(row) for row in rows]
    assert rewards.change_pairs(rows, "given", 1) == rows
    assert sorted(map(str, rewards.change_pairs(rows, "twice", 1))) == sorted(map(str, rows * 2))
    assert len(rewards.change_pairs(rows, "fewer16", 1)) == pytest.approx(1000 / 16, abs=25)
    for name in ("noise40", "close40"):
        found = rewards.change_pairs(rows, name, 1)
        assert np.mean([a == b for a, b in zip(found, swapped)]) == pytest.approx(0.4, abs=0.05)
    assert rewards.change_pairs(broken, "close40", 1) == broken, "programs that do not parse lose"
    assert rewards.change_pairs(rows, "exploit", 1) == rows, "7, 8 and 9 are chosen already"
    assert rewards.change_pairs(swapped[7:9], "exploit", 1) == rows[7:9]
    with pytest.raises(ValueError, match="there is no reward model 'best'"):
        rewards.change_pairs(rows, "best", 1)


# ── Runs ──


def test_a_run_is_kept_under_its_settings(made, monkeypatch):
    assert made.study == PRESETS["quickstart"]
    paths = {made.path("none", 1), made.path("none", 2), made.path("random", 1)}
    assert len(paths) == 3 and made.path("none", 1) in paths
    here = made.path("judge_none", 1)
    monkeypatch.setitem(arms.JUDGES, "judge", "/elsewhere/judge.py")
    assert made.path("judge_none", 1) == here, "a reward function of the examples is the same in another checkout"


def test_sigterm_ends_the_trainers_too(made, monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    closed = []
    monkeypatch.setattr(made.run.one_ray, "close", lambda: closed.append(True))
    monkeypatch.setattr(made, "train", lambda arm, seed: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5))
    try:
        with pytest.raises(SystemExit):
            made.make([("none", 1)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert closed


def plant(made, arm, seed, scores):
    directory = made.path(arm, seed)
    directory.mkdir(parents=True)
    np.savez(directory / "scores.npz", **dict.fromkeys("4 8 12".split(), np.zeros_like(scores)), **{"16": scores})
    curves = {"train/kl": [[1, 0.5], [2, 0.25]], "train/timing/step_total": [[1, 5.0], [2, 1.0]]}
    (directory / "curves.json").write_text(json.dumps(curves))


def add_base(made, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.json").write_text(json.dumps({**PRESETS["quickstart"].as_dict(), "seed": 2}))
    return [made, runs.Runs(other, made.output)]


def test_arms_are_paired_over_seeds_and_tasks(made):
    rng = np.random.default_rng(0)
    for seed in (1, 2):
        easy = rng.random((300, 1))
        plant(made, "none", seed, rng.random((300, 8)) < easy)
        plant(made, "random", seed, rng.random((300, 8)) < easy * 0.8)
    plant(made, "best_worst", 1, np.ones((300, 8), bool))
    none, random, best = runs.compare([made], ["none", "random", "best_worst"], [1, 2, 3])
    assert (none["runs"], random["runs"], best["runs"]) == (2, 2, 1)
    assert none["difference"] == 0 and none["kl"] == 0.375 and none["by_step"][8] == 0
    assert none["step_seconds"] == 3 and none["informative"] is None
    low, high = random["interval"]
    assert low < random["difference"] < high < 0 and random["difference"] == pytest.approx(-0.1, abs=0.03)


def test_arms_are_paired_over_bases_and_compared_at_equal_updates(made, tmp_path):
    bases = add_base(made, tmp_path)
    for level, base in zip((0.2, 0.8), bases):
        plant(base, "none", 1, np.full((300, 8), level))
        plant(base, "random", 1, np.full((300, 8), level + 0.1))
    none, random = runs.compare(bases, ["none", "random"], [1])
    assert none["by_run"] == [0.2, 0.8] and random["difference"] == pytest.approx(0.1)
    assert random["interval"] == pytest.approx((0.1, 0.1))
    # random takes 2 updates a step, none 5: its end is compared with step 8, where planted scores are 0.
    assert none["to_first_after_step"] == 12 and random["to_first_after_step"] == 8
    assert random["difference_then"] == pytest.approx(0.6) and random["interval_then"][0] > 0.2


def test_seeds_of_one_base_do_not_count_as_bases(made, tmp_path):
    """Two bases that differ by 0.2 with ten seeds each are two studies, not twenty."""
    bases, seeds = add_base(made, tmp_path), list(range(1, 11))
    for gain, base in zip((0.0, 0.2), bases):
        for seed in seeds:
            plant(base, "none", seed, np.full((300, 8), 0.4))
            plant(base, "random", seed, np.full((300, 8), 0.4 + gain))
    _, random = runs.compare(bases, ["none", "random"], seeds)
    assert random["runs"] == 20 and random["interval"] == pytest.approx((0, 0.2))


def test_figure_and_table_show_the_compared_numbers(made, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for arm, level in {"none": 0.5, "random": 0.3, "best_worst": 0.5}.items():
        plant(made, arm, 1, rng.random((300, 8)) < level)
    file = tmp_path / "f.json"
    flags = ["--base", str(made.base), "--output", str(made.output), "--table", "--json", str(file)]
    assert runs.main(flags) == 0
    _, random, best = json.loads(file.read_text())
    tables.main(["--figures", str(file)])
    description = ElementTree.parse(tmp_path / "f.svg").find("{http://www.w3.org/2000/svg}desc").text
    shown = tables.show([random["difference"], *random["interval"]])
    assert description.startswith(f"best_worst {best['difference']:+.3f}") and f"random {shown}" in description
    capsys.readouterr()
    tables.main([str(file)])
    assert f"| random | 1 | {random['updates']} | {random['pass_at_1']:.3f} | {shown} |" in capsys.readouterr().out
    assert runs.main([*flags, "--arms", "nome"]) == 1


RESULTS = sorted(Path(runs.__file__).parents[1].glob("*/results/*.json"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_every_committed_result_has_a_table(file):
    found = tables.tables_of(json.loads(file.read_text()))
    assert found.count("|") > 10 or file.stem == "overoptimisation"  # courses without intervals


# ── Reward learning on policy ──

PROGRAMS = [
    "def f(n):\n    return n + 3",
    "def f(n):\n    return 3 + n",
    SAME,
    "def f(n):\n    return float(n)",  # refused, as in the true score
    "def f(n):\n    return n / 1",
    "def f(n):\n    retun n",
    "def f(n):\n    return 9 // n",  # fails on 0 only
    "def f(n):\n    return n if n else 3",  # as the first ones on 0 only
]


def test_programs_are_grouped_by_their_outputs_and_broken_ones_stand_alone():
    label = json.dumps({"kind": "int"})  # without the reference solution
    groups = clusters.behaviour("# any\n", PROGRAMS, label)
    assert groups == [0, 0, 1, -1, 2, -1, -1, 3] == clusters.group("int", PROGRAMS)
    assert [passes(program, PROGRAMS[0], "int") for program in PROGRAMS] == [group == 0 for group in groups]


def test_pairs_are_ranked_right_by_prompt():
    tasks = [Task("f", "int", f"# {name}\n", "") for name in ("a", "b", "no pair")]
    pairs = [{"prompt": "# a\n", "chosen": chosen, "rejected": "z"} for chosen in "xyw"]
    pairs += [{"prompt": "# b\n", "chosen": "x", "rejected": "z"}]
    reward = {"# a\nx": 2.0, "# a\ny": 0.0, "# a\nw": 1.0, "# a\nz": 1.0, "# b\nx": 5.0, "# b\nz": 1.0}
    # a: right, wrong, equal; b: right
    assert rlp_results.rank_pairs(pairs, tasks, reward) == pytest.approx([0.5, 1.0, np.nan], nan_ok=True)


def plant_rlp(folder, seed, stages, policy="ppo"):
    """A finished run: every stage's accuracy and pass@1 differ so much from the first one's."""
    rng = np.random.default_rng(seed)
    fresh, passed = rng.random(60), rng.random(40)
    fresh[::7] = np.nan
    arrays = {"passed_sft": passed - 0.2}
    for stage, (accuracy, share) in {"first": (0, 0), **stages}.items():
        arrays |= {
            f"fresh_{stage}": fresh + accuracy,
            f"original_{stage}": fresh[:30],
            f"passed_{stage}": passed + share,
        }
    folder.mkdir()
    np.savez(folder / "measures.npz", **arrays)
    (folder / "rlp.json").write_text(json.dumps({"seed": seed, "policy": policy, "methods": []}))
    return folder


def test_rlp_differences_are_paired_over_seeds_and_prompts(tmp_path):
    one = plant_rlp(tmp_path / "1", 1, {"spg": (0.1, 0.05), "longer": (0, 0)})
    two = plant_rlp(tmp_path / "2", 2, {"spg": (0.3, -0.05)})
    found = rlp_results.results([one, two])
    assert list(found["stages"]) == ["first", "spg", "sft"], "a method that one of the runs lacks is left out"
    spg = found["stages"]["spg"]
    # Every prompt differs by 0.1 in one seed and by 0.3 in the other: only seeds vary.
    assert spg["policy's pairs, minus first"] == pytest.approx([0.2, 0.1, 0.3])
    assert spg["pass@1, minus first"] == pytest.approx([0, -0.05, 0.05])
    against = rlp_results.results([one], "spg")["stages"]["first"]
    assert against["policy's pairs, minus spg"] == pytest.approx([-0.1] * 3), "paired over tasks"
    assert "| stages | policy's pairs, minus first | original pairs, minus first |" in tables.tables_of(found)


def test_rlp_runs_that_do_not_compare_are_refused(tmp_path):
    one, hard = plant_rlp(tmp_path / "1", 1, {}), plant_rlp(tmp_path / "2", 2, {}, policy="overoptimised")
    for directories, against, message in (
        ([one, hard], "first", "different policies"),
        ([one], "again", "not each of these runs has a stage 'again'"),
        ([tmp_path], "first", "holds no finished run"),
    ):
        with pytest.raises(ValueError, match=message):
            rlp_results.results(directories, against)
    assert rlp.main(["--table", str(one), str(tmp_path), "--output", str(tmp_path / "t.json")]) == 1


def test_each_rlp_method_trains_on_its_own_data(tmp_path, monkeypatch):
    base, out = Run(override(PRESETS["quickstart"], ["seed=3"]), tmp_path / "base"), tmp_path / "out"
    for name in ("sft", "reward", "ppo/final"):
        base.path("models", name).mkdir(parents=True)
        base.path("models", name, "model.safetensors").write_bytes(name.encode())
    write_rows(base.path("data", "prompts.jsonl"), [vars(Task("f", "int", f"# {n}\n", SAME)) for n in range(302)])
    write_rows(base.path("data", "pairs.jsonl"), [{"prompt": "p", "chosen": str(n)} for n in range(64)])
    ran = {}

    def train(run, name, command, variables=None):
        assert name not in ran, "a finished step is not repeated"
        ran[name] = {"module": command[0], **dict(itertools.pairwise(command))}
        if name == "preferences":
            write_rows(Path(ran[name]["--output"]), [{}] * 40)
            report = {"prompts": 2, "used": 1, "pairs": 1, "warnings": ["careful"], "accuracy": None}
            Path(ran[name]["--output"] + ".report.json").write_text(json.dumps(report))

    monkeypatch.setattr(rlp, "train_in_process", train)
    monkeypatch.setattr(rlp, "train_on_ray", train)
    monkeypatch.setattr(rlp, "finish_reward_model", lambda output: {"heldout_accuracy": 0.5})
    monkeypatch.setattr(rlp.Loop, "evaluate", lambda *_: {})
    for _ in range(2):
        rlp.Loop(base, out, "ppo", Console(quiet=True)).run_all(rlp.METHODS)
    assert ran["collect-first"]["--actor.model_name_or_path"] == str(base.path("models", "ppo", "final"))
    assert len(read_rows(out / "data" / "prompts.jsonl")) == 2, "prompts that train no reward model are left out"
    pairs, made = base.path("data", "pairs.jsonl"), out / "data" / "first-spg.jsonl"
    data = {method: ran[f"{method}-reward"]["--data.dataset"] for method in rlp.METHODS}
    repeated = out / "data" / "repeated.jsonl"
    assert data == {"spg": f"{pairs},{made}", "again": str(pairs), "longer": f"{pairs},{repeated}"}
    assert len(read_rows(repeated)) == 40, "longer has as many rows as spg"
    assert ran["preferences"]["openrlhf_pf.cli.preferences"] == str(out / "samples" / "first")
    assert [ran[f"{method}-reward"]["--train.seed"] for method in rlp.METHODS] == ["3", "1003", "1003"]
    for method in rlp.METHODS:
        assert ran[method]["--actor.model_name_or_path"] == str(base.path("models", "sft"))
        assert ran[method]["--reward.model_name_or_path"] == str(out / "models" / f"{method}-reward")


def test_an_rlp_base_with_other_settings_is_refused(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "study.json").write_text(json.dumps(override(PRESETS["study"], ["seed=3"]).as_dict()))
    quiet = Console(quiet=True)
    with pytest.raises(ValueError, match="holds a study with other settings"):
        rlp.run_loop(rlp.parse(["--output", str(tmp_path), "--seed", "4"]), quiet)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no earlier run"):
        rlp.run_loop(rlp.parse(["--output", str(tmp_path)]), quiet)


def test_rewards_are_those_of_openrlhfs_own_model(tmp_path):
    pytest.importorskip("openrlhf")
    import torch
    from openrlhf.models import get_llm_for_sequence_regression
    from tiny_model import write_model
    from transformers import AutoTokenizer

    policy = write_model(tmp_path / "policy", seed=0)
    torch.manual_seed(1)
    options = {"init_value_head": True, "attn_implementation": "eager", "param_dtype": "bf16"}
    model = get_llm_for_sequence_regression(str(policy), "reward", **options).float().eval()
    model.save_pretrained(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.save_pretrained(tmp_path / "reward")
    texts = ["add 1", "a much longer text than the others are", "b", "add 2 + 2?"]
    expected = []
    for text in texts:
        ids = tokenizer(f"{text} <eos>", return_tensors="pt", add_special_tokens=False)["input_ids"]
        assert ids[0, -1] == tokenizer.eos_token_id
        expected.append(model(ids, torch.ones_like(ids)).item())
    assert np.std(expected) > 1e-3
    assert sampling.rewards_of(tmp_path / "reward", texts, batch_size=3) == pytest.approx(expected, abs=1e-5)


def test_uncertainty_is_measured_against_the_sign_of_the_true_advantage():
    rewards, scores = np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    assert find_wrong_signs(rewards, scores, np.array([[0.0, 0.1], [0.9, 1.0]])) == 1  # the second prompt is wrong
    assert find_wrong_signs(rewards, scores, np.array([[0.9, 0.1], [0.5, 0.5]])) == 0.5


def test_members_of_own_errors_are_right_together_more_often_than_alone():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 5))
    members = {f"member{i}": scores + rng.normal(size=scores.shape) + 9 * i for i in range(5)}
    found = measure_members(members | {"average": members["member0"], "longer": -scores}, scores)
    assert found["mean_of_members"] > found["one_member"] + 0.08 and found["longer"] == 0
    assert found["correlation"] == pytest.approx(0.5, abs=0.04) and found["factor"] == pytest.approx(1.291, abs=0.04)
    assert found["auc_members"] == pytest.approx(0.5, abs=0.05)


def test_outliers_are_samples_of_states_that_the_first_policy_does_not_have():
    rng = np.random.default_rng(0)
    rewards, scores = rng.normal(size=(60, 5)), rng.integers(0, 2, (60, 5)).astype(float)
    states = rng.normal(size=(60, 5, 3))
    found = measure([rewards, rewards], [states, states + 9], [scores, scores], 30)
    assert found["outliers"] == [pytest.approx(0.01, abs=0.01), 1]
    assert found["accuracy"][0] == found["accuracy"][1]
