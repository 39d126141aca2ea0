"""The arms of a study: what differs from its PPO run, filter by filter and selection by selection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.micro_code import true_score
from examples.micro_code.config import PPOConfig

TRUE_SCORE = str(Path(true_score.__file__))
LEARNED_WEIGHTS = str(Path(__file__).parents[2] / "filters/learned_weights.py:LearnedWeights")
JUDGE = str(Path(__file__).parent / "judge.py")
FROZEN_JUDGE = str(Path(__file__).parent / "frozen_judge.py")
_RANDOM: dict[str, Any] = {"sample_filter": "rank_weights", "weights": (1.0,) * 5}
_ALL: dict[str, Any] = {"sample_filter": "none", "keep": 5}
_TWO_OF_ALL = ("--sample_filter_baseline", "group")
_RLOO = ("--algo.advantage.estimator", "rloo")


def _batch(name: str, *flags: str) -> dict[str, Any]:
    return {"sample_filter": name, "flags": flags}


def _learns(name: str, *options: str) -> dict[str, Any]:
    given = ("--sample_filter_options", *options, "patience=2", "certainty=2")
    return {"sample_filter": name, "flags": (*given, "--data.label_key", "label")}


#: Eight responses to each of 40 prompts a step, five passes over 160 prompts; the reward is whether the code is right,
#: and no reward model or critic takes part.
_CODE: dict[str, Any] = {
    "sample_filter": "none",
    "samples": 8,
    "keep": 8,
    "steps": 20,
    "save_every": 5,
    "rollout_prompts": 40,
    "batch_size": 160,
    "micro_batch_size": 80,
    "critic_warmup_steps": 0,
    "kl": 0.01,
    "flags": (
        *("--algo.advantage.estimator", "group_norm", "--train.num_episodes", "5"),
        *("--reward.remote_url", TRUE_SCORE, "--data.label_key", "label"),
    ),
}


def _code(*flags: str, **more: Any) -> dict[str, Any]:
    return {**_CODE, **more, "flags": (*_CODE["flags"], *flags)}


def _judged(judge: str, arm: dict[str, Any]) -> dict[str, Any]:
    return {**arm, "flags": ("--reward.remote_url", judge, "--data.label_key", "label")}


def _selected(name: str, *options: str) -> dict[str, Any]:
    given = ("--prompt_selection_options", *options) if options else ()
    return _code("--prompt_selection", name, *given)


#: ``ranks_...`` keep these ranks of each prompt, 1 being the highest reward; ``code_...`` have code as the reward, and
#: ``judge_...`` and ``frozen_...`` those of judge.py and frozen_judge.py.
ARMS: dict[str, dict[str, Any]] = {
    "none": _ALL,
    "random": _RANDOM,
    "best_worst": {"sample_filter": "best_worst"},
    "best_random": {"sample_filter": "best_random"},
    "best_of_n": {"sample_filter": "best_of_n", "keep": 1},
    "max_variance": {"sample_filter": "max_variance"},
    "ranks_2_5": {"sample_filter": "rank_weights", "weights": (0.0, 1.0, 0.0, 0.0, 1.0)},
    "ranks_1_4": {"sample_filter": "rank_weights", "weights": (1.0, 0.0, 0.0, 1.0, 0.0)},
    "ranks_2_4": {"sample_filter": "rank_weights", "weights": (0.0, 1.0, 0.0, 1.0, 0.0)},
    "ranks_1_2": {"sample_filter": "rank_weights", "weights": (1.0, 1.0, 0.0, 0.0, 0.0)},
    "ranks_4_5": {"sample_filter": "rank_weights", "weights": (0.0, 0.0, 0.0, 1.0, 1.0)},
    # One response each of five times as many prompts: as many rollouts and updates as without a filter.
    "one_each": {"sample_filter": "none", "samples": 1, "keep": 1, "rollout_prompts": 320},
    # All five train, the ends with four times the weight of the middle.
    "reweighted": {
        "sample_filter": "rank_weights",
        "keep": 5,
        "weights": (4.0, 2.0, 1.0, 2.0, 4.0),
        "flags": ("--sample_filter_mode", "reweight"),
    },
    # Of the whole rollout; by quantiles of the reward, two fifths of it as well.
    "top": _batch("top", "--sample_filter_options", "high=0.6", "unit=quantile"),
    "top_bottom": _batch(
        "top_bottom",
        *("--sample_filter_options", "low=0.2", "high=0.8", "unit=quantile"),
    ),
    "pow_1": _batch("reward_power", "--sample_filter_options", "power=1"),
    "pow_2": _batch("reward_power", "--sample_filter_options", "power=2"),
    "pow_3": _batch("reward_power", "--sample_filter_options", "power=3"),
    # These two look at a probe before every second step.
    "learned_weights": _learns(LEARNED_WEIGHTS, "method=subset"),
    "adaptive": _learns("adaptive"),
    "judge_none": _judged(JUDGE, _ALL),
    "judge_random": _judged(JUDGE, _RANDOM),
    "judge_best_worst": _judged(JUDGE, {"sample_filter": "best_worst"}),
    "frozen_none": _judged(FROZEN_JUDGE, _ALL),
    "frozen_random": _judged(FROZEN_JUDGE, _RANDOM),
    "frozen_best_worst": _judged(FROZEN_JUDGE, {"sample_filter": "best_worst"}),
    "code_uniform": _selected("uniform"),
    "code_vade": _selected("vade"),
    "code_variance": _selected("vade", "gain=variance"),
    "code_greedy": _selected("vade", "explore=mean"),
    "code_target": _selected("target"),
    "code_dynamic": _code("--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", "0.01", "0.99"),
}
#: Variants of any arm, as ``arm+variant``. With the same updates a rollout, k of N train in smaller batches.
VARIANTS: dict[str, dict[str, Any]] = {
    "rloo": {"flags": _RLOO},
    "group": {"flags": _RLOO + _TWO_OF_ALL},
    "updates": {"batch_size": 32, "micro_batch_size": 32},
    "few": {"batch_size": 320, "micro_batch_size": 64},
    "lr.5": {"learning_rate": 1.5e-4},
    "lr2": {"learning_rate": 6e-4},
    "kl1": {"kl": 1.0},
    "kl.1": {"kl": 0.1},
    "kl0": {"kl": 0.0},
    # As run.py --overoptimise pushes.
    "hard": {"learning_rate": 6e-4, "kl": 0.001, "save_every": 2},
    "warm8": {"critic_warmup_steps": 8},
    # So many responses a prompt; what trains on all or on a random choice of them does so with these.
    "n3": {"samples": 3},
    "n8": {"samples": 8},
    "n16": {"samples": 16},
    "k4": {"keep": 4},
    "best_worst": {
        "sample_filter": "best_worst",
        "keep": 2,
        "batch_size": 40,
        "micro_batch_size": 40,
        "flags": _TWO_OF_ALL,
    },
    "max_variance": {
        "sample_filter": "max_variance",
        "keep": 4,
        "batch_size": 80,
        "micro_batch_size": 80,
        "flags": _TWO_OF_ALL,
    },
}


def config_of(base: PPOConfig, arm: str) -> PPOConfig:
    """The PPO settings of ``arm``, ``arm+variant`` or ``arm+variant+variant``.

    Raises:
        ValueError: there is no such arm or variant.
    """
    name, *variants = arm.split("+")
    for kind, given, known in (("arm", [name], ARMS), ("variant", variants, VARIANTS)):
        if unknown := [one for one in given if one not in known]:
            raise ValueError(f"there is no {kind} {unknown[0]!r}: take one of {', '.join(known)}.")
    found = replace(base, **{"save_every": 4, **ARMS[name]})
    for variant in variants:
        change = dict(VARIANTS[variant])
        if "flags" in change:
            change["flags"] = found.flags + change["flags"]
        found = replace(found, **change)
    if found.sample_filter == "none":
        found = replace(found, keep=found.samples)
    elif len(set(found.weights)) == 1:
        found = replace(found, weights=(1.0,) * found.samples)
    return found


def probe_flags(config: PPOConfig, probe: Path) -> tuple[str, ...]:
    """What a filter that learns from true scores needs: a probe, looked at before every second step."""
    if config.sample_filter not in (LEARNED_WEIGHTS, "adaptive"):
        return ()
    values = {"": probe, "_every": 2, "_score": TRUE_SCORE}
    return tuple(str(word) for key, value in values.items() for word in (f"--sample_filter_probe{key}", value))


def episodes(config: PPOConfig) -> int:
    """How often a run passes over its prompts."""
    flag = "--train.num_episodes"
    return int(config.flags[config.flags.index(flag) + 1]) if flag in config.flags else 1
