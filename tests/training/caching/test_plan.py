"""The plan of a cache: each picture in the bucket that crops it least, and it binds."""

import math
import os
from dataclasses import replace

import pytest
from PIL import Image

from sv_core.errors import InvalidInput
from tests.training.picture_files import DIGITS, write_digits
from training.caching import images, plan
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.data.format import CacheFolder

SIZES = [(64, 64), (40, 90), (90, 40), (50, 61), (33, 64)]
CONFIG = PrepareConfig(size=64, buckets="aspect", step=8, max_aspect=2.0, workers=2)


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for number, size in enumerate(SIZES):
        place = root / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (9 * number, 0, 0)).save(place / f"{number}.png")
    return root


def planned(root, config=CONFIG):
    latent = plan.check(config)
    found = plan.list_pictures(root, config)
    settings = plan.settings_of(config, latent, found.layout)
    return plan.make_plan(root, config, settings, latent, found), settings, found


def test_each_picture_is_in_the_bucket_that_crops_it_least(pictures):
    index, _, _ = planned(pictures)

    def kept(bucket, width, height):
        """The share of the picture that is left after covering the bucket."""
        scale = max(bucket[1] / width, bucket[0] / height)
        return bucket[0] * bucket[1] / (width * height * scale**2)

    assert len(index.buckets) > 3 and sorted(set(index.bucket)) != [0]
    for path, chosen in zip(index.paths, index.bucket, strict=True):
        width, height = SIZES[int(path[-5])]
        shares = [kept(bucket, width, height) for bucket in index.buckets]
        assert shares[chosen] == pytest.approx(max(shares)), path


def test_classes_are_numbered_and_shapes_are_multiples_of_the_step(pictures):
    index, _, _ = planned(pictures)
    assert index.conditions == ["a", "b"]
    assert [index.conditions[c] for c in index.condition] == [p[0] for p in index.paths]
    assert all(side % 8 == 0 for bucket in index.buckets for side in bucket)
    assert all(math.prod(bucket) <= 64**2 for bucket in index.buckets)
    square, _, _ = planned(pictures, replace(CONFIG, buckets="square"))
    assert square.buckets == [(64, 64)] and set(square.bucket) == {0}


def test_a_picture_that_cannot_be_opened_is_in_no_bucket(pictures):
    (pictures / "a" / "0.png").write_bytes(b"no picture")
    index, _, _ = planned(pictures)
    assert index.paths[0] == "a/0.png" and index.bucket[0] == -1 and list(index.skipped) == ["0"]


def test_a_plan_binds_settings_and_pictures(pictures, tmp_path):
    index, settings, found = planned(pictures)
    folder = CacheFolder(tmp_path / "cache", index)
    plan.require_same_plan(folder, settings, found, pictures)
    with pytest.raises(InvalidInput, match="step = 8, now 32"):
        plan.require_same_plan(folder, settings | {"step": 32}, found, pictures)
    Image.new("RGB", (8, 8)).save(pictures / "a" / "new.png")
    (pictures / "b" / "1.png").unlink()
    Image.new("RGB", (70, 70)).save(pictures / "a" / "2.png")
    with pytest.raises(InvalidInput, match="1 new, 1 gone, 1 changed"):
        now = plan.list_pictures(pictures, CONFIG)
        plan.require_same_plan(folder, settings, now, pictures)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vae": "a.safetensors"}, "vae is set and family is not"),
        ({"family": "flux"}, "family is set and vae is not"),
        ({"buckets": "square", "size": 60, "encoder": "d", "patch_size": 8}, "size must be a mul"),
        ({"fps": float("inf")}, "fps must be a finite number"),
        ({"vae": "a", "family": "flux", "channels": 1}, "takes colour pictures"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(InvalidInput, match=words):
        plan.check(PrepareConfig(**settings))


def test_buckets_are_those_of_the_pictures_module(pictures):
    index, _, _ = planned(pictures)
    assert index.buckets == images.aspect_buckets(64, 8, 2.0)


def test_a_picture_is_known_by_its_content(tmp_path):
    """Written again the same, it is the same; with other pixels in as many bytes it is another."""
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    prepare(root, cache, DIGITS)
    picture = sorted(root.rglob("*.png"))[3]
    data, times = picture.read_bytes(), picture.stat()
    picture.write_bytes(data)
    assert prepare(root, cache, DIGITS).nothing_to_do
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert prepare(root, cache, DIGITS).nothing_to_do
    picture.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns + 1))  # within the same second
    with pytest.raises(InvalidInput, match="0 new, 0 gone, 1 changed"):
        prepare(root, cache, DIGITS)
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))  # not a nanosecond later
    assert prepare(root, cache, DIGITS).nothing_to_do
    with pytest.raises(InvalidInput, match="0 new, 0 gone, 1 changed"):
        prepare(root, cache, DIGITS, verify=True)


def test_older_caches_have_whole_seconds(tmp_path):
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    index = prepare(root, cache, DIGITS).index
    assert all(t > 10**18 for t in index.mtimes)
    CacheFolder.open(cache).update(mtimes=[t // 10**9 for t in index.mtimes])
    assert prepare(root, cache, DIGITS).nothing_to_do
