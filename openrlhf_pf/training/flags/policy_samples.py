"""The ``--policy_samples*`` flags of ``train_rm``, and their checks."""

import argparse
from pathlib import Path
from types import SimpleNamespace

from openrlhf_pf.reliability.read.files import read_table
from openrlhf_pf.rlp import group_by_prompt
from openrlhf_pf.rlp.samples import COLUMN_NAMES
from openrlhf_pf.rlp.views import Views
from openrlhf_pf.training.flags.flag import Flag, add_group, first_given

FLAGS = (
    Flag("--policy_samples", "what openrlhf-pf collect wrote; without it, nothing changes", metavar="DIR"),
    Flag("--policy_samples_weight", "lambda; 0 changes nothing (0.5)", type=float),
    Flag("--policy_samples_batch", "prompts per micro-batch and process (16)", type=int),
    Flag("--policy_samples_dim", "size of the representation z (64)", type=int),
    Flag("--policy_samples_ramp", "steps until SKL has its full weight (0)", type=int),
    Flag("--policy_samples_checkpoint", "whose samples, if there are those of several", metavar="NAME"),
)

#: Defaults, set by :func:`resolve`; None until then, so that a given flag can be recognized.
_DEFAULTS = {"weight": 0.5, "batch": 16, "dim": 64, "ramp": 0, "checkpoint": None}

#: What a second forward pass over views does not work with: the flag, and when it is used.
_REFUSED = {
    "--ds.packing_samples": lambda args: args.ds.packing_samples,
    "--ds.ring_attn_size": lambda args: args.ds.ring_attn_size > 1,
    "--ds.tensor_parallel_size": lambda args: args.ds.tensor_parallel_size > 1,
    "--ds.zero_stage 3": lambda args: args.ds.zero_stage > 2,
    "--ds.lora.rank": lambda args: args.ds.lora.rank > 0,
    "--ds.load_in_4bit": lambda args: args.ds.load_in_4bit,
    "--model.aux_loss_coef": lambda args: args.model.aux_loss_coef > 0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to OpenRLHF's parser, in a group of their own."""
    description = "Samples of the policy as views in a second loss (RLP-UML)."
    add_group(parser, "reward learning on policy (openrlhf_pf)", description, FLAGS)


def resolve(args: argparse.Namespace) -> None:
    """Set the defaults of the flags that were not given.

    Args:
        args: as parsed, not nested yet.

    Raises:
        ValueError: some were given without ``--policy_samples``, without which they have no effect.
    """
    given = first_given(args, "policy_samples", _DEFAULTS)
    if given and not args.policy_samples:
        raise ValueError(
            f"{given} has no effect without --policy_samples: name the directory that openrlhf-pf collect wrote, or "
            "leave it out."
        )
    for name, default in _DEFAULTS.items():
        if getattr(args, f"policy_samples_{name}") is None:
            setattr(args, f"policy_samples_{name}", default)


def is_active(args: SimpleNamespace) -> bool:
    """Return whether views are asked for."""
    return bool(args.policy_samples) and args.policy_samples_weight > 0


def check_arguments(args: SimpleNamespace) -> None:
    """Check the flags before OpenRLHF is imported.

    Args:
        args: OpenRLHF's nested arguments.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    if not args.policy_samples_weight >= 0:
        raise ValueError(f"--policy_samples_weight must be 0 or more, got {args.policy_samples_weight}.")
    for name, least in (("batch", 2), ("dim", 1), ("ramp", 0)):
        if (value := getattr(args, f"policy_samples_{name}")) < least:
            raise ValueError(f"--policy_samples_{name} must be {least} or more, got {value}.")
    if not is_active(args):
        return
    for flag, is_given in _REFUSED.items():
        if is_given(args):
            raise ValueError(f"--policy_samples does not work with {flag}: leave out one of them.")
    views = load_views(args)
    if len(views) < args.policy_samples_batch:
        raise ValueError(
            f"--policy_samples_batch {args.policy_samples_batch} is more than the {len(views)} prompts that have two "
            f"different complete responses ({views.n_skipped} more have not): give a smaller one, or collect more "
            "prompts."
        )


def load_views(args: SimpleNamespace) -> Views:
    """Load the views of ``--policy_samples``.

    Raises:
        ValueError: they cannot be read; one sentence.
    """
    table = read_table(Path(args.policy_samples), [], COLUMN_NAMES)
    return Views(group_by_prompt(table, args.policy_samples_checkpoint), args.train.seed)
