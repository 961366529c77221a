"""sv_core.targets: the stable velocity is the conditional one's mean, and that is its worth."""

import math

import pytest
import torch

from sv_core.interpolant import INTERPOLANTS, LINEAR
from sv_core.posterior import posterior_weights
from sv_core.targets import Path, conditional_velocity, stable_velocity

both = pytest.mark.parametrize("path", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
POINTS = torch.tensor([[-1.5], [0.2], [1.0]], dtype=torch.float64)


def three_points(path, n, generator, t=0.7):
    """n draws (one noisy number each) of data that is one of three points."""
    x0 = POINTS[torch.randint(3, (n,), generator=generator)]
    eps = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    t = torch.full((n,), t, dtype=torch.float64)
    return Path(x0, eps, path.x_t(x0, eps, t), t)


def assert_zero_mean(samples, errors=4.0):
    """No further from 0 than the standard error of the mean allows."""
    assert abs(samples.mean()) < errors * samples.std() / math.sqrt(len(samples))


@both
def test_same_mean_as_the_conditional_velocity_in_every_bin_of_x_t(path, generator):
    sample = three_points(path, 100_000, generator)
    conditional = conditional_velocity(path, sample)
    stable = stable_velocity(path, sample.x_t, POINTS, sample.t)
    difference = (conditional - stable).squeeze(1)
    bins = sample.x_t.squeeze(1).argsort().chunk(20)
    for members in bins:
        assert_zero_mean(difference[members])


@both
def test_its_variance_is_smaller_by_the_posteriors(path, generator):
    """Law of total variance: Var v_c = Var v* + E[Var(v_c | x_t)], the last in closed form."""
    sample = three_points(path, 100_000, generator)
    conditional = conditional_velocity(path, sample)
    stable = stable_velocity(path, sample.x_t, POINTS, sample.t)
    w = posterior_weights(path, sample.x_t, POINTS, sample.t)
    spread = w @ POINTS**2 - (w @ POINTS) ** 2
    a, s, da, ds = path.coefficients(sample.t, sample.x_t)
    within = ((da - ds * a / s) ** 2 * spread).mean()
    assert within > 0.5
    torch.testing.assert_close(conditional.var(), stable.var() + within, rtol=0.02, atol=0)


def test_fresh_references_give_the_marginal_velocity_at_a_fraction_of_the_variance(generator):
    """Data N(0, 1): the marginal velocity is (2t - 1) / (t^2 + (1 - t)^2) x, whatever the bank."""
    m, t, banks = 32, 0.95, 600
    times = torch.full((m,), t, dtype=torch.float64)
    moments, noise = [], {"stable": 0.0, "conditional": 0.0}
    for _ in range(banks):
        refs, eps = torch.randn(2, m, 1, generator=generator, dtype=torch.float64)
        sample = Path(refs, eps, LINEAR.x_t(refs, eps, times), times)
        marginal = (2 * t - 1) / (t**2 + (1 - t) ** 2) * sample.x_t
        error = stable_velocity(LINEAR, sample.x_t, refs, times) - marginal
        # Its errors share a bank, so the bank is the independent draw.
        moments.append(torch.stack([(error * sample.x_t**k).mean() for k in range(3)]))
        noise["stable"] += error.square().mean().item()
        conditional = conditional_velocity(LINEAR, sample) - marginal
        noise["conditional"] += conditional.square().mean().item()
    for moment in torch.stack(moments, dim=1):
        assert_zero_mean(moment)
    assert 0.8 / m < noise["stable"] / noise["conditional"] < 1.25 / (m - 1)


@both
def test_with_its_own_data_alone_it_is_the_conditional_velocity(path, generator):
    x0 = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    eps = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.4], dtype=torch.float64)
    sample = Path(x0, eps, path.x_t(x0, eps, t), t)
    expected = conditional_velocity(path, sample)
    torch.testing.assert_close(expected, path.velocity(x0, eps, t), rtol=0, atol=0)
    for time in (t, t[0]):
        ours = stable_velocity(path, sample.x_t, x0, time)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@both
def test_is_the_weighted_mean_of_the_references_velocities(path, generator):
    refs = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    x_t = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    each = torch.stack([path.v_from_x0(x_t, ref.expand(4, 3), t) for ref in refs], dim=1)
    w = posterior_weights(path, x_t, refs, t)
    expected = torch.einsum("bm,bmd->bd", w, each)
    torch.testing.assert_close(stable_velocity(path, x_t, refs, t), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_rounded_at_the_end(dtype, generator):
    refs = torch.randn(5, 3, generator=generator).to(dtype)
    x_t = torch.randn(4, 3, generator=generator).to(dtype)
    t = torch.tensor([0.3, 0.5, 0.8, 1.0])
    ours = stable_velocity(LINEAR, x_t, refs, t)
    expected = stable_velocity(LINEAR, x_t.float(), refs.float(), t).to(dtype)
    assert torch.equal(ours, expected)


def test_official_targets(golden):
    for entry in golden.index["targets"]:
        if entry["prediction"] == "v":
            x_t, bank, t, expected = golden.tensors(entry["key"], "x", "bank", "t", "target")
            ours = stable_velocity(INTERPOLANTS[entry["path"]], x_t, bank, t)
            relative = (ours - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
            assert relative.max() < 1e-3
