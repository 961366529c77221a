"""sample_forecast that chooses its calls itself, by a tolerance."""

import itertools

import torch

from sv_core.sampling import sample_euler, sample_forecast
from sv_core.schedules import shift, uniform_grid
from tests.sv_core.exact_flows import GRID, Points, called


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
