"""Seeds of random choices that a resumed run has to repeat."""

import hashlib


def mixed(seed: int, step: int) -> int:
    """One generator seed a step, from the run's seed: a resumed run draws what the unbroken run would have drawn."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest(), "big") >> 1
