"""Flags on prompts: leave some out (``_drop``), replace them (``_refill``), select them (``--prompt_selection``)."""

import math
from types import SimpleNamespace

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters import FilterBatch
from openrlhf_pf.filters.batch import VARIANCE_SHARE, band, variance_top_p
from openrlhf_pf.selection import SELECTIONS, build_selection
from openrlhf_pf.training.flags.flag import Flag, first_given

FLAGS = (
    Flag(
        "--sample_filter_drop",
        "prompts to leave out: flat, whose rewards are all equal; variance_top_p, all but the fewest that hold "
        "a share of the rewards' variance within prompts; band, whose mean score lies outside a band (default: none)",
        choices=("none", "flat", "variance_top_p", "band"),
    ),
    Flag(
        "--sample_filter_drop_tolerance R",
        "for --sample_filter_drop flat: rewards this close count as equal (default: 0, except rounding)",
        type=float,
    ),
    Flag(
        "--sample_filter_drop_share P",
        f"for --sample_filter_drop variance_top_p: the share of the variance that is kept (default: {VARIANCE_SHARE})",
        type=float,
    ),
    Flag(
        "--sample_filter_drop_band LOW HIGH",
        "for --sample_filter_drop band: lowest and highest mean true score, or mean reward if there are no scores",
        type=float,
        nargs=2,
    ),
    Flag(
        "--sample_filter_refill R",
        "replace prompts of which nothing trains by further ones, as long as a step samples at most R times its "
        "prompts (default: a step has fewer)",
        type=float,
    ),
)

SELECTION_FLAGS = (
    Flag(
        "--prompt_selection NAME",
        f"which prompts a rollout takes: {', '.join(SELECTIONS)}, or package.module:Class or path/to/file.py:Class "
        "(default: none, which is OpenRLHF's own loader)",
        default="none",
    ),
    Flag("--prompt_selection_options KEY=VALUE", "options of the selection", nargs="+"),
    Flag(
        "--prompt_selection_success",
        "what a response's success is taken from: the true score, or the reward (default: score if the reward "
        "function or the agent returns one, else reward)",
        choices=("score", "reward"),
    ),
    Flag(
        "--prompt_selection_success_above S",
        "a response succeeds if that is above S (default: it lies between 0 and 1 and counts as a fraction of a "
        "success)",
        type=float,
    ),
    Flag("--prompt_selection_seed SEED", "seed of the selection (default: --train.seed)", type=int),
)


# ── What the arguments ask for ──


def drop_rule(args: SimpleNamespace) -> str | None:
    """Return which prompts are left out, as in ``--sample_filter_drop``; None for none."""
    return None if args.sample_filter_drop in (None, "none") else args.sample_filter_drop


def dropped_prompts(args: SimpleNamespace, batch: FilterBatch) -> ndarray:
    """Return (G,) bool: the prompts that ``--sample_filter_drop`` leaves out.

    Args:
        args: OpenRLHF's nested arguments.
        batch: the rewards that train, whatever the filter ranks by, and the true scores.
    """
    rule = drop_rule(args)
    if rule is None:
        return np.zeros(len(batch.rewards), dtype=bool)
    if rule == "flat":
        return batch.flat_within(args.sample_filter_drop_tolerance or 0.0)
    if rule == "variance_top_p":
        return ~variance_top_p(batch, args.sample_filter_drop_share or VARIANCE_SHARE)
    return ~band(batch, *args.sample_filter_drop_band)


def selects(args: SimpleNamespace) -> bool:
    """Return whether prompts are selected."""
    return args.prompt_selection != "none"


def is_scored_when_generated(args: SimpleNamespace) -> bool:
    """Return whether responses come back from generation with their rewards."""
    return bool(args.reward.remote_url or args.train.agent_func_path)


def prompts_per_generation(args: SimpleNamespace) -> int:
    """Return how many prompts generation asks for at once."""
    return getattr(args.rollout, "vllm_generate_batch_size", None) or args.rollout.batch_size


def prompts_per_step(args: SimpleNamespace) -> int:
    """Return how many prompts a step should have."""
    return min(args.rollout.batch_size, prompts_per_generation(args))


# ── Checks ──


