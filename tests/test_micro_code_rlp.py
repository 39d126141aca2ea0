"""Reward learning on policy on micro-code: clusters, measures, tables, and which step gets what. No training."""

import itertools
import json

import numpy as np
import pytest
from rich.console import Console

from examples.micro_code import sampling
from examples.micro_code.config import PRESETS, override
from examples.micro_code.families import INPUTS
from examples.micro_code.phases import Run
from examples.micro_code.score import passes
from examples.micro_code.tasks import Task
from examples.studies.micro_code import clusters, rlp, rlp_results

PROGRAMS = [
    "def f(n):\n    return n + 3",
    "def f(n):\n    return 3 + n",
    "def f(n):\n    return n",
    "def f(n):\n    return float(n)",  # refused, as in the true score
    "def f(n):\n    return n / 1",
    "def f(n):\n    retun n",
    "def f(n):\n    return 9 // n",  # fails on 0 alone
    "def f(n):\n    return n if n else 3",  # as the first ones on 0 alone
]


def test_programs_are_grouped_by_what_they_return_and_broken_ones_stand_alone():
    label = json.dumps({"kind": "int"})  # no reference solution to look at
    groups = clusters.behaviour("# any\n", PROGRAMS, label)
    assert groups == [0, 0, 1, -1, 2, -1, -1, 3]
    assert clusters.behaviour("# any\n", PROGRAMS[2:3], label) == [0], "a group's number is the prompt's own"


def test_answers_of_the_references_group_are_those_that_pass():
    """A fact about clusters, which do not see the reference."""
    reference = PROGRAMS[0]
    groups = clusters.grouped("int", PROGRAMS)
    assert [passes(program, reference, "int") for program in PROGRAMS] == [group == groups[0] for group in groups]
    assert len(INPUTS["int"]) > 10


# ── measures ──

TASKS = [Task("f", "int", f"# {name}\n", "") for name in "ab"] + [Task("f", "int", "# no pair\n", "")]


def test_pairs_are_ranked_right_by_prompt():
    pairs = [{"prompt": "# a\n", "chosen": chosen, "rejected": "z"} for chosen in "xyw"]
    pairs += [{"prompt": "# b\n", "chosen": "x", "rejected": "z"}]
    reward = {"# a\nx": 2.0, "# a\ny": 0.0, "# a\nw": 1.0, "# a\nz": 1.0, "# b\nx": 5.0, "# b\nz": 1.0}
    # a: right, wrong, equal; b: right
    assert rlp_results.ranked_right(pairs, TASKS, reward) == pytest.approx([0.5, 1.0, np.nan], nan_ok=True)


def planted(folder, seed, stages, policy="ppo", warnings=()):
    """A finished run: every stage's accuracy, pass@1 and spread lie so far from the first one's."""
    rng = np.random.default_rng(seed)
    fresh, passed, spread = rng.random(60), rng.random(40), 1 + rng.random(60)
    fresh[::7] = np.nan
    arrays = {"passed_sft": passed - 0.2}
    for stage, (accuracy, share, ratio) in {"first": (0, 0, 1), **stages}.items():
        arrays |= {f"fresh_{stage}": fresh + accuracy, f"original_{stage}": fresh[:30]}
        arrays |= {f"passed_{stage}": passed + share, f"spread_{stage}": spread * ratio}
    (folder / "phases").mkdir(parents=True)
    np.savez(folder / "measures.npz", **arrays)
    (folder / "rlp.json").write_text(json.dumps({"seed": seed, "policy": policy, "methods": [], "rounds": 1}))
    report = {"prompts": 50, "used": 20, "accuracy": {"spg": 0.75, "select_all": 0.7, "ranked": 0.6}}
    record = {"result": {**report, "warnings": list(warnings)}}
    (folder / "phases" / "preferences-first.json").write_text(json.dumps(record))
    return folder


