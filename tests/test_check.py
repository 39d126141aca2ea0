"""Contract checks: sound filters and selections pass, and each broken contract fails the check meant for it."""

import random
from pathlib import Path

import numpy as np
import pytest

from openrlhf_pf.cli.check import main
from openrlhf_pf.filters import FILTERS, FilterBatch, build_filter
from openrlhf_pf.selection import SELECTIONS
from openrlhf_pf.testing import (
    FILTER_CHECKS,
    N_PROMPTS,
    SELECTION_CHECKS,
    check_filter,
    check_selection,
    make_rollout,
    run_filter_checks,
    run_selection_checks,
)

NAN = float("nan")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "filters"
EXAMPLE = f"{EXAMPLES / 'custom_filter.py'}:ShortestCorrect"
LEARNED = f"{EXAMPLES / 'learned_weights.py'}:LearnedWeights"

#: Options without which a built-in filter cannot be built.
OPTIONS = {
    "rank_weights": ["weights=8,7,6,5,4,3,2,1"],
    "top": ["high=0.3"],
    "top_bottom": ["low=-0.3", "high=0.3"],
    "top_random": ["high=0.3"],
    "reward_power": ["power=2"],
}

HEADER = """
import random, sys

import numpy as np

from openrlhf_pf.filters import SampleFilter


class Mine(SampleFilter):
"""


def write(folder: Path, body: str, header: str = HEADER) -> str:
    """Write a class to a file and return its name; a body without methods is that of weigh."""
    if "def " not in body:
        body = "def weigh(self, batch):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    file = folder / "mine.py"
    file.write_text(header + "".join(f"    {line}\n" for line in body.splitlines()))
    return f"{file}:Mine"


def failures(name: str, *args, **options) -> dict[str, str]:
    return {check: sentence for check, passed, sentence in run_filter_checks(name, *args, **options) if not passed}


def notes(name: str, *args, **options) -> dict[str, str]:
    return {check: note for check, passed, note in run_filter_checks(name, *args, **options) if passed and note}


# ── Sound filters ──

BUILT_IN = [(name, OPTIONS.get(name, [])) for name in [*FILTERS, EXAMPLE]]
QUANTILES = [["high=0.7", "unit=quantile", *per] for per in ([], ["per=label:task"], ["per=datasource", "window=100"])]
MORE = [
    *(("top", texts) for texts in QUANTILES),
    ("top_random", QUANTILES[1]),
    ("top_bottom", [*QUANTILES[2], "low=0.2"]),
    ("pareto", ["objectives=reward,length,diversity"]),
    ("pareto", ["objectives=length,reward"]),
    (LEARNED, ["patience=1", "certainty=.1", "method=closed"]),
]


@pytest.mark.filterwarnings("ignore:learned_weights")
@pytest.mark.parametrize(("name", "texts"), BUILT_IN + MORE)
def test_every_filter_that_we_ship_is_sound(name, texts):
    results = list(run_filter_checks(name, texts=texts))
    assert [check for check, *_ in results] == list(FILTER_CHECKS)
    assert {check: sentence for check, passed, sentence in results if not passed} == {}


def test_options_are_given_as_values_or_as_texts_and_checks_raise_in_one_sentence(tmp_path):
    check_filter(EXAMPLE, n_samples=7, keep=3, threshold=0.4)
    check_filter(EXAMPLE, 7, 3, ["threshold=0.4"])
    name = write(tmp_path, "return batch.rewards")
    with pytest.raises(AssertionError) as error:
        check_filter(name)
    assert str(error.value).startswith(f"{name} fails the check 'weights': Mine.weigh must return finite weights")
    assert "\n" not in str(error.value)


def test_random_weights_are_sound_but_cannot_be_compared(tmp_path):
    name = write(tmp_path, "return batch.generator.random(batch.rewards.shape)")
    assert list(notes(name)) == ["unusable", "order"] and not failures(name)
    (tmp_path / "other").mkdir()  # a file is imported once
    assert failures(write(tmp_path / "other", REMEMBERS + SAVES)) == {}, "it learns and saves its state"


def test_prompts_that_are_dropped_are_noted(tmp_path):
    name = write(tmp_path, "return (batch.spread > 1.4)[:, None] * batch.usable")
    rewards = make_rollout(N_PROMPTS, 8, 0)["rewards"]
    dropped = int((np.ptp(rewards, axis=1) <= 1.4).sum())
    expected = f"{dropped} of {N_PROMPTS} prompts have no weight though all their rewards are usable."
    assert notes(name)["weights"] == expected and failures(name) == {}
    other = {"texts": ["high=5"]}  # a threshold for rewards of another size
    assert "no sample has a weight above 0" in notes("top", **other)["weights"] and not failures("top", **other)


def test_the_checks_leave_the_global_generators_as_they_were(tmp_path):
    name = write(tmp_path, "return random.random() + np.random.rand(*batch.rewards.shape)")
    before = np.random.get_state()[1].tolist(), random.getstate()
    assert "seed" in failures(name)
    assert before == (np.random.get_state()[1].tolist(), random.getstate())


