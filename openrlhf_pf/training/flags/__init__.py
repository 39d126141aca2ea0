"""Our command-line flags, one file per concern: each flag, its check, its error sentence.

Nothing here imports OpenRLHF, so that bad arguments are refused within a second or two.
"""

import argparse
from types import SimpleNamespace

from openrlhf_pf.rollout_log import check_directory
from openrlhf_pf.training.flags import data, prompts, reward_models, sample_filter, true_scores
from openrlhf_pf.training.flags.flag import add_group


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of PPO training to OpenRLHF's parser."""
    add_group(
        parser,
        "policy filtration (openrlhf_pf)",
        "Score all --rollout.n_samples_per_prompt samples, train on the ones that a filter keeps.",
        (*sample_filter.FLAGS, *prompts.FLAGS, *reward_models.FLAGS, *true_scores.FLAGS),
    )
    add_group(
        parser,
        "prompt selection (openrlhf_pf)",
        "Choose the prompts of each rollout by the results of earlier rollouts.",
        prompts.SELECTION_FLAGS,
    )


def check_arguments(args: SimpleNamespace) -> None:
    """Check all flags of PPO training against OpenRLHF's arguments.

    Args:
        args: OpenRLHF's nested arguments, from ``openrlhf.utils.config.hierarchize``.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    sample_filter.check_unused(args)
    prompts.check_drop(args)
    prompts.check_refill(args)
    true_scores.check_stop(args)
    prompts.check_selection(args)
    true_scores.check_correction(args)
    reward_models.check_reward(args)
    if not sample_filter.is_active(args):
        return
    chosen = sample_filter.filter_from_args(args)
    sample_filter.check_keep(args, chosen)
    sample_filter.check_estimator(args, chosen)
    sample_filter.check_contract(args)
    reward_models.check_reward_models(args)
    true_scores.check_probe(args, chosen)
    sample_filter.check_batches(args, chosen)
    if args.sample_filter_log:
        check_directory(args.sample_filter_log)
    data.check_user_code(args)
    data.check_paths(args)
