"""Which kept samples point where the true score rises? Gradients of a policy, filter by filter, before any training.

python -m examples.micro_code.alignment --base runs/study_base

For every sample that the reliability phase has collected, the gradient of its log-probability under the SFT policy is
computed, for 0.4 million parameters in a minute and 2.5 GB. A minibatch of what a filter keeps, with rewards whitened
as PPO whitens advantages, gives a gradient; printed is its cosine with the gradient of the true score on other
prompts, and the length of the samples' gradients at each rank.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

N_OTHERS = 64  # prompts of which a minibatch is taken; the true gradient is that of the others


def gradients(model_path: Path, samples: Sequence[dict]) -> np.ndarray:
    """(S, S) products of the samples' gradients of log-probability."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = np.empty((len(samples), sum(p.numel() for p in parameters)), np.float32)
    for row, sample in zip(found, samples):
        prompt = tokenizer(sample["prompt"], add_special_tokens=False)["input_ids"]
        response = tokenizer(sample["response"].rstrip(" "), add_special_tokens=False)["input_ids"]
        if not response or response[-1] != tokenizer.eos_token_id:
            response.append(tokenizer.eos_token_id)
        log_probs = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        total = log_probs.gather(1, torch.tensor(response)[:, None]).sum()
        row[:] = torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, parameters)]).numpy()
    return (found @ found.T).astype(float)


def cosines(
    products: np.ndarray, reward: np.ndarray, score: np.ndarray, batch: int = 64, repetitions: int = 300, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Cosine of a minibatch's gradient with that of the true score on other prompts, and its standard error.

    Args:
        products: (G N, G N) of the samples' gradients, prompt by prompt.
        reward: (G, N).
        score: (G, N).
        batch: samples of a minibatch, about.
        repetitions: random minibatches.
        seed: of all randomness.
    """
    rng = np.random.default_rng(seed)
    n_prompts, n_samples = reward.shape
    rank = np.argsort(np.argsort(-reward, axis=1, kind="stable"), axis=1) + 1
    d = reward - reward.mean(axis=1, keepdims=True)
    s = score - score.mean(axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(1, n_samples + 1), 2))
    found: dict[str, list[float]] = {}
    for _ in range(repetitions):
        order = rng.permutation(n_prompts)
        true = np.zeros_like(s)
        true[order[N_OTHERS:]] = s[order[N_OTHERS:]]
        there = np.flatnonzero(true)
        size = np.sqrt(true.ravel()[there] @ products[np.ix_(there, there)] @ true.ravel()[there])
        drawn = rng.permuted(np.tile(np.arange(n_samples) < 2, (n_prompts, 1)), axis=1)
        arms = {"none": np.ones_like(rank, bool), "random 2": drawn} | {
            f"{a}, {b}": np.isin(rank, (a, b)) for a, b in pairs
        }
        for name, kept in arms.items():
            prompts = order[: min(N_OTHERS, batch // int(kept[0].sum()))]
            mine = np.zeros_like(kept)
            mine[prompts] = kept[prompts]
            advantage = np.where(mine, (d - d[mine].mean()) / d[mine].std(), 0.0).ravel()
            here = np.flatnonzero(advantage)
            dot = advantage[here] @ products[np.ix_(here, there)] @ true.ravel()[there]
            own = np.sqrt(advantage[here] @ products[np.ix_(here, here)] @ advantage[here])
            found.setdefault(name, []).append(dot / own / size)
    return {
        name: (float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))) for name, values in found.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.micro_code.alignment", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--base", type=Path, required=True, help="run directory of a study with its reliability phase")
    base = parser.parse_args(argv).base
    from openrlhf_pf import rollout_log

    table = rollout_log.read(base / "samples", ["prompt_id", "prompt", "response", "reward", "score"]).to_pylist()
    table.sort(key=lambda row: row["prompt_id"])
    n_samples = len(table) // len({row["prompt_id"] for row in table})
    reward, score = (np.array([row[k] for row in table], float).reshape(-1, n_samples) for k in ("reward", "score"))
    products = gradients(base / "models" / "sft", table)
    rank = np.argsort(np.argsort(-reward, axis=1, kind="stable"), axis=1)
    length = np.sqrt(np.diag(products)).reshape(reward.shape)
    by_rank = {
        "score": [round(float(score[rank == j].mean()), 3) for j in range(n_samples)],
        "gradient length": [round(float(length[rank == j].mean()), 1) for j in range(n_samples)],
    }
    print(json.dumps(by_rank))
    for name, (cosine, error) in cosines(products, reward, score).items():
        print(f"{name:>9}: {cosine:.3f} (standard error {error:.3f})")


if __name__ == "__main__":
    main()
