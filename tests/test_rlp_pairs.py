"""Winners and losers: the paper's rule, every case that it leaves open, and what its arithmetic promises."""

import math
import random
from collections import Counter

import pytest
from preference_samples import prompt_of, table_of

from openrlhf_pf.rlp import choose, group_by_prompt, make_pairs
from openrlhf_pf.rlp.pairs import USED
from openrlhf_pf.rlp.report import measure

A, B, C = 0, 1, 2


def groups_of(*sizes):
    return [group for group, size in enumerate(sizes) for _ in range(size)]


def ten(**changed):
    return prompt_of([f"answer {i}" for i in range(10)], **changed)


@pytest.mark.parametrize(
    "sizes, threshold, reason, confidence",
    [
        ((6, 3, 1), 0.5, USED, 0.6),
        ((5, 5), 0.5, "tie", 0.5),
        ((10,), 0.5, "one_cluster", 1.0),
        ((4, 3, 3), 0.5, "low_confidence", 0.4),
        ((4, 3, 3), 0.0, USED, 0.4),
        ((1,) * 10, 0.0, "tie", 0.1),
        ((5, 4, 1), 0.5, USED, 0.5),
        ((6, 3, 1), 1.0, "low_confidence", 0.6),
    ],
)
def test_groups_made_by_hand(sizes, threshold, reason, confidence):
    choice = choose(ten(), groups_of(*sizes), threshold)
    assert (choice.reason, choice.confidence) == (reason, confidence)
    assert (choice.winner is not None) == bool(choice.losers) == (reason == USED)


def test_the_old_rewards_best_of_the_largest_cluster_wins():
    """Places 0 to 5 are the cluster; 9 has the best reward of all, and is outside."""
    choice = choose(ten(rewards=[1, 7, 3, 2, 5, 4, 8, 8, 8, 9]), groups_of(6, 3, 1))
    assert choice.winner == 1 and set(choice.losers) <= {6, 7, 8, 9}


def test_losers_are_drawn_evenly():
    drawn = Counter(choose(ten(text=f"{n}"), groups_of(6, 3, 1), seed=3).losers[0] for n in range(4000))
    assert set(drawn) == {6, 7, 8, 9}
    # A quarter of 4000 each, with a standard deviation of sqrt(4000 * 3/16) = 27.
    assert all(abs(count - 1000) < 110 for count in drawn.values())


def test_of_equal_rewards_a_random_one_wins():
    drawn = Counter(
        choose(ten(text=f"{n}", rewards=[1, 2, 2, 0, 2] + [9] * 5), groups_of(5, 3, 2)).winner for n in range(600)
    )
    assert set(drawn) == {1, 2, 4} and all(abs(count - 200) < 60 for count in drawn.values())


def test_several_pairs_have_one_winner_and_different_losers():
    prompt = prompt_of(["a", "a", "a", "b", "b", "c"])
    choice = choose(prompt, [A, A, A, B, B, C], pairs=5)
    assert choice.winner == 2 and sorted(prompt.responses[place] for place in choice.losers) == ["b", "c"]
    assert len(choose(ten(), groups_of(6, 3, 1), pairs=3).losers) == 3


def test_failures_count_and_may_lose_and_form_no_cluster():
    assert choose(ten(), [A] * 6 + [-1] * 4).reason == USED
    choice = choose(ten(), [A] * 4 + [-1] * 6)
    assert (choice.reason, choice.confidence) == ("low_confidence", 0.4)
    assert choose(ten(), [A] * 4 + [-1] * 6, 0.0).losers[0] >= 4
    assert choose(ten(), [-1] * 10, 0.0).reason == "no_cluster"
    assert choose(ten(), None).reason == "not_clustered"


def test_what_was_cut_off_counts_and_neither_wins_nor_loses():
    cut = [False] * 5 + [True] + [True, False, True, True]
    for seed in range(20):
        choice = choose(ten(truncated=cut), groups_of(6, 3, 1), seed=seed)
        assert (choice.confidence, choice.winner, choice.losers) == (0.6, 4, (7,))
    assert choose(ten(truncated=[True] * 6 + [False] * 4), groups_of(6, 4)).reason == "truncated"
    assert choose(ten(truncated=[False] * 6 + [True] * 4), groups_of(6, 4)).reason == "truncated"


def test_an_answer_without_a_reward_does_not_win():
    rewards = [1.0, 2.0, math.nan, math.inf, 0.0, 0.5] + [9.0] * 4
    assert choose(ten(rewards=rewards), groups_of(6, 4)).winner == 1
    assert choose(ten(rewards=[math.nan] * 6 + [1] * 4), groups_of(6, 4)).reason == "unusable_reward"


def test_an_equal_text_outside_does_not_lose_to_itself():
    prompt = prompt_of(["a", "a", "a", "a", "b"])
    assert choose(prompt, [A, A, A, B, C], pairs=9).losers == (4,)
    assert choose(prompt_of(["a", "a", "a", "a"]), [A, A, A, B]).reason == "one_cluster"


def test_the_seed_decides():
    prompts = [ten(text=str(n)) for n in range(30)]
    one, same, other = ([choose(p, groups_of(6, 4), seed=s) for p in prompts] for s in (1, 1, 2))
    assert one == same != other


