"""Six 2-D data sets that are easy to look at and hard to learn, and a distance between samples.

Each is called as ``SETS[name](n, generator)`` -> (n, 2), with mean 0 and variance 1 per coordinate.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Draw = Callable[[int, Generator], Tensor]


def _around(angle: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1) * torch.as_tensor(radius).reshape(-1, 1)


def _checkerboard(n: int, generator: Generator) -> Tensor:
    """Uniform on the eight dark squares of a 4x4 board."""
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1)
    return corner + torch.rand(n, 2, generator=generator)


def _eight_gaussians(n: int, generator: Generator) -> Tensor:
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    return _around(angle) + 0.07 * torch.randn(n, 2, generator=generator)


def _moons(n: int, generator: Generator) -> Tensor:
    """Two interleaved half circles."""
    arc = _around(math.pi * torch.rand(n, generator=generator))
    lower = torch.rand(n, generator=generator) < 0.5
    arc = torch.where(lower[:, None], torch.tensor([1.0, 0.5]) - arc, arc)
    return arc + 0.05 * torch.randn(n, 2, generator=generator)


def _swiss_roll(n: int, generator: Generator) -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    return _around(angle, angle) + 0.3 * torch.randn(n, 2, generator=generator)


def _pinwheel(n: int, generator: Generator) -> Tensor:
    """Five arms, each a Gaussian stretched outwards and swept round by its radius."""
    arm = torch.randint(5, (n,), generator=generator) * (2 * math.pi / 5)
    point = torch.randn(n, 2, generator=generator) * torch.tensor([0.3, 0.07])
    point[:, 0] += 1
    angle = arm + 0.45 * point[:, 0].exp()
    cos, sin = angle.cos(), angle.sin()
    return torch.stack(
        [cos * point[:, 0] - sin * point[:, 1], sin * point[:, 0] + cos * point[:, 1]], 1
    )


def _two_spirals(n: int, generator: Generator) -> Tensor:
    angle = 3 * math.pi * torch.rand(n, generator=generator).sqrt()
    sign = torch.randint(2, (n,), generator=generator) * 2 - 1
    return sign[:, None] * _around(angle, angle) + 0.25 * torch.randn(n, 2, generator=generator)


def _standardized(draw: Draw) -> Draw:
    # The same stretch for both coordinates: a moon stays a moon.
    big = draw(100_000, Generator().manual_seed(0))
    mean, std = big.mean(0), big.var(0).mean().sqrt()
    return lambda n, generator: (draw(n, generator) - mean) / std


SETS: dict[str, Draw] = {
    name: _standardized(draw)
    for name, draw in {
        "checkerboard": _checkerboard,
        "8 gaussians": _eight_gaussians,
        "moons": _moons,
        "swiss roll": _swiss_roll,
        "pinwheel": _pinwheel,
        "two spirals": _two_spirals,
    }.items()
}


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 128) -> Tensor:
    """Mean W1 distance of the projections on evenly spread directions. (n, 2), (n, 2) -> 0-d.

    In one dimension W1 is the mean distance of the sorted points. A shift by s is 2 |s| / pi.
    """
    theta = _around(torch.arange(directions) * (math.pi / directions))
    return ((x @ theta.T).sort(0).values - (y @ theta.T).sort(0).values).abs().mean()