# ── Broken contracts ──

REMEMBERS = """
def __init__(self, n_samples, keep):
    super().__init__(n_samples, keep)
    self.calls = 0

def weigh(self, batch):
    self.calls += 1
    return np.where(batch.usable, 1 + np.tanh(batch.rewards * self.calls), 0.0)
"""
SAVES = """
def state_dict(self):
    return {"calls": self.calls}

def load_state_dict(self, state):
    self.calls = state["calls"]
"""
ONES = "def weigh(self, batch):\n    return batch.usable"
BEST = "(batch.order.argsort(axis=1) == {}) * 1.0"


@pytest.mark.parametrize(
    "body, expected",
    [
        ("return batch", {"weights": "got a FilterBatch."}),
        ("return batch.rewards", {"weights": "weights below 0, the lowest -0.9"}),
        ("return 1 / 0", {"weights": "raised ZeroDivisionError: division by zero ("}),
        ("sys.exit(3)", {"weights": "raised SystemExit: 3 ("}),
        (
            f"{ONES}\n\ndef __call__(self, batch):\n    return batch.usable * 1.0",
            {"sums": "sum to 8, not to 1 or 0", "draws": "raised ValueError: each row of weights"},
        ),
        (f"max_kept_per_prompt = 2\n\n{ONES}", {"sums": "8 samples of a prompt have weight, but max_kept_per_prompt"}),
        ("return np.random.rand(*batch.rewards.shape)", {"seed": "global random state"}),
        (
            "return np.random.default_rng().random(batch.rewards.shape)",
            {"seed": "two new filters", "state": "state_dict is empty"},
        ),
        (
            "return np.eye(self.n_samples)[batch.rewards.argmax(axis=1)]",
            {"ties": "number 0 of each prompt has the mean weight"},
        ),
        (
            "if not batch.usable.all():\n    raise RuntimeError('no NaN, please')\nreturn batch.usable",
            {"unusable": "raised RuntimeError: no NaN, please"},
        ),
        ("return np.exp(batch.rewards)", {"unusable": "Mine.weigh must return finite weights"}),
        (
            f"return {BEST.format(0)} if batch.usable.all() else {BEST.format(1)}",
            {"unusable": "when rewards of other prompts are not"},
        ),
        (
            "return 1 + np.arange(self.n_samples) * abs(batch.scores - batch.scores[:, :1])",
            {"order": "samples of a prompt change places"},
        ),
        (f"return 1 + np.arange(len(batch.rewards))[:, None] * {BEST.format(0)}", {"order": "prompts change places"}),
        (REMEMBERS, {"state": "(state_dict is empty)"}),
        (REMEMBERS + SAVES.replace('state["calls"]', "0"), {"state": "restore it in load_state_dict"}),
        (REMEMBERS + SAVES.replace("self.calls}", "lambda: self.calls}"), {"state": "raised"}),
        ("batch.rewards[:] *= 2\nreturn batch.usable", {"input": "changes rewards in place"}),
        ("batch.responses[0].sort()\nreturn batch.usable", {"input": "changes responses in"}),
        ("batch.extra_logs['accuracy'][:] = 0\nreturn batch.usable", {"input": "changes extra_logs in"}),
        ("batch.usable[:] = True\nreturn batch.usable", {"unusable": "have weight", "input": "changes usable"}),
    ],
)
def test_a_broken_contract_fails_the_check_meant_for_it(tmp_path, body, expected):
    found = failures(write(tmp_path, body))
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert words in found[name] and "\n" not in found[name]


def test_an_exception_names_the_line_of_the_users_file(tmp_path):
    found = failures(write(tmp_path, "ranks = batch.order\nreturn ranks.nonsense"))
    expected = f"raised AttributeError: 'numpy.ndarray' object has no attribute 'nonsense' ({tmp_path}/mine.py, line"
    assert found["weights"].startswith(expected) and found["weights"].endswith(": return ranks.nonsense).")


def test_a_constructor_that_forgets_its_parent_is_refused(tmp_path):
    body = f"def __init__(self, n_samples, keep):\n    pass\n\n{ONES}"
    with pytest.raises(ValueError, match=r"Mine.__init__ must start with super\(\).__init__\(n_samples, keep\)"):
        check_filter(write(tmp_path, body))


def test_rewards_that_are_lost_next_to_unusable_ones_are_noted(tmp_path):
    # argmax takes NaN for the highest: the prompt loses all its weight, though others of its rewards are usable.
    name = write(tmp_path, "return np.eye(self.n_samples)[batch.rewards.argmax(axis=1)]")
    assert "are dropped though k = 2" in notes(name)["unusable"]


def test_data_that_only_the_user_has_ends_the_checks(tmp_path, capsys):
    name = write(tmp_path, "return batch.extra_logs['length_bonus']")
    assert list(notes(name)) == ["weights"] and "KeyError: 'length_bonus'" in notes(name)["weights"]
    assert main([name]) == 0
    assert capsys.readouterr().out.endswith("could not be checked to the end: the checks stopped at weights.\n")

    (tmp_path / "other").mkdir()  # a file is imported once
    by_label = write(tmp_path / "other", "import json\nreturn [[json.loads(x)['level']] * 8 for x in batch.labels]")
    assert "raised KeyError: 'level'" in notes(by_label)["weights"] and "invented here" in notes(by_label)["weights"]
    assert not failures(by_label) and not failures("top", texts=["high=0.5", "unit=quantile", "per=label:level"])


