"""The micro-code task: generator, hidden tests, bugs, tokenizer, pairs and configuration. Needs no Ray, vLLM or
OpenRLHF.
"""

import doctest
import itertools
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import true_score as last_number  # noqa: E402
from examples.micro_code import one_ray, score, true_score  # noqa: E402
from examples.micro_code.commands import ppo as ppo_command  # noqa: E402
from examples.micro_code.comparison import MEASURES, RIVALS, Course, compare, matched_steps  # noqa: E402
from examples.micro_code.config import PRESETS, PPOConfig, override  # noqa: E402
from examples.micro_code.families import FAMILIES  # noqa: E402
from examples.micro_code.phases import Run, preference_pairs, settings_of  # noqa: E402
from examples.micro_code.policy import EOS, build_tokenizer, check_lossless, task_texts  # noqa: E402
from examples.micro_code.report import verdict  # noqa: E402
from examples.micro_code.run import kept_record, prepare, run_phases  # noqa: E402
from examples.micro_code.sampling import bootstrap_interval  # noqa: E402
from examples.micro_code.sampling import generate as generate_responses  # noqa: E402
from examples.micro_code.tasks import Task, TaskConfig, add_bug, check_disjoint, generate  # noqa: E402
from examples.micro_code.true_score import reward_func  # noqa: E402

SMALL = TaskConfig(demonstrations=120, prompts=60, heldout=30)


@pytest.fixture(scope="module")
def splits():
    return generate(SMALL, seed=3)


# ── generator ──


def test_same_seed_same_task_other_seed_other_task(splits):
    assert generate(SMALL, seed=3) == splits
    assert generate(SMALL, seed=4) != splits


def test_splits_have_the_asked_sizes_and_share_no_held_out_function(splits):
    assert [len(splits[name]) for name in ("demonstrations", "prompts", "heldout")] == [120, 60, 30]
    check_disjoint(splits)
    leaked = splits | {"prompts": [*splits["prompts"], splits["heldout"][0]]}
    with pytest.raises(AssertionError, match="held-out"):
        check_disjoint(leaked)


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_reference_solution_passes_its_own_tests(family, seed):
    draft = FAMILIES[family](random.Random(seed))
    assert score.passes(draft.solution, draft.solution, draft.kind)
    assert "\n" not in draft.description and len(draft.solution) < score.MAX_SOURCE


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_bug_always_fails_a_test(seed):
    rng = random.Random(seed)
    draft = FAMILIES[rng.choice(list(FAMILIES))](rng)
    buggy = add_bug(draft.solution, draft.kind, rng)
    assert buggy is None or not score.passes(buggy, draft.solution, draft.kind)


# ── true score ──

REFERENCE = "def f(n):\n    return n + 3 if n > 4 else n"


@pytest.mark.parametrize(
    "candidate, verdict",
    [
        (REFERENCE, True),
        ("def f(n):\n    return n + (n > 4) * 3", True),  # other code, same answers
        ("def f(n):\n    return n + 3 if n >= 4 else n", False),  # differs at n = 4 only
        ("def f(n):\n    return float(n)", False),
        ("def f(n):\n    return n + 3 if n > 4 else", False),  # does not parse
        ("def g(n):\n    return n", False),  # no f
        ("import os\ndef f(n):\n    return n", False),
        ("def f(n):\n    return __import__('os').getpid()", False),
        ("def f(n):\n    return ().__class__", False),
        ("def f(n):\n    while 1:\n        n = n", False),
        ("def f(n):\n    return f(n)", False),  # recursion limit
        ("def f(n):\n    return 9 ** 9 ** 9", False),
        ("def f(n):\n    return 'a' * 99999999999", False),
        ("def f(n):\n    raise SystemExit", False),
        ("def f(n):\n    return len([1 for a in range(999) for b in range(999) for c in range(999)])", False),
        ("", False),
    ],
)
def test_true_score(candidate, verdict):
    assert score.passes(candidate, REFERENCE, "int") is verdict


def test_scores_keep_the_order_of_the_items_with_repeats():
    wrong = "def f(n):\n    return n"
    items = [(REFERENCE, REFERENCE, "int"), (wrong, REFERENCE, "int")] * 3
    assert score.score_all(items, chunk_size=1) == [True, False] * 3


