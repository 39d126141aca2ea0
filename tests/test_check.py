"""The contract test of filters: sound ones pass, and each broken contract is told by the check meant for it."""

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from openrlhf_pf.filters import FILTERS, FilterBatch, build_filter
from openrlhf_pf.filters.check import check_filter, contract
from openrlhf_pf.filters.check.__main__ import main
from openrlhf_pf.filters.check.contract import CHECKS
from openrlhf_pf.filters.check.rollouts import make_rollout

NAN = float("nan")
EXAMPLE = f"{Path(__file__).resolve().parents[1] / 'examples' / 'custom_filter.py'}:ShortestCorrect"

#: Options without which a built-in filter cannot be built.
OPTIONS = {
    "rank_weights": ["weights=8,7,6,5,4,3,2,1"],
    "top": ["high=0.3"],
    "top_bottom": ["low=-0.3", "high=0.3"],
    "top_random": ["high=0.3"],
    "reward_power": ["power=2"],
}

HEADER = """
import random

import numpy
import torch

from openrlhf_pf.filters import SampleFilter


class Mine(SampleFilter):
"""


@pytest.fixture(autouse=True)
def small_timed_rollouts(monkeypatch):
    monkeypatch.setattr(contract, "N_TIMED", 64)  # no test asserts a time


def write(folder: Path, body: str, header: str = HEADER) -> str:
    """Write a class to a file and return its name; a body without methods is that of weigh."""
    if "def " not in body:
        body = "def weigh(self, batch):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    file = folder / "mine.py"
    file.write_text(header + "".join(f"    {line}\n" for line in body.splitlines()))
    return f"{file}:Mine"


def failed(findings: list) -> dict[str, str]:
    return {finding.check: finding.sentence for finding in findings if finding.status == "FAILED"}


def statuses(findings: list) -> dict[str, str]:
    return {finding.check: finding.status for finding in findings}


# ── Sound filters ──


@pytest.mark.parametrize("name", [*FILTERS, EXAMPLE], ids=[*FILTERS, "example"])
def test_every_filter_that_we_ship_is_sound(name):
    findings = check_filter(name, texts=OPTIONS.get(name, ()))
    assert failed(findings) == {}
    assert [finding.check for finding in findings] == list(CHECKS)


def test_the_example_is_compared_and_not_excused():
    # Its weights depend on the seed only where samples are equal, so that no check but speed ends in a note.
    assert [check for check, status in statuses(check_filter(EXAMPLE, 7, 3)).items() if status != "ok"] == ["speed"]


def test_random_weights_are_sound_but_cannot_be_compared(tmp_path):
    name = write(tmp_path, "return torch.rand(batch.rewards.shape, generator=batch.generator)")
    notes = [check for check, status in statuses(check_filter(name)).items() if status == "note"]
    assert notes == ["unusable", "samples", "prompts", "speed"]


def test_a_filter_that_learns_and_saves_what_it_learned_is_sound(tmp_path):
    findings = check_filter(write(tmp_path, REMEMBERS + SAVES))
    assert failed(findings) == {}
    assert "restored from a checkpoint weighs the next batch as" in findings[list(CHECKS).index("state")].sentence


def test_one_sample_a_prompt_leaves_nothing_to_compare():
    notes = {finding.check: finding.sentence for finding in check_filter("none", 1) if finding.status == "note"}
    assert "one sample only" in notes["ties"] and "one sample only" in notes["samples"]


def test_prompts_that_are_dropped_are_noted(tmp_path):
    findings = check_filter(write(tmp_path, "return (batch.spread > 1.4).double().unsqueeze(1) * batch.usable"))
    low, high = make_rollout(contract.N_PROMPTS, 8, 0).rewards.aminmax(dim=1)
    assert findings[1][:2] == ("rows", "note")
    assert f"{int((high - low <= 1.4).sum())} of {contract.N_PROMPTS} prompts have no weight" in findings[1].sentence
    assert failed(findings) == {}


def test_the_check_leaves_the_global_generators_alone(tmp_path):
    name = write(tmp_path, "return torch.rand(batch.rewards.shape) + random.random() + numpy.random.rand()")
    before = torch.get_rng_state(), random.getstate()
    check_filter(name)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


# ── Broken contracts ──

REMEMBERS = """
def __init__(self, n_samples, keep):
    super().__init__(n_samples, keep)
    self.seen = 0

def weigh(self, batch):
    self.seen += 1
    return torch.where(batch.usable, (batch.rewards * self.seen).sigmoid(), 0.0)
"""
SAVES = """
def state_dict(self):
    return {"seen": self.seen}

def load_state_dict(self, state):
    self.seen = state["seen"]
"""
ONES = "def weigh(self, batch):\n    return batch.usable"
BEST = "torch.zeros_like(batch.rewards).scatter_(1, batch.order[:, {}], 1.0)"


