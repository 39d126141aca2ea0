"""Several objectives: fronts and crowding by hand and by brute force, and how different responses are."""

import math

import numpy as np
import pytest

from openrlhf_pf.filters import FilterBatch, build_filter, make_generator, pareto
from openrlhf_pf.filters.pareto import crowding, fronts, mean_distances

NAN, INF = math.nan, math.inf


def kept(sample_filter, rewards, lengths):
    batch = FilterBatch(rewards, make_generator(0), response_lengths=lengths)
    return [np.flatnonzero(row).tolist() for row in sample_filter(batch)]


# ── Fronts ──

# Rewards and lengths of six samples. 0 (9, 50), 1 (7, 20) and 2 (3, 10) trade one for the other; 3 (6, 30) is beaten
# by 1 alone, 4 (2, 40) by 1, 2 and 3, and 5 (8, 60) by 0 alone.
REWARDS, LENGTHS = [9.0, 7.0, 3.0, 6.0, 2.0, 8.0], [50, 20, 10, 30, 40, 60]


def test_fronts_by_hand():
    values = np.stack([[REWARDS], -np.array([LENGTHS])], axis=2)
    assert fronts(values, np.ones((1, 6), dtype=bool), 6).tolist() == [[0, 0, 0, 1, 2, 1]]
    # Without sample 1, 3 is in the first front.
    usable = np.array([[True, False, True, True, True, True]])
    assert fronts(values, usable, 6).tolist() == [[0, 6, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    "keep, expected",
    [
        (1, [0]),  # both ends of the first front have an infinite distance: the one with more reward
        (2, [0, 2]),
        (3, [0, 1, 2]),
        (4, [0, 1, 2, 5]),  # of the second front, two ends: 5 has more reward than 3
        (5, [0, 1, 2, 3, 5]),
    ],
)
def test_whole_fronts_then_the_least_crowded(keep, expected):
    assert kept(build_filter("pareto", 6, keep), [REWARDS], [LENGTHS]) == [expected]


def test_crowding_by_hand():
    # Reward 0 1 3 10 and length 40 30 10 0 of one front, and a fifth sample of another one. Sample 1 has neighbours
    # 3 of 10 apart in reward and 30 of 40 in length, sample 2 has 9 of 10 and 30 of 40.
    values = np.array([[[0.0, 40], [1, 30], [3, 10], [10, 0], [5, 20]]])
    members = np.array([[True, True, True, True, False]])
    assert crowding(values, members)[0, :4].tolist() == pytest.approx([INF, 0.3 + 0.75, 0.9 + 0.75, INF])
    # What is equal in an objective has no ends in it.
    values[:, :, 1] = 7.0
    assert crowding(values, members)[0, :4].tolist() == pytest.approx([INF, 0.3, 0.9, INF])
    pair = np.array([[True, False, True, False, False]])
    assert crowding(values, pair)[0].tolist() == [INF, 0, INF, 0, 0]


def brute(values, keep):
    """The k best of (N, M) points, by the definitions."""

    def beats(one, other):
        return all(a >= b for a, b in zip(one, other)) and one != other

    left, chosen = dict(enumerate(map(tuple, values.tolist()))), []
    while len(chosen) < keep:
        front = [i for i in left if not any(beats(left[j], left[i]) for j in left)]
        if len(chosen) + len(front) > keep:
            distance = dict.fromkeys(front, 0.0)
            for m in range(values.shape[1]):
                line = sorted(front, key=lambda i: left[i][m])
                low, high = left[line[0]][m], left[line[-1]][m]
                distance[line[0]] = distance[line[-1]] = INF
                for before, here, after in zip(line, line[1:], line[2:]):
                    distance[here] += (left[after][m] - left[before][m]) / (high - low)
            front.sort(key=lambda i: (distance[i], left[i][0]), reverse=True)
        chosen += front[: keep - len(chosen)]
        left = {i: point for i, point in left.items() if i not in front}
    return sorted(chosen)


@pytest.mark.parametrize("objectives", [["reward", "length"], ["length", "reward"], ["reward", "length", "diversity"]])
@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_what_is_kept_is_what_the_definitions_say(n, objectives):
    source = np.random.default_rng(n)
    rewards = source.normal(size=(40, n))
    lengths = 20 + source.random((40, n)).argsort(axis=1)
    tokens = [[np.random.default_rng(i).integers(0, 9, i) for i in row] for row in lengths.tolist()]
    far = mean_distances(tokens, np.ones((40, n), dtype=bool), 2)
    columns = {"reward": rewards, "length": -lengths, "diversity": far}
    values = np.stack([columns[name] for name in objectives], axis=2)
    ngram = {"ngram": 2} if "diversity" in objectives else {}
    for keep in range(1, n + 1):
        sample_filter = build_filter("pareto", n, keep, objectives=objectives, **ngram)
        batch = FilterBatch(rewards, make_generator(0), response_lengths=lengths, response_tokens=tokens)
        weights = sample_filter(batch)
        assert [np.flatnonzero(row).tolist() for row in weights] == [brute(v, keep) for v in values]
        assert weights[weights > 0].tolist() == pytest.approx([1 / keep] * 40 * keep)


def test_unusable_rewards_are_in_no_front():
    # The shortest has no reward; of three others the last is beaten. One usable reward of a prompt is too few.
    rewards, lengths = [[NAN, 5.0, 4.0, 3.0], [NAN, INF, -INF, 1.0]], [[1, 20, 10, 30], [1, 2, 3, 4]]
    assert kept(build_filter("pareto", 4, 2), rewards, lengths) == [[1, 2], []]


# ── Diversity ──


def jaccard(one, other, n):
    grams = [{tuple(t[i : i + n].tolist()) for i in range(max(len(t) - n + 1, 1))} for t in (one, other)]
    return 1 - len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def exact(responses, usable, n):
    size = len(responses)
    return [
        sum(jaccard(responses[i], responses[j], n) for j in range(size) if j != i and usable[j])
        / max(sum(usable[j] for j in range(size) if j != i), 1)
        for i in range(size)
    ]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distances_are_those_of_the_sets_of_n_grams_up_to_their_standard_error(n):
    source, groups = np.random.default_rng(n), []
    for length in (0, 1, 2, 5, 30, 400):
        base = source.integers(0, 50, length)
        changed = base.copy()
        changed[source.random(length) < 0.1] = 99
        groups.append([base, changed, base[: length // 2], source.integers(0, 50, length + 3)])
    usable = np.ones((len(groups), 4), dtype=bool)
    usable[1, 2] = usable[5, 0] = False
    found = mean_distances(groups, usable, n)
    wanted = np.array([exact(row, u, n) for row, u in zip(groups, usable.tolist())])
    # The mean of three distances, each with a standard error of .044 at most, that share one response.
    assert np.abs(found - wanted).max() < 0.12 and np.abs(found - wanted).mean() < 0.02


def test_equal_responses_are_at_0_and_those_without_a_common_n_gram_at_1():
    one, other = np.arange(300), np.arange(1000, 1300)
    alone = np.ones((1, 2), dtype=bool)
    assert mean_distances([[one, one.copy()]], alone, 3).tolist() == [[0.0, 0.0]]
    assert mean_distances([[one, other]], alone, 3).tolist() == [[1.0, 1.0]]
    assert mean_distances([[one, other]], np.array([[True, False]]), 3).tolist() == [[0.0, 1.0]]
    # Order matters from pairs on.
    assert mean_distances([[one, one[::-1]]], alone, 1).tolist() == [[0.0, 0.0]]
    assert mean_distances([[one, one[::-1]]], alone, 2).tolist() == [[1.0, 1.0]]


def test_chunks_do_not_change_distances(monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 9, (10, 4, 20))
    usable = np.ones((10, 4), dtype=bool)
    whole = mean_distances(tokens, usable, 3)
    monkeypatch.setattr(pareto, "_TOKENS", 200)
    assert np.array_equal(mean_distances(tokens, usable, 3), whole) and 0 < whole.min() < whole.max()


def test_the_different_one_is_kept():
    same = np.arange(40)
    tokens = [[same, same, same, np.arange(100, 140)]]
    found = build_filter("pareto", 4, 2, objectives=["reward", "diversity"])
    batch = FilterBatch(np.array([[4.0, 3.0, 2.0, 1.0]]), make_generator(0), response_tokens=tokens)
    assert found(batch).tolist() == [[0.5, 0, 0, 0.5]]