# ── tokenizer ──


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    return build_tokenizer(task_texts(SMALL, seed=0, count=300), vocabulary=600)


def test_the_loaded_tokenizer_is_the_saved_one(tokenizer, splits, tmp_path):
    from transformers import AutoTokenizer, Qwen2Config

    tokenizer.save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)  # with this file AutoTokenizer picks the class by model type
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for task in splits["heldout"]:
        text = task.prompt + task.solution
        check_lossless(loaded, [text])
        assert loaded.encode(text) == tokenizer.encode(text)
        prompt = loaded.encode(task.prompt)
        assert loaded.encode(text)[: len(prompt)] == prompt  # trainers tokenize prompt and text apart


@pytest.mark.parametrize("batch", [1, 24])
def test_leaving_the_batch_when_finished_changes_no_response(batch, tokenizer, splits):
    """Against transformers' own generate, on a random model: its responses end at many different lengths."""
    torch = pytest.importorskip("torch")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    settings = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    settings |= dict(num_key_value_heads=2, initializer_range=0.5, tie_word_embeddings=False, bos_token_id=None)
    ends = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=len(tokenizer), **settings, **ends)
    model = Qwen2ForCausalLM(config).eval()
    model.lm_head.weight.data[tokenizer.eos_token_id] *= 2.5  # so that some end early
    tokenizer.padding_side = "left"
    prompts = tokenizer([task.prompt for task in splits["heldout"][:batch]], return_tensors="pt", padding=True)
    expected = model.generate(**prompts, max_new_tokens=20, do_sample=False)[:, prompts["input_ids"].shape[1] :]
    responses = generate_responses(model, prompts["input_ids"], prompts["attention_mask"], 20, greedy=True)
    if batch > 1:
        assert len({int((row != tokenizer.pad_token_id).sum()) for row in responses}) > 2
    assert responses[:, : expected.shape[1]].tolist() == expected.tolist()
    assert (responses[:, expected.shape[1] :] == tokenizer.pad_token_id).all()


# ── pairs, statistics, configuration ──


def test_pairs_put_a_passing_response_before_a_failing_one():
    task = Task("conditional", "int", "# p\n", REFERENCE)
    responses = [["a", "b", "c", "a"], ["x", "x", "x", "x"], ["y", "z", "y", "z"]]
    scores = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
    rows = preference_pairs([task] * 3, responses, scores, per_prompt=5, seed=0)
    # only the first task has both: chosen a (once, though drawn twice) against b and c
    assert sorted((row["chosen"], row["rejected"]) for row in rows) == [("a", "b"), ("a", "c")]
    assert len(preference_pairs([task] * 3, responses, scores, per_prompt=1, seed=0)) == 1


def test_override_changes_one_setting_of_a_copy():
    study = PRESETS["quickstart"]
    changed = override(study, ["ppo.kl=1", "seed=7", "ppo.sample_filter=best_random"])
    assert (changed.ppo.kl, changed.seed, changed.ppo.sample_filter) == (1.0, 7, "best_random")
    assert changed.task == study.task and PRESETS["quickstart"] is study


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("ppo.kll=1", "no setting 'kll'"),
        ("ppo.kl", "not an assignment"),
        ("ppo=1", "PPOConfig is needed"),
        ("ppo.steps=x", "int is needed"),
    ],
)
def test_override_refuses_in_one_sentence(assignment, message):
    with pytest.raises(ValueError, match=message):
        override(PRESETS["quickstart"], [assignment])


# ── the runner ──


def test_a_phase_is_kept_only_under_the_settings_that_it_depends_on(tmp_path):
    study = PRESETS["quickstart"]
    record = tmp_path / "reward.json"
    record.write_text(json.dumps({"seconds": 1.0, "result": {}, "settings": settings_of(study, "reward")}))
    assert kept_record(record, settings_of(override(study, ["ppo.kl=9"]), "reward")) is not None
    assert kept_record(record, settings_of(override(study, ["sft.epochs=9"]), "reward")) is None
    assert kept_record(tmp_path / "none.json", settings_of(study, "task")) is None


