"""sv_core.meanflow's derivatives: exact ones against float64 differences, and the fallback."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sv_core.meanflow import (
    DERIVATIVES,
    available_derivative,
    difference_derivative,
    exact_derivative,
    mean_velocity_target,
)
from sv_core.timesteps import time_pairs
from tests.sv_core.gaussian import column


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


def test_target_has_no_graph_and_equals_v_on_the_diagonal(generator):
    model = Attentive()
    x = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    v = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    t = column(0.2, 0.9)
    target = mean_velocity_target(model, x, t, t, v)
    assert torch.equal(target, v) and not target.requires_grad
