"""How different the responses of a prompt are, by the n-grams of their tokens.

Notation used for tensor shapes: G prompts (groups), N samples a prompt, R responses, T tokens of all of them, B bins.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

#: Bins of a signature: the standard error of a distance d is sqrt(d (1 - d) / 128), .044 at most.
BINS = 128
#: Tokens that are looked at together, about: so many stay near the processor.
_NEAR = 1 << 19
_EMPTY = torch.iinfo(torch.int32).max
_FACTORS = (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85)


def mean_distances(responses: Sequence[Sequence[Tensor]], usable: Tensor, ngram: int) -> Tensor:
    """Mean Jaccard distance of each response to the other usable ones of its prompt.

    The Jaccard distance is the share, of all different n-grams that two responses have, that only one of them has. It
    is estimated by one-permutation hashing (Li, Owen and Zhang 2012, arXiv 1208.1259): each different n-gram falls
    into one of B bins by its hash, of which a response remembers the least; the distance is the share of differing
    bins among those that are not empty in both. Equal responses have distance 0 and those without a common n-gram 1
    exactly. Nothing in it is random.

    Args:
        responses: G x N tokens of each response, (tokens,) int64; one shorter than ``ngram`` is a single n-gram.
        usable: (G, N) bool: the others that count.
        ngram: n.

    Returns:
        (G, N) float64, between 0 and 1; 0 where there is no other.
    """
    distances = torch.zeros(usable.shape, dtype=torch.float64)
    for rows in _chunks(responses):
        found = signatures([tokens for row in responses[rows] for tokens in row], ngram)
        distances[rows] = _mean_distances(found.reshape(-1, usable.shape[1], BINS), usable[rows])
    return distances


def _chunks(responses: Sequence[Sequence[Tensor]]) -> Iterator[slice]:
    """Prompts with about ``_NEAR`` tokens together."""
    start = tokens = 0
    for row, texts in enumerate(responses):
        tokens += sum(map(len, texts))
        if tokens >= _NEAR or row + 1 == len(responses):
            yield slice(start, row + 1)
            start, tokens = row + 1, 0


def signatures(responses: Sequence[Tensor], ngram: int) -> Tensor:
    """(R, B) int32: the least hash in each bin of each response's n-grams; the largest number for an empty bin."""
    padded = [
        tokens if len(tokens) >= ngram else torch.nn.functional.pad(tokens, (0, ngram - len(tokens)), value=-1)
        for tokens in responses
    ]
    lengths = torch.tensor([len(tokens) for tokens in padded])
    hashes = _hashes(torch.cat(padded).long(), ngram)
    row = torch.repeat_interleave(torch.arange(len(padded)), lengths)
    # An n-gram that begins in the last n - 1 tokens of a response ends in the next one.
    beyond = row[: len(hashes)] != row[ngram - 1 :]
    place = (row[: len(hashes)] * BINS).add_(hashes & (BINS - 1))
    least = ((hashes >> 7) & (_EMPTY >> 1)).int().masked_fill_(beyond, _EMPTY)
    found = torch.full((len(padded) * BINS,), _EMPTY, dtype=torch.int32)
    return found.scatter_reduce_(0, place, least, "amin").reshape(-1, BINS)


def _hashes(tokens: Tensor, ngram: int) -> Tensor:
    """(T - n + 1,) int64 hashes of the n-grams of (T,) int64."""
    found = torch.zeros(len(tokens) - ngram + 1, dtype=torch.int64)
    for start in range(ngram):
        found.add_(tokens[start : start + len(found)]).add_(1).mul_(_FACTORS[0])  # modulo 2 ** 64, as int64 does
        found.bitwise_xor_(found >> 29).mul_(_FACTORS[1])
    return found.bitwise_xor_(found >> 32)


def _mean_distances(found: Tensor, usable: Tensor) -> Tensor:
    """(G, N) of signatures (G, N, B)."""
    total = torch.zeros(usable.shape, dtype=torch.float64)
    empty = (found == _EMPTY).float()
    both_empty = empty @ empty.transpose(1, 2)
    for other in range(usable.shape[1]):
        # A sum of bytes is several times as fast as one of truth values.
        equal = (found == found[:, other : other + 1]).view(torch.uint8).sum(dim=2, dtype=torch.int32)
        neither = both_empty[:, :, other]
        total += (1 - (equal - neither) / (BINS - neither)).double() * usable[:, other : other + 1]
    others = usable.sum(dim=1, keepdim=True) - usable.long()
    return total / others.clamp(min=1)
