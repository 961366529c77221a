"""Distributions of the training time: each draws n times in (0, 1), on the generator's device."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from . import schedules

TimestepFn = Callable[[int, Generator], Tensor]


def uniform(n: int, generator: Generator) -> Tensor:
    """t ~ U(0, 1), open at both ends."""
    # torch.rand is [0, 1): half a float32 step keeps t = 0, where sigma is 0, out.
    return torch.rand(n, generator=generator, device=generator.device).clamp_min(2.0**-25)


def logit_normal(n: int, generator: Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """logit t ~ N(mean, std^2). [Esser et al. 2024, eq. 19]"""
    z = torch.randn(n, generator=generator, device=generator.device)
    return torch.sigmoid(mean + std * z)


def shifted(n: int, generator: Generator, shift: float = 3.0) -> Tensor:
    """t ~ shift(U(0, 1)): more noise for shift > 1, as the sampling grids of SD3.5 and Wan."""
    return schedules.shift(uniform(n, generator), shift)


def lognormal(n: int, generator: Generator, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """log(sigma / alpha) ~ N(mean, std^2) on the linear path: EDM's noise levels.

    The logit-normal law by another name, with EDM's defaults. [Karras et al. 2022, table 1]
    """
    return logit_normal(n, generator, mean, std)


TIMESTEPS = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "shifted": shifted,
    "lognormal": lognormal,
}


def within(n: int, generator: Generator, draw: TimestepFn, low: float, high: float) -> Tensor:
    """``draw`` conditioned on low <= t <= high, by rejection: (n,).

    For networks of a part of the noise levels, such as Wan2.2's two experts. It takes about
    1 / P(low <= t <= high) rounds of n draws.
    """
    kept = torch.empty(0, device=generator.device)
    while len(kept) < n:
        t = draw(n, generator)
        kept = torch.cat([kept, t[(t >= low) & (t <= high)]])
    return kept[:n]


_MEANFLOW = partial(logit_normal, mean=-0.4)


def time_pairs(
    n: int,
    generator: Generator,
    draw: TimestepFn = _MEANFLOW,
    equal: float = 0.75,
) -> tuple[Tensor, Tensor]:
    """(r, t), each (n,), r <= t: two draws sorted, and with probability ``equal`` r = t.

    Where r = t the average velocity is the velocity, whose target needs no derivative. The default
    draw is logit-normal with mean -0.4. [MeanFlow, arXiv 2505.13447]
    """
    a, b = draw(n, generator), draw(n, generator)
    t, r = torch.maximum(a, b), torch.minimum(a, b)
    same = torch.rand(n, generator=generator, device=generator.device) < equal
    return torch.where(same, t, r), t
