"""Baselines without PPO: what they train on, in which rounds, and where it is kept. No training."""

import itertools
import json

import numpy as np
import pytest

from examples.micro_code.config import PRESETS
from examples.micro_code.tasks import Task
from examples.studies.micro_code import baselines, study

TASKS = [Task("f", "int", f"# {n}\n", "") for n in range(8)]


def test_the_best_trains_or_wins_and_the_worst_loses():
    rewards = np.array([[0.1, 0.9, 0.4], [0.3, 0.2, 0.3]])
    texts = [["a", "b", "c"], ["same", "same", "same"]]
    assert baselines.chosen_rows("raft", TASKS[:2], texts, rewards) == [
        {"input": "# 0\n", "output": "b"},
        {"input": "# 1\n", "output": "same"},
    ]
    pair = {"prompt": "# 0\n", "chosen": "b", "rejected": "a"}
    assert baselines.chosen_rows("dpo", TASKS[:2], texts, rewards) == [pair], "equal texts are no pair"


def test_names_and_variants():
    assert baselines.baseline_of("none+updates") is None
    assert baselines.baseline_of("dpo_iterative").steps == 4 * 8 and baselines.baseline_of("raft").steps == 32
    assert baselines.baseline_of("raft+rate3").learning_rate == pytest.approx(9e-4)
    with pytest.raises(ValueError, match="there is no variant 'kl0' of dpo: take one of"):
        baselines.baseline_of("dpo+kl0")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A base's cells whose trainers, sampler and reward model only note what they are asked for."""
    base = tmp_path / "base"
    (base / "data").mkdir(parents=True)
    (base / "study.json").write_text(json.dumps(PRESETS["study"].as_dict()))
    rows = [json.dumps(vars(Task("f", "int", f"# {n}\n", "def f(n):\n    return n"))) for n in range(1400)]
    (base / "data" / "prompts.jsonl").write_text("\n".join(rows))
    (base / "data" / "heldout.jsonl").write_text("\n".join(rows[:5]))
    drawn, ran = [], []

    def sample(draws, workers=2):
        drawn.extend(draws)
        return [[[f"{i}" for i in range(draw.samples)] for _ in draw.prompts] for draw in draws]

    def train(run, name, command, launcher=None):
        flags = dict(itertools.pairwise(command))
        ran.append((name, command[0], flags, "--model.ipo_enable" in command, launcher is not None))
        study.Path(flags["--ckpt.output_dir"]).mkdir(parents=True)

    monkeypatch.setattr(baselines, "sample_all", sample)
    monkeypatch.setattr(study, "sample_all", sample)
    monkeypatch.setattr(study, "score_samples", lambda tasks, *r: [np.ones((len(tasks), len(x[0])), bool) for x in r])
    monkeypatch.setattr(baselines, "rewards_of", lambda model, texts: np.array([float(t[-1]) for t in texts]))
    monkeypatch.setattr(baselines, "_train", train)
    return study.Cells(base, tmp_path / "out"), drawn, ran


def test_rounds_go_on_from_the_policy_before(trained):
    cells, drawn, ran = trained
    cells.make([("dpo_iterative", 1)])
    models = [flags["--model.model_name_or_path"] for _, _, flags, *_ in ran]
    outputs = [flags["--ckpt.output_dir"] for _, _, flags, *_ in ran]
    assert len(ran) == 4 and models == [str(cells.source.path("models", "sft")), *outputs[:-1]]
    assert models == [flags["--ref.model_name_or_path"] for _, _, flags, *_ in ran]
    sampled = [draw for draw in drawn if draw.samples == 5]
    assert [str(draw.model) for draw in sampled] == models, "each round samples the policy that it trains"
    prompts = [prompt for draw in sampled for prompt in draw.prompts]
    assert len(prompts) == 1024 == len(set(prompts)) and len({draw.seed for draw in sampled}) == 4
    rows = [json.loads(line) for line in open(ran[0][2]["--data.dataset"])]
    assert len(rows) == 256 and (rows[0]["chosen"], rows[0]["rejected"]) == ("4", "0")
    assert cells.scores("dpo_iterative", 1).tolist() == [1.0] * 5, "the last policy is scored on the held-out tasks"
    cells.make([("dpo_iterative", 1)])
    assert len(ran) == 4, "a cell is trained once"


def test_each_method_has_its_trainer(trained):
    cells, _, ran = trained
    for arm in ("raft", "dpo", "ipo+rate.1"):
        cells.train(arm, 1)
    assert [module for _, module, *_ in ran] == ["openrlhf.cli.train_sft", *["openrlhf.cli.train_dpo"] * 2]
    assert [ipo for *_, ipo, _ in ran] == [False, False, True] and all(alone for *_, alone in ran)
    assert [float(flags["--adam.lr"]) for _, _, flags, *_ in ran] == pytest.approx([3e-4, 1e-4, 1e-5])
    assert len({cells.path(arm, 1) for arm in ("raft", "dpo", "ipo", "dpo_iterative", "dpo+rate3")}) == 5


def test_validation_has_prompts_and_a_file_of_its_own(trained, tmp_path):
    cells, drawn, _ = trained
    cells.make([("raft", 1)])
    before = len(drawn)
    other = study.Cells(cells.base, cells.output, validation=True)
    assert other.path("raft", 1) == cells.path("raft", 1) and other.scores("raft", 1) is None
    other.make([("raft", 1)])
    (draw,) = drawn[before:]
    assert list(draw.prompts) == [f"# {n}\n" for n in range(300)] and len(other.scores("raft", 1)) == 300
    assert len(cells.scores("raft", 1)) == 5
