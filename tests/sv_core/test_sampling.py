"""sv_core.sampling on flows whose velocity and solution are known in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from sv_core.interpolant import INTERPOLANTS, LINEAR
from sv_core.sampling import euler_step, sample_euler, sample_stable, stable_step
from sv_core.schedules import shift, uniform_grid

MEAN, STD = 1.5, 0.4
both = pytest.mark.parametrize("path", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
# On the curved path Euler steps in t and stable steps are different first-order methods.
solvers = pytest.mark.parametrize(
    ("solve", "path"),
    [(sample_euler, path) for path in INTERPOLANTS.values()]
    + [
        (lambda v, x, ts, path=path: sample_stable(v, x, ts, interpolant=path), path)
        for path in INTERPOLANTS.values()
    ],
    ids=["euler linear", "euler cosine", "stable linear", "stable cosine"],
)


def gaussian_velocity(path):
    """The marginal velocity of data ~ N(MEAN, STD^2), by conditioning Gaussians."""

    def velocity(x, t):
        a, s, da, ds = path.coefficients(t, x)
        variance = a**2 * STD**2 + s**2
        return da * MEAN + (a * da * STD**2 + s * ds) / variance * (x - a * MEAN)

    return velocity


def point_velocity(path, x0):
    """The velocity towards one data point: every path leads there."""
    return lambda x, t: path.v_from_x0(x, x0, t)


@solvers
def test_gaussian_data_at_first_order(solve, path, generator):
    x1 = torch.randn(64, generator=generator, dtype=torch.float64)
    exact = MEAN + STD * x1  # the flow keeps each point's quantile
    error = [
        (solve(gaussian_velocity(path), x1, uniform_grid(n)) - exact).abs().max().item()
        for n in (64, 128, 256)
    ]
    assert error[-1] < 0.02
    for coarse, fine in pairwise(error):
        assert 1.8 < coarse / fine < 2.2


@both
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_point_data_is_exact_in_any_number_of_steps(path, steps, noise, generator):
    x0 = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    x1 = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    for ts in (uniform_grid(steps), shift(uniform_grid(steps), 3.0)):
        out = sample_stable(point_velocity(path, x0), x1, ts, interpolant=path, noise=noise)
        torch.testing.assert_close(out, x0, rtol=0, atol=1e-12)


@both
def test_point_data_is_on_the_path_at_every_node(path, generator):
    x0 = torch.randn(5, generator=generator, dtype=torch.float64)
    x1 = torch.randn(5, generator=generator, dtype=torch.float64)
    seen = []
    sample_stable(
        point_velocity(path, x0),
        x1,
        uniform_grid(6),
        interpolant=path,
        callback=lambda i, x, v, t: seen.append((x, t)),
    )
    for x, t in seen:
        torch.testing.assert_close(x, path.x_t(x0, x1, t), rtol=0, atol=1e-12)


def test_without_noise_on_the_linear_path_it_is_euler(generator):
    x1 = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    ts = shift(uniform_grid(13), 3.0)
    for velocity in (gaussian_velocity(LINEAR), lambda x, t: torch.sin(3 * x) + t):
        torch.testing.assert_close(
            sample_stable(velocity, x1, ts), sample_euler(velocity, x1, ts), rtol=0, atol=4e-15
        )


@both
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.7, 1.0])
def test_noise_is_exchanged_not_added(path, noise, generator):
    """x_r has mean alpha_r x0, std sigma_r, and keeps sqrt(1 - noise^2) of its old noise."""
    n = 40_000
    x0 = torch.tensor(2.0, dtype=torch.float64)
    eps = torch.randn(n, generator=generator, dtype=torch.float64)
    t, r = torch.tensor([0.8, 0.35], dtype=torch.float64)
    x_t = path.x_t(x0.expand(n), eps, t)
    x_r = stable_step(
        path,
        x_t,
        point_velocity(path, x0)(x_t, t),
        t,
        r,
        noise,
        lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype),
    )
    a, s, *_ = path.coefficients(r, x_t)
    standard_error = 1 / math.sqrt(n)
    assert abs(x_r.mean() - a * x0) < 4 * s * standard_error
    assert abs(x_r.std() - s) < 4 * s * standard_error
    kept = torch.corrcoef(torch.stack([x_r, eps]))[0, 1]
    assert abs(kept - math.sqrt(1 - noise**2)) < 4 * standard_error


@both
def test_step_takes_a_time_for_each_sample(path, generator):
    x, v = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)
    r = t / 2
    each = [stable_step(path, x[i], v[i], t[i], r[i]) for i in range(3)]
    torch.testing.assert_close(stable_step(path, x, v, t, r), torch.stack(each), rtol=0, atol=1e-15)


def test_euler_step_follows_the_slope():
    x, v = torch.tensor([1.0, 2.0]), torch.tensor([10.0, -10.0])
    out = euler_step(x, v, torch.tensor(0.5), torch.tensor(0.25))
    torch.testing.assert_close(out, torch.tensor([-1.5, 4.5]))


@pytest.mark.parametrize("solve", [sample_euler, sample_stable])
@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 2, 3, 4), (1, 2, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_computes_in_float32_and_returns_the_dtype(solve, shape, dtype, generator):
    x = torch.randn(shape, generator=generator).to(dtype)
    calls = []

    def velocity(x, t):
        assert x.dtype == t.dtype == torch.float32
        assert t.ndim == 0
        calls.append(t.item())
        return torch.cos(x) - t

    ts = uniform_grid(4)
    out = solve(velocity, x, ts)
    assert calls == ts[:-1].tolist()
    assert out.dtype == dtype
    torch.testing.assert_close(out, solve(velocity, x.float(), ts).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("solve", [sample_euler, sample_stable])
def test_callback_sees_every_call(solve):
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)
    seen = []
    ts = uniform_grid(3)
    out = solve(
        gaussian_velocity(LINEAR), x, ts, callback=lambda i, x, v, t: seen.append((i, x, v, t))
    )
    assert [i for i, *_ in seen] == [0, 1, 2]
    states = [x for _, x, *_ in seen] + [out]
    for (_, x, v, t), r, x_next in zip(seen, ts[1:], states[1:], strict=True):
        torch.testing.assert_close(v, gaussian_velocity(LINEAR)(x, t))
        torch.testing.assert_close(x_next, x + (r - t) * v)


def test_two_pieces_of_a_grid_are_one_run(generator):
    x = torch.randn(6, generator=generator, dtype=torch.float64)
    velocity, ts = gaussian_velocity(LINEAR), uniform_grid(10)
    middle = sample_euler(velocity, x, ts[:5])
    torch.testing.assert_close(
        sample_stable(velocity, middle, ts[4:]), sample_euler(velocity, x, ts), rtol=0, atol=1e-14
    )


def test_official_steps(golden):
    for entry in golden.index["steps"]:
        x, v, noise, expected = golden.tensors(entry["key"], "x", "v", "noise", "next")
        t, r = torch.tensor([entry["t"], entry["tau"]])
        ours = stable_step(LINEAR, x, v, t, r, entry["noise_factor"], lambda x, z=noise: z)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