def test_the_phases_that_are_asked_for_run_once(tmp_path, monkeypatch):
    ran = []
    names = ("task", "sft", "random", "ppo", "evaluate")
    phases = {name: (name, lambda run, name=name: ran.append(name) or {"number": 1}) for name in names}
    monkeypatch.setattr("examples.micro_code.run.phases_of", lambda study: phases)
    base, quiet = Run(PRESETS["quickstart"], tmp_path), Console(quiet=True)
    records = run_phases(base, quiet, only=("task", "ppo"))
    assert ran == list(records) == ["task", "ppo"] and records["ppo"]["result"] == {"number": 1}
    records = run_phases(base, quiet, until="ppo")
    assert ran == ["task", "ppo", "sft", "random"] and list(records) == ["task", "sft", "random", "ppo"]
    assert json.loads((tmp_path / "phases" / "ppo.json").read_text()) == records["ppo"]


def test_an_output_directory_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no study"):
        prepare(tmp_path, PRESETS["quickstart"], resume=False)
    assert (tmp_path / "thesis.txt").exists()


# ── comparisons and verdict ──

RUN = PPOConfig(steps=20, rollout_prompts=64, samples=5, batch_size=64, critic_warmup_steps=3)
COURSES = {
    "unfiltered": Course(replace(RUN, keep=5), step_seconds=3.0),
    "random": Course(replace(RUN, keep=2), step_seconds=2.0),
    "ppo": Course(replace(RUN, keep=2), step_seconds=2.1),
}


def test_rivals_are_compared_where_they_have_spent_the_same():
    # 64 prompts x 5 kept / 64 a batch = 5 updates a step, x 2 kept = 2; 3 of the steps train the critic alone
    assert [COURSES["unfiltered"].spent("updates", step) for step in (0, 3, 4, 20)] == [0, 0, 5, 85]
    # The filter's run ends with 20 x 320 = 6400 rollouts, 34 updates, 20 x 2.1 = 42 s.
    # Unfiltered: 34 updates lie between step 9 (30) and step 10 (35); 42 s is step 14. Random: 42 s is past its end.
    assert matched_steps(COURSES) == {
        "unfiltered": {"rollouts": 20, "updates": 10, "seconds": 14},
        "random": {"rollouts": 20, "updates": 20, "seconds": 20},
    }


def test_differences_are_paired_over_tasks():
    right = np.array([[1, 1], [0, 1], [0, 0]], dtype=bool)  # 1, .5, 0 of the samples pass: pass@1 .5
    wrong = np.array([[1, 0], [0, 0], [0, 0]], dtype=bool)  # .5, 0, 0: each task .5 or 0 below
    scores = {("ppo", 20): right, ("random", 20): right, ("unfiltered", 20): wrong}
    scores |= {("unfiltered", 10): wrong, ("unfiltered", 14): right}
    rows = {(row["rival"], row["measure"]): row for row in compare(COURSES, scores)}
    assert len(rows) == 6
    row = rows["unfiltered", "updates"]
    assert (row["step"], row["spent"], row["filter_spent"]) == (10, 35, 34)
    assert row["difference"] == pytest.approx(1 / 3)  # the mean of .5, .5, 0
    assert row["interval"] == bootstrap_interval(np.array([0.5, 0.5, 0.0]))
    assert rows["unfiltered", "seconds"]["interval"] == (0.0, 0.0)


def summary_of(gain=(0.1, 0.2), intervals=None, seconds=(2.0, 3.0)):
    """A study's summary with these intervals: of PPO's gain, and of the filter's difference at each comparison."""
    policy = {"pass_at_1": 0.5, "gain_interval": gain, "actor_updates": 85, "step_seconds": seconds[1]}
    filtered = policy | {"actor_updates": 34, "step_seconds": seconds[0]}
    names = {"unfiltered": "PPO, no filter", "random": "PPO, random 2 of 5", "ppo": "PF-PPO, best_worst 2 of 5"}
    intervals = intervals or dict.fromkeys(MEASURES, (0.01, 0.1))
    rows = [
        {"rival": rival, "measure": measure, "difference": 0.05, "interval": intervals[measure]}
        for rival in RIVALS
        for measure in MEASURES
    ]
    policies = {"sft": {"pass_at_1": 0.4}, "unfiltered": policy, "random": filtered, "ppo": filtered}
    return {"policies": policies, "titles": names, "comparisons": rows}


