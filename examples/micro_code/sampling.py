"""Samples from a saved policy, and the pass@1 of those samples."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from .score import score_all
from .tasks import Task


@dataclass(frozen=True)
class Draw:
    """``samples`` responses of a saved policy to each prompt, at temperature 1 unless ``greedy``."""

    model: Path
    prompts: Sequence[str]
    samples: int
    max_new_tokens: int
    seed: int
    greedy: bool = False


def sample_all(draws: Sequence[Draw], workers: int = 2) -> list[list[list[str]]]:
    """The responses of each draw, (prompts, samples) texts without the end token and the space before it.

    One thread in each of ``workers`` processes: for a model this small, several threads mostly wait for each other.
    """
    shards = [
        replace(draw, prompts=draw.prompts[i::workers], seed=draw.seed * workers + i)
        for draw in draws
        for i in range(workers)
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_sample, shards))
    results = []
    for number, draw in enumerate(draws):
        responses: list[list[str]] = [[]] * len(draw.prompts)
        for i in range(workers):
            responses[i::workers] = parts[number * workers + i]
        results.append(responses)
    return results


def divergence(draws: Sequence[Draw], reference: Path, workers: int = 2) -> list[np.ndarray]:
    """(prompts, samples) of each draw: the log of how much likelier its policy is than ``reference`` to write a
    response that the policy wrote, in nats, with the end token. Their mean estimates the KL divergence of responses.
    """
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_log_ratios, draws, [reference] * len(draws)))


def _log_ratios(draw: Draw, reference: Path, batch_size: int = 200) -> np.ndarray:
    import torch

    tokenizer, policy = _load(draw.model, exact=True)
    _, other = _load(reference, exact=True)
    torch.manual_seed(draw.seed)
    queries = [prompt for prompt in draw.prompts for _ in range(draw.samples)]
    found = []
    for start in range(0, len(queries), batch_size):
        batch = tokenizer(
            queries[start : start + batch_size], return_tensors="pt", padding=True, add_special_tokens=False
        )
        prompts, mask = batch["input_ids"], batch["attention_mask"]
        tokens = generate(policy, prompts, mask, draw.max_new_tokens, draw.greedy)
        ends = tokens == policy.config.eos_token_id
        written = (ends.cumsum(1) - ends.long()) == 0  # up to the first end token, and it, too
        whole, seen = torch.cat([prompts, tokens], 1), torch.cat([mask, written.long()], 1)
        places = (seen.cumsum(1) - 1).clamp(min=0)
        chances = []
        with torch.inference_mode():
            for model in (policy, other):
                logits = model(whole, attention_mask=seen, position_ids=places).logits[:, prompts.shape[1] - 1 : -1]
                logs = logits.float().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
                chances.append((logs * written).sum(1))
        found.append((chances[0] - chances[1]).numpy())
    return np.concatenate(found).reshape(len(draw.prompts), draw.samples)


def _load(path: Path, exact: bool = False) -> tuple[Any, Any]:
    """Tokenizer and model, on one thread; ``exact`` in float32 whatever the processor."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()  # loading takes no time
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    # A CPU without instructions for bfloat16 is many times slower in it.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    dtype = torch.bfloat16 if native and not exact else torch.float32
    return tokenizer, AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa").eval()


def _sample(draw: Draw, batch_size: int = 500) -> list[list[str]]:
    import torch

    tokenizer, model = _load(draw.model)
    torch.manual_seed(draw.seed)
    queries = [prompt for prompt in draw.prompts for _ in range(draw.samples)]
    by_length = sorted(range(len(queries)), key=lambda i: len(queries[i]))  # less padding
    responses = [""] * len(queries)
    for start in range(0, len(queries), batch_size):
        chosen = by_length[start : start + batch_size]
        batch = tokenizer([queries[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False)
        tokens = generate(model, batch["input_ids"], batch["attention_mask"], draw.max_new_tokens, draw.greedy)
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for i, text in zip(chosen, texts):
            responses[i] = text.rstrip(" ")  # OpenRLHF's SFT puts a space before the end token
    return [responses[i : i + draw.samples] for i in range(0, len(responses), draw.samples)]


def generate(model: Any, prompts: Any, mask: Any, max_new_tokens: int, greedy: bool = False) -> Any:
    """What ``model.generate`` gives, but finished responses leave the batch.

    Most responses have a third of the longest one's length, so this takes less than half of the time.

    Args:
        model: a causal language model of transformers with ``eos_token_id`` and ``pad_token_id`` in its configuration.
        prompts: (B, P) token ids, padded on the left.
        mask: (B, P), 0 for padding.
        max_new_tokens: at most this many tokens a response.
        greedy: the likeliest token, else a draw at temperature 1.

    Returns:
        (B, max_new_tokens) token ids, padded on the right.
    """
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    responses = torch.full((len(prompts), max_new_tokens), model.config.pad_token_id)
    rows = torch.arange(len(prompts))  # of ``responses``, those in the batch
    going = torch.ones(len(prompts), dtype=torch.bool)
    tokens, positions = prompts, (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        for place in range(max_new_tokens):
            output = model(
                tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            logits = output.logits[:, -1].float()
            tokens = logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1).squeeze(1)
            responses[rows[going], place] = tokens[going]
            going &= tokens != model.config.eos_token_id
            if not going.any():
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if going.float().mean() < 0.8:  # taking rows out copies the cache: not at each step
                cache.batch_select_indices(going.nonzero().squeeze(1))
                rows, mask, tokens, going = rows[going], mask[going], tokens[going], going[going]
            tokens, positions = tokens[:, None], mask.sum(1, keepdim=True) - 1
    return responses


def score_samples(tasks: Sequence[Task], *responses: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """True scores, bool (tasks, samples), of each draw: does the response pass every hidden test of its task.

    All draws at once, because policies that come from one another repeat each other's answers, which are run only
    once.
    """
    items = [
        (text, task.solution, task.kind) for drawn in responses for task, texts in zip(tasks, drawn) for text in texts
    ]
    scores = iter(score_all(items))
    return [np.array([[next(scores) for _ in texts] for texts in drawn], dtype=bool) for drawn in responses]


def rewards_of(model: Path, texts: Sequence[str], batch_size: int = 500) -> np.ndarray:
    """(T,) rewards of a saved reward model for whole texts, prompt and response, which are ended here as OpenRLHF's
    ``train_rm`` ends them.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="right")
    # OpenRLHF's reward model has the weights of this one, by the same names.
    loaded = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32).eval()
    rewards = np.empty(len(texts))
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # less padding
    for start in range(0, len(texts), batch_size):
        chosen = by_length[start : start + batch_size]
        ended = [f"{texts[i]} {tokenizer.eos_token}" for i in chosen]
        batch = tokenizer(ended, return_tensors="pt", padding=True, add_special_tokens=False)
        last = batch["attention_mask"].sum(1) - 1
        with torch.inference_mode():
            hidden = loaded.base_model(**batch).last_hidden_state[torch.arange(len(chosen)), last]
            rewards[chosen] = loaded.score(hidden).squeeze(1).numpy()
    return rewards


def bootstrap_interval(per_task: np.ndarray, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """95% percentile interval of the mean of ``per_task`` (tasks,), resampling tasks."""
    rng = np.random.default_rng(seed)
    means = per_task[rng.integers(0, len(per_task), (draws, len(per_task)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
