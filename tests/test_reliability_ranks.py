"""The second and the last rank: recommended where the top is hacked, nowhere else, and given to training."""

from types import SimpleNamespace

import numpy as np
import pytest
from planted import analysed, checkpoint_of, plant

from openrlhf_pf.filters import build_filter
from openrlhf_pf.reliability import choose, write_report
from openrlhf_pf.reliability.measures.bootstrap import Bootstrap
from openrlhf_pf.reliability.measures.evaluate import evaluate
from openrlhf_pf.reliability.measures.strategies import strategies_for
from openrlhf_pf.reliability.report.answers import answers_of
from openrlhf_pf.training.flags.sample_filter import resolve

#: Chances of being correct, best reward first.
HACKED = (0.1, 0.9, 0.6, 0.4, 0.3, 0.1)
NAMED = ("none", "best_of_n", "best_random", "best_worst", "rank_weights")


def by_rank(chances, seed, n_prompts=400):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(n_prompts, len(chances)))
    rank = np.argsort(np.argsort(-reward, axis=1), axis=1)
    score = (rng.random(reward.shape) < np.array(chances)[rank]).astype(float)
    return checkpoint_of(reward, score)


def recommended(checkpoint, seed=0):
    bootstrap = Bootstrap(checkpoint.n_prompts, 200, seed)
    results = evaluate(checkpoint, strategies_for(checkpoint, NAMED), bootstrap, whole=False)
    return choose(results, n_prompts=bootstrap.n_blocks)


def test_they_are_recommended_where_the_top_is_hacked():
    found = [recommended(by_rank(HACKED, seed), seed) for seed in range(10)]
    assert all((f.decided, f.strategy, f.keep) == (True, "rank_weights", 2) for f in found)
    assert all(f.options == {"weights": [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]} for f in found)
    assert all(c["told_apart"] for c in found[0].comparisons)


@pytest.mark.parametrize("setting", ["noise in the middle", "right everywhere", "useless", "difficulty only"])
def test_they_are_not_where_the_top_is_right(setting):
    found = [recommended(plant(setting, 300, 8, seed), seed) for seed in range(10)]
    assert not any(f.strategy == "rank_weights" for f in found)


@pytest.mark.parametrize(
    "n_samples, keep, weights, expected",
    [
        (5, None, None, [0, 1, 0, 0, 1]),
        (3, 2, None, [0, 1, 1]),
        (2, None, None, None),
        (5, 3, None, None),
        (5, 3, [5, 4, 3, 2, 1], [5, 4, 3, 2, 1]),
    ],
)
def test_which_ranks_they_are(n_samples, keep, weights, expected):
    found = strategies_for(plant("useless", 50, n_samples), keep=min(keep or 2, n_samples), weights=weights)
    assert [s.options["weights"] for s in found if s.name == "rank_weights"] == ([expected] if expected else [])


def test_checkpoints_of_different_sizes_are_compared_without_them():
    analysis = analysed(by_rank(HACKED, 0, 50), by_rank(HACKED[:4], 1, 50), names=NAMED)
    assert [s.name for s in analysis.strategies] == list(NAMED[:-1])


def arguments(path, **changes):
    flags = dict.fromkeys("keep mode options baseline rank_by probe probe_every probe_score log".split())
    values = {f"sample_filter_{flag}": value for flag, value in flags.items()}
    given = {"sample_filter": "auto", "sample_filter_report": str(path), "prompt_selection": "none", **values}
    return SimpleNamespace(**{**given, "rollout.n_samples_per_prompt": 6, **changes})


def test_the_report_names_them_and_auto_gives_their_weights_to_training(tmp_path):
    analysis = analysed(by_rank(HACKED, 0), names=NAMED)
    _, filters, following = answers_of(analysis.analysed[0])
    assert filters.short.startswith("Use rank_weights on ranks 2 and 6, k = 2")
    assert "--sample_filter rank_weights --sample_filter_keep 2 --sample_filter_options weights=0,1,0,0,0,1" in (
        following.sentences[0]
    )
    write_report(analysis, tmp_path)
    args = arguments(tmp_path / "report.json")
    resolve(args)
    assert (args.sample_filter, args.sample_filter_keep) == ("rank_weights", 2)
    made = build_filter(args.sample_filter, 6, args.sample_filter_keep, args.sample_filter_options)
    assert made([[6.0, 5, 4, 3, 2, 1]]).tolist() == [[0, 0.5, 0, 0, 0, 0.5]]
    with pytest.raises(
        ValueError, match="are for 6 samples per prompt, and --rollout.n_samples_per_prompt is 8: draw 6"
    ):
        resolve(arguments(tmp_path, **{"rollout.n_samples_per_prompt": 8}))
    with pytest.raises(ValueError, match="are for k = 2, and --sample_filter_keep is 3: leave it out"):
        resolve(arguments(tmp_path, sample_filter_keep=3))
