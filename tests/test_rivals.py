"""The bench's rivals are what their papers say, and its flows are what their pages say."""

import itertools

import pytest
import torch

from benchmarks import rivals
from benchmarks.flows import Mixture, cosines
from benchmarks.hard_flows import FAILING, PROMPTED, cond_and_uncond
from sv_core.sampling import sample_euler
from sv_core.schedules import shift, uniform_grid

GRID = shift(uniform_grid(20), 3.0)
NODES = (0, 1, 4, 8, 11, 15, 19)


def along(degree: int):
    """A velocity that is a polynomial of t, the same everywhere."""
    powers = torch.arange(degree + 1)
    factors = torch.tensor([1.0, -2.0, 3.0, -1.0, 2.0], dtype=torch.float64)[: degree + 1]
    return lambda x, t: torch.ones_like(x) * (factors * t**powers).sum()


def error(forecast: rivals.Forecast, velocity, nodes=NODES) -> float:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made, called = rivals.sample(velocity, x, GRID, rivals.at(nodes), forecast)
    assert called == tuple(nodes)
    return float((made - sample_euler(velocity, x, GRID)).abs().max())


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_polynomial_forecast_has_its_order(order):
    forecast = rivals.linear_in_velocities(rivals.polynomial(order))
    first = tuple(range(order + 1))  # exact from the start where nothing is left out before
    nodes = tuple(sorted({*first, *NODES}))
    assert error(forecast, along(order), nodes) < 1e-12 < error(forecast, along(order + 1), nodes)


def test_spectrum_fits_its_degree_and_is_the_line_until_it_can():
    sharp = rivals.linear_in_velocities(rivals.chebyshev(ridge=1e-12))
    assert error(sharp, along(4), (0, 1, 2, 3, 4, 9, 14)) < 1e-4
    times = [0.7, 0.8, 0.9, 1.0]
    assert rivals.chebyshev()(times, 0.6) == pytest.approx(rivals.polynomial(1)(times, 0.6))
    five = [0.6, *times]
    half, whole = (rivals.chebyshev(share=s)(five, 0.5) for s in (0.5, 1.0))
    line = rivals.polynomial(1)(five, 0.5)
    assert half == pytest.approx([(w + s) / 2 for w, s in zip(whole, line, strict=True)])


