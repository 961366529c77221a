"""The toy's mixtures have exact velocities, and its networks in a stack are strangers."""

import pytest
import torch

from sv_core.interpolant import LINEAR
from sv_core.targets import stable_velocity
from tests.training.toy.one_gaussian import ONE
from training.toy.models import MIXTURES, initial, network


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES.keys())
def test_mixtures_have_about_unit_variance(mixture, generator):
    x = mixture.sample(20_000, generator)
    torch.testing.assert_close(x.var(0), torch.ones(2), rtol=0, atol=0.08)
    assert x.mean(0).abs().max() < 0.05


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES.keys())
def test_exact_velocity_is_the_mean_over_all_data(mixture, generator):
    """A bank of 200,000 draws comes as near as its own noise allows."""
    t = torch.tensor([0.3, 0.6, 0.9]).repeat_interleave(20)
    x0 = mixture.sample(60, generator)
    x_t = LINEAR.x_t(x0, torch.randn(60, 2, generator=generator), t)
    estimate = stable_velocity(LINEAR, x_t, mixture.sample(200_000, generator), t)
    torch.testing.assert_close(mixture.velocity(x_t, t), estimate, rtol=0, atol=0.05)


def test_velocity_of_one_gaussian(generator):
    """v = -mean + (t - (1 - t) s^2) / ((1 - t)^2 s^2 + t^2) (x_t - (1 - t) mean)."""
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    x_t = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    mean, v = ONE.means[0].double(), 0.7**2
    gain = (t - (1 - t) * v) / ((1 - t) ** 2 * v + t**2)
    expected = -mean + gain[:, None] * (x_t - (1 - t[:, None]) * mean)
    torch.testing.assert_close(ONE.velocity(x_t, t), expected)


def test_networks_in_a_stack_train_alone(generator):
    """The gradient of a stack's summed loss is each network's own."""
    stack = initial(3, generator, width=8, depth=2)
    x, t = torch.randn(3, 5, 2, generator=generator), torch.rand(3, 5, generator=generator)
    together = torch.autograd.grad(network(stack, x, t).square().sum(), stack)
    for k in range(3):
        own = [p.detach()[k].requires_grad_() for p in stack]
        alone = torch.autograd.grad(network(own, x[k], t[k]).square().sum(), own)
        for g, h in zip(together, alone, strict=True):
            torch.testing.assert_close(g[k], h)
