"""Samplers of every habit, with fewer calls, on flows whose velocity is exact."""

import itertools
import math

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.fewer_calls import (
    CONVERGENCE,
    calls_of_share,
    convergence_for,
    fixed_calls,
    level_grid,
    sample_fewer_calls,
)
from sv_core.sampler_levels import find_levels
from sv_core.sampling import adaptive_calls, listed_calls, sample_forecast
from sv_core.schedules import shift, uniform_grid
from sv_core.solvers import adams_bashforth_2
from sv_core.velocity_record import DATA, EXPLODING_VELOCITY, VELOCITY
from tests.held_tensors import Held
from tests.sv_core import plain_samplers as plain
from tests.sv_core.exact_flows import GRID, Points

DETERMINISTIC = (plain.euler, plain.heun, plain.midpoint, plain.two_step, plain.writes_into_x,
                 plain.writes_into_sigmas, plain.out_of_order, plain.with_a_norm)  # fmt: skip
ALL = (*DETERMINISTIC, plain.ancestral)
FLOW = Points(12, 16, std=0.3)
NOISE = FLOW.noise(6)


class Network:
    """The exact denoiser of ``FLOW``; counts its calls."""

    def __init__(self):
        self.levels = []

    def __call__(self, x, sigma):
        s = sigma.flatten()[0]
        self.levels.append(float(s))
        return x - s * FLOW.velocity(x, s)


def run(sampler, calls=None, *, grid=None, x=NOISE, seed=3, **options):
    """(result, the network): with so many calls, or the sampler by itself for None."""
    network = Network()
    torch.manual_seed(seed)
    grid = GRID.clone() if grid is None else grid
    if calls is None:
        return sampler(network, x.clone(), grid.clone()), network
    levels = find_levels(sampler, x[:, :2], grid)
    quantity = options.get("quantity", VELOCITY)
    times = level_grid(levels, float(grid[-1]), quantity)
    next_call = fixed_calls(levels, times, calls) if isinstance(calls, int) else calls
    made = sample_fewer_calls(sampler, network, x, grid, levels, next_call, **options)
    return made, network


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: s.__name__)
def test_with_every_call_it_is_the_sampler_s_own_result_bit_for_bit(sampler):
    base, network = run(sampler)
    state = torch.get_rng_state()
    made, ours = run(sampler, len(network.levels))
    assert torch.equal(made, base) and ours.levels == network.levels
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: s.__name__)
def test_a_share_of_half_is_nearer_than_steps_of_as_many_calls(sampler):
    base, network = run(sampler)
    state = torch.get_rng_state()
    calls = calls_of_share(len(find_levels(sampler, NOISE, GRID).sigmas))
    made, ours = run(sampler, calls)
    assert len(ours.levels) == len(set(ours.levels)) == calls
    assert torch.equal(torch.get_rng_state(), state), "the random state ends elsewhere"
    if sampler is plain.ancestral:  # other steps draw other noise: nothing to compare with
        assert FLOW.decibels(made, base) > 20
        return
    steps = calls * 30 // len(network.levels)
    fewer, _ = run(sampler, grid=shift(uniform_grid(steps), 3.0))
    # Of order 2 with a call in the middle of every step: on so smooth a flow nothing is to be won.
    margin = -3 if sampler is plain.midpoint else 6
    assert FLOW.decibels(made, base) > FLOW.decibels(fewer, base) + margin


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=lambda s: s.__name__)
def test_a_velocity_that_is_a_line_in_time_needs_two_calls(sampler):
    """v = a + b t, whatever x: forecasts are exact, so is every sampler."""
    a, b = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def network(x, sigma):
        s = sigma.flatten()[0]
        return x - s * (a + b * s)

    torch.manual_seed(3)
    base = sampler(network, NOISE.clone(), GRID.clone())
    levels = find_levels(sampler, NOISE, GRID)
    torch.manual_seed(3)
    nodes = listed_calls([0, 4], len(levels.sigmas))
    made = sample_fewer_calls(sampler, network, NOISE, GRID.clone(), levels, nodes, convergence=0)
    assert torch.allclose(made, base, atol=1e-10)


