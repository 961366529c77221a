"""Flows of pictures that are exact at every size: mixtures in the cosine basis of 64 x 64 latents.

A picture smaller by r has the low coefficients over r, so that its mixture is known too, and a
network that sees only the smaller picture is answered by the exact posterior of that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sv_core.progressive import ratio_of
from sv_core.spectrum import (
    FLUX_SPECTRUM,
    WAN_SPECTRUM,
    PowerLaw,
    Size,
    cosine,
    fractions,
    inverse_cosine,
)

from .flows import Mixture

SIDE = 64


@dataclass(frozen=True)
class Bed:
    """``variance`` (H, W) and ``means`` (m, c, H, W) of the coefficients; ``law`` is the user's."""

    name: str
    law: PowerLaw
    variance: Tensor
    means: Tensor
    labels: Tensor
    """The mode of each component."""
    batch: int

    def mixture(self, size: Size) -> Mixture:
        """Of the coefficients of pictures of a size."""
        h, w = size
        r = ratio_of((SIDE, SIDE), size)
        means = self.means[..., :h, :w].flatten(1) / r
        variance = self.variance[:h, :w].expand(self.means.shape[1], h, w).flatten() / r**2
        even = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
        return Mixture(means, variance, even)

    def network(self) -> Callable[[Tensor, Tensor], Tensor]:
        """E[x0 | x] at whatever size x has."""
        mixtures: dict[Size, Mixture] = {}

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            size = (x.shape[-2], x.shape[-1])
            mixture = mixtures.setdefault(size, self.mixture(size))
            c = cosine(x)
            flat = c.flatten(1)
            return inverse_cosine((flat - t * mixture.velocity(flat, t)).view(c.shape))

        return denoise

    def modes(self, x: Tensor) -> Tensor:
        """Of finished samples."""
        found = self.mixture((SIDE, SIDE)).responsibilities(
            cosine(x).flatten(1), torch.zeros((), dtype=torch.float64)
        )
        return self.labels[found.argmax(1)]

    def residual(self, x: Tensor) -> Tensor:
        """Mean square of every coefficient around its component's mean, over the truth: (H, W)."""
        c = cosine(x)
        found = self.mixture((SIDE, SIDE)).responsibilities(
            c.flatten(1), torch.zeros((), dtype=torch.float64)
        )
        return (c - self.means[found.argmax(1)]).square().mean((0, 1)) / self.variance


def _powers(law: PowerLaw) -> Tensor:
    q = fractions((SIDE, SIDE))
    q[0, 0] = q[0, 1]
    return law.power(q)


def gaussian(name: str, law: PowerLaw) -> Bed:
    """One Gaussian field: everything about it is linear."""
    return Bed(
        name, law, _powers(law), torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64),
        torch.zeros(1, dtype=torch.long), 1,
    )  # fmt: skip


def _mixed(
    name: str, law: PowerLaw, between: float, kept: Callable[[Tensor], Tensor], g: Generator,
    branches: tuple[int, ...] = (24,),
) -> Bed:  # fmt: skip
    """Modes whose means have ``between`` of the power where ``kept`` says, within the law."""
    q, power = fractions((SIDE, SIDE)), _powers(law)
    where = kept(q).double() * between
    means = torch.zeros(1, 4, SIDE, SIDE, dtype=torch.float64)
    share = 1.0 if len(branches) == 1 else 0.5
    for level, count in enumerate(branches):
        part = share if level == 0 else 1 - share
        offsets = torch.randn(len(means), count, *means.shape[1:], generator=g, dtype=torch.float64)
        means = (means[:, None] + offsets * (part * where * power).sqrt()).flatten(0, 1)
    labels = torch.arange(len(means))
    return Bed(name, law, (1 - where) * power, means, labels, 48)


def beds() -> list[Bed]:
    """Gaussian fields first, then mixtures."""
    g = torch.Generator().manual_seed(7)
    return [
        gaussian("Gaussian, Flux's spectrum", FLUX_SPECTRUM),
        gaussian("Gaussian, Wan's spectrum", WAN_SPECTRUM),
        gaussian("Gaussian, heavy spectrum", PowerLaw(0.332, 1.5)),
        _mixed("modes are layout", FLUX_SPECTRUM, 0.5, lambda q: q < 1 / 8, g),
        _mixed("modes at all frequencies", FLUX_SPECTRUM, 0.5, lambda q: q >= 0, g),
        _mixed("tree of modes, Wan's spectrum", WAN_SPECTRUM, 0.5, lambda q: q >= 0, g, (4, 12)),
        _mixed("modes in the high block only", FLUX_SPECTRUM, 0.5, lambda q: q >= 1 / 2, g),
    ]
