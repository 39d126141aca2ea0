"""Checks of how samples are cut into batches that ranks can share, before Ray starts."""

import math
from types import SimpleNamespace

from openrlhf_pf.filters import SampleFilter
from openrlhf_pf.training.arguments import reward_models, samples_stand_alone, trained_per_prompt


def check_batches(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    """Check that the samples that train are whole optimizer steps, and whole micro-batches for every rank.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    per_prompt = trained_per_prompt(args, sample_filter)
    filtered = args.rollout.batch_size * per_prompt
    batch = args.train.batch_size
    varies = samples_stand_alone(args, sample_filter)
    what = (
        f"--rollout.batch_size {args.rollout.batch_size} x {'at most ' if varies else ''}{per_prompt} kept samples a "
        f"prompt gives {filtered} samples"
    )
    # Where the number varies from step to step, no number of prompts makes whole optimizer steps.
    if filtered < batch or (filtered % batch and not varies):
        raise ValueError(
            f"{what}, which is not a whole number of --train.batch_size {batch}: lower --train.batch_size to a "
            f"divisor of {filtered} (e.g. {math.gcd(filtered, batch)}) or raise --rollout.batch_size."
        )
    if args.train.dynamic_batch_enable:
        return
    ranks = ranks_of_models(args)
    for model in ("actor", "critic"):
        step = args.train.micro_batch_size * ranks.get(model, 1)
        if batch % step:
            raise ValueError(
                f"--train.batch_size {batch} is not a whole number of micro-batches for the {ranks[model]} ranks of "
                f"the {model}: with --train.micro_batch_size {args.train.micro_batch_size} it must be a multiple of "
                f"{step}."
            )
    share = args.train.micro_batch_size * math.lcm(*ranks.values())
    if filtered % share and not varies:
        raise ValueError(
            f"{what}, which {', '.join(f'{n} {model}' for model, n in ranks.items())} ranks cannot share in whole "
            f"micro-batches of {args.train.micro_batch_size}: make it a multiple of {share}."
        )


def data_parallel_ranks(entity: SimpleNamespace, ds: SimpleNamespace) -> int:
    """Data-parallel ranks of a model: its GPUs less those that ring attention and tensor parallelism join.

    Raises:
        ValueError: it has fewer GPUs than they join.
    """
    workers, joined = entity.num_nodes * entity.num_gpus_per_node, ds.ring_attn_size * ds.tensor_parallel_size
    if workers < joined:
        raise ValueError(
            f"with --ds.ring_attn_size {ds.ring_attn_size} and --ds.tensor_parallel_size {ds.tensor_parallel_size}, "
            f"{joined} workers share each sample, and a model has {workers}: lower them or give every model that many "
            "GPUs (--actor, --critic, --ref, --reward.num_gpus_per_node)."
        )
    return workers // joined


def ranks_of_models(args: SimpleNamespace) -> dict[str, int]:
    """Data-parallel ranks of each model that sees kept samples: actor, and critic and reference where there is one."""
    ranks = {"actor": data_parallel_ranks(args.actor, args.ds)}
    if args.algo.advantage.estimator == "gae":
        ranks["critic"] = data_parallel_ranks(args.critic, args.ds)
    if args.algo.kl.init_coef > 0:
        ranks["ref"] = data_parallel_ranks(args.ref, args.ds)
    return ranks


def check_score_ahead(args: SimpleNamespace) -> None:
    """Check what ``--sample_filter_score_ahead`` asks for.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    if not args.sample_filter_score_ahead:
        return
    flag, train, ds = "--sample_filter_score_ahead", args.train, args.ds
    if args.reward.remote_url or train.agent_func_path:
        raise ValueError(
            f"{flag} asks a local reward model, and rewards come from --reward.remote_url or an agent, which score "
            "each response as soon as it is there: leave the flag out."
        )
    shared = next((f for f in ("colocate_all", "colocate_critic_reward") if getattr(train, f)), None)
    if shared:
        raise ValueError(
            f"{flag} needs a reward model with GPUs of its own, and with --train.{shared} it shares them: leave one "
            "of the flags out."
        )
    if reward_models(args):
        raise ValueError(
            f"{flag} asks OpenRLHF's one reward model, and --sample_filter_reward_models names several: leave one of "
            "the flags out."
        )
    if train.async_enable and ds.ring_attn_size * ds.tensor_parallel_size > 1:
        raise ValueError(
            f"{flag} with --train.async_enable has two processes ask the reward model, and workers that share a "
            "sample (--ds.ring_attn_size, --ds.tensor_parallel_size) may hear them in different orders: leave one of "
            "the flags out."
        )
    if train.dynamic_batch_enable:
        raise ValueError(
            f"{flag} needs micro-batches that are known before all responses are, and --train.dynamic_batch_enable "
            "makes them by length: leave one of the flags out."
        )
    _check_one_prompt_a_micro_batch(args)


def _check_one_prompt_a_micro_batch(args: SimpleNamespace) -> None:
    rollout, ranks = args.rollout, data_parallel_ranks(args.reward, args.ds)
    n_samples, size = rollout.n_samples_per_prompt, rollout.micro_batch_size
    if n_samples % size:
        raise ValueError(
            "--sample_filter_score_ahead needs micro-batches of one prompt's samples, and --rollout.micro_batch_size "
            f"{size} does not divide the {n_samples} of --rollout.n_samples_per_prompt: make it {n_samples} or a "
            "divisor of it."
        )
    number = rollout.batch_size * n_samples // size
    if number % ranks:
        raise ValueError(
            f"--sample_filter_score_ahead needs as many micro-batches for each of the reward model's {ranks} ranks, "
            f"and --rollout.batch_size {rollout.batch_size} x {n_samples} samples in micro-batches of {size} are "
            f"{number}: make that a multiple of {ranks}."
        )