def check_drop(args: SimpleNamespace) -> None:
    """Raise ValueError if the flags of ``--sample_filter_drop`` do not fit together."""
    for flag, rule in (("tolerance", "flat"), ("share", "variance_top_p"), ("band", "band")):
        if getattr(args, f"sample_filter_drop_{flag}") is not None and drop_rule(args) != rule:
            raise ValueError(
                f"--sample_filter_drop_{flag} has no effect without --sample_filter_drop {rule}: add it or leave the "
                "flag out."
            )
    tolerance, share, band = (getattr(args, f"sample_filter_drop_{flag}") for flag in ("tolerance", "share", "band"))
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"--sample_filter_drop_tolerance must be 0 or more, in units of the reward, got {tolerance}.")
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"--sample_filter_drop_share must be above 0 and at most 1, got {share}.")
    if drop_rule(args) == "band" and band is None:
        raise ValueError(
            "--sample_filter_drop band needs the lowest and the highest mean score of a prompt that trains: give "
            "--sample_filter_drop_band LOW HIGH."
        )
    if band is not None and not band[0] <= band[1]:
        raise ValueError(f"--sample_filter_drop_band must be the lower number first, got {band[0]} {band[1]}.")


def check_refill(args: SimpleNamespace) -> None:
    """Raise ValueError if ``--sample_filter_refill`` cannot replace prompts."""
    times, prompts = args.sample_filter_refill, args.rollout.batch_size
    if times is None:
        return
    if not (times < math.inf and int(prompts * times) > prompts):
        raise ValueError(
            f"--sample_filter_refill must allow a step more than its {prompts} prompts, got a factor of {times:g}: "
            "give 2, say."
        )
    if args.sample_filter == "none" and drop_rule(args) is None:
        raise ValueError(
            "--sample_filter_refill has no effect without a --sample_filter or a --sample_filter_drop, which leave "
            "prompts out: add one or leave the flag out."
        )
    if args.algo.dynamic_filtering_enable:
        raise ValueError(
            "--sample_filter_refill and --algo.dynamic_filtering_enable both replace prompts while a step is sampled: "
            "leave one of them out."
        )
    if not is_scored_when_generated(args):
        raise ValueError(
            "--sample_filter_refill needs rewards that come back with the responses, and a local reward model's "
            "come when all are sampled: give --reward.remote_url or an agent, or leave the flag out."
        )
    at_once = prompts_per_generation(args)
    if drop_rule(args) == "variance_top_p" and at_once != prompts:
        raise ValueError(
            "--sample_filter_drop variance_top_p compares the prompts of a step, and --sample_filter_refill those of "
            f"--rollout.vllm_generate_batch_size {at_once}: make it --rollout.batch_size {prompts}, or choose another "
            "--sample_filter_drop."
        )


def check_selection(args: SimpleNamespace) -> None:
    """Raise ValueError if ``--prompt_selection`` does not fit OpenRLHF's arguments."""
    if not selects(args):
        if flag := first_given(args, "prompt_selection", ("options", "success", "success_above", "seed")):
            raise ValueError(
                f"{flag} has no effect with --prompt_selection none: choose one ({', '.join(SELECTIONS)}) or leave "
                "the flag out."
            )
        return
    build_selection(args.prompt_selection, 1, args.prompt_selection_options or ())
    if ":" in args.prompt_selection:
        from openrlhf_pf.testing import check_selection

        try:
            check_selection(args.prompt_selection, texts=args.prompt_selection_options or ())
        except AssertionError as error:
            raise ValueError(f"--prompt_selection {str(error).rstrip('.')}: fix it.") from error
    if args.rollout.n_samples_per_prompt < 2:
        raise ValueError(
            "--prompt_selection looks for prompts whose responses differ, but only "
            f"{args.rollout.n_samples_per_prompt} is drawn per prompt: raise --rollout.n_samples_per_prompt."
        )
    if args.algo.dynamic_filtering_enable:
        raise ValueError(
            "--algo.dynamic_filtering_enable hides from --prompt_selection the prompts that it throws away, and both "
            "look for the same ones: leave one of them out."
        )
    if not is_scored_when_generated(args):
        _check_selection_by_local_reward(args)


def _check_selection_by_local_reward(args: SimpleNamespace) -> None:
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
            "a local reward model's rewards are no successes: give the reward above which a response succeeds with "
            "--prompt_selection_success_above."
        )


def check_enough_prompts(n_prompts: int, args: SimpleNamespace) -> None:
    """Raise ValueError if a rollout takes all of the ``n_prompts`` different prompts, or more."""
    if n_prompts <= prompts_per_generation(args):
        raise ValueError(
            f"--prompt_selection has nothing to choose from: a rollout takes {prompts_per_generation(args)} of "
            f"{n_prompts} different prompts; lower --rollout.batch_size or give more prompts."
        )
