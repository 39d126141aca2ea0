"""What each strategy may keep, by its definition, checked on the rollout log of a real run."""

import pandas as pd
import pytest
from rotation import thresholds


def check_group(name: str, prompt: pd.DataFrame) -> None:
    """One prompt of which two samples were kept."""
    n, ranks = len(prompt), sorted(prompt["rank"][prompt.kept])
    kept = prompt[prompt.kept]
    per_token = prompt.reward / prompt.response_tokens.clip(lower=1)
    if name == "best_of_n":
        assert ranks == [1, 2]
    elif name == "best_random":
        assert ranks[0] == 1 and len(ranks) == 2
    elif name == "best_worst":
        assert ranks == [1, n]
    elif name == "rank_weights":
        assert ranks == [2, 3]
    elif name == "max_variance":
        gaps = [abs(a - b) for a in prompt.reward for b in prompt.reward]
        assert abs(kept.reward.iloc[0] - kept.reward.iloc[1]) == max(gaps)
    elif name == "shortest":
        assert sorted(kept.response_tokens) == sorted(prompt.response_tokens)[:2]
    elif name == "reward_per_token":
        assert sorted(per_token[prompt.kept]) == sorted(per_token)[-2:]
    elif name == "ensemble_agreement":
        models = pd.DataFrame([dict(row) for row in prompt.model_rewards])
        disagreement = models.rank().var(axis=1, ddof=0).to_numpy()
        assert sorted(disagreement[prompt.kept.to_numpy()]) == pytest.approx(sorted(disagreement)[:2])
    elif name == "pareto":
        points = list(zip(prompt.reward, -prompt.response_tokens))
        beaten = [sum(worse(mine, theirs) for theirs in points) for mine in points]
        # Two of the first front; or its only sample and one of the second, which only that one beats.
        assert sorted(n for n, kept in zip(beaten, prompt.kept) if kept) == sorted(beaten)[:2]
    else:
        raise AssertionError(f"no definition of {name}")


def worse(mine: tuple[float, float], theirs: tuple[float, float]) -> bool:
    """Whether the other one is better in an objective and worse in none."""
    return mine != theirs and all(m <= t for m, t in zip(mine, theirs))


def check_batch(name: str, step: pd.DataFrame, mode: str, budget: int, trained: int) -> None:
    """One step of a strategy over the whole batch: who has weight, in what proportion, and how many were drawn."""
    low, high = thresholds(step.reward.to_numpy(dtype="float64", na_value=float("nan")))
    weighed, usable = step.weight > 0, step["rank"].notna()
    top = usable & (step.reward > high)
    assert weighed.any() and abs(step.weight.sum() - 1) < 1e-9
    if name == "top":
        assert (weighed == top).all()
    elif name == "top_random":
        assert weighed[top].all() and 0 < (weighed & ~top).sum() < (usable & ~top).sum()
    elif name == "top_bottom":
        assert (weighed == (top | (usable & (step.reward < low)))).all()
    elif name == "reward_power":
        power = step.reward[usable] ** 2
        assert (step.weight[usable] - power / power.sum()).abs().max() < 1e-9
    else:
        raise AssertionError(f"no definition of {name}")
    if name != "reward_power":
        assert step.weight[weighed].nunique() == 1, "all that pass weigh the same"
    drawn = int(step.draws.sum())
    assert drawn == trained and not step.draws[~weighed].any()
    if mode == "select":
        assert step.draws.max() == 1 and drawn <= min(budget, int(weighed.sum()))
    else:
        assert drawn <= budget
