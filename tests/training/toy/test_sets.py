"""The sets are what they are called, and the distance between them is one."""

import math

import pytest
import torch
from torch import Generator

from training.toy.sets import SETS, sliced_wasserstein


@pytest.mark.parametrize("name", SETS)
def test_sets_are_centred_and_of_unit_size(name, generator):
    x = SETS[name](50_000, generator)
    assert x.mean(0).abs().max() < 0.03
    assert abs(x.var(0).mean() - 1) < 0.03
    again = SETS[name](50_000, Generator().manual_seed(0))
    assert torch.equal(x, again)


def test_checkerboard_leaves_half_of_the_squares_empty(generator):
    x = SETS["checkerboard"](20_000, generator)
    low, high = x.min(0).values, x.max(0).values
    cell = ((x - low) / (high - low) * 4).long().clamp_max(3)
    counts = torch.bincount(cell[:, 0] * 4 + cell[:, 1], minlength=16)
    assert (counts > 2000).sum() == 8
    # Only the rounding of the measured border strays into a neighbour.
    assert counts.sort().values[:8].sum() < 40


@pytest.mark.parametrize(
    ("name", "fold"), [("8 gaussians", 8), ("pinwheel", 5), ("two spirals", 2)]
)
def test_sets_look_the_same_after_their_rotation(name, fold, generator):
    x, y = SETS[name](2 * 20_000, generator).view(2, 20_000, 2)
    angle = torch.tensor(2 * math.pi / fold)
    c, s = angle.cos(), angle.sin()
    turned = x @ torch.stack([torch.stack([c, s]), torch.stack([-s, c])])
    assert sliced_wasserstein(turned, y) < 0.03


def test_distance_of_a_shift_is_two_over_pi(generator):
    x = torch.randn(1000, 2, generator=generator)
    shift = torch.tensor([0.6, -0.8])
    torch.testing.assert_close(
        sliced_wasserstein(x, x + 2 * shift).item(), 4 / math.pi, rtol=1e-3, atol=0
    )
    assert sliced_wasserstein(x, x[torch.randperm(1000, generator=generator)]) == 0


def test_distance_of_two_gaussians(generator):
    """W1 of N(0, 1) and N(0, s^2) is (s - 1) sqrt(2 / pi) along every direction."""
    x, y = torch.randn(2, 40_000, 2, generator=generator)
    distance = sliced_wasserstein(x, 1.5 * y)
    assert abs(distance - 0.5 * math.sqrt(2 / math.pi)) < 0.02
