"""sv_core.timesteps: Kolmogorov-Smirnov against each distribution's own formula."""

import math
from functools import partial

import pytest
import torch

from sv_core.timesteps import TIMESTEPS, logit_normal, shifted, uniform, within


def normal_cdf(z):
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def logit_normal_cdf(t, mean=0.0, std=1.0):
    return normal_cdf((torch.logit(t) - mean) / std)


def shifted_cdf(t, shift=3.0):
    return t / (shift - (shift - 1) * t)  # the inverse of the shift


CDF = {
    "uniform": lambda t: t,
    "logit_normal": logit_normal_cdf,
    "shifted": shifted_cdf,
    "lognormal": partial(logit_normal_cdf, mean=-1.2, std=1.2),
}
CASES = [(TIMESTEPS[name], CDF[name]) for name in TIMESTEPS] + [
    (partial(logit_normal, mean=-0.4, std=1.5), partial(logit_normal_cdf, mean=-0.4, std=1.5)),
    (partial(shifted, shift=0.5), partial(shifted_cdf, shift=0.5)),
    (partial(within, draw=uniform, low=0.2, high=0.7), lambda t: (t - 0.2) / 0.5),
    (
        partial(within, draw=shifted, low=0.875, high=1.0),
        lambda t: (shifted_cdf(t) - shifted_cdf(0.875)) / (1 - shifted_cdf(0.875)),
    ),
]


@pytest.mark.parametrize(("draw", "cdf"), CASES)
def test_draws_follow_the_distribution(draw, cdf, generator):
    n = 50_000
    t = draw(n, generator)
    assert t.shape == (n,)
    assert t.min() > 0 and t.max() <= 1
    expected = cdf(t.double().sort().values)
    distance = (expected - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.95 / math.sqrt(n)  # exceeded once in a thousand seeds


@pytest.mark.parametrize("draw", TIMESTEPS.values(), ids=TIMESTEPS.keys())
def test_draws_come_from_the_generator_alone(draw):
    first, second = (draw(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(5, torch.Generator().manual_seed(4)))


def test_uniform_never_draws_zero(monkeypatch):
    """sigma = 0 there: the posterior and the velocity from x0 would divide by it."""
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.zeros(n))
    assert (uniform(4, torch.Generator()) > 0).all()
