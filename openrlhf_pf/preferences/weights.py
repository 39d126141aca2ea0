"""Weights of old preference pairs that make them speak of a new policy (OCRM, arXiv 2507.15507).

A reward model is fitted to pairs of the policy that wrote them. Where another policy is what counts, each pair of a
chosen and a rejected response is weighted by how much likelier that one is to write both:

    w = (pi(chosen) / pi_0(chosen) * pi(rejected) / pi_0(rejected)) ** scale, divided by the mean over all pairs.

Whole responses have likelihood ratios of many orders of magnitude, so that a few pairs would be all that counts. Two
things tame them, as in the authors' code: the relative density ratio pi / (alpha pi + (1 - alpha) pi_0), which is at
most 1 / alpha (Yamada et al. 2013), and the exponent. Their scripts fix the exponent; here it is chosen so that the
effective number of pairs is a share of all.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]

RELATIVE = 0.1
EFFECTIVE = 0.5


class Weights(NamedTuple):
    """Weights of pairs.

    Attributes:
        weights: (pairs,) with mean 1.
        scale: the exponent that gave them.
        effective: how many equally weighted pairs know as much, as a share: (sum w)² / (n sum w²).
    """

    weights: Floats
    scale: float
    effective: float


def relative_log_ratio(log_ratio: Floats, alpha: float = RELATIVE) -> Floats:
    """log pi / (alpha pi + (1 - alpha) pi_0), from log pi / pi_0 of the same shape: at most -log alpha."""
    return -np.logaddexp(math.log(alpha), math.log1p(-alpha) - log_ratio) if alpha > 0 else log_ratio


def weights_of(log_ratios: Floats, effective: float = EFFECTIVE, scale: float | None = None) -> Weights:
    """Weights of pairs.

    Args:
        log_ratios: (pairs,) of a pair, the sum over both responses.
        effective: the least effective share; the largest exponent up to 1 that leaves it is taken.
        scale: the exponent, instead.
    """
    if scale is None:
        scale = 1.0
        if _weighted(log_ratios, 1.0).effective < effective:
            scale = brentq(lambda x: _weighted(log_ratios, x).effective - effective, 0.0, 1.0)
    return _weighted(log_ratios, scale)


def _weighted(log_ratios: Floats, scale: float) -> Weights:
    weights = np.exp(scale * (log_ratios - log_ratios.max()))
    weights /= weights.mean()
    return Weights(weights, scale, float(1 / (weights**2).mean()))


def log_probabilities(
    folder: str | Path, texts: Sequence[tuple[str, str]], max_tokens: int, batch: int = 16
) -> Iterator[float]:
    """log pi(response, end token | prompt) of each pair of a prompt and a response, at temperature 1.

    Args:
        folder: of a checkpoint for causal language modelling, with its tokenizer; nothing is downloaded.
        texts: prompts as the policy sees them, and responses.
        max_tokens: of both together; the response is cut there.
        batch: of them at a time.

    Raises:
        ValueError: there is no such checkpoint, or a prompt leaves no room for a response; one sentence.
    """
    import torch

    tokenizer, model = _load(Path(folder))
    for start in range(0, len(texts), batch):
        rows, begins = [], []
        for prompt, response in texts[start : start + batch]:
            prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            written = tokenizer(response, add_special_tokens=False)["input_ids"]
            if written[-1:] != [tokenizer.eos_token_id]:
                written = [*written, tokenizer.eos_token_id]
            if len(prompt_ids) >= max_tokens:
                raise ValueError(
                    f"a prompt has {len(prompt_ids)} tokens, and --max_len {max_tokens} leaves no room for its "
                    "response: raise it."
                )
            rows.append((prompt_ids + written)[:max_tokens])
            begins.append(len(prompt_ids))
        width = max(map(len, rows))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        mask, counted = torch.zeros_like(tokens), torch.zeros(len(rows), width, dtype=torch.bool)
        for place, (row, begin) in enumerate(zip(rows, begins)):  # on the right: positions are those of generation
            tokens[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
            counted[place, max(begin, 1) : len(row)] = True
        tokens, mask, counted = (part.to(model.device) for part in (tokens, mask, counted))
        with torch.inference_mode():
            logits = model(tokens, attention_mask=mask).logits[:, :-1].float()
        chosen = logits.log_softmax(dim=-1).gather(2, tokens[:, 1:, None]).squeeze(2)
        yield from torch.where(counted[:, 1:], chosen, 0.0).double().sum(dim=1).tolist()


def _load(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes no time
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no checkpoint: give a folder with config.json, weights and tokenizer.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Ratios of whole responses add up the rounding of each token.
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder} cannot be loaded ({cause}): give a checkpoint of a causal language model."
        ) from error
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