def test_differences_are_paired_over_seeds_and_prompts(tmp_path):
    one = planted(tmp_path / "1", 1, {"spg": (0.1, 0.05, 1), "uml": (0, 0, 0.7)})
    two = planted(tmp_path / "2", 2, {"spg": (0.3, -0.05, 1)})
    found = rlp_results.results([one, two])
    assert list(found["stages"]) == ["first", "spg", "sft"], "a method that one of the runs lacks is left out"
    fresh, passed = found["stages"]["spg"]["fresh"], found["stages"]["spg"]["passed"]
    # Every prompt differs by .1 in one seed and by .3 in the other: between seeds is all that varies.
    assert fresh["difference"] == pytest.approx(0.2) and fresh["interval"] == pytest.approx([0.1, 0.3])
    assert passed["difference"] == pytest.approx(0) and passed["interval"] == pytest.approx([-0.05, 0.05])
    assert fresh["by_seed"][1] - found["stages"]["first"]["fresh"]["by_seed"][1] == pytest.approx(0.3)
    assert found["stages"]["sft"].keys() == {"passed"}
    alone = rlp_results.results([one])["stages"]["spg"]["passed"]
    assert alone["interval"] == pytest.approx([0.05, 0.05]), "paired over tasks"


def test_another_stage_can_be_what_the_others_are_compared_with(tmp_path):
    run = planted(tmp_path / "1", 1, {"spg": (0.3, 0.1, 1), "again": (0.1, 0.1, 1)})
    found = rlp_results.results([run], "again")
    stages = found["stages"]
    assert stages["spg"]["fresh"]["difference"] == pytest.approx(0.2) and "difference" not in stages["again"]["fresh"]
    assert stages["first"]["fresh"]["difference"] == pytest.approx(-0.1)
    assert "| pass@1 | to again [95%] |" in rlp_results.table(found)


def test_the_table_has_a_row_a_seed_and_a_row_a_stage(tmp_path):
    found = rlp_results.results([planted(tmp_path / "1", 1, {"spg": (0.1, 0.05, 1)})])
    lines = rlp_results.table(found).splitlines()
    assert "| 1 | first | 40% | 0.750 | 0.700 | 0.600 |" in lines
    (row,) = [line for line in lines if line.startswith("| RLP-SPG")]
    assert "+0.100 [+0.100, +0.100]" in row and "+0.050 [+0.050, +0.050]" in row and "100%" in row
    assert len({line.count("|") for line in lines[lines.index("") + 1 :]}) == 1


def test_a_flat_reward_model_and_wrong_pairs_are_warned_of(tmp_path):
    run = planted(
        tmp_path / "1", 4, {"uml": (0, 0, 0.79), "spg": (0, 0, 0.81)}, warnings=["The pairs are mostly wrong."]
    )
    notes = rlp_results.cautions(rlp_results.results([run]))
    assert notes[0].startswith("uml: rewards within a prompt spread 79% as far")
    assert notes[1:] == ["seed 4, pairs of the first policy: The pairs are mostly wrong."]


@pytest.mark.parametrize(
    "warnings, words", [([], "no negative control"), (["They teach noise."], "policy: They teach noise.")]
)
def test_an_overoptimised_policy_whose_majority_is_right_is_no_negative_control(tmp_path, warnings, words):
    run = planted(tmp_path / "1", 4, {}, policy="overoptimised", warnings=warnings)
    (note,) = rlp_results.cautions(rlp_results.results([run]))
    assert words in note


def test_views_that_share_no_information_are_warned_of(tmp_path):
    run = planted(tmp_path / "1", 4, {"uml": (0, 0, 1), "spg": (0, 0, 1)})
    for name, result in {"uml": {"information": 0.04}, "spg": {}}.items():
        (run / "phases" / f"{name}-reward.json").write_text(json.dumps({"result": result}))
    found = rlp_results.results([run])
    assert found["stages"]["uml"]["information"] == {"mean": 0.04, "by_seed": [0.04]}
    (note,) = rlp_results.cautions(found)
    assert note.startswith("uml: two answers to a prompt share 0.040 nats")
    (run / "phases" / "uml-reward.json").write_text(json.dumps({"result": {"information": 0.4}}))
    assert rlp_results.cautions(rlp_results.results([run])) == []


def test_runs_that_do_not_compare_are_refused(tmp_path):
    one, hard = planted(tmp_path / "1", 1, {}), planted(tmp_path / "2", 2, {}, policy="overoptimised")
    with pytest.raises(ValueError, match="different policies"):
        rlp_results.results([one, hard])
    with pytest.raises(ValueError, match="not each of these runs has a stage 'again'"):
        rlp_results.results([one], "again")
    with pytest.raises(ValueError, match="holds no finished run"):
        rlp_results.results([tmp_path])
    assert rlp.main(["--table", str(one), str(tmp_path)]) == 1


