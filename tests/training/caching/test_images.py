"""A picture's bucket, its crop and its pixels, against the rules written out."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from sv_core.errors import InvalidInput
from training.caching import images


def test_square_crops_are_those_of_adm():
    """Against the rule written out in numpy and Pillow for a square."""
    photo = Image.fromarray(load_sample_images().images[0])  # 640 x 427
    for size in (64, 100, 256, 512):
        image = photo
        while min(image.size) >= 2 * size:
            image = image.resize((image.width // 2, image.height // 2), Image.BOX)
        scale = size / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.BICUBIC
        )
        array = np.array(image)
        y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
        ours = np.array(images.cover(photo, size, size))
        assert np.array_equal(ours, array[y : y + size, x : x + size])


def test_buckets_fill_the_area_and_not_more():
    for size, step, aspect in ((512, 64, 2.0), (1024, 64, 4.0), (256, 16, 2.0)):
        buckets = images.aspect_buckets(size, step, aspect)
        assert (size, size) in buckets and len(set(buckets)) == len(buckets)
        for height, width in buckets:
            assert height % step == width % step == 0 and (width, height) in buckets
            assert max(height, width) <= aspect * min(height, width)
            # Nothing could be added to both sides, nor a step to the longer one's partner.
            longer, shorter = max(height, width), min(height, width)
            assert longer * shorter <= size * size < longer * (shorter + step)
        ratios = [h / w for h, w in buckets]
        assert ratios == sorted(set(ratios), reverse=True)


def test_the_nearest_bucket_crops_least():
    buckets = images.aspect_buckets(512, 64, 2.0)
    for height, width in ((427, 640), (640, 427), (500, 500), (100, 1000), (333, 400)):

        def kept(bucket, height=height, width=width):
            scale = max(bucket[0] / height, bucket[1] / width)
            return bucket[0] * bucket[1] / (height * width * scale**2)

        chosen = buckets[images.nearest_bucket(buckets, height, width)]
        assert kept(chosen) == pytest.approx(max(map(kept, buckets)))


def test_pixels_are_upright_and_on_white(tmp_path):
    red = Image.new("RGB", (20, 10), "white")
    red.paste("red", (0, 0, 10, 10))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: left becomes top
    red.save(tmp_path / "turned.png", exif=exif)
    assert images.shape(tmp_path / "turned.png") == (20, 10)
    upright = images.pixels(tmp_path / "turned.png", (20, 10), 3)
    assert upright[:, 3, 5].tolist() == [255, 0, 0] and upright[:, 16, 5].tolist() == [255] * 3
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert images.pixels(tmp_path / "clear.png", (10, 10), 3).unique().tolist() == [255]
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InvalidInput, match="8 bits"):
        images.pixels(tmp_path / "deep.png", (8, 8), 1)
