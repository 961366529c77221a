"""What is read of a picture: its pixels in its bucket, and what of them counts."""

import numpy as np
import pytest
import torch
from PIL import Image

from training.caching import media, plan
from training.config.prepare import PrepareConfig


def planned(root, **settings):
    config = PrepareConfig(size=16, **settings)
    latent = plan.check(config)
    found = plan.list_pictures(root, config)
    chosen = plan.settings_of(config, latent, found.layout)
    return plan.make_plan(root, config, chosen, latent, found)


@pytest.fixture
def root(tmp_path):
    """A picture of its bucket's own size, half transparent, and a mask for it."""
    generator = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    colours = generator.integers(0, 256, (16, 16, 4), np.uint8)
    colours[:, :8, 3], colours[:, 8:, 3] = 0, 255
    Image.fromarray(colours, "RGBA").save(tmp_path / "a/x.png")
    Image.fromarray(np.tile(np.arange(16, dtype=np.uint8) * 9, (16, 1))).save(
        tmp_path / "a/x.mask.png"
    )
    return tmp_path


def test_transparent_parts_are_white_and_count_as_the_settings_say(root):
    raw = torch.from_numpy(np.array(Image.open(root / "a/x.png"))).permute(2, 0, 1)
    taken = {
        kind: media.reader(root, index, index.paths.index("a/x.png"), 3)(root / "a/x.png")
        for kind in ("none", "alpha", "suffix")
        for index in [planned(root, masks=kind)]
    }
    for found in taken.values():
        assert torch.equal(found.pixels[:, :, 8:], raw[:3, :, 8:])
        assert (found.pixels[:, :, :8] == 255).all()
    assert taken["none"].mask is None
    assert torch.equal(taken["alpha"].mask, raw[3:])
    assert torch.equal(taken["suffix"].mask[0, 0], torch.arange(16, dtype=torch.uint8) * 9)


def test_without_a_mask_of_its_own_a_picture_counts_whole(root):
    Image.new("RGB", (16, 16), "red").save(root / "a/y.png")
    for kind in ("alpha", "suffix"):
        index = planned(root, masks=kind)
        found = media.reader(root, index, index.paths.index("a/y.png"), 3)(root / "a/y.png")
        assert (found.mask == 255).all() and found.mask.shape == (1, 16, 16)


def test_grey_pictures_have_one_channel(root):
    index = planned(root, channels=1, masks="suffix")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(root / "a/z.png")
    found = media.reader(root, index, 0, 1)(root / "a/z.png")
    assert torch.equal(found.pixels.flatten(), torch.arange(256, dtype=torch.uint8))
