"""``--sample_filter_correct``: few true scores of the policy's own samples correct the rewards."""

from types import SimpleNamespace

from openrlhf_pf.training.flags.flag import Flag, first_given
from openrlhf_pf.training.flags.prompts import drop_rule, is_scored_when_generated
from openrlhf_pf.training.flags.sample_filter import corrects, reads_states
from openrlhf_pf.training.flags.true_scores import load_reward_func

#: The share that was ahead of no filter with each wrong reward model of docs/evidence.md; 0.05 was not with all.
SHARE = 0.15

FLAGS = (
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