def test_euler_and_ab2_agree_with_the_solvers_own_forecast():
    """The other implementation of the same method, which steps without running the sampler."""
    nodes = [0, 2, 5, 9, 12, 16, 20, 25, 28]
    for sampler, options in ((plain.euler, {}), (plain.two_step, {"solver": adams_bashforth_2})):
        made, _ = run(sampler, listed_calls(nodes, 30), convergence=0)
        other = sample_forecast(FLOW.velocity, NOISE, GRID, nodes=nodes, **options)
        assert torch.allclose(made, other, atol=1e-10), sampler.__name__


def test_replay_raises_the_order():
    """Calls at every second level of ever finer grids: order 3 of the block error, not 2."""

    def errors(convergence):
        found = []
        for steps in (40, 80, 160):
            grid = torch.linspace(0.9, 0.3, steps + 1, dtype=torch.float64)
            nodes = listed_calls([0, *range(1, steps, 2)], steps)
            base, _ = run(plain.euler, grid=grid)
            made, _ = run(plain.euler, nodes, grid=grid, convergence=convergence)
            found.append(float((made - base).norm()))
        return [math.log2(a / b) for a, b in itertools.pairwise(found)]

    assert all(order > 1.7 for order in errors(None))
    assert all(order > 2.7 for order in errors(CONVERGENCE))


def test_adaptive_calls_follow_the_tolerance():
    def calls(tolerance):
        made, network = run(plain.euler, adaptive_calls(GRID.tolist(), tolerance))
        return FLOW.decibels(made, run(plain.euler)[0]), len(network.levels)

    (near, many), (far, few) = calls(0.003), calls(0.1)
    assert near > far and few < many < 30


def test_data_is_forecast_where_it_is_asked_for():
    """A point as the data: x0_hat never changes, so one forecast of it is exact, noise or not."""

    def network(x, sigma):
        return torch.full_like(x, 0.25)

    levels = find_levels(plain.ancestral, NOISE, GRID)
    nodes = listed_calls([0, 3], 30)
    made = sample_fewer_calls(
        plain.ancestral, network, NOISE, GRID.clone(), levels, nodes, quantity=DATA
    )
    assert torch.allclose(made, torch.full_like(NOISE, 0.25), atol=1e-12)


def test_the_exploding_form_takes_the_same_steps_as_the_linear_one():
    """In y = (1 + sigma) x every call sees the same velocity at the same time."""
    grid = GRID[1:]  # sigma = t / (1 - t) must be finite
    exploding = grid / (1 - grid)
    nodes = listed_calls([0, 4, 9, 13, 17, 21, 25, 27], 29)

    def network(y, sigma):
        s = sigma.flatten()[0]
        t = s / (1 + s)
        x = y / (1 + s)
        return x - t * FLOW.velocity(x, t)

    def in_linear_time(denoise, y, sigmas):
        for s, r in itertools.pairwise(sigmas):
            d = denoise(y, s.expand(len(y)))
            t, q = s / (1 + s), r / (1 + r)
            x = y / (1 + s)
            y = (x + (q - t) * (x - d) / t) * (1 + r)
        return y

    levels = find_levels(in_linear_time, NOISE, exploding)
    made = sample_fewer_calls(
        in_linear_time, network, NOISE / (1 - grid[0]), exploding, levels, nodes,
        quantity=EXPLODING_VELOCITY,
    )  # fmt: skip
    assert torch.allclose(made, run(plain.euler, nodes, grid=grid)[0], atol=1e-10)


