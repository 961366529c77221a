"""Blocks of solver steps as one linear combination, against the steps themselves."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sv_core.replay import forecast, predict, replay
from sv_core.sampling import sample_forecast
from sv_core.solvers import SOLVERS, State
from tests.sv_core.exact_flows import GRID

TIMES = GRID.tolist()
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def tensors(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 3, 4, generator=g, dtype=torch.float64))


@solvers
@pytest.mark.parametrize("before", [0, 1, 2, 5], ids="{} steps before".format)
@pytest.mark.parametrize("nodes", [(9, 5), (12, 9, 5), (9,)], ids=str)
def test_a_block_is_its_steps(solver, before, nodes):
    """From a state of any history, on the line and on the parabola, to any later node."""
    start = 9
    x, *velocities = tensors(6)
    state = State(x)
    for k, v in zip(range(start - before, start), velocities, strict=False):
        state = solver(state, v, TIMES[k], TIMES[k + 1])
    known = tuple(zip(nodes, tensors(3, seed=1), strict=False))
    for stop in (start + 1, start + 2, start + 6, 30):
        expected = state
        for k in range(start, stop):
            expected = solver(expected, forecast(TIMES, known, k), TIMES[k], TIMES[k + 1])
        found = replay(solver, state, known, TIMES, start, stop)
        assert [t for t, _ in found.past] == [t for t, _ in expected.past]
        for a, b in zip((found, *found.past), (expected, *expected.past), strict=True):
            ours, theirs = (s.x if isinstance(s, State) else s[1] for s in (a, b))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert torch.equal(predict(solver, state, known, TIMES, start, stop), found.x)


def test_the_forecast_is_the_polynomial_through_what_is_known():
    known = tuple((k, torch.full((2,), 1 - TIMES[k] + 3 * TIMES[k] ** 2)) for k in (12, 7, 4))
    for k in (3, 7, 20):
        expected = torch.full((2,), 1 - TIMES[k] + 3 * TIMES[k] ** 2)
        torch.testing.assert_close(forecast(TIMES, known, k), expected, rtol=0, atol=1e-5)


class Passes(TorchDispatchMode):
    """How often an operation made or changed a tensor of that many numbers."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers, self.count = numbers, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        if isinstance(made, torch.Tensor) and made.numel() == self.numbers:
            self.count += not function.is_view
        return made


@pytest.mark.parametrize(
    ("solver", "most"), [("euler", 5), ("ab2", 10), ("dpmpp_2m", 13), ("unipc", 18)]
)
def test_skipped_steps_cost_no_passes_over_the_latent(solver, most):
    """However long the blocks are: so many passes a call, none for the steps between."""
    x = torch.linspace(-1, 1, 1237)
    for nodes in (range(0, 30, 2), range(0, 30, 5), range(0, 30, 15)):
        velocities = itertools.repeat(torch.ones(1237))
        with Passes(1237) as passes:
            sample_forecast(
                lambda x, t, v=velocities: next(v), x, GRID, solver=SOLVERS[solver], nodes=nodes
            )
        assert passes.count <= most * len(nodes), (nodes, passes.count)
