"""The ``filter/*`` metrics of a step. Shapes: G prompts (groups), N scored samples per prompt."""

from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from openrlhf.models import PolicyLoss
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_pf.filters import FilterBatch


def r_squared(rewards: NDArray, scores: NDArray) -> float | None:
    """Return R^2 of a line through (reward, score) points, negative if the line falls; None without spread."""
    finite = np.isfinite(rewards) & np.isfinite(scores)
    if not finite.any():
        return None
    x, y = rewards[finite] - rewards[finite].mean(), scores[finite] - scores[finite].mean()
    spread, product = (x**2).sum() * (y**2).sum(), (x * y).sum()
    return float(product * abs(product) / spread) if spread > 0 else None


def filter_metrics(
    batch: FilterBatch, counts: NDArray, scores: NDArray | None, rewards: NDArray, measured: NDArray
) -> dict[str, float]:
    """Return the ``filter/*`` metrics of one step.

    Args:
        batch: the scored samples as the filter received them, which decides the ranks.
        counts: (G, N) how often each sample trains.
        scores: (G, N) true scores, or None.
        rewards: (G, N) the rewards that train; the filter may have ranked by others.
        measured: (G, N) the rewards to compare with true scores.

    Returns:
        ``kept_fraction``: share of all samples that train; ``kept_reward_mean``: their mean reward; ``reward_gap``:
        best minus worst reward, mean over prompts; ``flat_groups``: prompts without reward spread (count);
        ``unusable_rewards``: samples without a finite reward (count); ``dropped_prompts``: prompts of which nothing
        trains (count); ``kept_rank_r``: mean number of times that rank r trains, over the prompts that train (they add
        up to k); ``r2_all``, ``r2_kept``: R^2 of reward and true score, if there are true scores, negative if higher
        rewards go with lower scores; ``ensemble_spread``: standard deviation over the reward models, mean over
        samples. A value that is undefined in this step is left out.
    """
    kept = counts > 0
    trained = kept.any(axis=1)
    scored = FilterBatch(rewards)
    has_reward = scored.n_usable > 0
    metrics: dict[str, float | None] = {
        "kept_fraction": float(kept.mean()),
        "kept_reward_mean": float((rewards[kept] * counts[kept]).sum() / counts.sum()) if trained.any() else None,
        "reward_gap": float(scored.spread[has_reward].mean()) if has_reward.any() else None,
        "flat_groups": float(scored.flat.sum()),
        "unusable_rewards": float((~scored.usable).sum()),
        "dropped_prompts": float((~trained).sum()),
    }
    if trained.any():
        by_rank = np.take_along_axis(counts, batch.order, axis=1)[trained].mean(axis=0).tolist()
        metrics |= {f"kept_rank_{rank}": share for rank, share in enumerate(by_rank, start=1)}
    if scores is not None:
        metrics["r2_all"] = r_squared(measured.ravel(), scores.ravel())
        metrics["r2_kept"] = r_squared(measured[kept], scores[kept])
    if batch.has_ensemble:
        spread = batch.ensemble_spread
        metrics["ensemble_spread"] = float(spread[np.isfinite(spread)].mean()) if np.isfinite(spread).any() else None
    return {f"filter/{name}": value for name, value in metrics.items() if value is not None}


@torch.no_grad()
def masked_after_draw(experiences: list[Experience], args: SimpleNamespace) -> dict[str, float]:
    """Count what OpenRLHF's policy loss masks among the samples that were drawn.

    With ``--algo.advantage.is_correction_mode mask`` it masks responses whose probability differs between the actor
    and vLLM, which is known before the update. OpenRLHF logs the share itself, as a mean over micro-batches
    (``is_filter_ratio``). The critic trains on these samples too.

    Args:
        experiences: what trains, with the log-probabilities of actor and vLLM.
        args: OpenRLHF's nested arguments; releases before 0.11.2 lack the flag.

    Returns:
        ``filter/masked_samples`` at level ``seq``, ``filter/masked_tokens`` at level ``token``: counts over all drawn;
        empty if nothing can be masked.
    """
    settings = args.algo.advantage
    level = getattr(settings, "is_correction_level", "off")
    if level == "off" or settings.is_correction_mode != "mask" or args.actor.policy_loss_type != "ppo":
        return {}
    loss = PolicyLoss(
        is_correction_level=level,
        is_correction_mode=settings.is_correction_mode,
        is_correction_gating=settings.is_correction_gating,
        is_correction_threshold=settings.is_correction_threshold,
    )
    masked = 0.0
    for experience in experiences:
        mask, log_probs = experience.action_mask, experience.action_log_probs
        *_, share = loss(log_probs, log_probs, torch.zeros_like(log_probs), mask, experience.rollout_log_probs)
        masked += float(share) * (len(mask) if level == "seq" else int(mask.sum()))
    return {f"filter/masked_{'samples' if level == 'seq' else 'tokens'}": float(round(masked))}