def test_the_verdict_on_the_filter_follows_each_interval():
    intervals = {"rollouts": (-0.1, -0.01), "updates": (0.01, 0.1), "seconds": (-0.01, 0.1)}
    _, unfiltered, random_, saved = verdict(summary_of(intervals=intervals)).splitlines()
    assert "best_worst 2 of 5 against PPO, no filter: at equal rollouts it [red]lost[/red] (+0.050 [-0.1" in unfiltered
    assert "at equal updates it [green]gained[/green]" in unfiltered
    assert "at equal seconds it [yellow]had no clear effect[/yellow]" in random_ and "random 2 of 5" in random_
    assert "34 updates of the actor instead of 85 and 33% fewer seconds a step, and lost pass@1" in saved
    slower = verdict(summary_of(intervals=dict.fromkeys(MEASURES, (0.01, 0.1)), seconds=(3.0, 2.0)))
    assert "50% more seconds a step, and gained pass@1" in slower


def test_the_runs_differ_in_the_filter_alone():
    runs = PRESETS["quickstart"].ppo_runs()
    assert list(runs) == ["unfiltered", "random", "ppo"]
    assert (runs["unfiltered"].sample_filter, runs["unfiltered"].keep) == ("none", 5)
    assert (runs["random"].sample_filter, runs["random"].weights) == ("rank_weights", (1.0,) * 5)
    same = {(replace(run, sample_filter="", keep=0, weights=())) for run in runs.values()}
    assert len(same) == 1 and runs["random"].keep == runs["ppo"].keep == 2
    command = ppo_command(PRESETS["quickstart"], runs["random"], *map(Path, "abcd"))
    flags = dict(itertools.pairwise(command))
    assert flags["--sample_filter_options"] == "weights=1.0,1.0,1.0,1.0,1.0"


def test_commands_share_a_process_and_a_failed_one_ends_it(tmp_path, monkeypatch):
    """The protocol alone, with a process that answers like the real one but starts no Ray."""
    program = "import json, sys\nfor line in sys.stdin: print(int('bad' in line), flush=True)"
    monkeypatch.setattr(one_ray, "command_line", lambda: [sys.executable, "-c", program])
    shared = one_ray.OneRay()
    assert shared.run("good", [], tmp_path / "log") == 0
    first = shared.process
    assert shared.run("good", [], tmp_path / "log") == 0 and shared.process is first
    assert shared.run("bad", [], tmp_path / "log") == 1
    assert shared.process is None and first.poll() is not None
    shared.close()


@pytest.mark.parametrize(
    "code, status", [("", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('no')", 1), ("1 / 0", 1)]
)
def test_a_commands_end_becomes_its_exit_status(code, status, tmp_path, monkeypatch):
    (tmp_path / "some_command.py").write_text(f"import sys\nassert sys.argv[1:] == ['--a', '1']\n{code}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    assert one_ray.execute(["some_command", "--a", "1"]) == status


def test_the_true_score_as_a_reward_function(splits):
    task = splits["heldout"][0]
    label = json.dumps({"solution": task.solution, "kind": task.kind})
    right, wrong = f"{task.prompt}{task.solution} {EOS}", f"{task.prompt}def f(*a):\n    while True: pass{EOS}"
    assert reward_func([right, wrong], [task.prompt] * 2, [label] * 2) == {"rewards": [1.0, 0.0]}
    assert true_score.EOS == EOS


@pytest.mark.parametrize("module", [last_number, true_score])
def test_examples_of_true_scores_run_as_their_docstrings_show(module):
    assert doctest.testmod(module) == (0, 4 if module is true_score else 1)


def test_the_last_number_of_a_response_counts():
    queries = ["? 1,234", "? 42.0 and no more", "? none", "? 7 8"]
    assert last_number.reward_func(queries, ["?"] * 4, ["1234", "42", "0", "7"])["rewards"] == [1.0, 1.0, 0.0, 0.0]
