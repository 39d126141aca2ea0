"""Floating-point operations and bytes of a transformer's work.

Notation: P parameters, L layers, h width, s tokens of a sample, G GPUs. Numbers are of two bytes but where said.

Sources: Kaplan et al. 2020, arXiv 2001.08361, section 2.1 and table 1 (2 P and 2 L s h a token forward, twice that
backward); Chowdhery et al. 2022, arXiv 2204.02311, appendix B (the same for training, 6 P and 12 L s h without a
causal mask); Pope et al. 2022, arXiv 2211.05102, section 2.1 (decoding is bound by the bytes of weights, keys and
values); Rajbhandari et al. 2020, arXiv 1910.02054, sections 3.1, 5 and 7 (16 bytes a parameter, what ZeRO moves);
Korthikanti et al. 2022, arXiv 2205.05198, sections 4.1 and 5 (activations, and the pass that recomputes them).
"""

from openrlhf_pf.cost.setting import Model, Setting

BYTES = 2
#: An Adam step reads and writes master weights and both moments (4 bytes each), reads gradients, writes weights.
ADAM_TRAFFIC = 2 * 12 + 2 * BYTES


def forward_flops(model: Model, tokens: float) -> float:
    """Of one sample of ``tokens`` tokens: s (2 P + 2 L s h).

    A weight multiplies and adds once a token. A token's query meets the keys and values of the s / 2 tokens before it
    on average: 4 h operations each in every layer.
    """
    return tokens * (2 * model.parameters + 2 * model.layers * tokens * model.width)


def train_flops(model: Model, tokens: float, checkpointing: bool) -> float:
    """Of one sample, forward and backward: three forward passes, four where activations are recomputed."""
    return (4 if checkpointing else 3) * forward_flops(model, tokens)


def kv_bytes(model: Model) -> float:
    """Of the key and the value of one token in all layers."""
    return 2 * BYTES * model.layers * model.kv_width


def decode_flops(model: Model, context: float) -> float:
    """Of one token after ``context`` others: 2 P + 4 L h each."""
    return 2 * model.parameters + 4 * model.layers * model.width * context


def decode_bytes(model: Model, sequences: float, context: float) -> float:
    """That one step of decoding reads: the weights once for all sequences, keys and values of each."""
    return BYTES * model.parameters + sequences * context * kv_bytes(model)


def gathered_bytes(model: Model, setting: Setting, gpus: int, training: bool, micro_batches: int) -> float:
    """That each GPU exchanges in one pass over its micro-batches.

    ZeRO-3 gathers the weights for every forward and every backward pass and scatters the gradients; before it,
    training exchanges gradients and weights once an update, and a forward pass exchanges nothing.
    """
    if gpus == 1:
        return 0.0
    weights = BYTES * model.parameters
    if setting.zero_stage == 3:
        return (3 if training else 1) * micro_batches * weights
    return 2 * setting.updates * weights if training else 0.0