def test_vde_is_exact_where_its_directions_stay():
    """x along one axis, v in a plane with it: alpha and beta linear in t, u the other axis."""
    x = torch.tensor([[2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)

    def velocity(t: float) -> torch.Tensor:
        return torch.stack([(0.5 - t) * x[:, 0], (1 + 2 * t) * x[:, 0]], 1)

    known = [(t, x, velocity(t)) for t in (0.7, 0.9)]
    torch.testing.assert_close(rivals.decomposed(known, x, 0.4), velocity(0.4))
    other = 1.7 * x  # and it follows x
    torch.testing.assert_close(rivals.decomposed(known[:1], other, 0.4), 1.7 * velocity(0.7))


LISTS = (rivals.every_kth, rivals.stable_then_every_kth, rivals.growing_windows)


@pytest.mark.parametrize("calls", [8, 10, 15])
@pytest.mark.parametrize("lists", LISTS, ids=lambda lists: lists.__name__)
def test_lists_of_nodes_keep_to_the_calls(lists, calls):
    found = lists(30, calls)
    assert len(found) > 2 and len(set(found)) == len(found)
    for nodes in found:
        assert nodes[0] == 0 and list(nodes) == sorted(set(nodes)) and nodes[-1] < 30
        assert len(nodes) <= calls
        assert lists is not rivals.stable_then_every_kth or nodes[-1] == 29
    assert max(map(len, found)) == calls


def test_spectrum_s_windows_grow():
    (nodes,) = {n for n in rivals.growing_windows(50, 14) if n[:6] == (0, 1, 2, 3, 4, 6)}
    gaps = [b - a for a, b in itertools.pairwise(nodes[4:])]
    assert gaps == sorted(gaps) and gaps[0] == 2 < gaps[-1]


def test_the_filter_leaves_data_and_takes_noise():
    noise = torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(rivals.wiener_filtered(noise, 0.0), noise)
    smooth = torch.ones(1, 1, 16, 16)
    strong = rivals.wiener_filtered(smooth, 0.8).mean()
    assert rivals.wiener_filtered(noise, 0.8).std() < 0.5 * strong


def test_the_gate_calls_once_enough_has_changed():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3 * 64, generator=generator, dtype=torch.float64)
    hold = rivals.FORECASTS["hold"][0]

    def run(threshold: float):
        gate = rivals.sea_gate(GRID.tolist(), threshold, lambda x: x.view(-1, 3, 8, 8))
        return rivals.sample(lambda x, t: x, x, GRID, gate, hold)

    assert run(0.0)[1] == tuple(range(20))
    few = run(1e30)[1]
    assert few == (0, 19) or few == (0, 1, 19)  # nothing is seen through the filter at t = 1
    found, nodes = rivals.gated(run, 9)
    assert 5 <= len(nodes) <= 9 and found.shape == x.shape


@pytest.mark.parametrize("name", rivals.FORECASTS)
def test_with_every_call_a_rival_is_euler(name):
    every = tuple(range(20))
    assert error(rivals.FORECASTS[name][0], along(3), every) == 0


def test_the_uncond_of_a_prompted_flow_is_the_mean_over_prompts():
    """v_u(x) = E[v_c(x) | x_t = x], by weighing prompts with their density at x."""
    g = torch.Generator().manual_seed(4)
    means = torch.tensor([[1.0, -0.5], [-0.8, 0.6]], dtype=torch.float64)
    spread, share = torch.tensor([[0.5, 0.2], [0.4, 0.9]], dtype=torch.float64)
    _, uncond = cond_and_uncond(means, spread, share, torch.zeros(2))
    x, t = torch.tensor([[0.3, -0.2]], dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    shifts = torch.randn(40_000, 2, generator=g).double() * spread * share
    # A prompt shifts all modes, so its flow at x is the unshifted one's, displaced.
    centred = Mixture(means, spread**2, torch.full((2,), 0.5).double())
    moved = x - (1 - t) * shifts
    variance = (1 - t) ** 2 * spread**2 + t**2
    distance = (moved[:, None] - (1 - t) * means).square() / variance
    density = torch.exp(-0.5 * distance.sum(2)).mean(1)
    each = centred.velocity(moved, t) - shifts
    mean = (density[:, None] * each).sum(0) / density.sum()
    torch.testing.assert_close(uncond.velocity(x, t)[0], mean, rtol=0, atol=0.02)


@pytest.mark.parametrize("make", PROMPTED, ids=lambda make: make.__name__)
def test_the_difference_of_a_prompted_flow_persists(make):
    flow = make(torch.Generator().manual_seed(1))
    assert flow.guided and flow.guidance is not None
    cond, uncond = flow.guidance
    x = torch.randn(8, flow.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ratios = []
    for t, r in itertools.pairwise(GRID):
        d = cond(x, t) - uncond(x, t)
        ratios.append(float(d.norm() / cond(x, t).norm()))
        x = x + (r - t) * flow.velocity(x, t)
    assert min(ratios) > 0.05 and 0.15 < sorted(ratios)[10] < 0.7


@pytest.mark.parametrize("make", FAILING, ids=lambda make: make.__name__)
def test_a_failing_bed_is_a_flow(make):
    flow = make(torch.Generator().manual_seed(1))
    x = torch.randn(2, flow.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = sample_euler(flow.velocity, x, GRID)
    assert made.isfinite().all() and flow.modes(made).shape == (2,)


def test_cosine_coefficients_become_pictures_of_the_same_size():
    x = torch.randn(2, 3 * 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    picture = cosines(3, 4)(x)
    assert picture.shape == (2, 3, 4, 4)
    torch.testing.assert_close(picture.square().sum(), x.square().sum())
    constant = torch.zeros(1, 16, dtype=torch.float64)
    constant[0, 0] = 1
    torch.testing.assert_close(cosines(1, 4)(constant), torch.full((1, 1, 4, 4), 0.25).double())
