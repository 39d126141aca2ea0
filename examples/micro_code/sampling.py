"""Samples from a saved policy, and the pass@1 of those samples."""

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
    """Return the responses of each draw, (prompts, samples) texts without the end token and the space before it.

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


def _load(path: Path) -> tuple[Any, Any]:
    """Return tokenizer and model, on one thread."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    # A CPU without instructions for bfloat16 is many times slower in it.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    dtype = torch.bfloat16 if native else torch.float32
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
    """Generate as ``model.generate`` does, but finished responses leave the batch: less than half of the time.

    Args:
        model: a causal language model of transformers with ``eos_token_id`` and ``pad_token_id`` in its configuration.
        prompts: (B, P) token ids, padded on the left.
        mask: (B, P), 0 for padding.
        max_new_tokens: at most this many tokens a response.
        greedy: take the most likely token, else draw at temperature 1.

    Returns:
        (B, max_new_tokens) token ids, padded on the right.
    """
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    responses = torch.full((len(prompts), max_new_tokens), model.config.pad_token_id)
    rows = torch.arange(len(prompts))  # of ``responses``, those in the batch
    active = torch.ones(len(prompts), dtype=torch.bool)
    tokens, positions = prompts, (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        for place in range(max_new_tokens):
            output = model(
                tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            logits = output.logits[:, -1].float()
            tokens = logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1).squeeze(1)
            responses[rows[active], place] = tokens[active]
            active &= tokens != model.config.eos_token_id
            if not active.any():
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if active.float().mean() < 0.8:  # taking rows out copies the cache: not at each step
                cache.batch_select_indices(active.nonzero().squeeze(1))
                rows, mask, tokens, active = rows[active], mask[active], tokens[active], active[active]
            tokens, positions = tokens[:, None], mask.sum(1, keepdim=True) - 1
    return responses


def score_samples(tasks: Sequence[Task], *responses: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Return true scores, bool (tasks, samples), of each draw: does a response pass every hidden test of its task?

    All draws at once: related policies repeat each other's answers, and equal answers run once.
    """
    items = [
        (text, task.solution, task.kind) for drawn in responses for task, texts in zip(tasks, drawn) for text in texts
    ]
    scores = iter(score_all(items))
    return [np.array([[next(scores) for _ in texts] for texts in drawn], dtype=bool) for drawn in responses]


def rewards_of(model: Path, texts: Sequence[str], batch_size: int = 500) -> np.ndarray:
    """Return (T,) rewards of texts, prompt and response, which are ended here as OpenRLHF's ``train_rm`` ends them."""
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
    """Return the 95% percentile interval of the mean of ``per_task`` (tasks,), resampling tasks."""
    rng = np.random.default_rng(seed)
    means = per_task[rng.integers(0, len(per_task), (draws, len(per_task)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
