"""The plot of a spectrum."""

from importlib import import_module

import pytest
import torch

from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside

plots = import_module(".nodes.plots.spectrum", NAME)
spectrum = import_module(".sv_core.spectrum", NAME)


def test_places_are_logarithmic_and_stay_in_the_frame():
    ends = [plots.place(plots.LOWEST, 1e3), plots.place(1.0, 1e-2)]
    assert ends == [(plots.LEFT, plots.TOP), (plots.RIGHT, plots.BOTTOM)]
    steps = [plots.place(q, 1.0)[0] for q in (0.05, 0.1, 0.2)]
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0])
    assert plots.place(1.0, 0.0)[1] == plots.BOTTOM and plots.place(1.0, 1e9)[1] == plots.TOP


def test_the_law_is_drawn():
    latents = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = plots.plot_spectrum(latents, spectrum.FLUX_SPECTRUM)
    assert picture.shape == (plots.HEIGHT, plots.WIDTH, 3)
    x, y = (round(v) for v in plots.place(0.2, spectrum.FLUX_SPECTRUM.power_at(0.2)))
    assert picture[y, x].tolist() == pytest.approx([0, 0x72 / 255, 0xB2 / 255], abs=0.02)


def test_the_report_names_every_size():
    report = plots.describe_spectrum(spectrum.FLUX_SPECTRUM, 1.94)
    assert report.count("until noise level") == 3 and "over 1.94" in report
