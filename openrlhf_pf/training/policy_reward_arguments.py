"""Our flags of ``train_rm``, and their checks. Imports nothing of OpenRLHF."""

import argparse
from pathlib import Path
from types import SimpleNamespace

from openrlhf_pf.reliability.files import read_table
from openrlhf_pf.rlp import group_by_prompt
from openrlhf_pf.rlp.multi_view import Views
from openrlhf_pf.rlp.samples import COLUMN_NAMES

#: What a second forward pass over views does not go with: when it is asked for, and the flag's name.
_REFUSED = {
    "--ds.packing_samples": lambda args: args.ds.packing_samples,
    "--ds.ring_attn_size": lambda args: args.ds.ring_attn_size > 1,
    "--ds.tensor_parallel_size": lambda args: args.ds.tensor_parallel_size > 1,
    "--ds.zero_stage 3": lambda args: args.ds.zero_stage > 2,
    "--ds.lora.rank": lambda args: args.ds.lora.rank > 0,
    "--ds.load_in_4bit": lambda args: args.ds.load_in_4bit,
    "--model.aux_loss_coef": lambda args: args.model.aux_loss_coef > 0,
}

#: What the flags of views are where they are not given; None until then, so that a given one can be told.
_DEFAULTS = {"weight": 0.5, "batch": 16, "dim": 64, "ramp": 0, "checkpoint": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to OpenRLHF's parser, in a group of their own."""
    group = parser.add_argument_group(
        "reward learning on policy (openrlhf_pf)",
        "Samples of the policy as views in a second loss (RLP-UML).",
    )
    add = group.add_argument
    add("--policy_samples", metavar="DIR", help="what openrlhf_pf.cli.collect wrote; without it, nothing changes")
    own = {name: f"({value})" for name, value in _DEFAULTS.items()}
    add("--policy_samples_weight", type=float, help=f"lambda; 0 changes nothing {own['weight']}")
    add("--policy_samples_batch", type=int, help=f"prompts a micro-batch and process {own['batch']}")
    add("--policy_samples_dim", type=int, help=f"size of the representation z {own['dim']}")
    add("--policy_samples_ramp", type=int, help=f"steps until SKL has its whole weight {own['ramp']}")
    add("--policy_samples_checkpoint", metavar="NAME", help="whose samples, where there are those of several")


def resolve(args: argparse.Namespace) -> None:
    """Fill in the flags that were not given.

    Args:
        args: as parsed, not nested yet.

    Raises:
        ValueError: some were given without ``--policy_samples``, which alone gives them something to do; one sentence.
    """
    given = [name for name in _DEFAULTS if getattr(args, f"policy_samples_{name}") is not None]
    if given and not args.policy_samples:
        raise ValueError(
            f"--policy_samples_{given[0]} has no effect without --policy_samples: name the directory that "
            "openrlhf_pf.cli.collect wrote, or leave it out."
        )
    for name in set(_DEFAULTS) - set(given):
        setattr(args, f"policy_samples_{name}", _DEFAULTS[name])


def is_active(args: SimpleNamespace) -> bool:
    """Whether views are asked for."""
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
    for flag, given in _REFUSED.items():
        if given(args):
            raise ValueError(f"--policy_samples does not go with {flag}: leave out the one or the other.")
    views = views_of(args)
    if len(views) < args.policy_samples_batch:
        raise ValueError(
            f"--policy_samples_batch {args.policy_samples_batch} is more than the {len(views)} prompts that have two "
            f"different whole answers ({views.n_skipped} more have not): give a smaller one, or collect more prompts."
        )


def views_of(args: SimpleNamespace) -> Views:
    """The views of ``--policy_samples``.

    Raises:
        ValueError: they cannot be read; one sentence.
    """
    table = read_table(Path(args.policy_samples), [], COLUMN_NAMES)
    return Views(group_by_prompt(table, args.policy_samples_checkpoint), args.train.seed)
