"""Randomness as a pure function of (seed, step, purpose)."""

import hashlib

from torch import Generator


def generator(seed: int, step: int, purpose: str) -> Generator:
    """A separate CPU generator for each step and purpose, the same on every device."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