# ── steps ──


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A loop over a base study whose models are there, and the commands that it has run."""
    study = override(PRESETS["quickstart"], ["seed=3"])
    base = Run(study, tmp_path / "base")
    for name in ("sft", "reward", "ppo/final"):
        base.path("models", name).mkdir(parents=True)
        base.path("models", name, "model.safetensors").write_bytes(name.encode())
    tasks = [Task("f", "int", f"# {n}\n", "def f(n):\n    return n") for n in range(302)]
    rlp._write_rows(base.path("data", "prompts.jsonl"), [vars(task) for task in tasks])
    ran = []

    def train(run, name, command, launcher=None):
        flags = dict(itertools.pairwise(command))
        ran.append((name, command[0], flags))
        if command[0] == "openrlhf_pf.cli.preferences":
            report = {"prompts": 2, "used": 1, "pairs": 1, "lead": None, "warnings": ["careful"], "accuracy": None}
            report["skipped"] = {}
            rlp.Path(flags["--output"] + ".report.json").write_text(json.dumps(report))
        if command[0] == "openrlhf_pf.cli.weigh_pairs":
            rlp._write_rows(rlp.Path(flags["--output"]), [{"margin": weight} for weight in (0.5, 1.5)])

    monkeypatch.setattr(rlp, "_train", train)
    monkeypatch.setattr(rlp, "finish_reward_model", lambda output: {"heldout_accuracy": 0.5})
    curve = [(step, step / 10) for step in range(8)]
    monkeypatch.setattr(rlp, "scalars", lambda directory: {"train/rlp/mi_nwj": curve})

    def made(config=None):
        return rlp.Loop(base, tmp_path / "out", "ppo", Console(quiet=True), config)

    return made, ran


def test_each_method_trains_on_what_it_is(steps, tmp_path):
    made, ran = steps
    stages = made().stages(["spg", "uml", "again"], 1)
    assert [stage.name for stage in stages] == ["first", "spg", "uml", "again"]
    models = [module for _, module, _ in ran]
    assert models.count("openrlhf_pf.cli.collect") == 1, "the samples of the first policy serve both"
    flags = {name: found for name, _, found in ran}
    base, out = tmp_path / "base", tmp_path / "out"
    collected = flags["collect-first"]
    assert collected["--actor.model_name_or_path"] == str(base / "models" / "ppo" / "final")
    assert collected["--rollout.n_samples_per_prompt"] == "10"
    labels = [json.loads(line)["label"] for line in (out / "data" / "prompts.jsonl").read_text().splitlines()]
    assert len(labels) == 2, "the 300 prompts that no reward model trains on are left out"
    pairs, made_pairs = base / "data" / "pairs.jsonl", out / "data" / "first-spg.jsonl"
    assert flags["preferences-first"]["--output"] == str(made_pairs)
    assert flags["spg-reward"]["--data.dataset"] == f"{pairs},{made_pairs}"
    assert flags["uml-reward"]["--data.dataset"] == flags["again-reward"]["--data.dataset"] == str(pairs)
    assert flags["uml-reward"]["--policy_samples"] == str(out / "samples" / "first")
    assert (flags["spg-reward"]["--train.seed"], flags["again-reward"]["--train.seed"]) == ("3", "1003")
    record = json.loads((out / "phases" / "uml-reward.json").read_text())
    assert record["result"]["information"] == pytest.approx(0.65), "the mean of the last quarter, .6 and .7"
    modules = {name: module for name, module, _ in ran}
    assert modules["uml-reward"] == "openrlhf_pf.cli.train_rm" and modules["spg-reward"] == "openrlhf.cli.train_rm"
    for method in ("spg", "uml", "again"):
        assert flags[method]["--actor.model_name_or_path"] == str(base / "models" / "sft")
        assert flags[method]["--reward.model_name_or_path"] == str(out / "models" / f"{method}-reward")
        assert flags[method]["--data.prompt_dataset"] == str(base / "data" / "ppo_prompts.jsonl")


def test_old_pairs_are_weighted_for_the_policy_without_samples_of_it(steps, tmp_path):
    made, ran = steps
    made().stages(["ocrm"], 1)
    base, out = tmp_path / "base", tmp_path / "out"
    assert [module.split(".")[-1] for _, module, _ in ran] == ["weigh_pairs", "train_rm", "train_ppo"]
    weighing, training = ran[0][2], ran[1][2]
    assert weighing["--policy"] == str(base / "models" / "ppo" / "final")
    assert weighing["--reference"] == str(base / "models" / "sft")
    assert training["--data.dataset"] == weighing["--output"] == str(out / "data" / "first-weighted.jsonl")
    assert ran[1][1] == "openrlhf_pf.cli.train_rm"
    record = json.loads((out / "phases" / "weights-first.json").read_text())
    assert record["result"] == {"effective": 0.8, "largest": 1.5}


def test_controls_train_as_long_as_what_they_are_for(steps, tmp_path):
    made, ran = steps
    base, out = tmp_path / "base", tmp_path / "out"
    rows = [{"prompt": "p", "chosen": str(n), "rejected": "x"} for n in range(64)]
    rlp._write_rows(base / "data" / "pairs.jsonl", rows)
    rlp._write_rows(out / "data" / "first-spg.jsonl", rows[:40])
    made().stages(["longer", "uml_ramp"], 1)
    flags = {name: found for name, _, found in ran}
    repeated = out / "data" / "repeated.jsonl"
    assert flags["longer-reward"]["--data.dataset"] == f"{base / 'data' / 'pairs.jsonl'},{repeated}"
    assert flags["longer-reward"]["--train.seed"] == "1003"
    again = rlp._read_rows(repeated)
    assert len(again) == 40 == len({row["chosen"] for row in again}) and all(row in rows for row in again)
    assert flags["uml_ramp-reward"]["--policy_samples_ramp"] == "1", "64 pairs in batches of 32, half of one epoch's"


def test_finished_steps_are_kept_under_their_settings(steps, tmp_path):
    made, ran = steps
    made().stages(["spg"], 1)
    first = len(ran)
    made().stages(["spg"], 1)
    assert len(ran) == first == 4
    (tmp_path / "out" / "phases" / "spg.json").unlink()
    made().stages(["spg"], 1)
    assert [name for name, _, _ in ran[first:]] == ["spg"]
    made(rlp.RLPConfig(threshold=0.7)).stages(["spg"], 1)
    assert len(ran) == first + 1 + 4
    (tmp_path / "base" / "models" / "reward" / "model.safetensors").write_bytes(b"trained anew")
    made(rlp.RLPConfig(threshold=0.7)).stages(["spg"], 1)
    assert len(ran) == first + 1 + 8


def test_a_second_round_begins_with_what_the_first_has_made(steps, tmp_path):
    made, ran = steps
    stages = made().stages(["spg"], 2)
    assert [stage.name for stage in stages] == ["first", "spg", "spg-2"]
    flags = {name: found for name, _, found in ran}
    models = tmp_path / "out" / "models"
    assert flags["collect-spg"]["--actor.model_name_or_path"] == str(models / "spg" / "final")
    assert flags["collect-spg"]["--reward.model_name_or_path"] == str(models / "spg-reward")
    assert flags["spg-2-reward"]["--data.dataset"].endswith(",".join(["", str(tmp_path / "out/data/spg-spg.jsonl")]))


def test_a_base_with_other_settings_is_refused(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "study.json").write_text(json.dumps(override(PRESETS["study"], ["seed=3"]).as_dict()))
    parse = lambda *more: rlp.parse(["--output", str(tmp_path), *more])  # noqa: E731
    assert rlp.base_study(base, parse()).seed == rlp.base_study(base, parse("--seed", "3")).seed == 3
    assert rlp.base_study(base, parse("--policy", "overoptimised")).overoptimised.kl == 0.001
    with pytest.raises(ValueError, match="holds a study with other settings"):
        rlp.base_study(base, parse("--seed", "4"))
    assert rlp.base_study(tmp_path / "none", parse("--seed", "4")).seed == 4
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no earlier run"):
        rlp.loop(parse(), Console(quiet=True))


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
