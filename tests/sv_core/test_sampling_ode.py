"""sample_ode: order, grid, and nearness to the exact solution."""

import itertools
import math

import pytest
import torch

from sv_core.interpolant import COSINE, LINEAR
from sv_core.sampling import sample_euler, sample_ode
from sv_core.schedules import ode_grid, shift, uniform_grid
from tests.sv_core.exact_flows import GRID, Points, called, gaussian


@pytest.mark.parametrize("interpolant", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_ode_has_order_three(interpolant):
    mean, std = 0.7, 0.5
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    error = []
    for steps in (80, 160, 320):
        x = sample_ode(gaussian(interpolant), z, uniform_grid(steps), interpolant=interpolant)
        error.append(float((x - (mean + std * z)).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(error)]
    assert orders[-1] == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("steps", [1, 2, 12, 60])
def test_the_grid_for_the_ode_is_a_grid_and_dense_at_both_ends(steps):
    ts = ode_grid(steps)
    assert len(ts) == steps + 1 and ts[0] == 1 and ts[-1] == 0
    assert (ts.diff() < 0).all()
    if steps >= 12:
        size = -ts.diff()
        assert max(size[0], size[-1]) < size.mean()


def test_ode_is_nearer_to_the_truth_than_thirty_euler_steps():
    flow = Points(8, 16, 0.3)
    x = flow.noise(32)
    truth = sample_ode(flow.velocity, x, shift(uniform_grid(600), 2.0))
    twelve, made = called(sample_ode, flow.velocity, x, ode_grid(12))
    assert made == list(range(12))
    thirty = sample_euler(flow.velocity, x, GRID)
    assert flow.decibels(twelve, truth) > flow.decibels(thirty, truth) + 3
