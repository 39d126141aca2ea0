"""A training step of the micro-code policy in bfloat16 and in float32, in turns, on one core.

    python tests/benchmarks/number_type.py [--rounds 10]
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python tests/benchmarks/number_type.py     # as if without AVX-512

The larger policy of examples/micro_code (0.9 million parameters), 32 sequences of 80 tokens, forward and backward.
"""

import argparse
import statistics
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

TYPES = (torch.bfloat16, torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=640,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    models = {t: Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa").to(t) for t in TYPES}
    tokens = torch.randint(0, 640, (32, 80))
    times: dict[torch.dtype, list[float]] = {t: [] for t in TYPES}
    for number in range(rounds + 1):
        for dtype, model in models.items():
            start = time.process_time()
            model(tokens, labels=tokens).loss.backward()
            if number:  # the first one allocates
                times[dtype].append(time.process_time() - start)
            model.zero_grad()
    for dtype, values in times.items():
        print(f"{dtype}: median {statistics.median(values):.3f} s of CPU ({min(values):.3f} to {max(values):.3f})")
    ratios = [slow / fast for slow, fast in zip(*times.values())]
    print(f"ratio: median {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
