"""Batches: each a pure function of (seed, step), drawn independently with replacement.

No loader state means that resuming is exact by construction, that a process of several can take
its slice of the same global batch, and that StableVM's references are independent draws, which is
what makes its target unbiased.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from sv_core.latent import LatentSpec, pixels

from . import digits
from .cache import LatentCache
from .config import DataConfig

Gathered = tuple[Tensor, Tensor, tuple[Tensor, ...]]


class Dataset(Protocol):
    """Items by index. ``train`` and ``held_out`` are such indices; nothing need be in memory."""

    train: Tensor
    held_out: Tensor

    @property
    def latent(self) -> LatentSpec:
        """What the latents are."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every latent."""

    @property
    def num_classes(self) -> int:
        """How many conditions there are; the label after the last one stands for none."""

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """The channels of each item's features."""

    @property
    def identity(self) -> dict[str, str]:
        """What a run that is resumed must find again."""

    def draw(self, n: int, generator: Generator) -> Tensor:
        """n of ``train``, independent and with replacement."""

    def gather(self, indices: Iterable[int]) -> Gathered:
        """Latents (b, c, h, w) as the data has them, labels (b,), features (b, n, d) each."""

    def require_latent(self, latent: LatentSpec, network: str) -> None:
        """Raises ValueError, in one sentence, when a network is for other latents than these."""

    def require_patch(self, patch_size: int) -> None:
        """Raises ValueError, in one sentence, when a network's tokens are not the features'."""

    def notes(self) -> list[str]:
        """What a person should know before training with it, a sentence each."""


class Pictures:
    """Labelled pictures (n, c, h, w) of [0, 1] in memory, without features."""

    feature_dims: tuple[int, ...] = ()

    def __init__(self, name: str, train: digits.Split, held_out: digits.Split):
        self.name = name
        self.images = torch.cat([train.images, held_out.images])
        self.labels = torch.cat([train.labels, held_out.labels])
        count = len(train.labels)
        self.train = torch.arange(count)
        self.held_out = torch.arange(count, len(self.labels))
        self.num_classes = int(self.labels.max()) + 1
        self.shape = tuple(self.images.shape[1:])
        self.latent = pixels(self.shape[0])
        self.identity = {"data": name}

    def draw(self, n: int, generator: Generator) -> Tensor:
        return torch.randint(len(self.train), (n,), generator=generator)

    def gather(self, indices: Iterable[int]) -> Gathered:
        rows = torch.as_tensor(indices)
        return self.images[rows], self.labels[rows], ()

    def require_latent(self, latent: LatentSpec, network: str) -> None:
        if latent != self.latent:
            raise ValueError(
                f"{network} is for {latent.kind} latents of {latent.channels} channels, "
                f"{self.name} are {self.latent.kind} of {self.latent.channels}"
            )

    def require_patch(self, patch_size: int) -> None:
        """There are no features, so any fits."""

    def notes(self) -> list[str]:
        return []


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": lambda: Pictures("digits", *digits.load())}


def load(config: DataConfig, encoders: tuple[str, ...] = ()) -> Dataset:
    """The cache, or else the data of that name. Raises ValueError, in one sentence."""
    if config.cache is None:
        return DATASETS[config.name]()
    return LatentCache(Path(config.cache), encoders, config.held_out)


class Batch(NamedTuple):
    """x0 (b, c, h, w) in model space, labels, the same where some were dropped, features."""

    x0: Tensor
    labels: Tensor
    cond: Tensor
    features: tuple[Tensor, ...]


def generator(seed: int, step: int, purpose: str) -> Generator:
    """A CPU generator of its own for each step and purpose: the same on any device, any day."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def batch(
    data: Dataset, config: DataConfig, seed: int, step: int, part: slice = slice(None)
) -> Batch:
    """The global batch of a step, or that ``part`` of it; only these items are read."""
    n = config.batch_size
    rows = data.draw(n, generator(seed, step, "data"))[part]
    dropped = torch.rand(n, generator=generator(seed, step, "dropout")) < config.label_dropout
    latents, labels, features = data.gather(rows)
    return Batch(
        x0=data.latent.to_model(latents),
        labels=labels,
        cond=torch.where(dropped[part], data.num_classes, labels),
        features=features,
    )
