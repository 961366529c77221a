"""sv_core.meanflow's control variate: its parabola, the signed estimate of beta, traces."""

import pytest
import torch
from torch import nn

from sv_core.meanflow import (
    control_coefficient,
    hutchinson_trace,
    mean_velocity_target,
    optimal_beta,
)
from sv_core.timesteps import time_pairs


def linear_problem(kappa, generator, bias=0.0, b=512, d=16):
    """u = a x with (t - r) a = kappa + 1, so that J = kappa I; v_hat is off by ``bias``."""
    r, t = torch.full((b,), 0.25, dtype=torch.float64), torch.full((b,), 0.75, dtype=torch.float64)
    x_t, noise = torch.randn(2, b, d, generator=generator, dtype=torch.float64)
    v = torch.zeros(b, d, dtype=torch.float64)
    v_c, v_hat = v + 1.5 * noise, v + bias
    return lambda x, r, t: (kappa + 1) / 0.5 * x, x_t, r, t, v_c, v_hat


@pytest.mark.parametrize(("kappa", "bias"), [(0.5, 0.0), (3.0, 0.0), (3.0, 1.0), (0.5, 0.7)])
def test_target_error_is_the_papers_parabola(kappa, bias, generator):
    """M(beta) = beta^2 (kappa + 1)^2 |b|^2 + s^2 d ((1 - beta) kappa - beta)^2."""
    u, x_t, r, t, v_c, v_hat = linear_problem(kappa, generator, bias, b=4096)
    truth = mean_velocity_target(u, x_t, r, t, torch.zeros_like(v_c))
    betas = torch.linspace(0, 1, 11, dtype=torch.float64)
    measured = torch.stack(
        [
            (mean_velocity_target(u, x_t, r, t, v_c, v_hat=v_hat, beta=beta) - truth)
            .square()
            .mean()
            for beta in betas
        ]
    )
    s2 = 1.5**2
    expected = betas**2 * (kappa + 1) ** 2 * bias**2 + s2 * ((1 - betas) * kappa - betas) ** 2
    # The noise of each of the 65,536 numbers enters both terms: 3 % is many standard errors.
    torch.testing.assert_close(measured, expected, rtol=0.03, atol=0.02 * (1 + kappa * bias))
    best = optimal_beta(kappa, s2 * 16, bias**2 * 16)
    curve = best**2 * (kappa + 1) ** 2 * bias**2 + s2 * ((1 - best) * kappa - best) ** 2
    fine = torch.linspace(0, 1, 1001, dtype=torch.float64)
    lowest = fine**2 * (kappa + 1) ** 2 * bias**2 + s2 * ((1 - fine) * kappa - fine) ** 2
    assert curve <= lowest.min() + 1e-9


@pytest.mark.parametrize("kappa", [0.25, 1.0, 4.0])
def test_signed_estimator_finds_kappa(kappa, generator):
    """Without bias v' is known and the estimate is exact, kappa / (kappa + 1)."""
    beta = control_coefficient(*linear_problem(kappa, generator))
    torch.testing.assert_close(beta.item(), optimal_beta(kappa, 1.0, 0.0))


@pytest.mark.parametrize("kappa", [0.0, -0.3, -0.9, -1.0, -1.5, -3.0])
def test_no_mixing_for_negative_kappa(kappa, generator):
    assert control_coefficient(*linear_problem(kappa, generator)).item() == 0
    assert optimal_beta(kappa, 1.0, 0.5) == 0


def test_gradient_variance_follows_a_parabola_and_the_estimate_is_near_its_minimum(generator):
    """A fixed batch (x_t, r, t) and a network with mixed signs of J; v_c is drawn anew each time.

    The gradient is affine in beta, so its variance is a parabola: three betas predict the others.
    """
    torch.manual_seed(1)
    d, b, draws = 6, 32, 400
    stretch = torch.diag(torch.linspace(1, 9, d)).double()
    net = nn.Sequential(nn.Linear(d, 24), nn.Tanh(), nn.Linear(24, d)).double()

    def u(x, r, t):
        return x @ stretch + net(x) * (1 + t - r)[:, None]

    x_t, v = torch.randn(2, b, d, generator=generator, dtype=torch.float64)
    r, t = (a.double() for a in time_pairs(b, generator, equal=0))
    noises = torch.randn(draws, b, d, generator=generator, dtype=torch.float64)
    parameters = list(net.parameters())

    def gradient(noise, beta):
        target = mean_velocity_target(u, x_t, r, t, v + noise, v_hat=v, beta=beta)
        loss = (u(x_t, r, t) - target).square().mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    # Affine in beta: the gradients at 0 and 1 hold all others.
    ends = [torch.stack([gradient(noise, beta) for noise in noises]) for beta in (0.0, 1.0)]
    assert torch.allclose(gradient(noises[0], 0.37), 0.63 * ends[0][0] + 0.37 * ends[1][0])

    def variance(beta):
        return ((1 - beta) * ends[0] + beta * ends[1]).var(0).sum()

    betas = torch.linspace(0, 1, 201, dtype=torch.float64)
    curve = torch.stack([variance(beta) for beta in betas])
    # The prediction, from Cov v' = I: the noise of the target is ((1 - beta)(-J) + beta I) v'.
    loss_jacobian = []
    for i in range(b):
        for k in range(d):
            out = u(x_t[i : i + 1], r[i : i + 1], t[i : i + 1])[0, k]
            g = torch.autograd.grad(out, parameters)
            loss_jacobian.append(torch.cat([p.flatten() for p in g]))
    loss_jacobian = torch.stack(loss_jacobian).view(b, d, -1)
    du_dx = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda x, i=i: u(x[None], r[i : i + 1], t[i : i + 1])[0], x_t[i]
            )
            for i in range(b)
        ]
    )
    j = (t - r)[:, None, None] * du_dx - torch.eye(d).double()
    for beta in (0.0, 0.3, 0.6, 1.0):
        m = beta * torch.eye(d).double() - (1 - beta) * j
        predicted = (2 / (b * d)) ** 2 * (
            torch.einsum("bkp,bkl->bpl", loss_jacobian, m).square().sum()
        )
        torch.testing.assert_close(variance(beta), predicted, rtol=0.1, atol=0)
    assert curve.argmin() not in (0, 200)
    rows = [a.repeat(draws, *[1] * (a.ndim - 1)) for a in (x_t, r, t)]
    beta = control_coefficient(
        u, *rows, v.repeat(draws, 1) + noises.flatten(0, 1), v.repeat(draws, 1)
    )
    assert variance(beta) <= 1.1 * curve.min()
    assert curve[0] > 1.5 * curve.min() and curve[-1] > 1.1 * curve.min()


def test_hutchinson_is_the_trace(generator):
    """Of J J^T / d for a dense matrix, within 4 standard errors; exact for kappa I."""
    matrix = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    r, t = torch.full((4000,), 0.2).double(), torch.full((4000,), 0.7).double()
    x = torch.zeros(4000, 5, dtype=torch.float64)
    traces = hutchinson_trace(lambda x, r, t: x @ matrix.T, x, r, t, generator)
    j = 0.5 * matrix - torch.eye(5).double()
    assert abs(traces.mean() - j.square().sum() / 5) < 4 * traces.std() / 4000**0.5
    u, x_t, r, t, *_ = linear_problem(-0.4, generator, b=3)
    torch.testing.assert_close(
        hutchinson_trace(u, x_t, r, t, generator), torch.full((3,), 0.16).double()
    )
