"""sample_forecast and sample_ode: the base solver's laws, the rules' lists, and how they break."""

import gc
import itertools
import math

import pytest
import torch

from sv_core.calls import call_nodes
from sv_core.interpolant import COSINE, LINEAR
from sv_core.sampling import sample_euler, sample_forecast, sample_ode, sample_stable
from sv_core.schedules import ode_grid, shift, uniform_grid
from sv_core.solvers import SOLVERS, State, lagrange_weights

GRID = shift(uniform_grid(30), 3.0)
"""The 30-step grid of shift 3."""
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def gaussian(interpolant, mean=0.7, std=0.5):
    """Exact velocity of data N(mean, std^2) on any path."""

    def velocity(x, t):
        a, s, da, ds = interpolant.coefficients(t, x)
        slope = (a * da * std**2 + s * ds) / (a**2 * std**2 + s**2)
        return da * mean + slope * (x - a * mean)

    return velocity


class Points:
    """Data: equal narrow Gaussians around random points; the nearest point is the mode."""

    def __init__(self, count, size, std, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.means = torch.randn(count, size, generator=g, dtype=torch.float64)
        self.std = std
        self.spread = (1 + std**2) ** 0.5
        self.generator = g

    def velocity(self, x, t):
        a = 1 - t
        variance = a**2 * self.std**2 + t**2
        logits = (a * x @ self.means.T - 0.5 * a**2 * self.means.square().sum(1)) / variance
        mean = logits.softmax(1) @ self.means
        return (t - a * self.std**2) / variance * (x - a * mean) - mean

    def noise(self, batch):
        shape = (batch, self.means.shape[1])
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def modes(self, x):
        return torch.cdist(x, self.means).argmin(1)

    def decibels(self, x, target):
        """Mean over samples of -20 log10(RMSE / std of the data)."""
        rmse = (x - target).square().mean(1).sqrt()
        return float(-20 * (rmse / self.spread).log10().mean())


def called(sampler, *args, **kwargs):
    """(result, nodes of the real calls)."""
    nodes = []
    x = sampler(*args, callback=lambda k, x, v, t: nodes.append(k), **kwargs)
    return x, nodes


def assert_calls(nodes, steps):
    assert nodes[0] == 0 and nodes[-1] < steps
    assert all(a < b for a, b in itertools.pairwise(nodes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calls": 1}, "calls must be at least 2, got 1"),
        ({"rule": "dense"}, "unknown rule 'dense'"),
        ({"rule": "guarded", "calls": 8}, "guarded rule needs at least 9 calls on this grid"),
        ({"nodes": [0, 5, 30]}, "stay below 30"),
        ({"nodes": [1, 5]}, "ascend from 0"),
        ({"nodes": [0, 5, 5]}, "ascend from 0"),
        ({"nodes": []}, "ascend from 0"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
    ],
)
def test_bad_input_is_refused_in_words_before_any_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_forecast(lambda x, t: pytest.fail("called"), torch.zeros(1, 2), GRID, **arguments)


# The sampler -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 7), (1, 4, 2, 3, 5), (1, 2, 2, 1, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_rank_and_the_input_dtype_returned(shape, dtype, generator):
    x = torch.randn(shape, generator=generator).to(dtype)
    flat = x.reshape(-1, 1)
    velocity = gaussian(LINEAR)
    seen = set()
    for arguments in ({"calls": 8}, {"nodes": [0, 3, 9, 29]}):
        y = sample_forecast(
            velocity, x, GRID, **arguments, callback=lambda k, x, v, t: seen.add(x.dtype)
        )
        assert y.dtype == dtype and y.shape == x.shape
        same = sample_forecast(velocity, flat, GRID, **arguments)
        assert torch.equal(y.reshape(-1), same.reshape(-1))
    assert sample_ode(velocity, x, GRID).dtype == dtype
    assert seen == {torch.promote_types(dtype, torch.float32)}


def test_a_low_precision_network_does_not_lower_the_sampler():
    """The velocity may come in bfloat16; the state stays float32."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    velocity = gaussian(LINEAR)
    exact = sample_forecast(velocity, x, GRID)
    rounded = sample_forecast(lambda x, t: velocity(x, t).bfloat16(), x, GRID)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 5e-3


@solvers
@pytest.mark.parametrize(
    "arguments", [{"calls": 9}, {"tolerance": 0.02}], ids=["fixed", "adaptive"]
)
def test_deterministic_and_leaves_its_input_alone(solver, arguments):
    flow = Points(5, 6, 0.2)
    x = flow.noise(4)
    kept = x.clone()
    ts = GRID.clone()
    first = sample_forecast(flow.velocity, x, ts, solver=solver, **arguments)
    assert torch.equal(first, sample_forecast(flow.velocity, x, ts, solver=solver, **arguments))
    assert torch.equal(x, kept) and torch.equal(ts, GRID)


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


def test_the_callback_sees_real_calls_only_and_their_list_can_be_replayed():
    flow = Points(5, 6, 0.2)
    x = flow.noise(4)
    count = 0

    def counted(x, t):
        nonlocal count
        count += 1
        return flow.velocity(x, t)

    seen = []
    adaptive = sample_forecast(
        counted, x, GRID, tolerance=0.02, callback=lambda k, x, v, t: seen.append((k, x, v, t))
    )
    assert len(seen) == count < 20
    for k, state, v, t in seen:
        assert t == GRID[k] and torch.equal(v, flow.velocity(state, t))
    replayed = sample_forecast(flow.velocity, x, GRID, nodes=[k for k, *_ in seen])
    assert torch.equal(replayed, adaptive)


def live_tensors(shape):
    """Tensors of this shape that Python still holds, each memory counted once."""
    found = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == shape]
    return len({o.data_ptr() for o in found})


@pytest.mark.parametrize("solver", [SOLVERS["euler"], SOLVERS["unipc"]], ids=["euler", "unipc"])
def test_at_most_five_tensors_beyond_the_base_solver(solver):
    x = torch.randn(3, 1237, generator=torch.Generator().manual_seed(0))

    def most(nodes, watched):
        alive = []

        def velocity(y, t):
            if t in GRID[watched].to(y):
                alive.append(live_tensors(x.shape))
            return gaussian(LINEAR)(y, t)

        sample_forecast(velocity, x, GRID, solver=solver, nodes=nodes)
        assert len(alive) == len(watched)
        return max(alive)

    # In the middle of the run, where every history is full.
    assert most([0, 4, 8, 13, 18, 25], [13, 18]) <= most(range(30), [15]) + 5


# Adaptive ----------------------------------------------------------------------------------------


def test_adaptive_spends_calls_with_the_tolerance():
    flow = Points(8, 16, 0.3)
    x = flow.noise(32)
    base = sample_euler(flow.velocity, x, GRID)
    results = [
        called(sample_forecast, flow.velocity, x, GRID, tolerance=t) for t in (0.1, 0.01, 1e-4)
    ]
    counts = [len(nodes) for _, nodes in results]
    near = [flow.decibels(y, base) for y, _ in results]
    assert counts == sorted(counts) and counts[0] < counts[-1] < 30
    assert near == sorted(near)


def test_adaptive_keeps_its_guards_whatever_the_tolerance():
    flow = Points(8, 16, 0.3)
    for factor in (1.0, 3.0, 8.0):
        ts = shift(uniform_grid(40), factor)
        _, nodes = called(sample_forecast, flow.velocity, flow.noise(4), ts, tolerance=1e9)
        blocks = [b - a for a, b in itertools.pairwise(nodes)]
        assert blocks[:2] == [1, 1] and max(blocks) <= 6
        assert all(b <= 2 * a for a, b in itertools.pairwise(blocks))
        for k, m in zip(nodes, blocks, strict=False):
            assert m <= 2 or ts[k] < 0.85
            assert m == 1 or ts[k + m] >= 0.3 or ts[k + m] >= ts[k] / 2
        assert ts[nodes[-1]] <= 0.12 or nodes[-1] == 39


def test_the_error_is_measured_per_sample_and_the_batch_mean_decides():
    """A sample's own scale does not count; what its neighbours need does."""
    flow = Points(8, 16, 0.1)
    x = flow.noise(6)

    def nodes(velocity, x):
        return called(sample_forecast, velocity, x, GRID, tolerance=0.01)[1]

    # Six samples of a straight flow, one of them a thousand times larger: no sample bends.
    size = torch.tensor([1.0, 1, 1, 1, 1, 1000.0], dtype=torch.float64)[:, None]
    straight = nodes(lambda x, t: size * torch.ones_like(x), x)
    mixed = nodes(lambda y, t: torch.where(size > 1, size, flow.velocity(y, t)), x)
    curved = nodes(flow.velocity, x)
    assert len(straight) < len(mixed) <= len(curved)


# sample_ode --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolant", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_ode_has_order_three(interpolant):
    mean, std = 0.7, 0.5
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    error = []
    for steps in (80, 160, 320):
        x = sample_ode(gaussian(interpolant), z, uniform_grid(steps), interpolant=interpolant)
        error.append(float((x - (mean + std * z)).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(error)]
    assert orders[-1] == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("steps", [1, 2, 12, 60])
def test_the_grid_for_the_ode_is_a_grid_and_dense_at_both_ends(steps):
    ts = ode_grid(steps)
    assert len(ts) == steps + 1 and ts[0] == 1 and ts[-1] == 0
    assert (ts.diff() < 0).all()
    if steps >= 12:
        size = -ts.diff()
        assert max(size[0], size[-1]) < size.mean()


def test_ode_is_nearer_to_the_truth_than_thirty_euler_steps():
    flow = Points(8, 16, 0.3)
    x = flow.noise(32)
    truth = sample_ode(flow.velocity, x, shift(uniform_grid(600), 2.0))
    twelve, made = called(sample_ode, flow.velocity, x, ode_grid(12))
    assert made == list(range(12))
    thirty = sample_euler(flow.velocity, x, GRID)
    assert flow.decibels(twelve, truth) > flow.decibels(thirty, truth) + 3


# How it breaks -----------------------------------------------------------------------------------


def test_skipping_early_nodes_flips_modes_and_the_guards_do_not():
    flow = Points(48, 4096, 0.5)
    x = flow.noise(96)
    base = sample_euler(flow.velocity, x, GRID)

    def flips(**arguments):
        y = sample_forecast(flow.velocity, x, GRID, **arguments)
        return int((flow.modes(y) != flow.modes(base)).sum())

    unguarded = [0, 5, 10, 11, 13, 15, 17, 19, 21, 23, 25, 27, 28, 29]
    assert flips(nodes=unguarded) >= 2
    assert flips(calls=14, rule="guarded") == flips(rule="safe") == 0


def test_without_a_call_at_the_end_the_details_are_lost():
    """The terminal regime cannot be foreseen: same calls, but the last one at t = 0.375."""
    flow = Points(16, 64, 0.05)
    x = flow.noise(64)
    base = sample_euler(flow.velocity, x, GRID)
    kept, lost = (
        flow.decibels(sample_forecast(flow.velocity, x, GRID, nodes=nodes), base)
        for nodes in (
            call_nodes(GRID.tolist(), 14),
            [0, 3, 6, 9, 11, 14, 16, 18, 20, 21, 22, 23, 24, 25],
        )
    )
    assert lost < kept - 25


def test_long_last_blocks_are_worse_than_plain_euler():
    """11 early calls and 3 low ones, the rest extrapolated: not worth having."""
    flow = Points(16, 64, 0.05)
    x = flow.noise(64)
    base = sample_euler(flow.velocity, x, GRID)
    bad = sample_forecast(flow.velocity, x, GRID, nodes=[*range(11), 14, 20, 25])
    thin = sample_euler(flow.velocity, x, shift(uniform_grid(14), 3.0))
    assert flow.decibels(bad, base) < flow.decibels(thin, base)


@pytest.mark.parametrize("level", [0.01, 0.03])
def test_noise_in_the_velocity_is_not_amplified(level):
    """An imperfect network costs the forecast little more than it costs all thirty steps."""
    flow = Points(16, 256, 0.05)
    x = flow.noise(64)
    base = sample_euler(flow.velocity, x, GRID)

    def noisy(y, t):
        v = flow.velocity(y, t)
        noise = torch.randn(v.shape, generator=flow.generator, dtype=v.dtype)
        return v + level * v.square().mean().sqrt() * noise

    ours = flow.decibels(sample_forecast(noisy, x, GRID), base)
    full = flow.decibels(sample_euler(noisy, x, GRID), base)
    assert ours > full - 3
