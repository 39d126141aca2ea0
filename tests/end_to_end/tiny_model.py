"""A tiny random policy, reward model and prompt set: small enough that the whole stack runs in seconds on a CPU."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


def write_model(
    path: Path, seed: int, hidden_size: int = 64, layers: int = 2, head: int = 32, positions: int = 128
) -> Path:
    """Write a random Qwen2 and its byte-level tokenizer, as ``from_pretrained`` reads them.

    ``head`` is the width of an attention head; vLLM on a CPU wants 32 or more.
    """
    # from_pretrained puts Qwen2's own byte-level splitting and decoding around the vocabulary of a Qwen2 model,
    # so the vocabulary must be made of byte-level characters: with any other, decode drops the spaces.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // head,
        num_key_value_heads=hidden_size // head,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    fast.save_pretrained(path)
    return path


def write_prompts(path: Path, count: int) -> Path:
    """Write ``count`` prompts with labels; the last repeats the first, as real data sets do."""
    numbers = [*range(count - 1), 0]
    rows = [{"input": f"add {i} + {i}?", "label": f"{i}?"[-2:], "datasource": f"source {i % 3}"} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