def test_rows_are_for_train_rm_and_none_comes_twice():
    prompt = prompt_of(["a", "a", "b"], text="x")
    choice = choose(prompt, [A, A, B])
    assert make_pairs([prompt, prompt], [choice, choice]) == [{"prompt": "x", "chosen": "a", "rejected": "b"}]
    assert make_pairs([prompt], [choose(prompt, None)]) == []


def test_the_blank_that_a_policy_writes_before_its_end_token_is_left_to_train_rm():
    """OpenRLHF's SFT and train_rm put one there; a second one would be a text that the policy never writes."""
    (prompt,) = group_by_prompt(table_of([("x", "a ", 1.0), ("x", "a", 0.5), ("x", "  b  ", 0.0)]))
    assert sorted(prompt.responses) == ["  b ", "a", "a"]
    assert make_pairs([prompt], [choose(prompt, [1, 0, 0])])[0]["chosen"] == "a"


# n = 10 samples, right ones with chance p, wrong ones spread evenly over W behaviours: of all ways in which ten
# answers can fall, the share that is used, and the share of these whose largest cluster is the right one, added up.
TABLE = {
    (0.2, 2, 0.5): (0.710, 0.044), (0.2, 5, 0.5): (0.098, 0.335), (0.2, 20, 0.5): (0.033, 0.987),
    (0.3, 2, 0.5): (0.620, 0.232), (0.3, 5, 0.5): (0.187, 0.805), (0.3, 20, 0.5): (0.150, 0.998),
    (0.5, 2, 0.5): (0.747, 0.812), (0.5, 5, 0.5): (0.629, 0.988), (0.5, 20, 0.5): (0.622, 1.000),
    (0.7, 2, 0.5): (0.931, 0.986), (0.7, 5, 0.5): (0.925, 0.999), (0.7, 20, 0.5): (0.924, 1.000),
    (0.2, 5, 0.0): (0.693, 0.257), (0.3, 5, 0.0): (0.737, 0.569), (0.5, 5, 0.0): (0.907, 0.934),
    (0.7, 5, 0.0): (0.964, 0.997),
}  # fmt: skip


@pytest.mark.parametrize("p, wrong, threshold", TABLE)
def test_random_clusters(p, wrong, threshold):
    """Of 10,000 prompts; within four standard errors, which is 0.02 at most for the share that is used."""
    rng, prompt, n = random.Random(0), ten(), 10_000
    used = right = 0
    for _ in range(n):
        groups = [0 if rng.random() < p else 1 + rng.randrange(wrong) for _ in range(10)]
        choice = choose(prompt, groups, threshold)
        used += choice.reason == USED
        right += choice.reason == USED and groups[choice.winner] == 0
    share, accuracy = TABLE[p, wrong, threshold]
    assert used / n == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))
    # Of shares near 1 the table's three digits say less than the standard error.
    assert right / used == pytest.approx(accuracy, abs=0.0005 + 4 * math.sqrt(accuracy * (1 - accuracy) / used))


# ── Measures ──


def measured(prompts, groups, threshold=0.5):
    choices = [choose(p, g, threshold) for p, g in zip(prompts, groups)]
    return measure(prompts, groups, choices, 1, 0)


def test_counts_and_lengths():
    good = prompt_of(["aaaa", "aaaa", "bb"], tokens=[4, 4, 2])
    tie, same = prompt_of(["a", "b"], text="tie"), prompt_of(["a", "a"], text="same")
    found = measured([good, tie, same], [[A, A, B], [A, B], [A, A]])
    assert (found["prompts"], found["samples"], found["used"], found["pairs"]) == (3, 7, 1, 1)
    assert found["skipped"] == {"tie": 1, "one_cluster": 1}
    lengths = found["lengths"]
    assert lengths["chosen"] == {"characters": 4, "tokens": 4} and lengths["rejected"] == {
        "characters": 2,
        "tokens": 2,
    }
    assert lengths["all samples"] == {"characters": 2.0, "tokens": pytest.approx(10 / 3)}
    assert found["orders"] == {}


def test_accuracy_of_pairs_against_ranked_and_select_all():
    """The first prompt's majority is right, the second one's wrong; the third is below the threshold, and right."""
    prompts = [
        prompt_of(["a", "a", "b"], [0, 1, 2], [1, 1, 0], text="1"),
        prompt_of(["a", "a", "b"], [0, 1, 2], [0, 0, 1], text="2"),
        prompt_of(["a", "a", "b", "c", "d"], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], text="3"),
    ]
    found = measured(prompts, [[A, A, B], [A, A, B], [A, A, B, 3, 4]])["orders"]
    assert found["spg"] == [(0, 1, 0, 0), (1, 0, 1, 0)]
    assert found["select_all"] == [(0, 1, 0, 0), (1, 0, 1, 0), (2, 1, 0, 0)]

    def share(prompt):
        rows = [row for row in found["ranked"] if row[0] == prompt]
        return [pytest.approx(sum(row[place] for row in rows)) for place in (1, 2, 3)]

    # Prompt 0: both pairs that differ in text rank b first, which is wrong. 1: the same, and right.
    # 2: of nine pairs of different texts, six are a against another one, right; three are of equal scores.
    assert [share(prompt) for prompt in range(3)] == [[0, 1, 0], [1, 0, 0], [6 / 9, 0, 3 / 9]]


def test_equal_rewards_rank_by_a_coin():
    prompt = prompt_of(["a", "b"], [1, 1], [1, 0])
    assert measured([prompt], [[A, B]])["orders"]["ranked"] == [(0, 0.5, 0, 0), (0, 0, 0.5, 0)]
