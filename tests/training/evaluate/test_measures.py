"""Distances of pictures, by closed forms."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from sv_core.errors import InvalidInput
from training.evaluate.measures import EQUAL, compare


def write(folder, values, size=16):
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)
    return paths


def decibels(levels):
    return -20 * math.log10(levels / 255)


def test_a_flat_difference(tmp_path):
    found = compare(write(tmp_path / "a", [10]), write(tmp_path / "b", [15]), False)
    assert found["psnr"] == pytest.approx(decibels(5), abs=1e-3) and not found["equal"]
    assert 0 < found["ssim"] < 1 and "flicker" not in found


def test_equal_pictures_have_no_infinity(tmp_path):
    paths = write(tmp_path / "a", [10])
    assert compare(paths, paths, False) == {"psnr": EQUAL, "equal": True, "ssim": 1.0}


def test_frames_of_a_video_and_flicker(tmp_path):
    a, b = write(tmp_path / "a", [10, 12, 11]), write(tmp_path / "b", [10, 10, 10])
    found = compare(a, b, True)
    assert found["psnr_frames"] == [None, pytest.approx(decibels(2), abs=1e-3),
                                    pytest.approx(decibels(1), abs=1e-3)]  # fmt: skip
    assert found["psnr_first"] is None and found["psnr_last"] == found["psnr_frames"][2]
    assert found["psnr_worst"] == found["psnr_frames"][1]
    assert found["flicker"] == pytest.approx((2 + 1) / 2, abs=1e-3)
    steady = compare(write(tmp_path / "c", [13, 13]), b[:2], True)
    assert steady["flicker"] == 0, "an error that stays does not flicker"


def test_small_pictures_have_no_ssim_and_lpips_is_asked_when_given(tmp_path):
    a, b = write(tmp_path / "a", [10], 8), write(tmp_path / "b", [11], 8)
    found = compare(a, b, False, lambda x, y: (x - y).abs().amax((1, 2, 3)) + torch.zeros(1))
    assert "ssim" not in found and found["lpips"] == pytest.approx(1 / 255, abs=1e-5)


def test_what_cannot_be_compared(tmp_path):
    a, b = write(tmp_path / "a", [10]), write(tmp_path / "b", [11, 12])
    with pytest.raises(InvalidInput, match="has 1 pictures, not 2"):
        compare(a, b, False)
    with pytest.raises(InvalidInput, match="different sizes"):
        compare(a, write(tmp_path / "c", [1], 12), False)
