"""Which t we train on. Each draws n times in (0, 1) from ``generator``, on its device."""

from collections.abc import Callable

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


TIMESTEPS = {"uniform": uniform, "logit_normal": logit_normal, "shifted": shifted}
