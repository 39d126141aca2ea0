"""The ``--prompt_selection*`` flags, and every check of them against OpenRLHF's own arguments, before Ray starts."""

import argparse
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

from openrlhf_pf.selection import SELECTIONS, build_selection
from openrlhf_pf.training.prompt_rows import prompt_rows

SUCCESSES = ("score", "reward")

_FLAGS = ("options", "success", "success_above", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add our flags to OpenRLHF's parser, in a group of their own."""
    group = parser.add_argument_group(
        "prompt selection (openrlhf_pf)", "Take the prompts of each rollout by how earlier rollouts of them went."
    )

    def add(name: str, text: str, **settings: object) -> None:
        group.add_argument(f"--prompt_selection{name}", help=text, **settings)

    add(
        "",
        f"which prompts a rollout takes: {', '.join(SELECTIONS)}, or package.module:Class or path/to/file.py:Class "
        "(default: none, which is OpenRLHF's own loader)",
        default="none",
        metavar="NAME",
    )
    add("_options", "options of the selection", nargs="+", metavar="KEY=VALUE")
    add(
        "_success",
        "what tells whether a response succeeded: the true score, or the reward (default: score where the reward "
        "function or the agent returns one, else reward)",
        choices=SUCCESSES,
    )
    add(
        "_success_above",
        "a response has succeeded where that is above S (default: it lies between 0 and 1 and counts as that much of "
        "a success)",
        type=float,
        metavar="S",
    )
    add("_seed", "seed of the selection (default: --train.seed)", type=int, metavar="SEED")


def is_active(args: SimpleNamespace) -> bool:
    """Whether prompts are selected."""
    return args.prompt_selection != "none"


def resolve(args: argparse.Namespace | SimpleNamespace) -> None:
    """Name files so that Ray's workers find them."""
    place, colon, name = args.prompt_selection.rpartition(":")
    if place.endswith(".py"):
        args.prompt_selection = str(Path(place).resolve()) + colon + name


def scored_where_generated(args: SimpleNamespace) -> bool:
    """Whether responses come back from generation with their rewards."""
    return bool(args.reward.remote_url or args.train.agent_func_path)


def prompts_at_once(args: SimpleNamespace) -> int:
    """Prompts that generation asks for at a time, of which a selection chooses."""
    return getattr(args.rollout, "vllm_generate_batch_size", None) or args.rollout.batch_size


def check_enough(n_prompts: int, args: SimpleNamespace) -> None:
    """Raises ValueError where a rollout takes all of the ``n_prompts`` different prompts, or more."""
    if n_prompts <= prompts_at_once(args):
        raise ValueError(
            f"--prompt_selection has nothing to choose from: a rollout takes {prompts_at_once(args)} of {n_prompts} "
            "different prompts; lower --rollout.batch_size or give more prompts."
        )


def check_data(args: SimpleNamespace) -> None:
    """Count the different prompts of the data set, until there are enough.

    Raises:
        ValueError: there are too few.
    """
    if not is_active(args):
        return
    try:
        rows = prompt_rows(args)
        rows = rows.select_columns([key for key in (args.data.input_key, args.data.label_key) if key is not None])
    except Exception:  # the data set may lie on another node; OpenRLHF says what is wrong with it
        return
    found: set[str] = set()
    for row in islice(rows, int(args.data.max_samples)):
        found.add(repr(row))
        if len(found) > prompts_at_once(args):
            return
    check_enough(len(found), args)


def check_arguments(args: SimpleNamespace) -> None:
    """Check our arguments against OpenRLHF's.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    if not is_active(args):
        flag = next((f for f in _FLAGS if getattr(args, f"prompt_selection_{f}") is not None), None)
        if flag:
            raise ValueError(
                f"--prompt_selection_{flag} has no effect with --prompt_selection none: choose one "
                f"({', '.join(SELECTIONS)}) or leave the flag out."
            )
        return
    build_selection(args.prompt_selection, 1, args.prompt_selection_options or ())
    if args.rollout.n_samples_per_prompt < 2:
        raise ValueError(
            "--prompt_selection looks for prompts whose responses differ, but only "
            f"{args.rollout.n_samples_per_prompt} is drawn a prompt: raise --rollout.n_samples_per_prompt."
        )
    if args.algo.dynamic_filtering_enable:
        raise ValueError(
            "--algo.dynamic_filtering_enable hides from --prompt_selection the prompts that it throws away, and both "
            "look for the same ones: leave one of them out."
        )
    if not scored_where_generated(args):
        _check_local_reward(args)


def _check_local_reward(args: SimpleNamespace) -> None:
    if args.train.async_enable:
        raise ValueError(
            "--prompt_selection with --train.async_enable learns from rewards that come back with the responses, and "
            "a local reward model's come later: give --reward.remote_url or an agent, or leave --train.async_enable "
            "out."
        )
    if args.prompt_selection_success == "score":
        raise ValueError(
            "--prompt_selection_success score needs true scores, and a local reward model gives none: leave it out "
            "and say which rewards count as a success with --prompt_selection_success_above."
        )
    if args.prompt_selection_success_above is None:
        raise ValueError(
            "a local reward model's rewards are no successes: say above which reward a response has succeeded with "
            "--prompt_selection_success_above."
        )
