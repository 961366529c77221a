"""sample_forecast: the base solver's laws, and how near it stays."""

import itertools

import pytest
import torch

from sv_core.call_rules import call_nodes
from sv_core.interpolant import COSINE, LINEAR
from sv_core.sampling import sample_euler, sample_forecast, sample_stable
from sv_core.schedules import shift, uniform_grid
from sv_core.solvers import SOLVERS, State, lagrange_weights
from tests.sv_core.exact_flows import GRID, Points, assert_calls, called, gaussian

solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@solvers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_a_call_at_every_node_it_is_the_base_solver_bit_for_bit(solver, dtype, generator):
    velocity = gaussian(LINEAR)
    x = torch.randn(2, 3, 4, 5, generator=generator, dtype=dtype)
    ts = GRID.to(dtype)
    state = State(x)
    for t, r in itertools.pairwise(ts):
        state = solver(state, velocity(state.x, t), float(t), float(r))
    for calls in (30, 31, 100):
        assert torch.equal(sample_forecast(velocity, x, GRID, solver=solver, calls=calls), state.x)
    assert torch.equal(sample_forecast(velocity, x, GRID, solver=solver, nodes=range(30)), state.x)


def test_over_euler_it_is_the_euler_sampler_bit_for_bit(generator):
    x = torch.randn(2, 3, 4, generator=generator)
    velocity = gaussian(LINEAR)
    assert torch.equal(
        sample_forecast(velocity, x, GRID, calls=30), sample_euler(velocity, x, GRID)
    )


def by_the_book(velocity, x, ts, nodes, solver):
    """The method's published pseudo code, nothing shared and nothing saved."""
    times, n = ts.tolist(), len(ts) - 1

    def line(known, i):
        weights = lagrange_weights([times[k] for k, _ in known], times[i])
        return sum(w * v for w, (_, v) in zip(weights, known, strict=True))

    history, state, snapshot, k = [], State(x), None, 0
    while k < n:
        v = velocity(state.x, ts[k])
        if snapshot is not None and k - snapshot[1] > 1:
            state, start = snapshot
            for i in range(start, k):
                u = history[0][1] if i == start else line([(k, v), *history[:2]], i)
                state = solver(state, u, times[i], times[i + 1])
        history = [(k, v), *history[:2]]
        following = next((m for m in nodes if m > k), n)
        snapshot = (state, k)
        for i in range(k, following):
            state = solver(state, v if i == k else line(history[:2], i), times[i], times[i + 1])
        k = following
    return state.x


@solvers
@pytest.mark.parametrize("calls", [2, 5, 10, 14])
def test_it_follows_the_pseudo_code(solver, calls, generator):
    flow = Points(5, 6, 0.2)
    x = flow.noise(4)
    nodes = call_nodes(GRID.tolist(), calls)
    got, made = called(sample_forecast, flow.velocity, x, GRID, solver=solver, calls=calls)
    assert made == nodes
    expected = by_the_book(flow.velocity, x, GRID, nodes, solver)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@solvers
def test_replay_is_exact_for_a_parabola_in_t(solver):
    """Order 3 of the corrector: after two single steps every replayed block is the base's."""

    def velocity(x, t):
        return torch.ones_like(x) * (1 + 2 * t - 3 * t**2)

    x = torch.zeros(1, 3, dtype=torch.float64)
    nodes = [0, 1, 2, 5, 11, 20, 28, 29]
    base = sample_forecast(velocity, x, GRID, solver=solver, calls=30)
    torch.testing.assert_close(
        sample_forecast(velocity, x, GRID, solver=solver, nodes=nodes), base, rtol=0, atol=1e-13
    )


def test_prediction_is_exact_for_a_line_in_t():
    """Order 2 of the predictor, seen where the network is called and in the last block."""
    seen = {}

    def velocity(x, t):
        return torch.ones_like(x) * (1 - 3 * t)

    def keep(k, x, v, t):
        seen[k] = x

    x = torch.zeros(1, 1, dtype=torch.float64)
    forecast = sample_forecast(velocity, x, GRID, nodes=[0, 1, 9, 20], callback=keep)
    base = {}
    end = sample_euler(velocity, x, GRID, callback=lambda k, x, v, t: base.update({k: x}))
    torch.testing.assert_close(forecast, end, rtol=0, atol=1e-14)
    for k, state in seen.items():
        torch.testing.assert_close(state, base[k], rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", ["auto", "density", "early", "guarded", "safe"])
def test_fewer_calls_stay_near_the_base(rule):
    flow = Points(8, 16, 0.3)
    x = flow.noise(32)
    base = sample_euler(flow.velocity, x, GRID)
    thin = sample_euler(flow.velocity, x, shift(uniform_grid(14), 3.0))
    ours = sample_forecast(flow.velocity, x, GRID, calls=14, rule=rule)
    assert flow.decibels(ours, base) > flow.decibels(thin, base) + 8


def test_more_calls_come_nearer():
    flow = Points(8, 16, 0.3)
    x = flow.noise(32)
    base = sample_euler(flow.velocity, x, GRID)
    near = [
        flow.decibels(sample_forecast(flow.velocity, x, GRID, calls=n), base)
        for n in (6, 8, 10, 14, 20)
    ]
    assert near == sorted(near) and near[-1] > near[0] + 25


@solvers
def test_on_another_path_it_is_the_same_flow_in_disguise(solver):
    """y = x / (alpha + sigma) over s = sigma / (alpha + sigma) obeys the linear path's ODE."""
    ts = uniform_grid(30)
    alpha, sigma = COSINE.alpha(ts), COSINE.sigma(ts)
    x = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(4, 2)
    for calls in (8, 30):
        got = sample_forecast(
            gaussian(COSINE), x, ts, solver=solver, calls=calls, interpolant=COSINE
        )
        straight = sample_forecast(
            gaussian(LINEAR), x, sigma / (alpha + sigma), solver=solver, calls=calls
        )
        torch.testing.assert_close(got, straight, rtol=0, atol=1e-12)


def test_over_euler_on_another_path_it_is_the_stable_step():
    ts = uniform_grid(12)
    x = torch.linspace(-2, 2, 8, dtype=torch.float64)
    stable = sample_stable(gaussian(COSINE), x, ts, interpolant=COSINE)
    ours = sample_forecast(gaussian(COSINE), x, ts, calls=12, interpolant=COSINE)
    torch.testing.assert_close(ours, stable, rtol=0, atol=1e-14)


@solvers
def test_a_run_in_two_stages_ends_where_it_should(solver):
    """A grid that stops at t > 0: close to the base on that stage, and no call beyond it."""
    flow = Points(5, 6, 0.3)
    x = flow.noise(16)
    first = GRID[:16]
    base = sample_forecast(flow.velocity, x, first, solver=solver, calls=15)
    for arguments in ({"calls": 8}, {"tolerance": 0.02}):
        got, nodes = called(sample_forecast, flow.velocity, x, first, solver=solver, **arguments)
        assert_calls(nodes, 15)
        assert flow.decibels(got, base) > 40
    middle = sample_forecast(flow.velocity, x, first, calls=15)
    end = sample_forecast(flow.velocity, middle, GRID[15:], calls=15)
    assert torch.equal(end, sample_euler(flow.velocity, x, GRID))
