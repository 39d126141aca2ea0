"""The ``--collect.*`` flags, and their checks before Ray starts. Imports nothing of OpenRLHF: they answer at once."""

import argparse
import json
import os
from types import SimpleNamespace
from typing import Any

from openrlhf_pf.rollout_log import check_directory
from openrlhf_pf.training.argument_checks import check_reward_models
from openrlhf_pf.training.true_score import load_reward_func

#: What decides the responses and their scores: a directory is continued only under the same.
_DECISIVE = ("actor", "data", "rollout", "reward", "collect", "sample_filter_reward_models")
#: What may change on the way: it moves work, not results.
_FREE = ("micro_batch_size", "num_nodes", "num_gpus_per_node", "offload", "output", "workers", "unscored")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of collecting to OpenRLHF's parser, in a group of their own."""
    group = parser.add_argument_group(
        "collecting (openrlhf_pf)",
        "Sample and score, without training. What only training needs is accepted and has no effect, and so are the "
        "--sample_filter flags but --sample_filter_reward_models.",
    )
    group.add_argument("--collect.output", required=True, metavar="DIR", help="where the samples go, as Parquet files")
    group.add_argument(
        "--collect.score",
        metavar="FILE.py",
        help="file whose reward_func(queries, prompts, labels) returns the true score, as scores or as rewards",
    )
    group.add_argument(
        "--collect.unscored",
        action="store_true",
        help="there is no true score: write down the rewards of a local reward model alone",
    )
    group.add_argument("--collect.checkpoint", metavar="NAME", help="name of the policy in the column checkpoint")
    group.add_argument("--collect.max_prompts", type=int, metavar="P", help="stop after this many prompts")
    group.add_argument(
        "--collect.workers",
        type=int,
        default=os.cpu_count(),
        metavar="W",
        help="calls of reward_func at a time (default: one a core)",
    )


def check_arguments(args: SimpleNamespace) -> None:
    """Check the flags before Ray starts.

    Args:
        args: OpenRLHF's nested arguments.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    if not (args.reward.model_name_or_path or args.reward.remote_url or args.train.agent_func_path):
        raise ValueError(
            "there is nothing to measure: give the reward model with --reward.model_name_or_path, or a reward "
            "function with --reward.remote_url."
        )
    _check_score(args)
    check_reward_models(args)
    if args.collect.max_prompts is not None and args.collect.max_prompts < 1:
        raise ValueError(f"--collect.max_prompts must be 1 or more, got {args.collect.max_prompts}.")
    if args.collect.workers < 1:
        raise ValueError(f"--collect.workers must be 1 or more, got {args.collect.workers}.")
    directory = check_directory(args.collect.output)
    record, settings = directory / "collect.json", settings_of(args)
    if not record.exists():
        if any(directory.glob("*.parquet")):
            raise ValueError(
                f"--collect.output {directory} holds samples of something else (there is no collect.json beside "
                "them): name an empty directory."
            )
        record.write_text(json.dumps(settings, indent=2) + "\n")
        return
    earlier = json.loads(record.read_text())
    changed = sorted(name for name in settings.keys() | earlier.keys() if settings.get(name) != earlier.get(name))
    if changed:
        name = changed[0]
        raise ValueError(
            f"--collect.output {directory} was begun with --{name} {earlier.get(name)}, and now it is "
            f"{settings.get(name)}: give the earlier settings to go on, or name an empty directory."
        )


def _check_score(args: SimpleNamespace) -> None:
    local = not (args.reward.remote_url or args.train.agent_func_path)
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


def settings_of(args: SimpleNamespace) -> dict[str, Any]:
    """The arguments that decide the samples, by the name of their flag."""
    flat = {"train.seed": args.train.seed, "train.agent_func_path": args.train.agent_func_path}
    for group in _DECISIVE:
        value = getattr(args, group)
        leaves = vars(value).items() if isinstance(value, SimpleNamespace) else [(None, value)]
        flat |= {group if name is None else f"{group}.{name}": leaf for name, leaf in leaves if name not in _FREE}
    return json.loads(json.dumps(flat, default=str))
