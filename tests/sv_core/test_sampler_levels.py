"""What a run without the network tells of a sampler."""

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.sampler_levels import find_levels, same_randomness_after
from tests.sv_core import plain_samplers as plain
from tests.sv_core.exact_flows import GRID

X = torch.arange(6, dtype=GRID.dtype).view(2, 3)
STEPS = len(GRID) - 1


def test_one_level_a_step_and_whether_the_sampler_adds_up():
    for sampler, adds_up in (
        (plain.euler, True),
        (plain.two_step, True),
        (plain.ancestral, True),
        (plain.writes_into_x, True),
        (plain.writes_into_sigmas, True),
        (plain.with_a_norm, False),
    ):
        levels = find_levels(sampler, X, GRID)
        assert levels.sigmas == tuple(GRID[:-1].tolist())
        assert levels.visits == tuple(range(STEPS))
        assert (levels.weights is not None) is adds_up, sampler.__name__


def test_stages_off_the_grid_twice_on_it_and_out_of_order_become_visible():
    twice = find_levels(plain.heun, X, GRID)
    assert len(twice.sigmas) == STEPS and len(twice.visits) == 2 * STEPS - 1
    assert twice.visits[:5] == (0, 1, 1, 2, 2)
    off = find_levels(plain.midpoint, X, GRID)
    assert len(off.sigmas) == 2 * STEPS and off.visits == tuple(range(2 * STEPS))
    assert find_levels(plain.out_of_order, X, GRID).visits[:5] == (0, 2, 1, 3, 2)


def test_levels_that_differ_by_rounding_are_one():
    def in_logarithms(denoise, x, sigmas):
        return plain.heun(lambda x, s: denoise(x, s.log().exp()), x, sigmas)

    grid = GRID.float()
    levels = find_levels(in_logarithms, X.float(), grid)
    assert len(levels.sigmas) == STEPS
    assert all(levels.node(float(s)) == k for k, s in enumerate(grid[:-1]))
    assert levels.node(0.123456) is None and levels.node(2.0) is None


def test_neither_x_nor_sigmas_nor_the_random_state_change():
    x, grid = X.clone(), GRID.clone()
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    for sampler in (plain.ancestral, plain.writes_into_x, plain.writes_into_sigmas):
        find_levels(sampler, x, grid)
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(x, X) and torch.equal(grid, GRID)
    torch.manual_seed(5)
    with pytest.raises(KeyError), same_randomness_after(X.device):
        torch.randn(9)
        raise KeyError
    assert torch.equal(torch.randn(3), expected)


def test_a_sampler_that_cannot_be_followed_is_refused_with_the_reason():
    with pytest.raises(InvalidInput, match="chooses its own noise levels"):
        find_levels(plain.self_willed, X, GRID)

    def endless(denoise, x, sigmas):
        while True:
            denoise(x, sigmas[:1])

    with pytest.raises(InvalidInput, match="chooses its own noise levels"):
        find_levels(endless, X, GRID)

    def at_the_end(denoise, x, sigmas):
        return denoise(x, sigmas[-1:])

    with pytest.raises(InvalidInput, match="no noise left"):
        find_levels(at_the_end, X, GRID)