@pytest.mark.parametrize(
    "body, expected",
    [
        ("return batch.rewards.tolist()", {"weights": "returned a list"}),
        ("return batch.rewards.abs().T", {"weights": "shape (8, 61) for rewards of shape (61, 8)"}),
        ("return batch.rewards.log()", {"weights": "are NaN or infinite"}),
        ("return batch.rewards", {"weights": "are negative"}),
        ("return 1 / 0", {"weights": "raised ZeroDivisionError: division by zero"}),
        ("return torch.zeros_like(batch.rewards)", {"rows": "nothing would train"}),
        (
            f"{ONES}\n\ndef __call__(self, batch):\n    return batch.usable * 1.0",
            {"rows": "sum to 8, not to 1 or 0", "draws": "raised ValueError: each row of weights"},
        ),
        (
            f"most_weighed = 2\n\n{ONES}",
            {"draws": "8 samples of a prompt have weight, but most_weighed is 2"},
        ),
        ("return torch.rand(batch.rewards.shape)", {"seed": "global random state"}),
        ("return torch.tensor([[random.random() for _ in row] for row in batch.rewards])", {"seed": "global"}),
        ("return torch.from_numpy(numpy.random.rand(*batch.rewards.shape))", {"seed": "global"}),
        (
            "return torch.from_numpy(numpy.random.default_rng().random(batch.rewards.shape))",
            {"seed": "two fresh filters", "state": "state_dict is empty"},
        ),
        (
            "best = batch.rewards.argmax(dim=1, keepdim=True)\n"
            "return torch.zeros_like(batch.rewards).scatter_(1, best, 1.0)",
            {"ties": "number 0 of each prompt has the mean weight"},
        ),
        (
            "if not batch.usable.all():\n    raise RuntimeError('no NaN, please')\nreturn batch.usable",
            {"unusable": "raised RuntimeError: no NaN, please"},
        ),
        ("return batch.rewards.exp()", {"unusable": "Mine.weigh must return finite weights"}),
        (
            f"return {BEST.format(':1')} if batch.usable.all() else {BEST.format('1:2')}",
            {"unusable": "when rewards of other prompts are not"},
        ),
        (
            "return 1 + torch.arange(self.n_samples) * (batch.scores - batch.scores[:, :1]).abs()",
            {"samples": "samples of a prompt change places"},
        ),
        (
            "return torch.arange(1.0 * self.n_samples).expand_as(batch.rewards)",
            {"ties": "so that the position decides", "samples": "samples of a prompt change places"},
        ),
        (f"return 1 + torch.arange(len(batch.rewards)).unsqueeze(1) * {BEST.format(':1')}", {"prompts": "prompts"}),
        (REMEMBERS, {"state": "(state_dict is empty)"}),
        (REMEMBERS + SAVES.replace('state["seen"]', "0"), {"state": "restore it in load_state_dict"}),
        (REMEMBERS + SAVES.replace("self.seen}", "lambda: self.seen}"), {"state": "raised"}),
        ("batch.rewards.mul_(2)\nreturn batch.usable", {"input": "changes rewards in place"}),
        ("batch.response_lengths.clamp_(max=50)\nreturn batch.usable", {"input": "changes response_lengths in"}),
        ("batch.responses[0].sort()\nreturn batch.usable", {"input": "changes responses in"}),
        ("batch.extra_logs['accuracy'].zero_()\nreturn batch.usable", {"input": "changes extra_logs in"}),
        (
            "batch.rewards.nan_to_num_()\nreturn torch.ones_like(batch.rewards)",
            {"unusable": "NaN or infinite have weight", "input": "changes rewards"},
        ),
        ("batch.usable.fill_(True)\nreturn batch.usable", {"unusable": "have weight", "input": "changes usable"}),
    ],
)
def test_a_broken_contract_fails_the_check_meant_for_it(tmp_path, body, expected):
    sentences = failed(check_filter(write(tmp_path, body)))
    assert sentences.keys() == expected.keys()
    for name, words in expected.items():
        assert words in sentences[name]


def test_an_exception_names_the_line_of_the_users_file(tmp_path):
    (finding,) = check_filter(write(tmp_path, "ranks = batch.order\nreturn ranks.nonsense"))
    assert finding.check == "weights" and finding.status == "FAILED"
    assert f"AttributeError: 'Tensor' object has no attribute 'nonsense' ({tmp_path}/mine.py, line" in finding.sentence
    assert finding.sentence.endswith(": return ranks.nonsense).")


