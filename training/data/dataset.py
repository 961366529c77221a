"""What a run learns from: a data set by index, drawn independently with replacement.

A batch is a pure function of (seed, step), without the state of a loader. So resuming is exact,
each of several processes can take its slice of the same global batch, and StableVM's references
are independent draws, which makes its target unbiased.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator, Tensor

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec, pixels

from ..config.schema import DataConfig
from . import digits
from .cache import LatentCache
from .text import TextTable

Gathered = tuple[Tensor, Tensor, tuple[Tensor, ...]]


class Dataset(Protocol):
    """Samples by index. ``train`` and ``held_out`` are indices; samples may be on the disk."""

    train: Tensor
    held_out: Tensor

    @property
    def latent(self) -> LatentSpec:
        """The kind of latents: channels, scale and shift."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of every latent. Raises InvalidInput when they are of several shapes."""
        ...

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """All shapes that a training batch can have."""
        ...

    @property
    def text(self) -> TextTable | None:
        """The text encoders' tensors for each condition, or None."""
        ...

    @property
    def num_classes(self) -> int:
        """How many conditions there are; the label after the last one stands for none."""
        ...

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """The channels of each item's features."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """What must be unchanged when a run is resumed."""
        ...

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Draw n of ``train``, independently and with replacement."""
        ...

    def by_shape(self, indices: Tensor, n: int) -> Iterator[Tensor]:
        """The indices in parts of at most n, those of a part being of one shape."""
        ...

    def gather(self, indices: Tensor | Iterable[int]) -> Gathered:
        """Latents (b, c, h, w) as the data has them, labels (b,), features (b, n, d) each."""
        ...

    def draw_labels(self, indices: Tensor, generator: Generator) -> Tensor:
        """A condition of each, (b,): its label, or any of its captions."""
        ...

    def masks(self, indices: Tensor | Iterable[int]) -> Tensor | None:
        """How much each latent cell counts, (b, 1, h, w) in [0, 1], where that was prepared."""
        ...

    def require_text(self) -> TextTable:
        """The text. Raises InvalidInput, in one sentence, when there is none."""
        ...

    def require_latent(self, latent: LatentSpec, network: str) -> None:
        """Raises InvalidInput, in one sentence, when a network is for other latents than these."""
        ...

    def require_patch(self, patch_size: int) -> None:
        """Raises InvalidInput, in one sentence, when a network's tokens are not the features'."""
        ...

    def notes(self) -> list[str]:
        """What a person should know before training with it, a sentence each."""
        ...


class Pictures:
    """Labelled pictures (n, c, h, w) of [0, 1] in memory, without features or text."""

    feature_dims: tuple[int, ...] = ()
    text = None

    def __init__(self, name: str, train: digits.Split, held_out: digits.Split):
        self.name = name
        self.images = torch.cat([train.images, held_out.images])
        self.labels = torch.cat([train.labels, held_out.labels])
        count = len(train.labels)
        self.train = torch.arange(count)
        self.held_out = torch.arange(count, len(self.labels))
        self.num_classes = int(self.labels.max()) + 1
        self.shape = tuple(self.images.shape[1:])
        self.shapes = [self.shape]
        self.latent = pixels(self.shape[0])
        self.identity = {"data": name}

    def draw(self, n: int, generator: Generator) -> Tensor:
        return torch.randint(len(self.train), (n,), generator=generator)

    def by_shape(self, indices: Tensor, n: int) -> Iterator[Tensor]:
        return iter(indices.split(n))

    def gather(self, indices: Tensor | Iterable[int]) -> Gathered:
        rows = torch.as_tensor(indices)
        return self.images[rows], self.labels[rows], ()

    def draw_labels(self, indices: Tensor, generator: Generator) -> Tensor:
        return self.labels[indices]

    def masks(self, indices: Tensor | Iterable[int]) -> None:
        return None

    def require_text(self) -> TextTable:
        raise InvalidInput(
            f"{self.name} have no text, which this network is conditioned by: set data.cache to a "
            f"folder of training.prepare"
        )

    def require_latent(self, latent: LatentSpec, network: str) -> None:
        if latent != self.latent:
            raise InvalidInput(
                f"{network} is for {latent.kind} latents of {latent.channels} channels, "
                f"{self.name} are {self.latent.kind} of {self.latent.channels}"
            )

    def require_patch(self, patch_size: int) -> None:
        """Without features every patch size fits."""

    def notes(self) -> list[str]:
        return []


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": lambda: Pictures("digits", *digits.load())}


def load(config: DataConfig, encoders: tuple[str, ...] = ()) -> Dataset:
    """The cache, or else the data of that name. Raises InvalidInput, in one sentence."""
    if config.cache is None:
        return DATASETS[config.name]()
    return LatentCache(Path(config.cache), encoders, config.held_out)
