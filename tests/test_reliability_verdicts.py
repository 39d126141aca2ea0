"""A report never contradicts itself or the planted truth, and says what was read or why it cannot be."""

import json
import os

import numpy as np
import pytest
from planted import SETTINGS, analysed, plant
from rich.console import Console
from scipy import stats

from openrlhf_pf.reliability import Settings, analyse, show_report
from openrlhf_pf.reliability.analysis import BY_LENGTH
from openrlhf_pf.reliability.recommend import GOOD, WRONG
from openrlhf_pf.reliability.report.answers import answers_of, caveat_of, describe_data, sentences_of
from openrlhf_pf.reliability.report.reasons import text_of

#: 20 takes a quarter of an hour.
SEEDS = int(os.environ.get("OPENRLHF_PF_VERDICT_SEEDS", "1"))
NAMES = ("none", "best_of_n", "best_worst", "rank_weights")


# ── Simulated samples: (reward, score) from the samples of a right reward model ──


def huge(c, rng):
    c.reward += np.where(rng.random(c.reward.shape) < 0.03, 100.0, 0.0)


def huge_and_hacked(c, rng):
    hacked = rng.random(c.reward.shape) < 0.03
    c.reward, c.score = c.reward + 100.0 * hacked, np.where(hacked, 0.0, c.score)


def cauchy(c, rng):
    c.reward += rng.standard_cauchy(c.reward.shape)


def few_informative(c, rng):
    c.score[8:] = c.score[8:, :1]


def one_informative(c, rng):
    c.score[1:] = c.score[1:, :1]


def one_huge_prompt(c, rng):
    c.reward[0] *= 1e6


def likert(c, rng):
    c.reward = np.clip(np.round(c.reward + rng.normal(size=c.reward.shape)), -2, 1)


def binary(c, rng):
    c.reward = (c.reward + rng.normal(size=c.reward.shape) > 0).astype(float)


def flat(c, rng):
    c.reward[:] = c.reward[:, :1]


def reversed_(c, rng):
    c.reward *= -1


def tiny(c, rng):
    c.reward *= 1e-9


def offset(c, rng):
    c.reward += 1e9


def missing(c, rng):
    c.reward[rng.random(c.reward.shape) < 0.2] = np.nan
    c.score[rng.random(c.reward.shape) < 0.2] = np.nan


def by_length(c, rng):
    c.length = rng.integers(10, 900, c.reward.shape)
    c.reward = c.length / 200.0 + 0.2 * c.reward


def same(c, rng):
    c.reward = 2 * c.score - 1


def redrawn(c, rng):
    c.reward, c.reward_again = (2 * c.score + 0.6 * rng.normal(size=c.reward.shape) for _ in range(2))


def repeated(c, rng):
    c.reward += 0.5 * rng.normal(size=c.reward.shape)
    c.reward_again = c.reward.copy()


def half_redrawn(c, rng):
    frozen = 2 * c.score + 0.5 * rng.normal(size=c.reward.shape)
    c.reward, c.reward_again = (frozen + 0.5 * rng.normal(size=c.reward.shape) for _ in range(2))


CHANGES = {change.__name__: change for change in (huge, huge_and_hacked, cauchy, few_informative, one_informative)}
CHANGES |= {c.__name__: c for c in (one_huge_prompt, likert, binary, flat, reversed_, tiny, offset, missing)}
CHANGES |= {c.__name__: c for c in (by_length, same, redrawn, repeated, half_redrawn)}
KINDS = [*SETTINGS, *CHANGES]


def draw(kind, seed, n_prompts=150):
    checkpoint = plant(kind if kind in SETTINGS else "right everywhere", n_prompts, 5, seed)
    if kind in CHANGES:
        CHANGES[kind](checkpoint, np.random.default_rng([seed, 9]))
    return checkpoint


def share_of_pairs(checkpoint):
    """Of all pairs of a prompt, by brute force."""
    d = checkpoint.reward[:, :, None] - checkpoint.reward[:, None]
    better = checkpoint.score[:, :, None] > checkpoint.score[:, None]
    right = np.where(np.isfinite(d), (np.sign(d) + 1) / 2, np.nan)[better]
    return np.nanmean(right) if len(right) else np.nan


