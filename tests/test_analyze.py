"""The command: what it writes, and what it says to every kind of bad input."""

import importlib
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openrlhf_pf.cli.analyze import main
from openrlhf_pf.reliability import load, read_recommendation
from openrlhf_pf.rollout_log import RolloutLog, prompt_id

FIGURES = {"gains", "reliability", "histogram", "rank", "calibration"}


def columns_of(n_prompts=60, n=4, seed=0, **changed):
    """Rewards that are accurate at the extremes and random in the middle."""
    rng = np.random.default_rng(seed)
    reward = rng.uniform(-1, 1, n_prompts * n)
    score = np.where(np.abs(reward) > 0.5, reward > 0, rng.random(len(reward)) < 0.5).astype(float)
    names = np.repeat([f"p{i}" for i in range(n_prompts)], n)
    return {"prompt_id": names, "reward": reward, "score": score} | changed


def parquet(path, **columns):
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items() if values is not None}), path)
    return path


def run(*arguments):
    return main(["--bootstrap", "100", *map(str, arguments)])


def report_of(directory):
    return json.loads((directory / "report.json").read_text())


# ── What comes out ──


def test_the_report_of_a_parquet_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(parquet("sft.parquet", **columns_of(), response_tokens=np.tile([9, 8, 7, 6], 60))) == 0
    report = report_of(tmp_path / "openrlhf-pf-report")
    (checkpoint,) = report["checkpoints"]
    assert (checkpoint["n_prompts"], checkpoint["n_scored"], checkpoint["samples_per_prompt"]) == (60, 240, 4)
    labels = [strategy["label"] for strategy in checkpoint["strategies"]]
    assert {"none", "best_worst", "reward_power 3", "shortest", "reward_per_token"} < set(labels)
    assert "ensemble_agreement" not in labels
    none = checkpoint["strategies"][0]
    assert (none["keep"], none["kept_samples"], len(none["points"]["reward"])) == (4, 240, 20)
    for strategy in checkpoint["strategies"]:
        for name, values in strategy["metrics"].items():
            if strategy is none or name in ("gain", "gain_kept", "signal_to_noise"):
                assert values["low"] - 1e-9 <= values["estimate"] <= values["high"] + 1e-9, (strategy, name)
    assert report["settings"]["bins"] == 20 and report["settings"]["level"] == 0.95
    assert set(report["recommendation"]) >= {"decided", "strategy", "keep", "options", "confidence", "text"}
    printed = capsys.readouterr().out
    assert "20 groups of equal count" in printed and "recommendation:" in printed
    assert report["recommendation"]["text"][:40] in printed
    assert printed.startswith(understood := "60 prompts of 4 responses, from 1 file.\n")
    assert understood[:-1] in (tmp_path / "openrlhf-pf-report" / "report.html").read_text()


def test_the_page_stands_alone_and_shows_every_figure(tmp_path):
    file = parquet(tmp_path / "log.parquet", **columns_of(), step=np.repeat(np.arange(6), 40))
    assert run(file, "--output", tmp_path / "out") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg ") == len(FIGURES)
    assert {f.stem for f in (tmp_path / "out").glob("*.svg")} == FIGURES
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)|@import|<script|<link|https?://', page)
    assert '<meta name="viewport" content="width=device-width' in page
    recommendation = report_of(tmp_path / "out")["recommendation"]
    headline = recommendation["headline"]
    assert f'<p class="short">{headline.rstrip(".")}.</p>' in page
    assert all(part in page for part in recommendation["text"].removeprefix(headline).strip().split(". "))


def test_the_page_of_several_checkpoints_opens_with_the_common_recommendation(tmp_path):
    """One where the data speak for best_worst, and one that is wrong far out, where they speak against it."""
    right, wrong = columns_of(2000, 6), columns_of(2000, 6, seed=1)
    far = np.abs(wrong["reward"]) > 0.9
    wrong["score"] = np.where(far, wrong["reward"] < 0, wrong["reward"] > 0).astype(float)
    files = [parquet(tmp_path / f"{name}.parquet", **c) for name, c in (("right", right), ("wrong", wrong))]
    names = ["--strategies", "none", "best_random", "best_worst"]
    assert run(*files, "--output", tmp_path / "out", *names) == 0
    report, page = report_of(tmp_path / "out"), (tmp_path / "out" / "report.html").read_text()
    assert report["recommendation"]["headline"] == "The checkpoints do not agree."
    together, _, first, *_ = re.findall(r'<section class="card (\w*)">(.*?)</section>', page, re.DOTALL)
    assert together[0] == "open" and together[1].startswith(f"<p>{report['recommendation']['text']}</p>")
    assert first[0] == "" and "Use best_worst, k = 2" in first[1]
    assert "recommended" not in page


def test_a_decided_report_goes_back_into_training(tmp_path):
    file = parquet(tmp_path / "a.parquet", **columns_of(2000, 6))
    assert run(file, "--output", tmp_path / "out", "--strategies", "none", "best_random", "best_worst") == 0
    assert {"name": "best_worst", "keep": 2, "options": {}}.items() <= read_recommendation(tmp_path / "out").items()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Use best_worst, k = 2, to save training time; otherwise use no filter." in page
    assert page.count('<tr class="best">') == page.count("</table>") == 2 and page.count("recommended") == 1