def test_a_constructor_that_forgets_its_parent_is_told_so(tmp_path):
    body = f"def __init__(self, n_samples, keep):\n    pass\n\n{ONES}"
    (finding,) = check_filter(write(tmp_path, body))
    assert finding[:2] == ("build", "FAILED") and "starts with super().__init__(n_samples, keep)" in finding.sentence


def test_rewards_that_are_lost_beside_unusable_ones_are_noted(tmp_path):
    # argmax takes NaN for the highest: the prompt loses all its weight, though others of its rewards are usable.
    body = "return torch.zeros_like(batch.rewards).scatter_(1, batch.rewards.argmax(dim=1, keepdim=True), 1.0)"
    findings = {finding.check: finding for finding in check_filter(write(tmp_path, body))}
    assert findings["unusable"].status == "note" and "are dropped though k = 2" in findings["unusable"].sentence


def test_an_extra_log_that_only_the_user_has_stops_the_check(tmp_path, capsys):
    name = write(tmp_path, "return batch.extra_logs['length_bonus']")
    (finding,) = check_filter(name)
    assert finding[:2] == ("extra_logs", "note") and "extra_logs['length_bonus']" in finding.sentence
    assert main([name]) == 0
    assert "could not be checked to the end" in capsys.readouterr().out


def test_a_slow_filter_is_told_how_to_be_fast_but_does_not_fail(monkeypatch):
    monkeypatch.setattr(
        contract, "seconds", lambda sample_filter, rollout, seed: (2.0 * rollout.rewards.shape[1], 1e-3)
    )
    assert CHECKS["speed"](contract.Subject(lambda n: build_filter("none", n), 8, 0)) == (
        "note",
        "for 64 prompts, N = 4: 8000.00 ms, 8000.0 x torch.sort; N = 8: 16000.00 ms, 16000.0 x torch.sort; "
        "N = 16: 32000.00 ms, 32000.0 x torch.sort; N = 32: 64000.00 ms, 64000.0 x torch.sort; "
        "8 times the samples take 8.0 times as long. This is slow, as a Python loop over prompts is: work on whole "
        "(G, N) tensors (gather, scatter, cumsum).",
    )


USUAL = "if batch.visits is None:\n    return batch.usable\nbatch.posterior_mean\nreturn batch.usable"
BY_MEAN = "return batch.posterior_mean.unsqueeze(1) * batch.usable"
STRICT = "if batch.visits is None:\n    raise ValueError('add --prompt_selection.')\nreturn batch.usable"


@pytest.mark.parametrize(
    "body, status, words",
    [
        ("return batch.usable", "ok", "asks for nothing that only --prompt_selection knows"),
        (USUAL, "ok", "asks for posterior_mean and visits, and does without"),
        (STRICT, "note", "works with --prompt_selection only: add --prompt_selection."),
        (BY_MEAN, "FAILED", "posterior_mean are None, and the filter raised AttributeError"),
    ],
)
def test_what_only_prompt_selection_knows_may_be_missing(tmp_path, body, status, words):
    findings = check_filter(write(tmp_path, body))
    found = next(finding for finding in findings if finding.check == "context")
    assert found.status == status and words in found.sentence
    assert {f.check for f in findings if f.status == "FAILED"} == ({"context"} if status == "FAILED" else set())


def test_what_is_known_of_prompts_moves_with_them():
    """Places of prompts, and of the samples of each, in reverse."""
    rollout = make_rollout(5, 3, 0)
    other = rollout.with_prompts(torch.arange(4, -1, -1)).with_samples(torch.arange(2, -1, -1).expand(5, 3))
    for name in ("posterior_mean", "visits"):
        assert torch.equal(other.columns[name], rollout.columns[name].flip(0))
        assert rollout.columns[name].shape == (5,)
    assert other.columns["datasources"] == rollout.columns["datasources"][::-1] != rollout.columns["datasources"]


def test_the_contextual_filter_of_the_docs_is_sound(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "filters.md").read_text()
    code = page[page.index("    class Hopeful") :].split("\n\nBeside it")[0]
    file = tmp_path / "hopeful.py"
    imports = "import torch\nfrom openrlhf_pf.filters import SampleFilter, build_filter\n\n\n"
    file.write_text(imports + textwrap.dedent(code))
    findings = check_filter(f"{file}:Hopeful")
    assert failed(findings) == {} and "does without" in {f.check: f.sentence for f in findings}["context"]


# ── Command line ──