def contradictions(a):
    """Sentences of one report that exclude each other."""
    r, (ranking, _, following) = a.recommendation, answers_of(a)
    text, found = text_of(r, a), []
    says_right = a.ranking in GOOD
    if says_right and any(words in text for words in ("not shown to rank", "is reversed", "random choice")):
        found.append("ranked, and not ranked")
    if r.answer == "filter" and not says_right and "Over all responses the ranking is not right" not in text:
        found.append("a filter without a ranking")
    if r.reason == "ranking and gain disagree" and "pairs" not in text:
        found.append("no reason for a disagreement")
    if r.decided != following.short.startswith("Train"):
        found.append("the next step is not the answer")
    remarks = " ".join(ranking.sentences)
    if r.strategy == "best_of_n" and "best_of_n would teach" in remarks:
        found.append("best_of_n, and not best_of_n")
    if a.follows_length and r.strategy in BY_LENGTH:
        found.append("by length, although the reward follows it")
    if a.errors and "noisy between scorings" in text:
        found.append("the noise is known, and not known")
    if len({words for words in ("errors repeat", "errors are redrawn", "Part of the error") if words in text}) > 1:
        found.append("errors repeat, and are redrawn")
    if "nearly always" in ranking.short and a.accuracy["estimate"] < 0.9:
        found.append("a number that is not the words")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_sentences_contradict_each_other_or_the_truth(kind):
    is_noise = kind in ("useless", "difficulty only", "flat")
    truth, margin = (0.5, -0.01) if is_noise else (share_of_pairs(draw(kind, 1000, 3000)), 0.01)
    wrong = 0
    for seed in range(SEEDS):
        a = analysed(draw(kind, seed), names=NAMES).analysed[0]
        assert contradictions(a) == [], (kind, seed)
        wrong += (a.ranking in GOOD and truth < 0.5 - margin) or (a.ranking == WRONG and truth > 0.5 + margin)
    # Of intervals of 95%, one in 20 excludes the 50% of pure noise: 5 of 20 come once in 1,000 tests.
    assert wrong <= (stats.binom.ppf(0.999, SEEDS, 0.05) if is_noise else max(1, SEEDS // 10)), kind


@pytest.mark.parametrize(
    "kind, short, headline, cause",
    [
        ("huge_and_hacked", "", "No filter yet: a few huge rewards outweigh the ranking", "of the spread of rewards"),
        ("few_informative", "", "There are too few informative prompts", "of 150 prompts do responses have different"),
        ("same", "Not measured", "Not from these data: the reward is its own true score", "more than 0.999"),
        ("reversed_", "No, the ranking is reversed", "Do not train with this reward: the ranking is reversed", "sign"),
        ("flat", "Not shown by these data", "Use no filter: these rewards are not shown to rank", "random choice"),
    ],
)
def test_where_the_answers_differ_the_report_names_why(kind, short, headline, cause):
    a = analysed(draw(kind, 0), names=NAMES).analysed[0]
    ranking, filters, _ = answers_of(a)
    assert ranking.short.startswith(short) and filters.short.startswith(headline)
    assert any(cause in line for line in filters.sentences)


def test_a_reward_that_follows_length_is_named_and_pareto_is_not_recommended():
    found = analysed(draw("by_length", 0, 300), names=("none", "best_worst", "pareto"))
    a = found.analysed[0]
    assert a.follows_length and a.length["length"]["low"] > 0.8 > a.length["score"]["high"]
    assert caveat_of(a, []).startswith("The reward follows response length more than the true score")
    assert found.recommendation.strategy != "pareto"
    right = draw("right everywhere", 0, 300)
    right.length = np.random.default_rng(0).integers(10, 900, right.reward.shape)
    assert not analysed(right, names=("none",)).analysed[0].follows_length


def uneven(c, rng):
    """One prompt has 300 responses, the others 5."""
    c.reward, c.score = (np.full((150, 300), np.nan) for _ in range(2))
    c.reward[:, :5], c.score[:, :5] = rng.normal(size=(150, 5)), np.arange(5) % 2
    c.reward[0], c.score[0] = rng.normal(size=300), np.arange(300) % 2


def equal_scores(c, rng):
    c.score[:] = 1.0


def equal_rewards(c, rng):
    c.reward[:] = 1.0


def one_response(c, rng):
    c.reward[:, 1:] = np.nan


def three_rewards(c, rng):
    c.reward = np.sign(c.reward) * (np.abs(c.reward) > 0.5)


def negative_copy(c, rng):
    c.reward = 1 - 2 * c.score


@pytest.mark.parametrize(
    "change, n_prompts, wanted, unwanted",
    [
        (None, 20, ["But: 20 prompts are too few", "Score at least 10 more prompts"], ["would settle", "Only in 19"]),
        (negative_copy, 150, ["But: All numbers of this report compare the reward with itself"], ["second choices"]),
        (same, 150, ["Not measured"], ["do not fall significantly", "over-confident"]),
        (uneven, 150, ["of 150 prompts carry most of the numbers within prompts: they"], ["Only in", "in only"]),
        (few_informative, 150, ["But: Only in 5 of 150 prompts", "Only these carry"], ["about 5 of"]),
        (equal_rewards, 150, ["Not shown by these data", "What to do next? Use another reward model."], []),
        (equal_scores, 150, ["In none of 150 prompts", "Unknown"], ["Only in 0", "do not fall", "more prompts"]),
        (one_response, 60, ["Every prompt has one response", "What to do next? Sample more responses."], []),
        (reversed_, 150, ["the ranking is reversed"], ["would teach what fools", "misjudges some"]),
        (three_rewards, 150, ["no sample passes top and top_bottom."], ["top keeps nothing"]),
        (binary, 150, ["there is no binned R² of none, best_of_n, best_worst"], []),
    ],
)
def test_sentences_that_a_report_has_and_those_that_would_contradict_it(change, n_prompts, wanted, unwanted):
    checkpoint = draw("right everywhere", 0, n_prompts)
    if change:
        change(checkpoint, np.random.default_rng(0))
    console = Console(width=2000, record=True, file=open(os.devnull, "w"))
    show_report(analysed(checkpoint, names=(*NAMES, "top", "top_bottom", "max_variance")), console)
    text = console.export_text()
    assert [w for w in wanted if w not in text] == [] and [w for w in unwanted if w in text] == []


# ── What was read ──


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def samples(n_prompts=60, n=6, seed=0):
    c = plant("right everywhere", n_prompts, n, seed)
    noise = np.random.default_rng(seed).normal(size=c.reward.shape)
    return [
        {"prompt_id": f"p{g}", "reward": float(c.reward[g, i] + noise[g, i]), "score": float(c.score[g, i])}
        for g in range(n_prompts)
        for i in range(n)
    ]


def test_files_that_repeat_prompts_without_a_step_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for step in (0, 100):
        write(tmp_path / "in" / f"step_{step}.jsonl", samples(seed=step))
    with pytest.raises(ValueError, match="give them as separate PATHs"):
        analyse([tmp_path / "in"])


def test_a_reward_that_is_the_score_lists_columns_that_might_be_true(tmp_path):
    rows = [row | {"score": 3 * row["reward"] - 1, "extra": {"acc": row["score"]}, "n": "x"} for row in samples()]
    analysis = analyse([write(tmp_path / "a.jsonl", rows)], Settings(repetitions=100))
    following = answers_of(analysis.analysed[0])[2]
    assert not analysis.recommendation.decided and following.short == "Name the true score"
    assert "extra.acc" in following.sentences[0]


def test_a_copy_of_the_reward_is_no_true_score(tmp_path):
    rows = [row | {"acc": row["score"] > 0, "reward": 2.0 * (row["score"] > 0) - 1} for row in samples()]
    rows = [row | {"score": row["reward"], "again": row["reward"]} for row in rows]
    path, settings = write(tmp_path / "a.jsonl", rows), Settings(repetitions=100)
    (sentence,) = answers_of(analyse([path], settings).analysed[0])[2].sentences
    assert "name it: acc;" in sentence
    following = answers_of(analyse([path], settings, columns={"score": "acc"}).analysed[0])[2]
    assert following.short == "Add a true score"


@pytest.mark.parametrize(
    "names",
    [("scores_chosen", "scores_rejected"), ("chosen_score", "rejected_score"), ("chosen_reward", "rejected_reward")],
)
def test_preference_pairs_give_pair_accuracy_by_subset(tmp_path, names):
    rng = np.random.default_rng(0)
    rows = [
        {names[0]: float(rng.normal() + 1), names[1]: float(rng.normal()), "subset": "math" if i % 2 else "chat"}
        for i in range(200)
    ]
    analysis = analyse([write(tmp_path / "a.jsonl", rows)], Settings(repetitions=100))
    a = analysis.analysed[0]
    assert a.accuracy["estimate"] == pytest.approx(np.mean([row[names[0]] > row[names[1]] for row in rows]))
    chat = [row for row in rows if row["subset"] == "chat"]
    assert a.subsets["chat"]["estimate"] == pytest.approx(np.mean([row[names[0]] > row[names[1]] for row in chat]))
    assert a.subsets["chat"]["low"] < a.subsets["chat"]["estimate"] < a.subsets["chat"]["high"]
    assert describe_data(analysis) == ["200 preference pairs, from 1 file."]
    assert not analysis.recommendation.decided
    assert sentences_of(analysis) == [] and "variance" not in " ".join(answers_of(a)[0].sentences)


def test_lists_of_chosen_and_rejected_scores_are_compared_within_a_row(tmp_path):
    rows = [{"id": "a", "score_chosen": [3.0, 0.0], "score_rejected": [1.0, 2.0], "domain": "chat"}] * 40
    analysis = analyse([write(tmp_path / "a.jsonl", rows)], Settings(repetitions=100))
    assert analysis.analysed[0].accuracy["estimate"] == pytest.approx(0.5)  # 3 beats both, 0 none


def test_a_narrow_terminal_cuts_no_interval(tmp_path):
    checkpoint = draw("right everywhere", 0)
    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    show_report(analysed(checkpoint, names=NAMES), console)
    text = console.export_text()
    table = [line for line in text.splitlines() if line.startswith(("│", "┃"))]
    assert table and all(len(line) <= 80 and "…" not in line for line in table)
