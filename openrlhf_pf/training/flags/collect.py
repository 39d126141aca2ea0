"""The ``--collect.*`` flags, and their checks before Ray starts."""

import argparse
import json
import os
from types import SimpleNamespace
from typing import Any

from openrlhf_pf import files
from openrlhf_pf.rollout_log import check_directory
from openrlhf_pf.training import flags
from openrlhf_pf.training.flags.data import check_paths
from openrlhf_pf.training.flags.flag import Flag
from openrlhf_pf.training.flags.prompts import is_scored_when_generated
from openrlhf_pf.training.flags.reward_models import check_reward_models
from openrlhf_pf.training.flags.true_scores import load_reward_func

FLAGS = (
    Flag("--collect.output DIR", "where the samples go, as Parquet files", required=True),
    Flag(
        "--collect.score FILE.py",
        "file whose reward_func(queries, prompts, labels) returns the true score, as scores or as rewards",
    ),
    Flag(
        "--collect.unscored",
        "there is no true score: record the rewards of a local reward model alone",
        action="store_true",
    ),
    Flag(
        "--collect.score_twice",
        "have the source of the rewards score every response a second time, which shows whether its errors repeat",
        action="store_true",
        default=None,  # not False: older records have no such entry
    ),
    Flag("--collect.checkpoint NAME", "name of the policy in the column checkpoint"),
    Flag("--collect.max_prompts P", "stop after this many prompts", type=int),
    Flag(
        "--collect.workers W",
        "calls of reward_func at a time (default: one per core)",
        type=int,
        default=os.cpu_count(),
    ),
)

#: What decides the responses and their scores: a directory is continued only with the same.
_DECISIVE = ("actor", "data", "rollout", "reward", "collect", "sample_filter_reward_models")
#: What may change in between: it moves work, not results.
_FREE = ("micro_batch_size", "num_nodes", "num_gpus_per_node", "offload", "output", "workers", "unscored")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of training and of collecting to OpenRLHF's parser."""
    flags.add_arguments(parser)
    flags.add_group(
        parser,
        "collecting (openrlhf_pf)",
        "Sample and score, without training. Flags that only training needs are accepted and have no effect, as have "
        "the --sample_filter flags except --sample_filter_reward_models.",
        FLAGS,
    )


def check_arguments(args: SimpleNamespace) -> None:
    """Check the flags before Ray starts.

    Args:
        args: OpenRLHF's nested arguments.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    if not (args.reward.model_name_or_path or is_scored_when_generated(args)):
        raise ValueError(
            "there is nothing to measure: give the reward model with --reward.model_name_or_path, or a reward "
            "function with --reward.remote_url."
        )
    _check_score(args)
    check_reward_models(args)
    for name in ("max_prompts", "workers"):
        value = getattr(args.collect, name)
        if value is not None and value < 1:
            raise ValueError(f"--collect.{name} must be 1 or more, got {value}.")
    check_paths(args)
    _check_output(args)


def _check_output(args: SimpleNamespace) -> None:
    """Check that the directory is empty or was begun with the same settings, which are recorded in it."""
    directory = check_directory(args.collect.output)
    record, settings = directory / "collect.json", decisive_settings(args)
    if not record.exists():
        if any(directory.glob("*.parquet")):
            raise ValueError(
                f"--collect.output {directory} holds samples of something else (there is no collect.json next to "
                "them): name an empty directory."
            )
        with files.replace_file(record) as file:
            file.write(json.dumps(settings, indent=2) + "\n")
        return
    earlier = json.loads(record.read_text())
    changed = sorted(name for name in settings.keys() | earlier.keys() if settings.get(name) != earlier.get(name))
    if changed:
        name = changed[0]
        raise ValueError(
            f"--collect.output {directory} was begun with --{name} {earlier.get(name)}, and now it is "
            f"{settings.get(name)}: give the earlier settings to continue, or name an empty directory."
        )


def _check_score(args: SimpleNamespace) -> None:
    local = not is_scored_when_generated(args)
    if args.collect.score_twice and args.train.agent_func_path:
        raise ValueError(
            "--collect.score_twice asks the source of the rewards again, and those of an agent come with its "
            "responses: leave it out."
        )
    if args.collect.unscored and args.collect.score:
        raise ValueError(
            "--collect.score says where true scores come from, and --collect.unscored that there are none: give one "
            "of them."
        )
    if args.collect.unscored and not local:
        raise ValueError(
            "--collect.unscored is for a local reward model: a reward function returns true scores or none by itself, "
            "so leave it out."
        )
    if args.collect.score:
        load_reward_func(args.collect.score, "--collect.score")
    elif local and not args.collect.unscored:
        raise ValueError(
            "a local reward model does not say how right it is: name a reward_func that returns the true score with "
            "--collect.score FILE.py, or say --collect.unscored that there is none."
        )


def decisive_settings(args: SimpleNamespace) -> dict[str, Any]:
    """Return the arguments that decide the samples, by the name of their flag."""
    flat = {"train.seed": args.train.seed, "train.agent_func_path": args.train.agent_func_path}
    for group in _DECISIVE:
        value = getattr(args, group)
        leaves = vars(value).items() if isinstance(value, SimpleNamespace) else [(None, value)]
        flat |= {group if name is None else f"{group}.{name}": leaf for name, leaf in leaves if name not in _FREE}
    return json.loads(json.dumps(flat, default=str))
