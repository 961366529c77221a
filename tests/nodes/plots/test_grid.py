"""The picture of a time grid is read back from its pixels."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from sv_core.schedules import regime_split, shift, uniform_grid
from tests.nodes.host_free import host_free

colours, grid = host_free("plots.colours"), host_free("plots.grid")
NATIVE = shift(uniform_grid(30), 3.0)
USED = regime_split(NATIVE, 0.85, 9)


def pixels(plot: torch.Tensor, colour: str) -> np.ndarray:
    """Where the plot has exactly this colour, inside the axes; the first dot overlaps the left."""
    wanted = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    mask = ((plot * 255).round() == wanted).all(-1)
    mask[grid.BOTTOM + 10 :] = False
    mask[:, grid.RIGHT :] = False
    return mask.numpy()


def read_nodes(plot: torch.Tensor, colour: str, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """(calls so far, sigma) of every mark of one colour, from the marks' centres."""
    labels, count = ndimage.label(pixels(plot, colour), np.ones((3, 3)))
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, count + 1))) + 0.5
    centres = centres[np.argsort(centres[:, 1])]
    call = (centres[:, 1] - grid.LEFT) / (grid.RIGHT - grid.LEFT) * calls
    return call, 1 - (centres[:, 0] - grid.TOP) / (grid.BOTTOM - grid.TOP)


def test_used_nodes_can_be_read_off_the_plot():
    plot = grid.plot_grids(NATIVE, USED, 0.85, 0.0)
    call, sigma = read_nodes(plot, colours.USED, 30)
    assert np.abs(call - np.arange(20)).max() < 1 / 25.6  # a pixel
    assert np.abs(sigma - USED[:-1].numpy()).max() < 1 / 484


def test_native_nodes_can_be_read_off_the_plot():
    two = NATIVE[[0, -1]]  # so that no dot covers a ring
    plot = grid.plot_grids(NATIVE, two, 0.85, 0.0)
    call, sigma = read_nodes(plot, colours.NATIVE, 30)
    assert np.abs(call - np.arange(30)).max() < 1 / 25.6
    assert np.abs(sigma - NATIVE[:-1].numpy()).max() < 1 / 484


@pytest.mark.parametrize("split, boundary", [(0.85, 0.0), (0.6, 0.875), (0.85, 0.9)])
def test_split_and_boundary_lie_where_they_should(split, boundary):
    plot = grid.plot_grids(NATIVE, USED, split, boundary)
    for colour, level in ((colours.SPLIT, split), (colours.BOUNDARY, boundary)):
        rows = np.flatnonzero(pixels(plot, colour).sum(1) > 300)
        if level:
            sigma = 1 - (rows.mean() + 0.5 - grid.TOP) / (grid.BOTTOM - grid.TOP)
            assert abs(sigma - level) < 1 / 484
        else:
            assert len(rows) == 0


def test_counts_are_the_papers():
    assert grid.count_calls(NATIVE, 0.85, 0.0) == {"high-variance": 11, "low-variance": 19}
    assert grid.count_calls(USED, 0.85, 0.0) == {"high-variance": 11, "low-variance": 9}


def test_at_the_boundary_the_low_noise_expert_takes_over():
    ts = torch.tensor([1.0, 0.95, 0.875, 0.5, 0.0])
    calls = grid.count_calls(ts, 0.85, 0.875)
    assert (calls["high-noise expert"], calls["low-noise expert"]) == (2, 2)
    assert (calls["high-variance"], calls["low-variance"]) == (3, 1)


@pytest.mark.parametrize("end", range(2, 31))
@pytest.mark.parametrize("start", [0, 9, 20])
def test_counts_add_up_on_parts_of_a_grid(start, end):
    if start + 1 < end:
        part = NATIVE[start:end]
        calls = grid.count_calls(part, 0.85, 0.9)
        assert min(calls.values()) >= 0
        assert calls["high-variance"] + calls["low-variance"] == len(part) - 1
        assert calls["high-noise expert"] + calls["low-noise expert"] == len(part) - 1


def test_the_saving_is_said_in_words():
    assert grid.describe_grids(NATIVE, USED, 0.85, 0.0).splitlines() == [
        "20 model calls in place of 30: 10 saved",
        "high-variance: 11 of 11 calls",
        "low-variance: 9 of 19 calls",
    ]
    steep = shift(uniform_grid(30), 12.0)
    same = regime_split(steep, 0.85, 9)
    assert "nothing saved" in grid.describe_grids(steep, same, 0.85, 0.0)
    assert "10 more" in grid.describe_grids(USED, NATIVE, 0.85, 0.0)
