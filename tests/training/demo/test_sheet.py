"""The demo's picture in colour: equal pictures leave the difference white, others do not."""

import numpy as np
import torch

from training.demo.sheet import GAIN, GAP, HEAD, LABEL, SIDE, Strip, difference, sheet


def test_a_difference_is_amplified_channel_by_channel():
    grey = torch.full((1, 3, 2, 2), 0.5)
    other = grey.clone()
    other[:, 0] += 0.1
    shown = difference(other, grey)
    torch.testing.assert_close(shown[:, 0], torch.full((1, 2, 2), 1 - GAIN * 0.1))
    assert (shown[:, 1:] == 1).all() and (difference(grey + 1, grey) == 0).all()


def test_pictures_and_differences_lie_in_their_rows_and_columns():
    first = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[1] = 1 - second[1]
    strips = [Strip("a", "30 calls", "", first), Strip("b", "8 calls", "9 dB", second)]
    image = np.asarray(sheet(["one", "two words"], strips)).astype(float)
    top, step = HEAD + SIDE + 2 * GAP, SIDE + GAP

    def cell(left: int, upper: int) -> np.ndarray:
        return image[upper : upper + SIDE, left : left + SIDE]

    wanted = (second[1] * 255).round().movedim(0, -1).numpy()
    np.testing.assert_array_equal(cell(LABEL + step, top), wanted)
    differences = LABEL + 2 * step + 30
    assert (cell(differences, top) == 255).all()
    assert cell(differences + step, top).mean() < 150
    assert (cell(differences, HEAD) == 255).all(), "the first row is compared with itself"
