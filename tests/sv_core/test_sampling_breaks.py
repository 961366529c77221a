"""How forecasts break, and what keeps them from it."""

import pytest
import torch

from sv_core.call_rules import call_nodes
from sv_core.sampling import sample_euler, sample_forecast
from sv_core.schedules import shift, uniform_grid
from tests.sv_core.exact_flows import GRID, Points


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
