"""The picture of a calibration is read back: its calls, its curve, the end of its plateau."""

from importlib import import_module

import pytest
import torch

from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside
plot = import_module(".nodes.plots.drift", NAME)
colours = import_module(".nodes.plots.colours", NAME)
Calibration = import_module(".nodes.calibration_file", NAME).Calibration
SIGMAS = tuple(1 - k / 20 for k in range(21))
CALLS = (0, 1, 2, 5, 9, 14, 19)


def drawn(split: float | None = None) -> torch.Tensor:
    drift = tuple(1.0 if k < 9 else 0.25 for k in range(19))
    made = Calibration("A", "ab", SIGMAS, {7: CALLS}, drift, split, 1, 0, 7)
    return plot.plot_drift(made, 7)


def is_colour(picture: torch.Tensor, colour: str) -> torch.Tensor:
    wanted = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return ((picture * 255).round() == wanted).all(-1)


def across(sigma: float) -> int:
    return round(plot.LEFT + (1 - sigma) * (plot.RIGHT - plot.LEFT))


def test_each_call_is_a_full_dot_and_each_forecast_an_empty_one():
    filled = is_colour(drawn(), colours.USED)[plot.BOTTOM + 92]
    assert [k for k, s in enumerate(SIGMAS[:-1]) if filled[across(s)]] == [*CALLS]


def test_the_curve_is_as_high_as_the_drift():
    curve = is_colour(drawn(), colours.USED_LINE)
    height = plot.BOTTOM - plot.TOP
    for k, share in ((3, 1.0), (15, 0.25)):
        rows = curve[:, across((SIGMAS[k] + SIGMAS[k + 1]) / 2)].nonzero().double()
        assert float(rows.mean()) == pytest.approx(plot.BOTTOM - share * height, abs=2)


@pytest.mark.parametrize("split", [0.85, 0.4])
def test_the_plateau_ends_at_its_line_or_there_is_none(split):
    line = is_colour(drawn(split), colours.SPLIT)[plot.TOP + 40 : plot.BOTTOM - 40]
    columns = (line.double().mean(0) > 0.8).nonzero().double()  # the curve crosses it
    assert float(columns.mean()) + 0.5 == pytest.approx(across(split), abs=1.5)
    assert not is_colour(drawn(None), colours.SPLIT).any()
