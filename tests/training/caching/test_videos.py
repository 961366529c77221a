"""Frames at a steady rate: from any rate, from folders, and what is too short."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sv_core.errors import InvalidInput
from training.caching import videos
from training.caching.plan import check
from training.caching.videos import resample
from training.config.prepare import PrepareConfig


def shown(times, fps, count):
    return resample([(t, i) for i, t in enumerate(times)], fps, count)


def test_frames_are_those_nearest_to_even_times():
    assert shown([k / 16 for k in range(17)], 16, 17) == list(range(17))
    assert shown([5 + k / 32 for k in range(40)], 16, 17) == list(range(0, 34, 2))
    assert shown([k / 8 for k in range(9)], 16, 17) == [k // 2 for k in range(1, 18)]
    # 24 a second, of which 16 are shown: two of three, at most half a frame away.
    kept = shown([k / 24 for k in range(30)], 16, 17)
    assert all(abs(i / 24 - k / 16) <= 1 / 48 + 1e-9 for k, i in enumerate(kept))
    # Times that were rounded to milliseconds or to centiseconds do not matter.
    for digits in (3, 2):
        assert shown([round(k / 16, digits) for k in range(17)], 16, 17) == list(range(17))


def test_what_ends_early_is_as_long_as_it_lasts():
    assert len(shown([k / 32 for k in range(20)], 16, 17)) == 10  # 0.625 s
    assert len(shown([k / 16 for k in range(16)], 16, 17)) == 16
    assert shown([0.0], 16, 17) == [0] and shown([], 16, 17) == []


def test_no_more_is_read_than_is_needed():
    def frames():
        for k in range(6):
            yield k / 16, k
        raise AssertionError("read on")

    assert resample(frames(), 16, 4) == [0, 1, 2, 3]


def test_a_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "clip.frames"
    folder.mkdir()
    for k in range(11):
        Image.fromarray(np.full((8, 12, 3), 20 * k, np.uint8)).save(folder / f"frame_{k}.png")
    (folder / "notes.txt").write_text("")
    assert videos.shape(folder) == (8, 12)
    film = videos.pixels(folder, (8, 8), 11, 16.0)
    assert film.shape == (3, 11, 8, 8)
    assert torch.equal(film[0, :, 0, 0], 20 * torch.arange(11, dtype=torch.uint8))
    assert torch.equal(videos.pixels(folder, (8, 8), 5, 16.0), film[:, :5])
    with pytest.raises(InvalidInput, match="too short: 11 of 13 frames"):
        videos.pixels(folder, (8, 8), 13, 16.0)


def test_without_a_decoder_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidInput, match=r"needs the package av .*pip install av.*NAME.frames"):
        videos.require_decoder()


@pytest.mark.parametrize("frames, near", [(16, "13 or 17"), (18, "17 or 21"), (2, "1 or 5")])
def test_only_numbers_of_frames_that_a_latent_can_have(frames, near):
    with pytest.raises(InvalidInput, match=f"multiple of 4 and one more, as {near}, got {frames}"):
        check(PrepareConfig(frames=frames))
