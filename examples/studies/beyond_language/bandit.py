"""Which filter pays for which error? A contextual bandit whose reward errs evenly, in the middle, or can be exploited.

python -m examples.studies.beyond_language.bandit --output bandit.json

A context stands for a prompt (a patient, a market, the state of a robot), an action for a response. Policies train by
plain policy gradient on the samples that a filter of the package keeps. Errors are deterministic, one a (context,
action), as a reward model errs, or independent in each scoring, as a sensor errs. A seed fixes the problem and the
random numbers of all arms, so that differences are paired.

Notation used for tensor shapes: B seeds, C contexts, A actions, T steps, G contexts (prompts) in a rollout, N actions
drawn for each.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from examples.micro_code.sampling import bootstrap_interval
from examples.studies.tables import tables_of
from openrlhf_pf.filters import FilterBatch, SampleFilter, build_filter, draw, make_generator

SEEDS, STEPS, CONTEXTS, ACTIONS, FEATURES, PROMPTS, SAMPLES = 20, 150, 200, 32, 16, 32, 8
#: Of a step along the sum over prompts of the mean over kept samples.
LEARNING_RATE = 0.5 * 32**0.5
#: Share of (context, action) pairs whose reward is an exploit in ``hacked``.
HACKED = 0.05
#: Standard deviation of the reward's error by true value.
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda q: torch.full_like(q, 0.4),
    "middle": lambda q: 0.8 * torch.exp(-((q / 0.4) ** 2)),
    "hacked": lambda q: torch.full_like(q, 0.1),
}
#: What every arm is compared with: k = 2 samples, chosen without regard to rewards.
PARTNER = "random"
#: The filters that are compared; all but ``none`` keep two.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "random": ("rank_weights", {"weights": [1.0] * SAMPLES}),
    "best_of_n": ("best_of_n", {}),
    "best_random": ("best_random", {}),
    "best_worst": ("best_worst", {}),
    "ranks_2_and_last": ("rank_weights", {"weights": [float(rank in (1, SAMPLES - 1)) for rank in range(SAMPLES)]}),
}


class Problem(NamedTuple):
    """A problem and the random numbers of its training; of B problems, each has a first dimension B."""

    #: (C, A) true value, in [-1, 1]; expected reward; standard deviation of the independent error of each scoring.
    value: Tensor
    reward: Tensor
    noise: Tensor
    #: (T, G) contexts; (T, G, N) uniforms for actions and normals for errors.
    contexts: Tensor
    uniform: Tensor
    normal: Tensor


def make_problem(error: str, seed: int, frozen: bool = True) -> Problem:
    """Return one problem.

    The value of an action is q = tanh(h), h = x W / 4 normal. In ``hacked``, 5% of the pairs have a reward that is the
    higher the lower the value is (1.2 - q).

    Args:
        error: a key of ``ERRORS``.
        seed: of all randomness.
        frozen: one error a pair, as a reward model errs; otherwise an independent error a scoring, as a sensor errs.
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    q = torch.tanh(normal(CONTEXTS, FEATURES) @ normal(FEATURES, ACTIONS) / FEATURES**0.5)
    normal(FEATURES, FEATURES)  # not used any more: a seed gives the problem that the results were made with
    error_of_pair, coin = normal(*q.shape), torch.rand(q.shape, generator=rng)
    spread = ERRORS[error](q)
    clean = torch.where(coin < HACKED, 1.2 - q, q) if error == "hacked" else q
    reward, noise = (clean + spread * error_of_pair, torch.zeros_like(q)) if frozen else (clean, spread)
    rng, shape = torch.Generator().manual_seed(1_000_003 + seed), (STEPS, PROMPTS, SAMPLES)
    contexts = torch.rand(STEPS, CONTEXTS, generator=rng).argsort(dim=1)[:, :PROMPTS]
    return Problem(q, reward, noise, contexts, torch.rand(shape, generator=rng), torch.randn(shape, generator=rng))


def stack(problems: list[Problem]) -> Problem:
    """Return problems as one."""
    return Problem(*map(torch.stack, zip(*problems)))


def build_arm(name: str) -> SampleFilter:
    """Return the filter of an arm."""
    filter_name, options = ARMS[name]
    return build_filter(filter_name, SAMPLES, None if name == "none" else 2, **options)


def by_logit(chances: Tensor, actions: Tensor, coefficient: Tensor) -> Tensor:
    """Return (B, G, A) the sum over samples of coefficient (B, G, N) times the gradient of log pi by the logits."""
    return (-chances * coefficient.sum(-1, keepdim=True)).scatter_add_(-1, actions, coefficient)


def count_kept(chosen: SampleFilter, rewards: Tensor, generator: np.random.Generator) -> Tensor:
    """Return (B, G, N) how often each sample trains, divided by the number kept of its prompt."""
    batch = FilterBatch(rewards.reshape(-1, rewards.shape[-1]).numpy(), generator)
    kept = draw("select", chosen(batch), chosen.keep, chosen.scope, batch.order, generator)
    return torch.from_numpy(kept.counts / chosen.keep).float().view_as(rewards)


def train(problems: Problem, arm: str) -> Tensor:
    """Return (B,) the mean true value of softmax policies, uniform at the start, after training with one filter."""
    logits, chosen, generator = torch.zeros(problems.value.shape), build_arm(arm), make_generator(0)
    rows = torch.arange(len(logits)).unsqueeze(1)
    for step in range(STEPS):
        contexts = problems.contexts[:, step]
        chances = logits[rows, contexts].log_softmax(-1).exp()
        actions = torch.searchsorted(chances.cumsum(-1), problems.uniform[:, step].contiguous()).clamp(max=ACTIONS - 1)
        mean, spread = (table[rows, contexts].gather(-1, actions) for table in (problems.reward, problems.noise))
        rewards = mean + problems.normal[:, step] * spread
        advantages = rewards - rewards.mean(-1, keepdim=True)
        gradient = by_logit(chances, actions, count_kept(chosen, rewards, generator) * advantages)
        logits.scatter_add_(1, contexts.unsqueeze(-1).expand_as(gradient), LEARNING_RATE * gradient)
    return (logits.softmax(-1) * problems.value).sum(-1).mean(-1)


def mean_interval(values: Tensor) -> list[float]:
    """Return the mean of (B,) values and its 95% bootstrap interval, [mean, low, high] rounded to 4 places."""
    numbers = values.double().numpy()
    return [round(float(x), 4) for x in (numbers.mean(), *bootstrap_interval(numbers))]


def main(argv: list[str] | None = None) -> None:
    """Run and write the true values at the end, alone and minus those of ``PARTNER``."""
    parser = argparse.ArgumentParser("python -m examples.studies.beyond_language.bandit", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors are small
    results = {}
    for error in ERRORS:
        for frozen, kind in ((True, "frozen"), (False, "fresh")):
            problems = stack([make_problem(error, seed, frozen) for seed in range(SEEDS)])
            ends = {arm: train(problems, arm).double() for arm in ARMS}
            results[f"{error}, {kind}"] = {
                "end": {arm: mean_interval(mine) for arm, mine in ends.items()},
                f"end, minus {PARTNER}": {arm: mean_interval(mine - ends[PARTNER]) for arm, mine in ends.items()},
            }
    args.output.write_text(json.dumps(results))
    print(tables_of(results))


if __name__ == "__main__":
    main()
