"""Batches: each a pure function of (seed, step), drawn independently with replacement.

No loader state means that resuming is exact by construction, that a process of several can take
its slice of the same global batch, and that StableVM's references are independent draws, which is
what makes its target unbiased.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sv_core.latent import LatentSpec, pixels

from . import digits
from .config import DataConfig


class Dataset(NamedTuple):
    """Latents (n, c, h, w) as the data has them, classes (n,), and what the latents are."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    num_classes: int
    latent: LatentSpec

    @property
    def null(self) -> int:
        """The label that stands for none."""
        return self.num_classes


class Batch(NamedTuple):
    """x0 (b, c, h, w) in model space, its labels, and the same labels where some were dropped."""

    x0: Tensor
    labels: Tensor
    cond: Tensor


def _digits() -> Dataset:
    train, held_out = digits.load()
    return Dataset(*train, *held_out, num_classes=10, latent=pixels(1))


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _digits}


def load(config: DataConfig) -> Dataset:
    """The dataset by its name."""
    return DATASETS[config.name]()


def generator(seed: int, step: int, purpose: str) -> Generator:
    """A CPU generator of its own for each step and purpose: the same on any device, any day."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def batch(data: Dataset, config: DataConfig, seed: int, step: int) -> Batch:
    """The global batch of a step."""
    n = config.batch_size
    index = torch.randint(len(data.train), (n,), generator=generator(seed, step, "data"))
    dropped = torch.rand(n, generator=generator(seed, step, "dropout")) < config.label_dropout
    labels = data.train_labels[index]
    return Batch(
        x0=data.latent.to_model(data.train[index]),
        labels=labels,
        cond=torch.where(dropped, data.null, labels),
    )
