"""The comparison of pictures is held against the core's measures."""

import math

import pytest
import torch

from sv_core.fidelity import psnr, ssim
from tests.nodes.host_free import host_free

comparison = host_free("plots.comparison")


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 24, 20, 3, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def test_equal_pictures_are_called_identical(pair):
    a, b = pair[0], torch.cat([pair[0][:2], pair[1][2:]])
    scores = comparison.score(a, a)
    assert scores.psnr_all == math.inf
    report = comparison.report_scores(scores, 1.0, "20 x 24")
    assert report.count("identical (PSNR is infinite)") == 4
    assert "inf " not in report and "difference" not in report
    assert math.isfinite(comparison.score(a, b).psnr_all)


def test_pictures_too_small_for_ssim_are_said_to_be(pair):
    a, b = (t[:, :10] for t in pair)
    scores = comparison.score(a, b)
    assert scores.ssim is None and math.isnan(scores.ssim_all)
    report = comparison.report_scores(scores, 1.0, "20 x 10")
    assert "no SSIM: it needs 11 pixels a side, these pictures are 20 x 10" in report
    assert "nan" not in report
    assert comparison.score(*(t[:, :11] for t in pair)).ssim is not None


def test_gain_is_the_largest_power_of_two_that_does_not_clip():
    for largest in (1.0, 0.7, 0.5, 0.3, 0.02, 1 / 256):
        gain = comparison.choose_gain(largest)
        assert math.log2(gain).is_integer() and 0.5 < gain * largest <= 1
    assert comparison.choose_gain(1e-6) == 256
    assert comparison.choose_gain(0.0) == 1


def test_side_by_side_shows_the_pictures_unchanged(pair):
    a, b = (t.repeat(1, 20, 20, 1) for t in pair)  # wider than a panel: no zoom
    scores = comparison.score(a, b)
    difference = (a - b).abs() * 2
    sheet = comparison.side_by_side(a, b, difference, scores, 2.0)[:, comparison.CAPTION :]
    width = a.shape[2]
    step = width + comparison.GAP
    for i, picture in enumerate((a, b, difference)):
        assert torch.equal(sheet[:, :, i * step : i * step + width], picture)


def test_small_pictures_are_enlarged_by_whole_numbers(pair):
    shown = comparison.panel(pair[0][0])
    zoom = shown.shape[1] // 20
    assert shown.shape[1] >= comparison.PANEL and shown.shape[1] == 20 * zoom
    assert torch.equal(shown[zoom // 2 :: zoom, zoom // 2 :: zoom], pair[0][0])


def test_scores_are_those_of_the_core(pair):
    a, b = (t.movedim(-1, 1) for t in pair)
    scores = comparison.score(*pair)
    assert scores.psnr == pytest.approx(psnr(a, b).tolist(), abs=1e-4)
    assert scores.ssim == pytest.approx(ssim(a, b).tolist(), abs=1e-5)
    assert scores.ssim_all == pytest.approx(float(ssim(a, b).mean()), abs=1e-5)
    as_one = (t.permute(1, 2, 0, 3).reshape(1, 3, 24, -1) for t in (a, b))
    assert scores.psnr_all == pytest.approx(float(psnr(*as_one)), abs=1e-4)
    assert scores.largest == float((a - b).abs().max())


def test_values_whose_square_is_no_float_are_not_called_identical():
    a = torch.zeros(1, 12, 12, 3)
    scores = comparison.score(a, a + 1e30)
    assert scores.psnr_all == pytest.approx(-600)
    assert "identical" not in comparison.report_scores(scores, 1.0, "12 x 12")
    sheet = comparison.side_by_side(a, a + 1e30, a, scores, 1.0)
    assert sheet.isfinite().all()


@pytest.mark.parametrize("shape", [(30_000, 1), (1, 30_000), (3000, 7), (2048, 2)])
def test_long_pictures_are_not_enlarged_beyond_reason(shape):
    image = torch.rand(*shape, 3)
    shown = comparison.panel(image)
    assert shown.numel() <= 3 * 30_400 * comparison.PANEL
    assert shown.shape[1] >= comparison.PANEL and shown.shape[0] >= shape[0]
    zoom = shown.shape[0] // shape[0]
    assert torch.equal(shown[::zoom, : shape[1] * zoom : zoom], image)
