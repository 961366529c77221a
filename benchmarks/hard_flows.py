"""Further flows of exact velocity: what trained networks do, and where few calls lose.

PROMPTED: guided flows whose difference d = v_c - v_u persists, as it does in trained networks. The
prompt is a shift c of all modes, in every direction by a share of the spread in that direction, so
that it is decided at every scale; v_u is the flow of the same data over all prompts, c ~ N(0, .).
FAILING: beds on which few calls lose. They are here to stay.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .flows import Flow, Mixture, cosines, even, flow_of, power_law, tree

# Prompts -----------------------------------------------------------------------------------------


def cond_and_uncond(
    means: Tensor, spread: Tensor, share: Tensor, shift: Tensor
) -> tuple[Mixture, Mixture]:
    """The data of one prompt, and over all prompts: shift ~ N(0, (spread x share)^2)."""
    weights = torch.full((len(means),), 1 / len(means)).double()
    uncond = Mixture(means, spread**2 * (1 + share**2), weights)
    return Mixture(means + shift, spread**2, weights), uncond


def prompted(
    name: str, means: Tensor, spread: Tensor, share: Tensor, scale: float, batch: int, g: Generator,
    picture: Callable[[Tensor], Tensor] | None = None,
) -> Flow:  # fmt: skip
    """Guidance ``scale`` towards one prompt.

    means (m, d) and spread (d,), the standard deviation within a mode; share (d,), of the prompt's
    shift in the spread.
    """
    shift = torch.randn(len(spread), generator=g).double() * spread * share
    cond, uncond = cond_and_uncond(means, spread, share, shift)
    return flow_of(name, cond, batch, guidance=(uncond, scale), picture=picture)


def _log_uniform(size: int, lowest: float) -> tuple[Tensor, Tensor]:
    """Spreads from 1 down to ``lowest``, and shares that grow towards the small ones."""
    spread = torch.exp(torch.linspace(0, math.log(lowest), size, dtype=torch.float64))
    return 0.6 * spread / spread.square().mean().sqrt(), 0.4 * spread**-0.15


def prompted_scales(g: Generator) -> Flow:
    """Eight modes over spreads from 1 to .02 in 256 dimensions, guidance 3."""
    spread, share = _log_uniform(256, 0.02)
    means = torch.randn(8, 256, generator=g).double() * spread
    return prompted("prompted, 256-D", means, spread, share, 3.0, 96, g)


def prompted_tree(g: Generator) -> Flow:
    """27 leaves of a tree in 64 dimensions, guidance 7."""
    spread, share = _log_uniform(64, 0.03)
    means = tree((3, 3, 3), (0.9, 0.5, 0.3), 64, g) * spread
    return prompted("prompted tree, 64-D", means, spread, share, 7.0, 96, g)


def prompted_fields(g: Generator) -> Flow:
    """Twelve image-like modes in 4 x 32 x 32, guidance 4.5."""
    spread = 0.6 * power_law(32, 4, 2.0).sqrt()
    means = torch.randn(12, len(spread), generator=g).double() * spread * 0.7
    share = 0.4 * (spread / spread.max()) ** -0.1
    return prompted("prompted fields, 4096-D", means, spread, share, 4.5, 24, g, cosines(4, 32))


# Where few calls lose ----------------------------------------------------------------------------


def near_duplicates(g: Generator) -> Flow:
    """Forty pairs of modes in 64 dimensions: all near each other, the halves of a pair nearer."""
    return flow_of("near-duplicates, 64-D", even(tree((40, 2), (0.2, 0.08), 64, g), 0.05), 192)


def _image_like(means: Tensor, spectrum: Tensor, share: float) -> Mixture:
    """Equally likely modes of one spectrum, with that share of it as variance within each."""
    weights = torch.full((len(means),), 1 / len(means)).double()
    return Mixture(means * spectrum.sqrt(), share * spectrum, weights)


def near_duplicates_guided(g: Generator) -> Flow:
    """Two classes of twelve image-like pairs in 32 x 32, guidance 4 towards one."""
    modes = _image_like(tree((24, 2), (0.8, 0.2), 1024, g), power_law(32, 1, 2.0), 0.04)
    labels, picture = torch.arange(48) // 24, cosines(1, 32)
    return flow_of("near-duplicates guided, 1024-D", modes, 64, labels, 1, 4.0, picture=picture)


def textures(g: Generator) -> Flow:
    """32 textures of 64 x 64 whose amplitudes fall as 1/f, and some variance around each."""
    modes = _image_like(torch.randn(32, 4096, generator=g).double(), power_law(64, 1, 2.0), 0.1)
    return flow_of("textures 1/f, 4096-D", modes, 32, picture=cosines(1, 64))


PROMPTED = (prompted_scales, prompted_tree, prompted_fields)
FAILING = (near_duplicates, near_duplicates_guided, textures)
