"""What a step's filtering looks like in the logs: ``filter/*``.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt.
"""

from types import SimpleNamespace

import numpy as np
import torch
from openrlhf.models import PolicyLoss
from openrlhf.trainer.ppo_utils.experience import Experience
from torch import Tensor

from openrlhf_pf.filters import FilterBatch


def r_squared(rewards: Tensor, scores: Tensor) -> float | None:
    """Sample-level R^2 of a line through (reward, score) points, negative where the line falls.

    None where it is undefined (no spread).
    """
    finite = rewards.isfinite() & scores.isfinite()
    x, y = rewards[finite] - rewards[finite].mean(), scores[finite] - scores[finite].mean()
    spread = x.square().sum() * y.square().sum()
    product = (x * y).sum()
    return float(product * product.abs() / spread) if spread > 0 else None


def filter_metrics(batch: FilterBatch, counts: Tensor, scores: Tensor | None, rewards: Tensor) -> dict[str, float]:
    """Return the ``filter/*`` metrics of one step.

    Args:
        batch: the scored samples as the filter saw them, which decides the ranks.
        counts: (G, N) how often each sample trains.
        scores: (G, N) true scores beside the rewards, or None.
        rewards: (G, N) the rewards that train; the filter may have ranked by others.

    Returns:
        ``kept_fraction``: share of all samples that train; ``kept_reward_mean``: their mean reward; ``reward_gap``:
        best minus worst reward, mean over prompts; ``flat_groups``: prompts without reward spread (count);
        ``unusable_rewards``: samples without a finite reward (count); ``dropped_prompts``: prompts of which nothing
        trains (count); ``kept_rank_r``: mean number of times that rank r trains, over the prompts that do (they add
        up to k); ``r2_all``, ``r2_kept``: R^2 of reward and true score, where there are true scores, with
        a minus where higher rewards go with lower scores;
        ``ensemble_spread``: standard deviation over the reward models, mean over samples. A figure that is
        undefined in this step is left out.
    """
    kept = counts > 0
    trained = kept.any(dim=1)
    scored = FilterBatch(rewards)
    some = scored.n_usable > 0
    metrics: dict[str, float | None] = {
        "kept_fraction": float(kept.double().mean()),
        "kept_reward_mean": (float((rewards[kept] * counts[kept]).sum() / counts.sum()) if trained.any() else None),
        "reward_gap": float(scored.spread[some].mean()) if some.any() else None,
        "flat_groups": float(scored.flat.sum()),
        "unusable_rewards": float((~scored.usable).sum()),
        "dropped_prompts": float((~trained).sum()),
    }
    if trained.any():
        by_rank = counts.gather(1, torch.from_numpy(batch.order))[trained].double().mean(dim=0).tolist()
        metrics |= {f"kept_rank_{rank}": share for rank, share in enumerate(by_rank, start=1)}
    if scores is not None:
        metrics["r2_all"] = r_squared(rewards.flatten(), scores.flatten())
        metrics["r2_kept"] = r_squared(rewards[kept], scores[kept])
    if batch.has_ensemble:
        spread = batch.ensemble_spread
        metrics["ensemble_spread"] = float(spread[np.isfinite(spread)].mean()) if np.isfinite(spread).any() else None
    return {f"filter/{name}": value for name, value in metrics.items() if value is not None}


@torch.no_grad()
def masked_after_draw(experiences: list[Experience], args: SimpleNamespace) -> dict[str, float]:
    """Count what OpenRLHF's policy loss leaves out of the samples that were drawn.

    With ``--algo.advantage.is_correction_mode mask`` it does so where the actor and vLLM disagree on how probable a
    response was, which is known before the update and the same in each of its epochs. OpenRLHF's own loss is asked; it
    logs the share itself, as a mean over micro-batches (``is_filter_ratio``). The critic trains on these samples too.

    Args:
        experiences: what trains, with the log-probabilities of actor and vLLM.
        args: OpenRLHF's nested arguments; releases before 0.11.2 lack the flag.

    Returns:
        ``filter/masked_samples`` at level ``seq``, ``filter/masked_tokens`` at level ``token``: counts over all drawn;
        nothing where nothing can be masked.
    """
    asked = args.algo.advantage
    level = getattr(asked, "is_correction_level", "off")
    if level == "off" or asked.is_correction_mode != "mask" or args.actor.policy_loss_type != "ppo":
        return {}
    loss = PolicyLoss(
        is_correction_level=level,
        is_correction_mode=asked.is_correction_mode,
        is_correction_gating=asked.is_correction_gating,
        is_correction_threshold=asked.is_correction_threshold,
    )
    masked = 0.0
    for experience in experiences:
        mask, log_probs = experience.action_mask, experience.action_log_probs
        *_, share = loss(log_probs, log_probs, torch.zeros_like(log_probs), mask, experience.rollout_log_probs)
        masked += float(share) * (len(mask) if level == "seq" else int(mask.sum()))
    return {f"filter/masked_{'samples' if level == 'seq' else 'tokens'}": float(round(masked))}
