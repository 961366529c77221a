"""A run by weights is the run of the sampler's function, with few tensors."""

import pytest
import torch

import sv_core.fewer_calls
from sv_core.fewer_calls import fixed_calls, level_grid, sample_fewer_calls
from sv_core.sampler_levels import find_levels
from sv_core.sampling import adaptive_calls, listed_calls
from sv_core.velocity_record import DATA, VELOCITY
from sv_core.weighted_run import Span, independent
from tests.sv_core import plain_samplers as plain
from tests.sv_core.exact_flows import GRID, Points

FLOW = Points(12, 16, std=0.3)
NOISE = FLOW.noise(6)


def network(x, sigma):
    return x - sigma[0] * FLOW.velocity(x, sigma[0])


def both(sampler, next_call, **options):
    """(by weights, by the sampler's function)."""
    levels = find_levels(sampler, NOISE[:, :3], GRID)
    assert levels.weights is not None
    made = []
    for found in (levels, levels._replace(weights=None)):
        torch.manual_seed(3)
        grid = GRID.clone()
        x = sample_fewer_calls(sampler, network, NOISE, grid, found, next_call(found), **options)
        made.append((x, grid, torch.get_rng_state()))
    return made


@pytest.mark.parametrize(
    "sampler",
    (plain.euler, plain.midpoint, plain.two_step, plain.writes_into_x, plain.writes_into_sigmas),
    ids=lambda s: s.__name__,
)
@pytest.mark.parametrize("convergence", (None, 0.0))
def test_it_is_the_run_of_the_function(sampler, convergence):
    """Where a call keeps its velocity both do the same; else they differ in what comes first."""

    def next_call(levels):
        return fixed_calls(levels, level_grid(levels, 0.0), 12)

    ours, theirs = both(sampler, next_call, convergence=convergence)
    assert torch.allclose(ours[0], theirs[0], atol=1e-9)
    assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])


def test_adaptive_calls_see_the_same_velocities():
    ours, theirs = both(
        plain.euler, lambda levels: adaptive_calls(GRID.tolist(), 0.02), convergence=0.0
    )
    assert torch.allclose(ours[0], theirs[0], atol=1e-9)


def test_what_is_drawn_is_not_taken_for_a_change_of_the_flow():
    """Noise on the way changes v at once; a forecast that knows of it is nearer."""
    levels = find_levels(plain.ancestral, NOISE[:, :3], GRID)

    def errors(weights, quantity):
        nodes = listed_calls([*range(0, 28, 2), 28, 29], 30)
        torch.manual_seed(3)
        base = plain.ancestral(network, NOISE.clone(), GRID.clone())
        torch.manual_seed(3)
        made = sample_fewer_calls(
            plain.ancestral, network, NOISE, GRID.clone(), levels._replace(weights=weights), nodes,
            quantity=quantity,
        )  # fmt: skip
        return FLOW.decibels(made, base)

    ours = errors(levels.weights, VELOCITY)
    assert ours > max(errors(None, VELOCITY), errors(None, DATA)) + 1


def test_independent_rows_are_found_and_explain_the_others():
    generator = torch.Generator().manual_seed(2)
    few = torch.randn(3, 9, dtype=torch.float64, generator=generator)
    rows = torch.randn(7, 3, dtype=torch.float64, generator=generator) @ few
    pivots, reduced = independent(rows, 1e-12)
    assert len(pivots) == 3 and torch.allclose(rows[:, pivots] @ reduced, rows)
    assert torch.equal(reduced[:, pivots], torch.eye(3, dtype=torch.float64))
    noisy = rows + 1e-9 * torch.randn(7, 9, dtype=torch.float64, generator=generator)
    assert len(independent(noisy, 1e-6)[0]) == 3
    assert independent(torch.zeros(2, 4, dtype=torch.float64), 1e-6)[0] == []


def test_a_span_keeps_what_is_needed_and_leaves_foreign_tensors_alone():
    generator = torch.Generator().manual_seed(2)
    given = [torch.randn(4, generator=generator) for _ in range(4)]
    before = [x.clone() for x in given]
    span = Span(given[0], 6)
    units = [span.unit(0), *(span.add(x) for x in given[1:])]
    wanted = torch.stack([units[0] + 2 * units[1] - units[3], units[2] - units[0]])
    expected = [span.made(row) for row in wanted]
    for _ in range(2):
        wanted = span.reduce(wanted)(wanted)
        assert len(span) == 2
        for row, x in zip(wanted, expected, strict=True):
            assert torch.allclose(span.made(row), x, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_the_network_may_write_into_what_it_is_given():
    def careless(x, sigma):
        made = network(x, sigma)
        x.zero_()
        return made

    levels = find_levels(plain.two_step, NOISE[:, :3], GRID)
    nodes, start = listed_calls([0, 4, 9, 15, 22, 28], 30), NOISE.clone()
    results = [
        sample_fewer_calls(plain.two_step, n, start, GRID.clone(), levels, nodes)
        for n in (network, careless)
    ]
    assert torch.equal(start, NOISE)
    assert torch.allclose(*results, atol=1e-9)
    assert sv_core.fewer_calls.CONVERGENCE > 0
