"""sv_core.interpolant against algebra and autograd, in float64."""

import math

import pytest
import torch

from sv_core.interpolant import COSINE, INTERPOLANTS, LINEAR, match_dims

T = torch.linspace(0, 1, 101, dtype=torch.float64)
both = pytest.mark.parametrize("path", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())


def draw(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@both
@pytest.mark.parametrize("shape", [(101,), (101, 3), (101, 2, 3, 2), (101, 2, 1, 3, 2)])
def test_one_velocity_gives_back_data_and_noise(path, shape, generator):
    x0, eps = draw(generator, *shape), draw(generator, *shape)
    x_t, v = path.x_t(x0, eps, T), path.velocity(x0, eps, T)
    close(path.x0_from_v(x_t, v, T), x0)
    close(path.eps_from_v(x_t, v, T), eps)
    # Dividing by sigma, the way back amplifies rounding by 1 / t.
    late = T >= 0.01
    close(path.v_from_x0(x_t, x0, T)[late], v[late])


@both
def test_a_time_for_all_equals_a_time_for_each(path, generator):
    x0, eps = draw(generator, 4, 2, 3), draw(generator, 4, 2, 3)
    t = torch.tensor(0.3, dtype=torch.float64)
    for method in (path.x_t, path.velocity, path.x0_from_v, path.eps_from_v, path.v_from_x0):
        close(method(x0, eps, t), method(x0, eps, t.expand(4)), 0)


@both
def test_ends_are_data_and_noise(path, generator):
    x0, eps = draw(generator, 2, 5), draw(generator, 2, 5)
    ends = path.x_t(x0, eps, torch.tensor([0.0, 1.0], dtype=torch.float64))
    close(ends[0], x0[0])
    close(ends[1], eps[1])


@both
def test_derivatives_are_autograds(path):
    for function, derivative in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        t = T.clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(t).sum(), t)
        close(derivative(T), expected)


@both
def test_velocity_is_the_time_derivative_of_x_t(path, generator):
    x0, eps = draw(generator, 5), draw(generator, 5)
    at = torch.tensor(0.37, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(lambda t: path.x_t(x0, eps, t), at)
    close(path.velocity(x0, eps, at), slope)


@both
def test_time_inverts_sigma(path):
    close(path.time(path.sigma(T)), T, 1e-7)  # asin is flat at 1
    close(path.time(path.sigma(T[:-5])), T[:-5])


def test_determinant_is_never_zero():
    for path, expected in ((LINEAR, 1.0), (COSINE, math.pi / 2)):
        a, s, da, ds = path.coefficients(T, T)
        close(a * ds - s * da, torch.full_like(T, expected))


def test_cosine_preserves_variance():
    close(COSINE.alpha(T) ** 2 + COSINE.sigma(T) ** 2, torch.ones_like(T))


def test_linear_conversions_are_the_textbook_ones(generator):
    x, v, t = draw(generator, 101, 3), draw(generator, 101, 3), T[:, None]
    close(LINEAR.x0_from_v(x, v, T), x - t * v)
    close(LINEAR.eps_from_v(x, v, T), x + (1 - t) * v)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_snr_is_a_number_everywhere_and_falls(path, dtype):
    t = T.to(dtype)
    log_snr = path.log_snr(t)
    assert log_snr[0] == math.inf
    assert log_snr[-1] < -15  # -inf, or as far as cos(pi/2) in this dtype is from 0
    assert (log_snr.diff() < 0).all()
    inner = T[1:-1]
    close(
        path.log_snr(inner).exp() * path.sigma(inner),
        path.alpha(inner),
    )


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_stays_half_and_near(path, dtype, generator):
    x0, eps, t = draw(generator, 8, 4), draw(generator, 8, 4), torch.linspace(0.1, 0.9, 8)
    low = path.x_t(x0.to(dtype), eps.to(dtype), t.to(dtype))
    assert low.dtype == dtype
    close(low.double(), path.x_t(x0, eps, t.double()), 8 * torch.finfo(dtype).eps)


def test_match_dims_broadcasts_over_all_but_the_batch(generator):
    x, t = draw(generator, 3, 2, 5), draw(generator, 3)
    close(match_dims(t, x) * x, torch.einsum("b,bij->bij", t, x), 0)
    assert match_dims(t[0], x).ndim == 0


@pytest.mark.parametrize("path", INTERPOLANTS.values(), ids=INTERPOLANTS)
def test_combine_is_what_the_two_estimates_give(path, generator):
    x_t, v = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    t = torch.rand(5, generator=generator, dtype=torch.float64)
    of_x0, of_eps = torch.randn(2, 5, 1, 1, generator=generator, dtype=torch.float64)
    expected = of_x0 * path.x0_from_v(x_t, v, t) + of_eps * path.eps_from_v(x_t, v, t)
    assert torch.allclose(path.combine(x_t, v, t, of_x0, of_eps), expected, rtol=0, atol=1e-12)
