"""training.toy: the exact velocity is exact, and what is measured agrees with theory."""

import math

import torch
from torch import Generator

from sv_core.interpolant import LINEAR
from tests.training.toy.one_gaussian import ONE
from training.toy.measure import (
    TIMES,
    fisher_divergence,
    gradient_variance,
    target_variance,
    targets,
)
from training.toy.models import MIXTURES, initial, mean_and_error, network


def test_variance_of_the_conditional_target_in_closed_form(generator):
    """For one Gaussian Var(v | x_t) = s^2 / ((1 - t)^2 s^2 + t^2) per coordinate."""
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    mean, error = target_variance(ONE, t, None, generator)
    expected = 0.49 / ((1 - t) ** 2 * 0.49 + t**2)
    assert ((mean - expected).abs() < 4 * error).all()


def test_variance_of_the_stable_target_falls_as_one_over_n(generator):
    """At t = 1 every reference is as likely: the target is eps - mean of the bank."""
    t = torch.tensor([1.0])
    for bank in (8, 64):
        mean, error = target_variance(ONE, t, bank, generator, banks=512, samples=4)
        assert abs(mean - 0.49 / bank) < 4 * error


def test_stable_target_is_unbiased_and_less_noisy(generator):
    """Where x_t is drawn from the bank, E[target - v(x_t)] = 0 along any function of x_t."""
    mixture = MIXTURES["ring of 8"]
    t = torch.tensor([0.6])
    means = []
    for _ in range(400):
        x_t, target = targets(mixture, t, 32, 64, generator)
        error = target[0] - mixture.velocity(x_t[0], t.expand(64))
        probe = torch.stack([torch.ones(64), x_t[0, :, 0], x_t[0].square().sum(1)])
        means.append(probe @ error / 64)
    mean, spread = mean_and_error(torch.stack(means, -1))
    assert (mean.abs() < 4 * spread).all()
    assert (
        target_variance(mixture, t, 32, generator)[0]
        < target_variance(mixture, t, None, generator)[0] / 10
    )


def test_gradient_variance_is_that_of_separate_gradients(generator):
    parameters = [p.detach()[0] for p in initial(1, generator, width=8, depth=1)]
    t = torch.tensor([0.7])
    mean, _ = gradient_variance(ONE, parameters, t, 16, Generator().manual_seed(3), 12, 5)
    again = Generator().manual_seed(3)
    gradients = []
    for _ in range(12):
        x_t, target = targets(ONE, t, 16, 5, again)
        leaves = [p.requires_grad_() for p in parameters]
        loss = (network(leaves, x_t[0], t.expand(5)) - target[0]).square().mean()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves)]))
    torch.testing.assert_close(mean[0], torch.stack(gradients).var(0).sum())


def test_fisher_divergence_is_the_scores(generator):
    """A velocity that is wrong by a constant is a score that is wrong by (1 - t) / t of it."""
    t = torch.tensor([0.2, 0.5, 0.9])
    x_t, wrong = torch.randn(3, 2, generator=generator), torch.tensor([0.3, -0.4])
    v = ONE.velocity(x_t, t)
    score = [-LINEAR.eps_from_v(x_t, u, t) / t[:, None] for u in (v, v + wrong)]
    expected = (score[1] - score[0]).square().sum(1)
    error = wrong.square().mean().expand(3)
    torch.testing.assert_close(fisher_divergence(error, t), expected)


def test_times_end_at_noise():
    assert TIMES[-1] == 1 and TIMES[0] > 0 and math.isclose(TIMES[1] - TIMES[0], 0.05, rel_tol=1e-4)