def test_exit_status_0_and_one_line_a_check_for_a_sound_filter(capsys):
    assert main(["best_worst", "--samples", "6", "--keep", "3", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == list(CHECKS)
    assert "shape (61, 6), none negative (k = 3, group scope)" in lines[0]
    assert lines[-1] == "best_worst is sound: 12 checks, none FAILED."


def test_exit_status_1_for_a_broken_contract(tmp_path, capsys):
    name = write(tmp_path, "return batch.rewards")
    assert main([name]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("FAILED  weights ") and last == f"{name} is not sound: weights FAILED."


@pytest.mark.parametrize(
    "header, body, options, words",
    [
        ("import no_such_module\n" + HEADER, "return batch.usable", [], "does not import (ModuleNotFoundError"),
        ("class Mine(:\n", "pass", [], "mine.py does not import (SyntaxError"),
        ("class Mine:\n", "return 1", [], "must be a subclass of openrlhf_pf.SampleFilter, found another class"),
        ("class Other:\n", "return 1", [], "found nothing of that name"),
        (HEADER, "def weigh(self, rewards, order):\n    return rewards", [], "weigh takes (self, rewards, order)"),
        (HEADER, "return batch.usable", ["--options", "power=2"], "takes no power; it takes no options: leave it out"),
        (HEADER, "return batch.usable", ["--options", "power"], "an option is written key=value, got 'power'"),
        (HEADER, "return batch.usable", ["--keep", "9"], "between 1 and the 8 samples of a prompt, got 9"),
        (HEADER, "return batch.usable", ["--samples", "1"], "draw at least 2 samples a prompt"),
    ],
)
def test_exit_status_2_and_one_sentence_for_a_class_that_cannot_be_used(
    tmp_path, capsys, header, body, options, words
):
    assert main([write(tmp_path, body, header), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("check: ") and words in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([EXAMPLE, "--options", "threshold=high"], "option threshold of sample filter"),
        ([EXAMPLE, "--options", "threshold=high"], "must be float, got 'high'."),
        (["best_wurst"], "did you mean 'best_worst'?"),
        (["no_such_file.py:Mine"], "no_such_file.py does not import (FileNotFoundError"),
    ],
)
def test_exit_status_2_for_a_wrong_name_or_option(capsys, arguments, words):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_module_runs_as_a_command():
    command = [sys.executable, "-m", "openrlhf_pf.filters.check", EXAMPLE, "--options", "threshold=0.6"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "RuntimeWarning" not in done.stderr  # as runpy warns of a module loaded twice
    assert done.stdout.splitlines()[-1] == f"{EXAMPLE} is sound: 12 checks, none FAILED."


# ── The example ──


@pytest.mark.parametrize(
    "scores, texts, expected",
    [
        # Rewards 3 6 1 5 2 4: the upper half are samples 1 3 5 of lengths 50 20 60, the lower 0 4 2 of 10 40 30.
        ([0.0, 1.0, 1.0, 0.0, 1.0, 1.0], [], [1, 2]),
        ([0.0, 0.0, 1.0, 0.0, 1.0, 0.0], [], [3, 2]),  # none of the upper half is correct: its shortest
        ([0.6, 0.9, 0.6, 0.7, 0.9, 0.9], ["threshold=0.8"], [1, 4]),
        ([NAN, 1.0, 1.0, NAN, 1.0, 1.0], [], [1, 2]),  # a missing score is not known to be correct
        (None, [], [3, 0]),
    ],
)
def test_shortest_correct_keeps_one_of_each_reward_quantile(scores, texts, expected):
    batch = FilterBatch(
        torch.tensor([[3.0, 6.0, 1.0, 5.0, 2.0, 4.0]]),
        response_lengths=torch.tensor([[10, 50, 30, 20, 40, 60]]),
        scores=None if scores is None else torch.tensor([scores]),
    )
    weights = build_filter(EXAMPLE, 6, 2, texts)(batch)
    assert weights.tolist() == [[0.5 if i in expected else 0.0 for i in range(6)]]


def test_shortest_correct_cuts_quantiles_among_usable_rewards():
    # 4 usable: quantiles 1 2 and 3 4, of which 2 and 4 are the shorter; the shortest of all has no reward.
    batch = FilterBatch(
        torch.tensor([[NAN, 4.0, 3.0, 2.0, 1.0], [NAN, NAN, NAN, NAN, 1.0]]),
        response_lengths=torch.tensor([[1, 9, 8, 7, 6]] * 2),
    )
    assert build_filter(EXAMPLE, 5, 2)(batch).tolist() == [[0, 0, 0.5, 0, 0.5], [0] * 5]
