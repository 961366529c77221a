"""The demo's picture is read back: equal pictures show no difference, others where they differ."""

import numpy as np
import torch
from PIL import Image

from training.demo.comparison import GAIN, Panel, write_comparison


def lower_panels(path, changed: torch.Tensor) -> list[np.ndarray]:
    """The middles of the two panels of differences from the first."""
    same = torch.full((4, 1, 8, 8), 0.5)
    panels = [Panel(f"way {n}", "", [1.0, 0.5], x) for n, x in enumerate((same, same, changed))]
    write_comparison(path, "heading", panels, 0.85, 2)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height, width = picture.shape[0], picture.shape[1] // 3
    rows = slice(int(height * 0.62), int(height * 0.82))
    return [
        picture[rows, int((n + 0.3) * width) : int((n + 0.7) * width)].reshape(-1, 3)
        for n in (1, 2)
    ]


def test_differences_are_amplified_and_their_sign_is_a_colour(tmp_path):
    for shift in (0.1, -0.1):
        equal, other = lower_panels(tmp_path / "a.png", torch.full((4, 1, 8, 8), 0.5 + shift))
        assert np.ptp(equal, axis=1).max() < 8, "equal pictures are not grey in the difference"
        red, blue = np.median(other[:, 0]), np.median(other[:, 2])
        assert (red > blue + 40) if shift > 0 else (blue > red + 40), (shift, red, blue)
    small, large = (
        lower_panels(tmp_path / "b.png", torch.full((4, 1, 8, 8), 0.5 + step))[1]
        for step in (0.5 / GAIN / 4, 0.5 / GAIN)
    )
    assert np.ptp(np.median(small, axis=0)) < np.ptp(np.median(large, axis=0))
