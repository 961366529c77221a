"""sv_core.meanflow against Gaussian data, whose average velocity is known in closed form."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sv_core.interpolant import LINEAR
from sv_core.meanflow import (
    DERIVATIVES,
    adaptive_weight,
    anchor_error,
    available_derivative,
    control_coefficient,
    difference_derivative,
    exact_derivative,
    guided_velocity,
    hutchinson_trace,
    mean_velocity_target,
    optimal_beta,
    sample_meanflow,
    trace_weight,
)
from sv_core.timesteps import time_pairs, uniform

MEAN, STD = 0.7, 0.5


def gaussian_u(x, r, t, mean=MEAN, std=STD):
    """Exact on N(mean, std^2): the flow maps every standardised point to itself."""

    def moments(t):
        return (1 - t) * mean, ((1 - t) ** 2 * std**2 + t**2).sqrt()

    (m_r, s_r), (m_t, s_t) = moments(r), moments(t)
    x_r = m_r + s_r / s_t * (x - m_t)
    return (x - x_r) / (t - r)


def gaussian_v(x, t, mean=MEAN, std=STD):
    gain = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)
    return -mean + gain * (x - (1 - t) * mean)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


class Attentive(nn.Module):
    """A small transformer of x (b, n, d), r and t, in float64."""

    def __init__(self, d=8):
        super().__init__()
        torch.manual_seed(0)
        self.time, self.qkv, self.out = nn.Linear(2, d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.double()

    def forward(self, x, r, t):
        h = x + self.time(torch.stack([t, t - r], 1))[:, None].sin()
        q, k, v = self.qkv(h)[:, None].chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v)[:, 0].tanh())


class Square(torch.autograd.Function):
    """A kernel with a backward, but no forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


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


def test_target_has_no_graph_and_equals_v_on_the_diagonal(generator):
    model = Attentive()
    x = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    v = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    t = column(0.2, 0.9)
    target = mean_velocity_target(model, x, t, t, v)
    assert torch.equal(target, v) and not target.requires_grad


def test_derivative_equals_float64_differences(generator):
    model = Attentive()
    x, dx = torch.randn(2, 4, 5, 8, generator=generator, dtype=torch.float64)
    r, t = column(0, 0.1, 0.4, 0.2), column(1.0, 0.5, 0.45, 0.9)
    exact = exact_derivative(model, x, r, t, dx, 1.0)
    h = 1e-5
    expected = (model(x + h * dx, r, t + h) - model(x - h * dx, r, t - h)) / (2 * h)
    torch.testing.assert_close(exact, expected.detach(), rtol=1e-7, atol=1e-9)
    assert not exact.requires_grad
    frozen = exact_derivative(model, x, r, t, dx, 0.0)
    expected = (model(x + h * dx, r, t) - model(x - h * dx, r, t)) / (2 * h)
    torch.testing.assert_close(frozen, expected.detach(), rtol=1e-7, atol=1e-9)


def test_float32_differences_are_as_near_as_the_message_says(generator):
    model = Attentive()
    x, dx = torch.randn(2, 16, 5, 8, generator=generator, dtype=torch.float64)
    r, t = time_pairs(16, generator, equal=0)
    exact = exact_derivative(model, x, r.double(), t.double(), dx, 1.0)
    model.float()
    with torch.autocast("cpu", torch.bfloat16):  # must make no difference
        near = difference_derivative(model, x.float(), r, t, dx.float(), 1.0)
    assert near.dtype == torch.float32
    error = (near - exact).norm() / exact.norm()
    assert error < 2e-4


def test_the_fallback_says_so():
    def u(x, r, t):
        return Square.apply(x) * t[:, None]

    x, dx, t = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([0.7])
    expected = 2 * x * dx * t + x**2
    with pytest.warns(RuntimeWarning, match="central difference in float32"):
        near = available_derivative(u, x, 0 * t, t, dx, 1.0)
    torch.testing.assert_close(near, expected, rtol=1e-3, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = available_derivative(lambda x, r, t: x**2 * t[:, None], x, 0 * t, t, dx, 1.0)
    torch.testing.assert_close(exact, expected)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_every_derivative_of_a_cubic(name):
    x, dx, r, t = column(2.0)[None], column(3.0)[None], column(0.1), column(0.5)
    out = DERIVATIVES[name](lambda x, r, t: x**3 * t + r, x, r, t, dx, 1.0)
    torch.testing.assert_close(out, 3 * x**2 * dx * t + x**3, rtol=1e-4, atol=0)


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
