"""Heun and the SDE against a Gaussian's exact flow."""

import math
from itertools import pairwise

import torch
from torch import Generator

from sv_core.schedules import uniform_grid
from training.sampling.integrators import sample_heun, sample_sde

MEAN, STD = 0.7, 0.4


def gaussian_velocity(x, t):
    """The exact marginal velocity for data ~ N(MEAN, STD^2) on the linear path."""
    variance = (1 - t) ** 2 * STD**2 + t**2
    gain = (t - (1 - t) * STD**2) / variance
    return -MEAN + gain * (x - (1 - t) * MEAN)


def test_heun_is_of_second_order_and_spares_the_last_call():
    # The exact flow keeps the quantile: x0 = MEAN + STD x1.
    x1 = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (16, 32, 64):
        calls = []

        def velocity(x, t, calls=calls):
            calls.append(t)
            return gaussian_velocity(x, t)

        x0 = sample_heun(velocity, x1, uniform_grid(steps))
        errors.append((x0 - (MEAN + STD * x1)).abs().max().item())
        assert len(calls) == 2 * steps - 1 and min(calls) > 0
    assert all(3 < a / b < 5 for a, b in pairwise(errors))


def test_the_sde_ends_in_the_data_distribution():
    n = 40_000
    x1 = torch.randn(n, generator=Generator().manual_seed(0), dtype=torch.float64)
    x0 = sample_sde(gaussian_velocity, x1, uniform_grid(100), generator=Generator().manual_seed(1))
    assert abs(x0.mean() - MEAN) < 4 * STD / math.sqrt(n) + 0.005
    assert abs(x0.std() - STD) < 0.02
    # It forgets where it began, which the ODE does not.
    assert abs(torch.corrcoef(torch.stack([x0, x1]))[0, 1]) < 0.4


def test_without_noise_left_to_add_the_sde_is_deterministic_in_its_generator():
    x1 = torch.ones(3, dtype=torch.float64)
    one, same, other = (
        sample_sde(gaussian_velocity, x1, uniform_grid(9), generator=Generator().manual_seed(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
