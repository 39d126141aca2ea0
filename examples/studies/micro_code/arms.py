"""The arms of the micro-code studies: the PPO settings that differ from the base study, by name."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.micro_code import true_score
from examples.micro_code.config import PPOConfig

TRUE_SCORE = str(Path(true_score.__file__))
JUDGES = {"judge": str(Path(__file__).parent / "judge.py"), "frozen": str(Path(__file__).parent / "frozen_judge.py")}
LEARNED_WEIGHTS = str(Path(__file__).resolve().parents[2] / "filters" / "learned_weights.py") + ":LearnedWeights"
_GROUP_BASELINE = ("--sample_filter_baseline", "group")
_RLOO = ("--algo.advantage.estimator", "rloo")
_LABELS = ("--data.label_key", "label")

#: Eight responses to each of 40 prompts a step, five passes over 160 prompts. The true score is the reward, and
#: neither a reward model nor a critic takes part.
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
        *("--reward.remote_url", TRUE_SCORE, *_LABELS),
    ),
}


def _code(*flags: str) -> dict[str, Any]:
    return {**_CODE, "flags": (*_CODE["flags"], *flags)}


def _select(name: str, *options: str) -> dict[str, Any]:
    return _code("--prompt_selection", name, *(("--prompt_selection_options", *options) if options else ()))


def _learn(sample_filter: str, *options: str) -> dict[str, Any]:
    flags = ("--sample_filter_options", *options, "patience=2", "certainty=2", *_LABELS)
    return {"sample_filter": sample_filter, "flags": flags}


#: ``code_...`` take the true score as the reward. Further arms: ``ranks_2_5`` keeps ranks 2 and 5 of 5 (1 is the
#: highest reward); ``judge_ARM`` and ``frozen_ARM`` take the rewards of judge.py and of frozen_judge.py.
ARMS: dict[str, dict[str, Any]] = {
    "none": {"sample_filter": "none", "keep": 5},
    "random": {"sample_filter": "rank_weights", "weights": (1.0,) * 5},
    "best_worst": {"sample_filter": "best_worst"},
    "best_random": {"sample_filter": "best_random"},
    "best_of_n": {"sample_filter": "best_of_n", "keep": 1},
    "learned_weights": _learn(LEARNED_WEIGHTS, "method=subset"),
    "adaptive": _learn("adaptive"),
    "code_uniform": _select("uniform"),
    "code_vade": _select("vade"),
    "code_variance": _select("vade", "gain=variance"),
    "code_greedy": _select("vade", "explore=mean"),
    "code_target": _select("target"),
    "code_dynamic": _code("--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", "0.01", "0.99"),
}
#: Variants of any arm, as ``arm+variant``. ``updates``: as many updates a rollout as without a filter (two at k = 2).
VARIANTS: dict[str, dict[str, Any]] = {
    "updates": {"batch_size": 32, "micro_batch_size": 32},
    "rloo": {"flags": _RLOO},
    "group": {"flags": _RLOO + _GROUP_BASELINE},
    "kl.1": {"kl": 0.1},
    "n16": {"samples": 16},
    "long": {"steps": 40, "save_every": 8},
    "best_worst": {
        "sample_filter": "best_worst",
        "keep": 2,
        "batch_size": 40,
        "micro_batch_size": 40,
        "flags": _GROUP_BASELINE,
    },
    "max_variance": {
        "sample_filter": "max_variance",
        "keep": 4,
        "batch_size": 80,
        "micro_batch_size": 80,
        "flags": _GROUP_BASELINE,
    },
}


def _correct(kind: str, percent: str) -> dict[str, Any]:
    flags = ("--sample_filter_correct", kind, "--sample_filter_true_share", str(int(percent) / 100))
    return {**ARMS["none"], "flags": (*flags, "--sample_filter_probe_score", TRUE_SCORE, *_LABELS)}


def _settings_of(name: str) -> dict[str, Any]:
    """Return what an arm without variants changes."""
    judge, _, rest = name.partition("_")
    if judge in JUDGES and rest in ("none", "random", "best_worst"):
        return {**ARMS[rest], "flags": ("--reward.remote_url", JUDGES[judge], *_LABELS)}
    if re.fullmatch(r"ranks_[1-5]_[1-5]", name):
        return {"sample_filter": "rank_weights", "weights": tuple(float(str(rank) in name) for rank in range(1, 6))}
    if found := re.fullmatch(r"(head|scores)_(\d+)", name):
        return _correct(*found.groups())
    if name not in ARMS:
        known = ", ".join([*ARMS, "ranks_I_J", *(f"{judge}_ARM" for judge in JUDGES)])
        raise ValueError(f"there is no arm {name!r}: take one of {known}.")
    return ARMS[name]


def config_of(base: PPOConfig, arm: str) -> PPOConfig:
    """Return the PPO settings of ``arm``, ``arm+variant`` or ``arm+variant+variant``.

    Raises:
        ValueError: there is no such arm or variant.
    """
    name, *variants = arm.split("+")
    found = replace(base, **{"save_every": 4, **_settings_of(name)})
    for variant in variants:
        if variant not in VARIANTS:
            raise ValueError(f"there is no variant {variant!r}: take one of {', '.join(VARIANTS)}.")
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
    """Return the flags of a filter that learns from true scores: a probe before every second step."""
    if config.sample_filter not in (LEARNED_WEIGHTS, "adaptive"):
        return ()
    values = {"": probe, "_every": 2, "_score": TRUE_SCORE}
    return tuple(str(word) for key, value in values.items() for word in (f"--sample_filter_probe{key}", value))


def episodes(config: PPOConfig) -> int:
    """Return how often a run passes over its prompts."""
    flag = "--train.num_episodes"
    return int(config.flags[config.flags.index(flag) + 1]) if flag in config.flags else 1