def test_checkpoints_are_analysed_side_by_side_and_their_names_are_no_markup(tmp_path):
    names = ["sft", "<b>[red]x"]
    files = [
        parquet(tmp_path / f"{i}.parquet", **columns_of(seed=i), checkpoint=[name] * 240)
        for i, name in enumerate(names)
    ]
    assert run(*files, "--output", tmp_path / "out") == 0
    assert [c["name"] for c in report_of(tmp_path / "out")["checkpoints"]] == names
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<span class="of"> · sft</span>' in page and '<span class="of"> · &lt;b&gt;[red]x</span>' in page
    assert "<b>" not in page


def test_a_rollout_log_of_training(tmp_path):
    rng = np.random.default_rng(0)
    with RolloutLog(tmp_path / "log", buffer=9) as log:
        for step in range(4):
            reward = rng.normal(size=30)
            text = [f"p{step % 2}-{i // 3}" for i in range(30)]
            rows = {"prompt_id": list(map(prompt_id, text)), "prompt": text, "response": text}
            rows |= {name: [1] * 30 for name in ("prompt_tokens", "response_tokens", "draws")}
            rows |= {"group": [i // 3 for i in range(30)], "weight": [0.5] * 30, "kept": [True] * 30}
            rows |= {"reward": reward.tolist(), "score": (reward > 0).astype(float).tolist()}
            rows |= {"model_rewards": [{"a": float(r), "b": float(-r)} for r in reward]}
            log.write(step, lambda rows=rows: rows)
    (checkpoint,) = load([tmp_path / "log"]).checkpoints
    # Two data sets of 10 prompts, each seen twice: 20 prompts, 40 groups of 3.
    assert (checkpoint.n_prompts, checkpoint.reward.shape) == (20, (40, 3))
    assert checkpoint.model_rewards[1].ravel() == pytest.approx(-checkpoint.reward.ravel())
    assert checkpoint.length.tolist() == [[1] * 3] * 40


def test_a_log_that_is_still_written(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    parquet(folder / "step-000000.parquet", **columns_of())
    whole = (folder / "step-000000.parquet").read_bytes()
    (folder / "step-000001.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / ".step-000002.parquet.77.tmp").write_bytes(whole[:99])
    rollouts = load([folder])
    assert rollouts.checkpoints[0].known.sum() == 240
    assert len(rollouts.warnings) == 1 and rollouts.warnings[0].startswith(
        "step-000001.parquet was left out: it cannot"
    )


def test_jsonl_with_nan_and_a_torn_last_line(tmp_path):
    rows = pa.table(columns_of(10)).to_pylist()
    rows[3]["reward"] = np.nan
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"prompt_id": "p1", "rew')
    rollouts = load([tmp_path / "a.jsonl"])
    (checkpoint,) = rollouts.checkpoints
    assert checkpoint.reward.shape == (10, 4) and np.isnan(checkpoint.reward[0, 3])
    assert rollouts.warnings[0] == "the last line of a.jsonl was left out: it is not finished."
    assert "1 of 40 samples have no finite reward" in rollouts.warnings[1]


def test_the_demo_opens_its_page_and_its_output_with_three_sentences(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--demo") == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "openrlhf-pf-demo" / "report.html").read_text()
    opening = re.findall(r'<p class="opening">(.*?)</p>', page, re.DOTALL)
    assert len(opening) == 3 and printed.split("\n", 2)[2].startswith(opening[0])
    assert "12,000 responses to 1,500 prompts" in opening[0]
    # Planted: all of the high rewards and none of the low ones are correct, and the middle is half and half.
    assert "high rewards 100% are correct, of those with low rewards 0%" in opening[1] and "best_worst" in opening[1]
    best, third = map(int, re.search(r"favourite responses (\d+)% .* third choices (\d+)%", opening[2]).groups())
    assert best + 20 < third
    assert "openrlhf-pf-demo/report.html and" in printed
    assert [c["name"] for c in report_of(tmp_path / "openrlhf-pf-demo")["checkpoints"]] == [
        "accurate at the extremes",
        "hacked at the top",
    ]


# ── Bad input ──


@pytest.mark.parametrize(
    "changed, sentence",
    [
        (
            {"score": [None] * 240},
            "no sample of 'all samples' has a score, and rewards cannot be checked without true scores",
        ),
        ({"score": [1.0] + [None] * 239, "reward": [None] + [1.0] * 239}, "has both a reward and a score: check"),
        ({"prompt_id": [], "reward": [], "score": []}, "there are no samples in"),
    ],
)
def test_what_leaves_nothing_to_analyse_is_one_sentence(tmp_path, capsys, changed, sentence):
    file = parquet(tmp_path / "a.parquet", **columns_of(**changed))
    assert run(file, "--output", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "reading" not in line]
    assert len(lines) == 1 and lines[0].startswith("analyze: ") and sentence in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changed, warning, defined",
    [
        ({"score": np.ones(240)}, "all scores are 1, so no reward can be right or wrong", {"mean_reward", "mse"}),
        ({"reward": np.full(240, 0.1)}, "all rewards are 0.1, so they carry no information", {"mean_score", "mse"}),
        ({"prompt_id": np.arange(240)}, "every prompt has one sample", {"binned_r2", "auc", "kendall"}),
        ({"prompt_id": np.repeat(np.arange(80), [1, 5] * 40)}, "prompts have 1 to 5 samples", {"pairwise_accuracy"}),
        ({"reward": [np.nan, *np.linspace(0, 1, 239)]}, "1 of 240 samples have no finite reward", {"binned_r2"}),
        ({"score": [None, *([0.0, 1.0] * 119), 1.0]}, "1 of 240 samples have no finite score", {"binned_r2"}),
    ],
)
def test_odd_data_give_what_they_can_and_one_sentence(tmp_path, changed, warning, defined):
    file = parquet(tmp_path / "a.parquet", **columns_of(**changed))
    assert run(file, "--output", tmp_path / "out") == 0
    report = report_of(tmp_path / "out")
    assert sum(warning in line for line in report["warnings"]) == 1
    found = report["checkpoints"][0]["strategies"][0]["metrics"]
    for name in defined:
        assert found[name]["estimate"] is not None, name
    if "all " in warning or "one sample" in warning:
        assert not report["recommendation"]["decided"]
    if "all " in warning:
        assert found["binned_r2"]["estimate"] is None and found["spearman"]["estimate"] is None
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("a --demo", "--demo makes its own samples, got PATH 'a' as well: leave out the one"),
        ("--demo --columns reward=a", "--demo makes its own samples, which --columns cannot name"),
        ("--output out", "there is no PATH: give a rollout log, file or folder, or --demo"),
        # Refused before files are read.
        ("absent --threshold nan", "threshold must be a finite score, got nan"),
        ("absent --seed -1", "seed must not be negative, got -1"),
        (f"absent --seed {2**64}", f"--seed must lie between 0 and {2**64 - 1}, got {2**64}"),
        ("absent --bins 2", "bins must be at least 3 and at most 1,000, got 2"),
        ("absent --bins 1000000000", "bins must be at least 3 and at most 1,000, got 1000000000"),
        ("absent --bootstrap 10", "bootstrap must be at least 100 and at most 20,000, got 10:"),
        ("absent --bootstrap 1000000000", "bootstrap must be at least 100 and at most 20,000, got 1000000000:"),
        ("absent --level 1", "level must be at least 0.5 and below 1, got 1.0"),
        ("absent --output /proc/x", "--output '/proc/x' cannot be written ("),
        ("absent --output ", "--output is empty: name the directory of the report."),
        ("absent --output a", "--output 'a' cannot be a directory, because 'a' is a file"),
        ("absent --output a/below", "/below' cannot be a directory, because"),
        ("a --strategies best_wrost", "adaptive: did you mean 'best_worst'?"),
        ("a --strategies adaptive", "'adaptive' cannot be analysed: its choice depends on the samples seen"),
        ("a --strategies shortest", "'shortest' cannot be analysed: the samples have no response lengths"),
        ("a --keep 9", "keep must lie between 1 and the 4 samples of a prompt, got 9"),
        ("a --weights 1 2", "needs one weight for each of the 4 samples of a prompt, got 2"),
        ("a --low 1 --high 0", "low must be below high, got low 1.0 and high 0.0"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    parquet("a", **columns_of())
    assert run(*arguments.split(" ")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "reading" not in line]
    assert len(lines) == 1 and lines[0].startswith("analyze: ") and sentence in lines[0]


@pytest.mark.parametrize(
    "command, arguments, sentence",
    [
        ("analyze", ["a", "--boostrap", "9"], "analyze: there is no flag --boostrap: did you mean '--bootstrap'?\n"),
        ("analyze", ["a", "--bins", "1e3"], "analyze: argument --bins: invalid int value: '1e3'; --help lists all"),
        ("preferences", ["a", "--output", "b", "--cluster", "exact", "--sed=1"], "did you mean '--seed'?"),
        ("evaluate", ["--benchmrk", "x"], "evaluate: there is no flag --benchmrk: did you mean '--benchmark'?\n"),
        ("check", ["best_worst", "--samplse", "4"], "check: there is no flag --samplse: did you mean '--samples'?"),
    ],
)
def test_flags_that_do_not_exist_are_one_sentence(capsys, command, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"openrlhf_pf.cli.{command}").main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in said and said.count("\n") == 1


def test_a_whole_analysis_imports_nothing_of_the_training_stack(tmp_path):
    code = (
        "import sys\nfrom openrlhf_pf.cli.analyze import main\n"
        f"assert main(['--demo', '--output', {str(tmp_path)!r}, '--bootstrap', '100']) == 0\n"
        "print(sorted({'torch', 'ray', 'vllm', 'deepspeed', 'openrlhf', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()[-1] == "[]"
