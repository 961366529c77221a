"""sv_core.regimes against closed forms, brute force and exactly solvable flows."""

import numpy as np
import pytest
import torch

from sv_core.interpolant import COSINE, LINEAR
from sv_core.regimes import drift, suggest_split, variance_curve
from sv_core.schedules import shift, uniform_grid
from tests.sv_core.exact_flows import gram_of

GRID = shift(uniform_grid(30), 3.0)


# Variance curve ----------------------------------------------------------------------------------


def two_point_variance(interpolant, radius, t):
    """Data +radius or -radius: Var[x0 | x] = radius^2 / cosh^2(a radius x / s^2), by quadrature."""
    a, s, da, ds = interpolant.coefficients(t, t)
    eps = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    x = a * radius + s * eps
    variance = radius**2 / torch.cosh(a * radius * x / s**2).square()
    mean = torch.trapezoid(variance * torch.exp(-(eps**2) / 2), eps) / (2 * torch.pi) ** 0.5
    return float(mean * (da - ds * a / s) ** 2)


@pytest.mark.parametrize("interpolant", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_variance_of_two_points_is_the_closed_form(interpolant, generator):
    latents = torch.tensor([[1.3], [-1.3]])
    ts = torch.tensor([0.95, 0.7, 0.45], dtype=torch.float64)
    curve = variance_curve(interpolant, latents, ts, generator, draws=20000)
    expected = [two_point_variance(interpolant, 1.3, t) for t in ts]
    torch.testing.assert_close(curve.tolist(), expected, rtol=0.03, atol=1e-3)


def test_variance_at_pure_noise_is_that_of_the_set(generator):
    latents = torch.randn(40, 3, 4, generator=generator)
    curve = variance_curve(LINEAR, latents, torch.ones(1), generator, draws=3)
    torch.testing.assert_close(
        float(curve[0]), float(latents.flatten(1).var(0, correction=0).mean())
    )


def test_variance_vanishes_where_one_latent_explains_everything(generator):
    """No cancellation: a single explanation gives exactly 0, however large the latents."""
    latents = 100 + torch.randn(40, 500, generator=generator)
    curve = variance_curve(LINEAR, latents, torch.tensor([0.9, 0.05]), generator, draws=20)
    assert curve[1] == 0


def test_larger_latents_decide_earlier(generator):
    ts = torch.linspace(0.99, 0.3, 30, dtype=torch.float64)
    splits = []
    for size in (16, 256, 4096):
        latents = torch.randn(64, size, generator=generator)
        curve = variance_curve(LINEAR, latents, ts, generator, draws=64)
        splits.append(suggest_split(ts.tolist(), curve.tolist()))
    assert splits == sorted(splits) and splits[0] < 0.7 and splits[-1] > 0.9


def test_drift_of_a_straight_and_of_a_turning_velocity():
    ts = GRID.numpy()
    still = gram_of([np.array([3.0, 4.0])] * 30)
    np.testing.assert_allclose(drift(still, ts), 0, atol=1e-6)
    # Unit speed around a circle: |dv/dt| = rate, and chord / arc -> 1 on a fine grid.
    ts = uniform_grid(300).numpy()
    turning = gram_of([np.array([np.cos(5 * t), np.sin(5 * t)]) for t in ts[:-1]])
    np.testing.assert_allclose(drift(turning, ts), 5, rtol=1e-3)


def test_the_split_is_where_the_curve_leaves_its_plateau():
    ts = np.linspace(1, 0, 101)
    ramp = np.clip((ts - 0.6) / 0.4, 0, 1)
    assert suggest_split(ts, ramp) == pytest.approx(0.6 + 0.2 * 0.4)
    # A rise towards data, below the plateau, is another regime.
    assert suggest_split(ts, ramp + 5 * np.clip(0.2 - ts, 0, 1)) == pytest.approx(0.68)
    assert suggest_split(ts, 3 * ramp + 7) == pytest.approx(0.68)
    assert suggest_split(ts, np.ones(101)) == 0  # no regime to split off
