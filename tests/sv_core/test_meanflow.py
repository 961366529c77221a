"""sv_core.meanflow against Gaussian data, whose average velocity is known in closed form."""

import pytest
import torch
from torch import nn

from sv_core.interpolant import LINEAR
from sv_core.meanflow import (
    adaptive_weight,
    anchor_error,
    guided_velocity,
    mean_velocity_target,
    sample_meanflow,
    trace_weight,
)
from sv_core.timesteps import time_pairs, uniform
from tests.sv_core.gaussian import MEAN, STD, column, gaussian_u, gaussian_v


@pytest.fixture
def problem(generator):
    """x_t, r, t, v of Gaussian data in ten dimensions; u is exact in each of them."""
    x0 = MEAN + STD * torch.randn(6, 10, generator=generator, dtype=torch.float64)
    eps = torch.randn(6, 10, generator=generator, dtype=torch.float64)
    r, t = column(0, 0.1, 0.2, 0, 0.5, 0.3), column(0.3, 0.6, 0.9, 1.0, 0.8, 0.35)
    return LINEAR.x_t(x0, eps, t), r, t, eps - x0


def u_rows(x, r, t):
    return gaussian_u(x, r[:, None], t[:, None])


def test_the_true_average_velocity_meets_its_identity(problem):
    """u + (t - r) du/dt = v along the true flow: the target of the truth is the truth."""
    x_t, r, t, _ = problem
    v = gaussian_v(x_t, t[:, None])
    target = mean_velocity_target(u_rows, x_t, r, t, v)
    torch.testing.assert_close(target, u_rows(x_t, r, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_mean_of_the_noisy_target_is_the_true_average_velocity(beta, generator):
    """Over draws of v_c given x_t, at any beta where v_hat is right."""
    t, r, x_t = column(0.6), column(0.1), column(0.35)[None]
    spread = (1 - t) ** 2 * STD**2 + t**2
    # The posterior of x0 given x_t, from which v_c = (x_t - x0) / t.
    mean = MEAN + (1 - t) * STD**2 / spread * (x_t - (1 - t) * MEAN)
    draws = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    v_c = (x_t - (mean + STD * t / spread.sqrt() * draws)) / t
    rows = [a.expand(20_000, *a.shape[1:]) for a in (x_t, r, t)]
    v_hat = gaussian_v(rows[0], t)
    target = mean_velocity_target(u_rows, *rows, v_c, v_hat=v_hat, beta=beta)
    error = target - u_rows(x_t, r, t)
    assert error.mean().abs() < 4 * error.std() / 20_000**0.5
    assert error.std() > 0.1  # the draws are noisy: the mean is not trivially right


def test_only_the_tangent_is_mixed(problem):
    x_t, r, t, v = problem
    v_hat = gaussian_v(x_t, t[:, None])
    mixed = mean_velocity_target(u_rows, x_t, r, t, v, v_hat=v_hat, beta=0.3)
    plain = mean_velocity_target(u_rows, x_t, r, t, v)
    corner = mean_velocity_target(u_rows, x_t, r, t, v, v_hat=v_hat, beta=1.0)
    # D is linear in the tangent, so the target is affine in beta ...
    torch.testing.assert_close(mixed, 0.7 * plain + 0.3 * corner)
    # ... and at beta = 1 its noise is that of v alone.
    truth = u_rows(x_t, r, t)
    torch.testing.assert_close(corner - truth, v - v_hat, rtol=0, atol=1e-12)
    assert torch.equal(mean_velocity_target(u_rows, x_t, r, t, v, v_hat=v_hat, beta=0.0), plain)


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_exact_samples_in_any_number_of_calls(calls, generator):
    x = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    ts = torch.linspace(1, 0, calls + 1, dtype=torch.float64)
    seen = []
    out = sample_meanflow(gaussian_u, x, ts, callback=lambda i, x, u, t: seen.append((i, float(t))))
    torch.testing.assert_close(out, MEAN + STD * x, rtol=0, atol=1e-12)
    assert seen == [(i, float(ts[i])) for i in range(calls)]
    assert abs(out.mean() - MEAN) < 4 * STD / 20_000**0.5
    assert abs(out.std() - STD) < 4 * STD / 40_000**0.5


def test_samples_keep_their_dtype_and_compute_in_float32(generator):
    x = torch.randn(64, 2, generator=generator).half()
    out = sample_meanflow(gaussian_u, x, torch.tensor([1.0, 0.4, 0.0]).half())
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), MEAN + STD * x.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_trained_on_a_gaussian_one_call_is_right(beta):
    """u = a(r, t) x + b(r, t) can be exact; 600 steps bring it to within a few per cent."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    head = nn.Sequential(
        nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
    )

    def u(x, r, t):
        a, b = head(torch.stack([t, t - r], -1)).chunk(2, -1)
        return a * x + b

    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        r, t = time_pairs(512, generator, draw=uniform, equal=0.5)
        x0 = MEAN + STD * torch.randn(512, 1, generator=generator)
        eps = torch.randn(512, 1, generator=generator)
        x_t, v = LINEAR.x_t(x0, eps, t), eps - x0
        v_hat = u(x_t, t, t).detach()
        target = mean_velocity_target(u, x_t, r, t, v, v_hat=v_hat, beta=beta)
        loss = (u(x_t, r, t) - target).square().mean() + 0.1 * anchor_error(u, x_t, t, v).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    noise = torch.randn(20_000, 1, generator=generator)
    with torch.no_grad():
        out = sample_meanflow(
            lambda x, r, t: u(x, r.expand(len(x)), t.expand(len(x))), noise, torch.tensor([1.0, 0])
        )
    assert abs(out.mean() - MEAN) < 0.05
    assert abs(out.std() - STD) < 0.05


def test_weights():
    t = column(0, 0.5, 1)
    torch.testing.assert_close(trace_weight(column(3, 16, 3), t), column(1, 0.5, 0.25))
    error = column(0, 0.99, 99.99).requires_grad_()
    weight = adaptive_weight(error)
    torch.testing.assert_close(weight, column(100, 1, 0.01))
    assert not weight.requires_grad
    torch.testing.assert_close(adaptive_weight(error, 0.5), column(10, 1, 0.1))


def test_anchor_is_flow_matching_next_to_the_diagonal(problem):
    x_t, _, t, v = problem
    expected = (gaussian_v(x_t, t[:, None]) - v).square().mean(1)
    torch.testing.assert_close(anchor_error(u_rows, x_t, t, v), expected, rtol=0.02, atol=0)


def test_guidance_in_the_target_has_its_strength_whatever_the_mix():
    """At the fixed point v_cond of the guided model: v_c + (scale - 1)(v_c - v_null)."""
    v_c, v_null = column(2.0), column(-1.0)
    expected = v_null + 3 * (v_c - v_null)
    for mix in (0.0, 0.5, 0.9):
        v_cond = column(0.0)
        for _ in range(400):
            v_cond = guided_velocity(v_c, v_cond, v_null, 3.0, mix)
        torch.testing.assert_close(v_cond, expected)
    torch.testing.assert_close(guided_velocity(v_c, v_c, v_null, 1.0), v_c)


def test_time_pairs(generator):
    r, t = time_pairs(20_000, generator)
    assert (r <= t).all() and r.min() > 0 and t.max() < 1
    share = (r == t).double().mean()
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 20_000) ** 0.5
    r, t = time_pairs(20_000, generator, draw=uniform, equal=0.0)
    # The larger and the smaller of two uniform draws have means 2/3 and 1/3, variance 1/18.
    for values, mean in ((t, 2 / 3), (r, 1 / 3)):
        assert abs(values.mean() - mean) < 4 / (18 * 20_000) ** 0.5
    r, t = time_pairs(50, generator, equal=1.0)
    assert torch.equal(r, t)
