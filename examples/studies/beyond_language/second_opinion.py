"""What helps a policy when the reward's errors stay: filters, further reward models, or a few true scores?

python -m examples.studies.beyond_language.second_opinion --json second_opinion.json        # ten minutes

Contexts with 32 actions each; the policy is a softmax over features that all contexts share. A reward is the true
value plus an error 1.2 times as large. Errors differ in whether the five reward models share them, and in whether they
lie along the features, so that a policy can learn them. Each arm takes its best learning rate of a small grid.

Shapes: B seeds, C contexts, A actions, D features, G contexts of a rollout, N actions drawn for each, K reward models.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.studies.tables import Floats, paired_interval

CONTEXTS, ACTIONS, FEATURES, MODELS, SIZE = 128, 32, 48, 5, 1.2
STEPS, PROMPTS, SAMPLES, KEEP = 60, 32, 8, 2
RATES = (0.01, 0.03, 0.1)
LABELS, RIDGE, SHRINK = 16, 30.0, 0.3  # true scores of a rollout; of the head
KINDS = ("own", "own, learnable", "shared", "shared, learnable", "mixed", "redrawn", "uneven", "overrated")


def _standard(table: Floats) -> Floats:
    """Return (B, ..., C, A) with mean 0 and spread 1 over contexts and actions."""
    table = table - table.mean((-2, -1), keepdims=True)
    return table / table.std((-2, -1), keepdims=True)


class Problem:
    """Features (B, C, A, D), true values (B, C, A) and the rewards (B, K, C, A) of reward models that err."""

    def __init__(self, kind: str, seeds: Sequence[int]) -> None:
        draws = [np.random.default_rng([seed, KINDS.index(kind)]) for seed in seeds]

        def normal(*shape: int) -> Floats:
            return np.stack([draw.normal(size=shape) for draw in draws])

        self.phi = normal(CONTEXTS, ACTIONS, FEATURES) / FEATURES**0.5

        def learnable(*shape: int) -> Floats:
            weights = normal(*shape, FEATURES).reshape(len(seeds), -1, FEATURES)
            return _standard(np.einsum("bcad,bkd->bkca", self.phi, weights))

        table = (CONTEXTS, ACTIONS)
        self.value = _standard(learnable(1)[:, 0] + _standard(normal(*table)))
        errors = {
            "own": lambda: normal(MODELS, *table),
            "own, learnable": lambda: learnable(MODELS),
            "shared": lambda: normal(1, *table),
            "shared, learnable": lambda: learnable(1),
            "mixed": lambda: normal(MODELS, *table) + learnable(MODELS) + normal(1, *table) + learnable(1),
            "redrawn": lambda: np.zeros((len(seeds), MODELS, *table)),
            "uneven": lambda: learnable(MODELS) * np.where(np.arange(CONTEXTS) % 4 == 0, 6.0, 1.0)[:, None],
            "overrated": lambda: np.stack([draw.random((MODELS, *table)) < 0.1 for draw in draws]) * 4.0,
        }[kind]()
        scale = errors.std((-2, -1), keepdims=True)
        self.rewards = self.value[:, None] + SIZE * errors / np.where(scale > 0, scale, 1.0)
        self.redrawn = SIZE if kind == "redrawn" else 0.0


def _ranked(rewards: Floats, ranks: Sequence[int]) -> Floats:
    """Return weights (B, G, N) that keep these ranks, 0 the best."""
    order = np.argsort(-rewards, axis=-1)
    weights = np.zeros(rewards.shape)
    np.put_along_axis(weights, order[..., list(ranks)], 1.0, axis=-1)
    return weights


class Head:
    """A ridge on (reward, features) from a few true scores, drawn towards the reward itself."""

    def __init__(self, seeds: int) -> None:
        self.prior = np.eye(1, 2 + FEATURES, 1)[0]
        self.penalty = np.diag([1e-3, 0.1, *[RIDGE] * FEATURES])
        self.xx, self.xy, self.labels = np.zeros((seeds, *self.penalty.shape)), np.zeros((seeds, 2 + FEATURES)), 0

    def correct(self, rewards: Floats, phi: Floats, values: Floats) -> Floats:
        """Learn from the values (B, m) of the first m samples; return all (B, S) rewards, corrected."""
        x = np.concatenate([np.ones((*rewards.shape, 1)), rewards[..., None], phi * SHRINK * FEATURES**0.5], axis=-1)
        shown = x[:, : values.shape[1]]
        self.xx += shown.swapaxes(1, 2) @ shown
        self.xy += np.einsum("bmd,bm->bd", shown, values - shown @ self.prior)
        self.labels += values.shape[1]
        b = self.prior + np.linalg.solve(self.xx + self.penalty, self.xy[..., None])[..., 0]
        trust = min(1.0, self.labels / 256)
        return (1 - trust) * rewards + trust * np.einsum("bsd,bd->bs", x, b)


def train(problem: Problem, arm: str, rate: float) -> Floats:
    """Return (B,) the mean true value of the policy that an arm trains."""
    seeds = len(problem.value)
    rngs = [np.random.default_rng([7, index]) for index in range(seeds)]
    rows = np.arange(seeds)[:, None]
    theta, first, second = (np.zeros((seeds, FEATURES)) for _ in range(3))
    head = Head(seeds)

    def chances(contexts: NDArray[np.int64] | slice) -> Floats:
        phi = problem.phi[:, contexts] if isinstance(contexts, slice) else problem.phi[rows, contexts]
        logits = np.einsum("bcad,bd->bca", phi, theta)
        logits = np.exp(logits - logits.max(-1, keepdims=True))
        return logits / logits.sum(-1, keepdims=True)

    for step in range(STEPS):
        contexts = np.stack([rng.permutation(CONTEXTS)[:PROMPTS] for rng in rngs])
        luck = np.stack([rng.random((PROMPTS, SAMPLES, 1)) for rng in rngs])
        member = np.stack([rng.integers(MODELS, size=PROMPTS) for rng in rngs])
        noise = np.stack([rng.normal(size=(MODELS, PROMPTS, SAMPLES)) for rng in rngs]) * problem.redrawn
        keys = np.stack([rng.random((PROMPTS, SAMPLES)) for rng in rngs])
        probabilities = chances(contexts)
        actions = (luck > probabilities.cumsum(-1)[:, :, None]).sum(-1).clip(max=ACTIONS - 1)
        at = (rows[..., None], contexts[..., None], actions)
        models = problem.rewards.swapaxes(0, 1)[:, at[0], at[1], at[2]] + noise.swapaxes(0, 1)
        phi, value = problem.phi[at], problem.value[at]
        centred = models - models.mean(-1, keepdims=True)
        rewards, weights = models[0], np.ones(models[0].shape)
        if arm in ("mean of 5", "mean - 1 sd"):
            rewards = centred.mean(0) - (centred.std(0, ddof=1) if arm == "mean - 1 sd" else 0.0)
        elif arm == "member a prompt":
            rewards = np.take_along_axis(models, member[None, ..., None], axis=0)[0]
        elif arm in ("true scores", "labels as rewards"):
            flat, values = rewards.reshape(seeds, -1), value.reshape(seeds, -1)[:, :LABELS]
            if arm == "true scores":
                flat = head.correct(flat, phi.reshape(seeds, -1, FEATURES), values)
            else:
                flat = np.concatenate([values, flat[:, LABELS:]], axis=1)
            rewards = flat.reshape(rewards.shape)
        elif arm == "perfect":
            rewards = value
        elif arm == "random 2 of 8":
            weights = _ranked(keys, range(KEEP))
        elif arm == "best_worst 2 of 8":
            weights = _ranked(rewards, (0, SAMPLES - 1))
        advantages = (rewards - rewards.mean(-1, keepdims=True)) * weights
        advantages /= np.sqrt((advantages**2).sum((1, 2), keepdims=True) / weights.sum((1, 2), keepdims=True))
        expected = np.einsum("bga,bgad->bgd", probabilities, problem.phi[rows, contexts])
        gradient = np.einsum("bgn,bgnd->bd", advantages, phi - expected[:, :, None]) / weights.sum((1, 2))[:, None]
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        theta = theta + rate * (first / (1 - 0.9 ** (step + 1))) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
    return (chances(slice(None)) * problem.value).sum(-1).mean(-1)


ARMS = (
    *("none", "random 2 of 8", "best_worst 2 of 8", "mean of 5", "member a prompt", "mean - 1 sd"),
    *("labels as rewards", "true scores", "perfect"),
)


def study(seeds: int) -> dict[str, dict]:
    """Return for each kind of error each arm's true value minus that of no filter, with its interval; print a row."""
    rows: dict[str, dict] = {}
    for kind in KINDS:
        problem = Problem(kind, range(seeds))
        found = {arm: max((train(problem, arm, rate) for rate in RATES), key=np.mean) for arm in ARMS}
        row: dict = {"none": float(found["none"].mean())}
        for arm in ARMS[1:]:
            away = found[arm] - found["none"]
            row[arm] = [float(away.mean()), *paired_interval(away[:, None], list(range(seeds)))]
        rows[kind] = row
        print(f"{kind}: {json.dumps({arm: np.round(value, 3).tolist() for arm, value in row.items()})}")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and write its numbers."""
    parser = argparse.ArgumentParser("python -m examples.studies.beyond_language.second_opinion", description=__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    rows = study(options.seeds)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
