"""The canvas draws where it is told, in the very colour, and antialiased."""

import math

import pytest
import torch

from tests.nodes.host_free import host_free

canvas = host_free("plots.canvas")
INK = "#104080"


def drawn(draw, colour: str = "#000000") -> torch.Tensor:
    """How much of each pixel is white, after drawing in white on black: (h, w)."""
    made = canvas.Canvas(80, 60, colour)
    draw(made)
    return made.tensor()[..., 0]


def test_a_box_fills_its_pixels_with_its_colour():
    made = canvas.Canvas(80, 60, "#ffffff")
    made.box(10, 20, 30, 40, INK)
    picture = made.tensor()
    exact = torch.tensor([0x10, 0x40, 0x80]) / 255
    assert picture.shape == (60, 80, 3)
    assert torch.equal(picture[20:40, 10:30], exact.expand(20, 20, 3))
    picture[20:41, 10:31] = 1
    assert (picture == 1).all()


@pytest.mark.parametrize("radius", [4, 9.5, 20])
def test_a_dot_has_the_area_and_the_place_of_its_disc(radius):
    share = drawn(lambda c: c.dot(40, 30, radius, "#ffffff", None))
    assert float(share.sum()) == pytest.approx(math.pi * radius**2, rel=0.1)
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    assert float((share * rows).sum() / share.sum()) + 0.5 == pytest.approx(30, abs=0.4)
    assert float((share * columns).sum() / share.sum()) + 0.5 == pytest.approx(40, abs=0.4)
    assert ((share > 0.1) & (share < 0.9)).any(), "its edge is not smooth"


def test_lines_are_as_wide_as_asked_and_dashes_leave_gaps():
    wide = drawn(lambda c: c.line([(10, 30), (70, 30)], "#ffffff", 6))
    assert float(wide[:, 40].sum()) == pytest.approx(6, abs=0.6)
    dashed = drawn(lambda c: c.dashed(10, 70, 30, "#ffffff"))[28:32].amax(0) > 0.5
    starts = (dashed[1:] & ~dashed[:-1]).sum()
    assert int(starts) == len(range(10, 70, 14)) and not dashed[:9].any()
