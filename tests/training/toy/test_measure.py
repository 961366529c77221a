"""training.toy: the exact velocity is exact, and what is measured agrees with theory."""

import math

import pytest
import torch
from torch import Generator

from sv_core.interpolant import LINEAR
from sv_core.targets import stable_velocity
from training.toy.flow_matching import main
from training.toy.measure import (
    METHODS,
    TIMES,
    Method,
    fisher_divergence,
    gradient_variance,
    target_variance,
    targets,
    train,
)
from training.toy.models import MIXTURES, Mixture, initial, mean_and_error, network

ONE = Mixture(torch.tensor([[0.5, -1.0]]), 0.7)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Too small to share: two threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator():
    return Generator().manual_seed(0)


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


def test_a_better_target_trains_better():
    """With the exact velocity a network on one Gaussian is nearer than with flow matching's."""
    plain, exact = (train(ONE, m, seeds=4, steps=200) for m in (METHODS[0], METHODS[-1]))
    assert (exact.velocity[-1] < plain.velocity[-1]).all()
    assert (plain.velocity[-1] < plain.velocity[0]).all()


def test_methods_see_the_same_data():
    """A bank that is never used, its threshold being above 1, changes nothing."""
    plain = train(ONE, METHODS[0], seeds=2, steps=9)
    unused = train(ONE, Method("", 64, threshold=2.0), seeds=2, steps=9)
    assert torch.equal(plain.error, unused.error)


def test_command_prints_tables_and_draws(tmp_path, capsys):
    file = tmp_path / "curves.png"
    main([str(file), "--quick"])
    out = capsys.readouterr().out
    assert out.count("variance of the target") == len(MIXTURES)
    assert out.count("Fisher divergence") == len(MIXTURES)
    assert "nan" not in out
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["missing/curves.png", "curves.txt"])
def test_command_refuses_a_place_it_cannot_write(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / name)])
    assert "must be a .png in a folder that exists" in capsys.readouterr().err


def test_times_end_at_noise():
    assert TIMES[-1] == 1 and TIMES[0] > 0 and math.isclose(TIMES[1] - TIMES[0], 0.05, rel_tol=1e-4)
