"""The random policy at the start: a vocabulary built from the task, and a Qwen2 of less than a million parameters."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import pre_tokenizers, trainers

from .tasks import Task, TaskConfig, draw

EOS, PAD = "<|end|>", "<|pad|>"


@dataclass(frozen=True)
class ModelConfig:
    """Size of the policy (and so of critic, reference and reward model)."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 384
    vocabulary: int = 640
    max_positions: int = 256


def build_tokenizer(texts: Iterable[str], vocabulary: int):
    """Return a lossless Qwen2 tokenizer with a vocabulary of all bytes and the frequent pieces of ``texts``.

    Its class must be Qwen2's: transformers builds Qwen2Tokenizer for every Qwen2 model and would run another
    tokenizer's vocabulary under Qwen2's rules, which loses the newlines and spaces of a vocabulary without them.
    """
    from transformers import Qwen2Tokenizer

    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained = Qwen2Tokenizer().backend_tokenizer  # for its rules of cutting text
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return Qwen2Tokenizer(vocab=model["vocab"], merges=merges, unk_token=None, eos_token=EOS, pad_token=PAD)


def task_texts(config: TaskConfig, seed: int, count: int = 3000) -> list[str]:
    """Return texts to build the vocabulary from: other draws of the task than those of its splits."""
    rng = random.Random(f"micro-code vocabulary {seed}")
    tasks: list[Task] = [draw(rng, config) for _ in range(count)]
    return [task.prompt + task.solution for task in tasks]


def check_lossless(tokenizer, texts: Iterable[str]) -> None:
    """Assert that decode inverts encode: a tokenizer that loses spaces would fail every test silently."""
    for text in texts:
        decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        assert decoded == text, f"the tokenizer does not give back {text!r} but {decoded!r}"


def save_random_policy(config: ModelConfig, task: TaskConfig, seed: int, path: Path) -> int:
    """Write tokenizer and random model to ``path`` in Hugging Face format; return the number of parameters."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    texts = task_texts(task, seed)
    tokenizer = build_tokenizer(texts, config.vocabulary)
    tokenizer.save_pretrained(path)
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            initializer_range=0.05,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.to(torch.bfloat16).save_pretrained(path)
    # Check the tokenizer that others will load from the finished directory.
    loaded = AutoTokenizer.from_pretrained(path)
    check_lossless(loaded, [*texts, " two  spaces\n    and an indent\n", bytes(range(32, 127)).decode()])
    assert len(loaded) == len(tokenizer) and loaded.eos_token_id == tokenizer.eos_token_id
    return model.num_parameters()
