"""sv_core.objective: same expected gradient with and without references, at less variance."""

import math
from functools import partial

import pytest
import torch

from sv_core.interpolant import COSINE, INTERPOLANTS, LINEAR
from sv_core.objective import Objective, weighted_mean
from sv_core.targets import conditional_velocity, stable_velocity
from sv_core.weighting import sigmoid


def always(t):
    """A timestep sampler that draws these times."""
    return lambda n, generator: torch.as_tensor(t).expand(n)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("path", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
def test_path_goes_where_its_noise_and_time_say(path):
    x0 = torch.randn(6, 2, 3, generator=seeded(0), dtype=torch.float64)
    sample = Objective(interpolant=path).path(x0, seeded(1))
    assert sample.x0 is x0
    assert sample.x_t.dtype == torch.float64
    torch.testing.assert_close(sample.x_t, path.x_t(x0, sample.eps, sample.t))
    assert torch.equal(sample.eps, Objective(interpolant=path).path(x0, seeded(1)).eps)
    assert not torch.equal(sample.eps, Objective(interpolant=path).path(x0, seeded(2)).eps)


def test_noise_is_standard_normal():
    sample = Objective().path(torch.zeros(100, 400), seeded(0))
    n = sample.eps.numel()
    assert abs(sample.eps.mean()) < 4 / math.sqrt(n)
    assert abs(sample.eps.var() - 1) < 4 * math.sqrt(2 / n)


def test_references_count_from_the_threshold_on_and_only_for_their_rows():
    x0 = torch.randn(6, 4, generator=seeded(0), dtype=torch.float64)
    times = torch.tensor([0.2, 0.49, 0.5, 0.9, 0.9, 0.9], dtype=torch.float64)
    objective = Objective(timesteps=always(times), threshold=0.5)
    path = objective.path(x0, seeded(1))
    pools = [(torch.tensor([0, 2]), x0[[0, 2]]), (torch.tensor([4, 1, 3]), x0[[1, 3, 4]])]
    target = objective.target(path, pools)
    conditional = conditional_velocity(LINEAR, path)
    for row in (0, 1, 5):  # too early, too early, no references
        assert torch.equal(target[row], conditional[row])
    for row, refs in ((2, x0[[0, 2]]), (3, x0[[1, 3, 4]]), (4, x0[[1, 3, 4]])):
        expected = stable_velocity(LINEAR, path.x_t[row : row + 1], refs, path.t[row : row + 1])
        torch.testing.assert_close(target[row], expected[0])
        assert not torch.allclose(target[row], conditional[row])
    assert torch.equal(objective.target(path), conditional)


def test_loss_is_weight_times_the_mean_square():
    x0 = torch.randn(5, 2, 3, 3, generator=seeded(0))
    objective = Objective(interpolant=COSINE, weight=partial(sigmoid, split=0.4))
    path = objective.path(x0, seeded(1))
    scale = torch.tensor(0.7, requires_grad=True)
    losses = objective.losses(lambda x, t: scale * x, path, torch.zeros_like(x0))
    expected = torch.stack([(0.7 * x).square().sum() / 18 for x in path.x_t])
    torch.testing.assert_close(losses.error, expected)
    torch.testing.assert_close(losses.loss, sigmoid(path.t, split=0.4) * expected)
    assert torch.equal(losses.t, path.t)
    assert not losses.error.requires_grad
    (gradient,) = torch.autograd.grad(losses.loss.sum(), scale)
    torch.testing.assert_close(gradient, 2 * losses.loss.sum().detach() / 0.7)


def test_a_call_is_path_target_and_losses():
    x0 = torch.randn(5, 3, generator=seeded(0))
    refs = [(torch.arange(5), x0)]
    objective = Objective()
    called = objective(lambda x, t: x * t[:, None], x0, seeded(1), refs)
    path = objective.path(x0, seeded(1))
    by_hand = objective.losses(lambda x, t: x * t[:, None], path, objective.target(path, refs))
    for a, b in zip(called, by_hand, strict=True):
        assert torch.equal(a, b)


def test_references_leave_the_expected_gradient_and_lower_its_variance():
    """Paired draws of d loss / d theta of the velocity theta x_t, over fresh data and banks."""
    objective = Objective(timesteps=always(0.8), threshold=0.5)
    generator, gradients = seeded(0), []
    for _ in range(1500):
        x0 = torch.randn(16, 1, generator=generator, dtype=torch.float64)
        path = objective.path(x0, generator)
        pair = []
        for refs in ((), [(torch.arange(16), x0)]):
            theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
            target = objective.target(path, refs)
            losses = objective.losses(lambda x, t, theta=theta: theta * x, path, target)
            pair.append(torch.autograd.grad(losses.loss.mean(), theta)[0])
        gradients.append(torch.stack(pair))
    conditional, stable = torch.stack(gradients, dim=1)
    difference = conditional - stable
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(difference))
    assert stable.var() < 0.5 * conditional.var()


def test_the_best_affine_velocity_is_the_marginal_one():
    """Least squares of the loss at one time, data N(2, 0.5^2): v = a + b x in closed form."""
    t, mean, std = 0.6, 2.0, 0.5
    x0 = mean + std * torch.randn(200_000, 1, generator=seeded(0), dtype=torch.float64)
    path = Objective(timesteps=always(t)).path(x0, seeded(1))
    target = Objective().target(path)
    design = torch.cat([torch.ones_like(path.x_t), path.x_t], dim=1)
    a, b = torch.linalg.lstsq(design, target).solution.flatten()
    variance = ((1 - t) * std) ** 2 + t**2
    slope = (t - (1 - t) * std**2) / variance
    assert abs(b - slope) < 0.02
    assert abs(a - (-mean - slope * (1 - t) * mean)) < 0.02


def test_weighted_mean():
    values, weights = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 0.0, 3.0])
    assert weighted_mean(values, weights) == 19 / 4
    assert weighted_mean(values, torch.ones(3)) == 3


def test_weighted_mean_of_nothing_is_zero_with_a_finite_gradient():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    for weights in (torch.zeros(2), torch.full((2,), 4e-9)):
        mean = weighted_mean(values, weights)
        (gradient,) = torch.autograd.grad(mean, values)
        assert mean == 0
        assert torch.equal(gradient, torch.zeros(2))
