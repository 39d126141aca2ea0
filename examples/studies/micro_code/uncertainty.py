"""Which reward is uncertain, and is one reward model trained longer not better than several?

python -m examples.studies.micro_code.uncertainty --base runs/s1 --output runs/study --reward fewer16 --members 5

Needs the runs ``none`` of runs.py. Everything is measured within prompts that train nothing, on samples of the SFT
policy and of the policy that the reward model has trained: whether an uncertainty finds the advantages whose sign is
wrong better than their size does, and how many samples lie outside of what the reward model has seen. With
``--members`` it trains reward models that differ in their seed, and one on as many passes as all of them.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from scipy.stats import mannwhitneyu

from examples.micro_code import commands
from examples.micro_code.phases import finish_reward_model, train_in_process
from openrlhf_pf.training.correction.head import spread

from .offline import RewardModel, accuracy, measure_bases, sample_policies
from .runs import Runs

PROMPTS = 200  # that say what a reward model has seen, and as many others
Arrays = Sequence[np.ndarray]


def train_models(runs: Runs, members: int) -> dict[str, Path]:
    """Return reward models by name, trained unless they are there: members, their mean weights, and a longer one."""
    given = runs.reward_model()
    source, directory = runs.source, given.parent
    data = source.path("data", "pairs.jsonl") if runs.reward == "given" else directory / "pairs.jsonl"
    epochs, seed = runs.study.reward.epochs, runs.study.seed
    wanted = {f"member{i}": (seed + 100 * i, epochs) for i in range(2, members + 1)}
    models = {"member1": given}
    for name, (its_seed, its_epochs) in {**wanted, "longer": (seed, epochs * members)}.items():
        models[name] = runs.output / f"base{seed}-{runs.reward}-{name}"
        if not (models[name] / "accuracy.json").exists():
            study = replace(runs.study, seed=its_seed, reward=replace(runs.study.reward, epochs=its_epochs))
            files = source.path("models", "sft"), data, source.path("data", "eval_pairs.jsonl"), models[name]
            shutil.rmtree(models[name], ignore_errors=True)
            train_in_process(runs.run, models[name].name, commands.reward_model(study, *files))
            (models[name] / "accuracy.json").write_text(json.dumps(finish_reward_model(models[name])))
    models["average"] = runs.output / f"base{seed}-{runs.reward}-average"
    shutil.copytree(given, models["average"], dirs_exist_ok=True)
    weights = [load_file(path / "model.safetensors") for name, path in models.items() if name.startswith("member")]
    mean = {key: sum(w[key].float() for w in weights) / len(weights) for key in weights[0]}
    save_file(mean, models["average"] / "model.safetensors", metadata={"format": "pt"})
    return models


def find_wrong_signs(rewards: np.ndarray, scores: np.ndarray, uncertainty: np.ndarray) -> float:
    """Return the AUC of (G, N) uncertainties for advantages that have not the sign of the true advantage."""
    advantages, true = (x - x.mean(axis=1, keepdims=True) for x in (rewards, scores))
    wrong, uncertainty = (advantages * true < 0)[true != 0], uncertainty[true != 0]
    return float(mannwhitneyu(uncertainty[wrong], uncertainty[~wrong]).statistic / (wrong.sum() * (~wrong).sum()))


def measure(rewards: Arrays, states: Arrays, scores: Arrays, n_seen: int) -> dict[str, list[float]]:
    """Return the figures of one base and reward model, each for the SFT policy and for the trained one.

    Args:
        rewards, scores: (G, N) of each policy.
        states: (G, N, d) of each policy. The first ``n_seen`` prompts of the SFT policy say what the reward model has
            seen; the others are measured.
    """
    seen, held = states[0][:n_seen].reshape(-1, states[0].shape[-1]), slice(n_seen, None)
    covariance = np.cov(seen.T)
    inverse = np.linalg.inv(covariance + 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
    away = [state[held] - seen.mean(axis=0) for state in states]
    distances = [np.einsum("gnd,de,gne->gn", x, inverse, x) for x in away]
    limit, median = np.quantile(distances[0], 0.99), np.median(rewards[0][scores[0] == 1])
    found: dict[str, list[float]] = {}
    for distance, *arrays in zip(distances, rewards, states, scores):
        reward, state, score = (x[held] for x in arrays)
        advantage = np.abs(reward - reward.mean(axis=1, keepdims=True))
        apart = np.linalg.norm(state - state.mean(axis=1, keepdims=True), axis=2)
        row = {
            "accuracy": accuracy(reward, score),
            "outliers": (distance > limit).mean(),
            "false_positives": (score[reward > median] == 0).mean(),
            "auc_size": find_wrong_signs(reward, score, -advantage),
            "auc_sign": find_wrong_signs(reward, score, -advantage / np.maximum(apart, 1e-9)),
            "auc_distance": find_wrong_signs(reward, score, distance),
        }
        for name, value in row.items():
            found.setdefault(name, []).append(round(float(value), 4))
    return found


def measure_members(rewards: dict[str, np.ndarray], scores: np.ndarray) -> dict[str, float]:
    """Return pair accuracy of several reward models together, of one, and of one trained longer, from (G, N) each."""
    members = np.stack([reward / spread(reward) for name, reward in rewards.items() if name.startswith("member")])
    members = members - members.mean(axis=2, keepdims=True)  # a constant of a prompt means nothing
    correlation = np.corrcoef(members.reshape(len(members), -1))
    shared, mean = correlation[np.triu_indices(len(members), 1)].mean(), members.mean(axis=0)
    found = {
        "one_member": np.mean([accuracy(member, scores) for member in members]),
        "mean_of_members": accuracy(mean, scores),
        "average_of_weights": accuracy(rewards["average"], scores),
        "longer": accuracy(rewards["longer"], scores),
        "correlation": shared,
        "factor": 1 / np.sqrt(shared + (1 - shared) / len(members)),
        "auc_size_of_mean": find_wrong_signs(mean, scores, -np.abs(mean)),
        "auc_members": find_wrong_signs(mean, scores, members.std(axis=0)),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def measure_base(runs: Runs, members: int) -> dict[str, Any]:
    """Sample both policies, read the reward models, and return all figures."""
    train, held = runs.source.reward_tasks()
    order = np.random.default_rng([11, 1]).permutation(len(train))
    tasks = [train[i] for i in order[:PROMPTS]] + held[:PROMPTS]
    samples = sample_policies(runs, tasks, 1)
    models = {"member1": RewardModel(runs.reward_model())}
    prompts = [policy.labelled(models["member1"].tokenizer) for policy in samples]
    rewards, states = zip(*(models["member1"].read(found) for found in prompts))
    found = {"base": runs.study.seed, "reward": runs.reward}
    found |= measure(rewards, states, [policy.scores for policy in samples], PROMPTS)
    if members > 1:
        models |= {name: RewardModel(path) for name, path in train_models(runs, members).items()}
        for name, policy in zip(("sft", "policy"), prompts):
            read = {model: reader.read(policy[PROMPTS:])[0] for model, reader in models.items()}
            found[f"members_on_{name}"] = measure_members(read, np.stack([p.scores for p in policy[PROMPTS:]]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every base with every reward model, and write JSON."""
    parser = argparse.ArgumentParser("python -m examples.studies.micro_code.uncertainty", description=__doc__)
    parser.add_argument("--members", type=int, default=1, help="reward models of a base")
    return measure_bases(parser, lambda runs, options: measure_base(runs, options.members), argv)


if __name__ == "__main__":
    raise SystemExit(main())