USUAL = "if batch.visits is None:\n    return batch.usable\nbatch.posterior_mean\nreturn batch.usable"
STRICT = "if batch.visits is None:\n    raise ValueError('add --prompt_selection.')\nreturn batch.usable"


@pytest.mark.parametrize(
    "body, note, failure",
    [
        (USUAL, None, None),
        (STRICT, "works with --prompt_selection only: add --prompt_selection.", None),
        (
            "return batch.posterior_mean[:, None] * batch.usable",
            None,
            "visits are None, and the filter raised TypeError",
        ),
    ],
)
def test_what_only_prompt_selection_knows_may_be_missing(tmp_path, body, note, failure):
    name = write(tmp_path, body)
    assert (note or "") in notes(name).get("without_selection", "")
    assert (failure or "") in failures(name).get("without_selection", "") and len(failures(name)) == bool(failure)


# ── Prompt selections ──

SELECTION = """
import numpy as np
from openrlhf_pf import PromptSelection
class Hardest(PromptSelection):
    def priorities(self, generator):
        return {body}
"""


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection_that_we_ship_is_sound(name):
    check_selection(name)


@pytest.mark.parametrize(
    "body, failed",
    [
        ("-self.posterior.means()", []),
        ("np.random.rand(self.n_prompts)", ["repeatable", "resumable"]),
        (
            "-self.posterior.means()[:5]",
            ["distinct", "excluded", "repeatable", "pure", "resumable", "metrics"],
        ),
        ("self.posterior._counts.__iadd__(1)[0]", ["pure"]),
        ("self.__dict__.setdefault('first', generator.random(self.n_prompts))", ["resumable"]),
    ],
)
def test_a_broken_selection_fails_the_check_meant_for_it(tmp_path, body, failed):
    file = tmp_path / "own.py"
    file.write_text(SELECTION.format(body=body))
    assert [check for check, passed, _ in run_selection_checks(f"{file}:Hardest") if not passed] == failed
    if failed:
        with pytest.raises(AssertionError, match=f"fails the check '{failed[0]}'"):
            check_selection(f"{file}:Hardest")


# ── Command line ──


def test_exit_status_0_and_one_line_a_check(tmp_path, capsys):
    assert main(["best_worst", "--samples", "6", "--keep", "3", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", check] for check in FILTER_CHECKS]
    assert lines[-1] == "best_worst is sound: 10 checks, none failed."
    file = tmp_path / "own.py"
    file.write_text(SELECTION.format(body="-self.posterior.means()"))
    assert main([f"{file}:Hardest", "random_share=0.1", "--prompts", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", check] for check in SELECTION_CHECKS]


def test_exit_status_1_for_a_broken_contract(tmp_path, capsys):
    name = write(tmp_path, "return batch.rewards")
    assert main([name]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("FAILED  weights ") and last == f"{name} is not sound: weights failed."


def test_exit_status_2_for_a_class_that_cannot_be_used(tmp_path, capsys):
    name = write(tmp_path, ONES, "import sys\nsys.exit('bye')\n" + HEADER)
    for arguments, words in (
        ([name], "mine.py cannot be imported (it calls sys.exit('bye'))"),
        ([EXAMPLE, "treshold=1"], "takes no treshold; it takes threshold: did you mean 'threshold'?"),
        ([EXAMPLE, "--keep", "9"], "between 1 and the 8 samples of a prompt, got 9"),
        (["best_wurst"], "did you mean 'best_worst'?"),
        (["vade", "--prompts", "3"], "the checks need at least 32 prompts, got 3: give more."),
    ):
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("check: ") and words in printed.err
        assert printed.err.count("\n") == 1


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
        np.array([[3.0, 6.0, 1.0, 5.0, 2.0, 4.0]]),
        response_lengths=np.array([[10, 50, 30, 20, 40, 60]]),
        scores=None if scores is None else np.array([scores]),
    )
    weights = build_filter(EXAMPLE, 6, 2, texts)(batch)
    assert weights.tolist() == [[0.5 if i in expected else 0.0 for i in range(6)]]


def test_shortest_correct_cuts_quantiles_among_usable_rewards():
    # 4 usable: quantiles 1 2 and 3 4, of which 2 and 4 are the shorter; the shortest of all has no reward.
    batch = FilterBatch(
        np.array([[NAN, 4.0, 3.0, 2.0, 1.0], [NAN, NAN, NAN, NAN, 1.0]]),
        response_lengths=np.array([[1, 9, 8, 7, 6]] * 2),
    )
    assert build_filter(EXAMPLE, 5, 2)(batch).tolist() == [[0, 0, 0.5, 0, 0.5], [0] * 5]
