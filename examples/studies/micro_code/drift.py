"""How right is a reward model on the policy that it has trained, and what do a few true scores repair?

python -m examples.studies.micro_code.drift --base runs/s1 runs/s2 --output runs/study --json drift.json

Needs the runs ``none`` of runs.py. The reward model orders pairs of samples of the SFT policy, and of the policy that
it has trained. Then it is corrected with true scores of samples of training prompts, in two ways: by the head of
``--sample_filter_correct head``, and by training all of it. The head learns from samples of the trained policy and, to
see whether old labels do, from as many of the SFT policy. Everything is measured on prompts that train nothing.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.micro_code import commands
from examples.micro_code.phases import train_in_process, write_rows
from examples.micro_code.sampling import Draw, sample_all, score_samples
from openrlhf_pf.training.correction.head import fit_head

from .offline import SAMPLES, Labelled, RewardModel, accuracy, label_samples, measure_bases, sample_policies
from .runs import Runs

LABELS = (65, 320, 1000)


def measure(runs: Runs, seed: int) -> dict[str, Any]:
    """Return the figures of one base and one reward model."""
    tasks, held = runs.source.reward_tasks()
    order = np.random.default_rng([11, seed]).permutation(len(tasks))
    train = [tasks[i] for i in order[: max(LABELS) // SAMPLES]]
    samples = sample_policies(runs, [*train, *held], seed)
    path = runs.reward_model()
    given = RewardModel(path)
    prompts = [of_policy.labelled(given.tokenizer) for of_policy in samples]
    (of_old, labelled), (old, new) = zip(*((found[: len(train)], found[len(train) :]) for found in prompts))
    before, after = (of_policy.scores[len(train) :] for of_policy in samples)
    (old_rewards, _), (rewards, states) = given.read(old), given.read(new)
    has_pairs = [scores.min(1) < scores.max(1) for scores in (before, after)]
    both = has_pairs[0] & has_pairs[1]
    found: dict[str, Any] = {
        "base": runs.study.seed,
        "reward": runs.reward,
        "pass_at_1": [float(before.mean()), float(after.mean())],
        "prompts_with_pairs": [int(has.sum()) for has in has_pairs],
        "sft": accuracy(old_rewards, before),
        "policy": accuracy(rewards, after),
        "sft_same_prompts": accuracy(old_rewards, before, both),
        "policy_same_prompts": accuracy(rewards, after, both),
    }
    for number in LABELS:
        chosen = _with_pairs(labelled[: number // SAMPLES])
        for name, learned_from in (("head", chosen), ("head_of_sft", _with_pairs(of_old[: number // SAMPLES]))):
            head = fit_head(*given.read(learned_from), np.stack([prompt.scores for prompt in learned_from]))
            found[f"{name}_{number}"] = accuracy(head(rewards, states), after)
        learned = RewardModel(path)
        learned.learn(chosen, seed)
        found[f"refresh_{number}"] = accuracy(learned.read(new)[0], after)
        found[f"refresh_{number}_on_sft"] = accuracy(learned.read(old)[0], before)
        found[f"prompts_of_{number}"] = len(chosen)
    return found


def _with_pairs(prompts: Sequence[Labelled]) -> list[Labelled]:
    return [prompt for prompt in prompts if len(prompt.pairs())]


def fine_tune_on_right(runs: Runs, labels: int) -> dict[str, Any]:
    """Return pass@1 of the SFT policy, and after SFT on those of its samples that pass: labels without PPO."""
    source, config = runs.source, runs.study.evaluation
    sft, output = source.path("models", "sft"), runs.output / f"base{runs.study.seed}-right{labels}"
    if not (output / "config.json").exists():
        tasks, _ = source.reward_tasks()
        labelled = label_samples(sft, tasks, labels, config.max_new_tokens, runs.study.seed)
        write_rows(output.with_suffix(".jsonl"), labelled.right_rows())
        command = commands.sft(runs.study, sft, output.with_suffix(".jsonl"), output)
        train_in_process(runs.run, output.name, command)
    held = source.tasks("heldout")
    draws = [Draw(m, [t.prompt for t in held], config.samples, config.max_new_tokens, 1) for m in (sft, output)]
    before, after = (scores.mean() for scores in score_samples(held, *sample_all(draws)))
    return {"base": runs.study.seed, "labels": labels, "sft": float(before), "sft_on_right": float(after)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every base with every reward model, and write JSON."""
    parser = argparse.ArgumentParser("python -m examples.studies.micro_code.drift", description=__doc__)
    parser.add_argument("--labels", type=int, help="measure SFT on the right ones of this number of samples instead")
    parser.add_argument("--seed", type=int, default=1, help="of the PPO runs")

    def measure_one(runs: Runs, options: argparse.Namespace) -> dict[str, Any]:
        return fine_tune_on_right(runs, options.labels) if options.labels else measure(runs, options.seed)

    return measure_bases(parser, measure_one, argv)


if __name__ == "__main__":
    raise SystemExit(main())
