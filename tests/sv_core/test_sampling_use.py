"""sample_forecast as its callers meet it: input, dtypes, callbacks, memory."""

import gc

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.interpolant import LINEAR
from sv_core.sampling import sample_forecast, sample_ode
from sv_core.solvers import SOLVERS
from tests.sv_core.exact_flows import GRID, Points, gaussian

solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


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
    with pytest.raises(InvalidInput, match=message):
        sample_forecast(lambda x, t: pytest.fail("called"), torch.zeros(1, 2), GRID, **arguments)


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
