"""Flags that need true scores during training: the probe of filters that learn, early stopping, and
``--sample_filter_correct``, by which few true scores of the policy's own samples correct the rewards.
"""

from collections.abc import Callable
from types import SimpleNamespace

from openrlhf_pf import registry
from openrlhf_pf.filters import LearningFilter, SampleFilter
from openrlhf_pf.training.flags.flag import Flag, first_given
from openrlhf_pf.training.flags.prompts import drop_rule, is_scored_when_generated
from openrlhf_pf.training.flags.sample_filter import LEARNING, corrects, reads_states

STOP_WINDOW = 10
#: Default share of the prompts of a rollout whose responses get a true score: the share that was ahead of no filter
#: with each wrong reward model of docs/evidence.md; 0.05 was not with all.
SHARE = 0.15

FLAGS = (
    Flag(
        "--sample_filter_probe DATA",
        f"for {', '.join(LEARNING)}: prompts that are sampled and scored only for the filter to learn from, any data "
        "set that OpenRLHF reads",
    ),
    Flag("--sample_filter_probe_every M", "steps between two evaluations of the probe (default: 10)", type=int),
    Flag(
        "--sample_filter_probe_score FILE.py",
        "file whose reward_func returns the true score of the probe's samples, or of those of "
        "--sample_filter_correct; needed if rewards come from a local reward model",
    ),
    Flag(
        "--sample_filter_stop_below R",
        "end training, with a checkpoint, when the reward's pairwise accuracy within prompts is significantly below "
        "this share, over a window of rollouts",
        type=float,
    ),
    Flag(
        "--sample_filter_stop_window M",
        f"rollouts (or evaluations of the probe) in that window (default: {STOP_WINDOW})",
        type=int,
    ),
    Flag(
        "--sample_filter_correct",
        "true scores (--sample_filter_probe_score) of a share of each rollout are rewards, weighed by how little the "
        "other rewards tell (scores); a head on the reward model's last state learns from them, too, and corrects the "
        "other rewards (head) (default: none)",
        choices=("none", "scores", "head"),
    ),
    Flag(
        "--sample_filter_true_share",
        f"share of the prompts of a rollout whose responses get a true score (default: {SHARE})",
        type=float,
        metavar="SHARE",
    ),
)


def load_reward_func(file: str, flag: str) -> Callable:
    """Return ``reward_func`` of the file that ``flag`` names.

    Raises:
        ValueError: the file cannot be imported, or has no such function.
    """
    return registry.load_function(file, "reward_func", f"{flag} {file}", "reward_func(queries, prompts, labels)")


def check_probe(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    """Raise ValueError if the probe cannot give the filter, or early stopping, true scores."""
    brings_scores = is_scored_when_generated(args)
    if args.sample_filter_probe is None:
        judges = ("probe_every",) if corrects(args) else ("probe_every", "probe_score")
        if flag := first_given(args, "sample_filter", judges):
            raise ValueError(f"{flag} has no effect without --sample_filter_probe DATA: add it or leave the flag out.")
        if isinstance(sample_filter, LearningFilter) and (corrects(args) or not brings_scores):
            reason = (
                "--sample_filter_correct makes them rewards" if corrects(args) else "a local reward model gives none"
            )
            raise ValueError(
                f"--sample_filter {args.sample_filter} learns from true scores, and {reason}: "
                "give prompts to learn from with --sample_filter_probe DATA and --sample_filter_probe_score FILE.py."
            )
        return
    if not hasattr(sample_filter, "observe") and args.sample_filter_stop_below is None:
        raise ValueError(
            f"--sample_filter_probe has no effect with --sample_filter {args.sample_filter}, which learns nothing "
            f"from true scores: choose {' or '.join(LEARNING)}, or leave the flag out."
        )
    if args.sample_filter_probe_every is not None and args.sample_filter_probe_every < 1:
        raise ValueError(f"--sample_filter_probe_every must be 1 or more, got {args.sample_filter_probe_every}.")
    if args.sample_filter_probe_score:
        load_reward_func(args.sample_filter_probe_score, "--sample_filter_probe_score")
    elif not brings_scores:
        raise ValueError(
            "the samples of --sample_filter_probe need true scores, and a local reward model gives none: name a "
            "reward_func with --sample_filter_probe_score FILE.py."
        )


def check_stop(args: SimpleNamespace) -> None:
    """Raise ValueError if early stopping has no pairs to compare, or its numbers are out of range."""
    below, window = args.sample_filter_stop_below, args.sample_filter_stop_window
    if below is None:
        if window is not None:
            raise ValueError("--sample_filter_stop_window has no effect without --sample_filter_stop_below R: add it.")
        return
    if not 0 < below <= 1:
        raise ValueError(
            f"--sample_filter_stop_below must be above 0 and at most 1, got {below}: it is a share of pairs, and "
            "guessing gives 0.5."
        )
    if window is not None and window < 1:
        raise ValueError(f"--sample_filter_stop_window must be 1 or more, got {window}.")
    if not (is_scored_when_generated(args) or args.sample_filter_probe or corrects(args)):
        raise ValueError(
            "--sample_filter_stop_below compares rewards with true scores, and a local reward model gives none: give "
            "prompts to score with --sample_filter_probe DATA and --sample_filter_probe_score FILE.py."
        )


# ── Rewards corrected by true scores ──


def check_correction(args: SimpleNamespace) -> None:
    """Raise ValueError if rewards cannot be corrected by true scores."""
    if not corrects(args):
        if flag := first_given(args, "sample_filter", ("true_share",)):
            raise ValueError(f"{flag} has no effect without --sample_filter_correct scores or head: add it.")
        return
    share = args.sample_filter_true_share
    if share is not None and not 0 < share <= 1:
        raise ValueError(
            f"--sample_filter_true_share must be above 0 and at most 1, got {share:g}: it is a share of the prompts."
        )
    if reads_states(args):
        _check_states(args)
    if not args.sample_filter_probe_score:
        raise ValueError(
            "--sample_filter_correct learns from true scores: name a reward_func that gives them, with "
            "--sample_filter_probe_score FILE.py."
        )
    if args.rollout.n_samples_per_prompt < 2:
        raise ValueError(
            "--sample_filter_correct learns from pairs of responses to one prompt, and "
            f"--rollout.n_samples_per_prompt is {args.rollout.n_samples_per_prompt}: give 2 or more."
        )
    if drop_rule(args) == "band":
        raise ValueError(
            "--sample_filter_drop band reads the mean true score of each prompt, and --sample_filter_correct has that "
            "of a share of them: leave one of the two out."
        )
    load_reward_func(args.sample_filter_probe_score, "--sample_filter_probe_score")


def _check_states(args: SimpleNamespace) -> None:
    """Raise ValueError if there are no states of a reward model for a head to read."""
    if is_scored_when_generated(args) or not args.reward.model_name_or_path:
        raise ValueError(
            "--sample_filter_correct head corrects a local reward model, but none is given, or rewards come from "
            "--reward.remote_url or an agent: take --sample_filter_correct scores, or give "
            "--reward.model_name_or_path."
        )
    if args.ds.ring_attn_size > 1 or args.ds.tensor_parallel_size > 1 or args.ds.load_in_4bit:
        raise ValueError(
            "--sample_filter_correct head does not read the states of a reward model with --ds.ring_attn_size, "
            "--ds.tensor_parallel_size or --ds.load_in_4bit: leave them out, or take --sample_filter_correct scores."
        )
