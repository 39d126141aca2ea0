"""How right is a reward model on the policy that it has trained, and what do a few true scores repair?

python -m examples.studies.micro_code.drift --base runs/s1 runs/s2 --output runs/study --json drift.json

Needs the runs ``none`` of runs.py. The reward model orders pairs of samples of the SFT policy, and of the policy that
it has trained. Then it is corrected with true scores of samples of training prompts, in two ways: by the head of
``--sample_filter_correct head``, and by training all of it. The head learns from samples of the trained policy and, to
see whether old labels do, from as many of the SFT policy. Everything is measured on prompts that train nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.micro_code import commands
from examples.micro_code.phases import train_in_process, write_rows
from examples.micro_code.sampling import Draw, sample_all, score_samples
from openrlhf_pf.training.correction.head import fit_head

from .offline import SAMPLES, Labelled, RewardModel, Samples, accuracy, label_samples
from .rewards import REWARD_MODELS
from .runs import Runs

LABELS = (65, 320, 1000)


def measure(runs: Runs, seed: int) -> dict[str, Any]:
    """Return the figures of one base and one reward model."""
    tasks, held = runs.source.reward_tasks()
    order = np.random.default_rng([11, seed]).permutation(len(tasks))
    train = [tasks[i] for i in order[: max(LABELS) // SAMPLES]]
    policy = runs.policy("none", seed, runs.config("none").steps)
    tokens = runs.study.evaluation.max_new_tokens
    draws = [
        Draw(runs.source.path("models", "sft"), [t.prompt for t in [*train, *held]], SAMPLES, tokens, seed),
        Draw(policy, [t.prompt for t in [*train, *held]], SAMPLES, tokens, seed),
    ]
    of_sft, of_policy = sample_all(draws)
    before, after = (Samples(held, texts[len(train) :]) for texts in (of_sft, of_policy))
    path = runs.reward_model()
    given = RewardModel(path)
    of_old, labelled = (Samples(train, t[: len(train)]).labelled(given.tokenizer) for t in (of_sft, of_policy))
    old, new = before.labelled(given.tokenizer), after.labelled(given.tokenizer)
    (old_rewards, _), (rewards, states) = given.read(old), given.read(new)
    has_pairs = [samples.scores.min(1) < samples.scores.max(1) for samples in (before, after)]
    both = has_pairs[0] & has_pairs[1]
    found: dict[str, Any] = {
        "base": runs.study.seed,
        "reward": runs.reward,
        "pass_at_1": [float(before.scores.mean()), float(after.scores.mean())],
        "prompts_with_pairs": [int(has.sum()) for has in has_pairs],
        "sft": accuracy(old_rewards, before.scores),
        "policy": accuracy(rewards, after.scores),
        "sft_same_prompts": accuracy(old_rewards, before.scores, both),
        "policy_same_prompts": accuracy(rewards, after.scores, both),
    }
    for number in LABELS:
        chosen = _with_pairs(labelled[: number // SAMPLES])
        for name, prompts in (("head", chosen), ("head_of_sft", _with_pairs(of_old[: number // SAMPLES]))):
            head = fit_head(*given.read(prompts), np.stack([prompt.scores for prompt in prompts]))
            found[f"{name}_{number}"] = accuracy(head(rewards, states), after.scores)
        learned = RewardModel(path)
        learned.learn(chosen, seed)
        found[f"refresh_{number}"] = accuracy(learned.read(new)[0], after.scores)
        found[f"refresh_{number}_on_sft"] = accuracy(learned.read(old)[0], before.scores)
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
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("--base", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="where runs.py keeps its runs")
    parser.add_argument("--reward", nargs="+", choices=REWARD_MODELS, default=["given"])
    parser.add_argument("--labels", type=int, help="measure SFT on the right ones of this number of samples instead")
    parser.add_argument("--seed", type=int, default=1, help="of the PPO runs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    rows = []
    for base in options.base:
        for reward in options.reward:
            runs = Runs(base, options.output, reward)
            row = fine_tune_on_right(runs, options.labels) if options.labels else measure(runs, options.seed)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