def test_what_a_sampler_writes_into_its_sigmas_reaches_the_caller():
    """The host's uni_pc lowers the last one, and the host then scales its result by it."""
    for calls in (10, 30):
        grid = GRID.clone()
        run(plain.writes_into_sigmas, calls, grid=grid)
        assert grid[-1] == 0.001 and torch.equal(grid[:-1], GRID[:-1])


def test_convergence_grows_with_guidance_and_stays_below_one():
    found = [convergence_for(g) for g in (0.0, 1.0, 2.0, 4.0, 6.0, 100.0)]
    assert found == sorted(found) and found[0] == found[1] == 0.15 and found[-1] == 0.75
    assert convergence_for(2.0) == CONVERGENCE


def test_shares_and_numbers_of_calls():
    twice = find_levels(plain.heun, NOISE, GRID)
    assert [calls_of_share(30, s) for s in (0.01, 0.5, 0.99, 1.0)] == [2, 15, 30, 30]
    for share in (0.0, 1.1, -1.0, math.nan):
        with pytest.raises(InvalidInput, match="share of calls must be above 0"):
            calls_of_share(30, share)
    times = level_grid(twice, 0.0)
    assert fixed_calls(twice, times, 59) is None
    assert fixed_calls(twice, times, 58) is not None


def test_reports_are_of_the_calls_alone_and_errors_pass_through():
    seen = []
    run(plain.heun, 12, report=lambda node, x, d, s: seen.append((node, s)))
    assert len(seen) == 12 and [s for _, s in seen] == [float(GRID[k]) for k, _ in seen]

    def stop(node, x, d, s):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plain.euler, 12, report=stop)


def held(sampler, calls, steps=40):
    """The most that a run holds beside its start, over a network that needs one tensor."""
    x, grid = torch.randn(1, 65536), shift(uniform_grid(steps), 3.0).float()
    levels = find_levels(sampler, x[:, :2], grid)
    nodes = fixed_calls(levels, level_grid(levels, 0.0), calls)
    with Held(x.nbytes) as count:
        sample_fewer_calls(sampler, lambda x, s: x * 0.5, x, grid, levels, nodes)
    return count.most


def test_memory_is_bounded():
    for sampler, most in ((plain.euler, 5), (plain.two_step, 6), (plain.heun, 7)):
        assert max(held(sampler, calls) for calls in (10, 20, 35)) <= most, sampler.__name__
    assert max(held(plain.ancestral, calls) for calls in (10, 20)) <= 8
    for calls in (10, 20):  # one value for every call, and what the sampler itself holds
        assert calls <= held(plain.with_a_norm, calls) <= calls + 8


def test_of_several_latents_in_one_row_the_worst_decides():
    """Sound beside a picture a hundred times its size: judged together it would not be heard."""
    still, loud = torch.full((2, 400), 3.0), torch.ones(2, 4)

    def network(x, sigma):
        s = sigma.flatten()[0]
        wave = torch.sin(9 * s) * loud[:, : x.shape[1]]
        v = wave if x.shape[1] == 4 else torch.cat([still, wave], 1)
        return x - s * v

    def calls(size, parts):
        x, grid = torch.randn(2, size), GRID.float()
        levels, nodes = find_levels(plain.euler, x, grid), []
        sample_fewer_calls(
            plain.euler, network, x, grid, levels, adaptive_calls(GRID.tolist(), 0.02, parts),
            report=lambda node, x, d, s: nodes.append(node),
        )  # fmt: skip
        return nodes

    alone = calls(4, ())
    assert calls(404, (400, 4)) == alone
    assert len(calls(404, ())) < len(alone)


def test_a_sampler_that_asks_ahead_of_the_next_call_goes_on_with_the_list():
    """A stage may lie beyond the node that is due (RES4LYF's res_6s): it is called there."""
    count = len(GRID) - 1
    made, network = run(plain.out_of_order, listed_calls([0, 1, *range(6, count, 3)], count))
    base, own = run(plain.out_of_order)
    assert len(network.levels) < len(own.levels) / 2
    assert FLOW.decibels(made, base) > 20
