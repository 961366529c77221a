"""Reading a cache: exact items, even draws, and refusals in words."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Generator

from sv_core.errors import InvalidInput
from sv_core.latent import SD_VAE, pixels
from sv_core.models.families import latents
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.data.cache import LatentCache
from training.data.format import LATENTS, CacheFolder, Shard
from training.rng import generator

SHAPES = {"wide": (16, 32), "square": (16, 16)}


def write_pictures(root, counts, shape=(16, 16)):
    """Noise pictures, ``counts`` per class; returns them by their paths."""
    rng = np.random.default_rng(0)
    made = {}
    for name, count in counts.items():
        for i in range(count):
            path = root / name / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            made[f"{name}/{i:03d}.png"] = array = rng.integers(0, 256, (*shape, 3), np.uint8)
            Image.fromarray(array).save(path)
    return made


@pytest.fixture
def made(tmp_path):
    """A cache of exact pixels: 7 pictures of a and 5 of b in shards of 4, mirrored too."""
    arrays = write_pictures(tmp_path / "images", {"a": 7, "b": 5})
    config = PrepareConfig(size=16, shard=4, flip="both", batch=3)
    prepare(tmp_path / "images", tmp_path / "cache", config)
    return tmp_path / "cache", arrays


def with_features(cache, name="dinov2-base", fingerprint="ab", patch_size=2):
    """Add features that say which picture and view they are of."""
    folder = CacheFolder.open(cache)
    for number in range(len(folder.index.shards())):
        rows = folder.read(LATENTS, number).rows
        data = torch.tensor([[[[10 * r + v]] for v in range(2)] for r in rows]).half()
        folder.write(name, number, Shard(data, fingerprint, rows, {}, {}))
    table = json.loads((cache / "index.json").read_text())
    spec = {"fingerprint": fingerprint, "dim": 1, "patch_size": patch_size}
    table["features"][name] = spec
    (cache / "index.json").write_text(json.dumps(table))


def test_items_are_the_pictures_and_their_mirror_images(made):
    path, arrays = made
    cache = LatentCache(path)
    assert len(cache) == 24 and cache.conditions == ["a", "b"] and cache.latent == pixels(3)
    for i, (name, array) in enumerate(arrays.items()):
        wanted = torch.from_numpy(array).permute(2, 0, 1) / 255
        own, mirror = cache[2 * i], cache[2 * i + 1]
        assert torch.equal(own.latent, wanted) and torch.equal(mirror.latent, wanted.flip(-1))
        assert own.label == mirror.label == "ab".index(name[0]) == int(cache.labels[2 * i])


def test_features_are_those_of_the_item(made):
    path, _ = made
    with_features(path)
    cache = LatentCache(path, features=["dinov2-base"], patch_size=2)
    assert [float(cache[i].features[0]) for i in (0, 1, 13)] == [0, 1, 61]
    latents, labels, (z,) = cache.gather([0, 13, 23])
    assert latents.shape == (3, 3, 16, 16) and labels.tolist() == [0, 0, 1]
    assert z.flatten().tolist() == [0, 61, 111]
    identity = cache.identity
    assert identity.pop("pictures") and identity == {"vae": "pixels", "dinov2-base": "ab"}
    # Other pictures held out, or other pictures, make another identity.
    assert LatentCache(path, ["dinov2-base"], 0.4).identity != cache.identity


def test_draws_are_even_over_all_views_and_a_function_of_seed_and_step(tmp_path):
    for name, shape in SHAPES.items():
        write_pictures(tmp_path / "images", {name: 3 if name == "wide" else 9}, shape)
    config = PrepareConfig(size=32, buckets="aspect", step=8, shard=4)
    prepare(tmp_path / "images", tmp_path / "cache", config)
    cache = LatentCache(tmp_path / "cache")
    assert {b: len(g) for b, g in cache.groups.items()} == {(32, 32): 9, (24, 40): 3}
    counts = Counter()
    for step in range(3000):
        drawn = cache.draw(4, generator(7, step, "data"))
        assert len(cache.bucket[drawn].unique()) == 1
        counts.update(drawn.tolist())
    # Batches come from one bucket, so a picture of the small one varies most:
    # per batch 4 (1/3)(2/3)/4 + (4/3)^2 (1/4)(3/4) = 0.556.
    assert set(counts) == set(range(12))
    assert all(abs(count - 1000) < 4 * (0.556 * 3000) ** 0.5 for count in counts.values())
    again = cache.draw(4, generator(7, 5, "data"))
    assert torch.equal(cache.draw(4, generator(7, 5, "data")), again)


def test_held_out_pictures_are_never_drawn_nor_are_their_mirror_images(made):
    path, _ = made
    cache = LatentCache(path, held_out=0.4)
    assert 0 < len(cache.held_out) < 12
    apart = {int(i) // 2 for i in cache.held_out}
    assert all(i % 2 == 0 for i in cache.held_out.tolist())
    drawn = cache.draw(5000, Generator().manual_seed(0))
    assert {int(i) // 2 for i in drawn} == set(range(12)) - apart
    assert torch.equal(LatentCache(path, held_out=0.4).held_out, cache.held_out)
    with pytest.raises(InvalidInput, match="all are held out"):
        LatentCache(path, held_out=1.0)


def test_val_folders_are_what_is_held_out(tmp_path):
    write_pictures(tmp_path / "images" / "train", {"n01": 3, "n02": 2})
    write_pictures(tmp_path / "images" / "val", {"n01": 1, "n02": 1})
    prepare(tmp_path / "images", tmp_path / "cache", PrepareConfig(size=16))
    cache = LatentCache(tmp_path / "cache", held_out=0.9)
    assert cache.conditions == ["n01", "n02"]
    assert cache.train.tolist() == [0, 1, 2, 3, 4] and cache.held_out.tolist() == [5, 6]
    assert cache.labels.tolist() == [0, 0, 0, 1, 1, 0, 1]


def test_a_class_with_one_picture_is_said_not_refused(tmp_path):
    write_pictures(tmp_path / "images", {"cat": 1, "dog": 3})
    prepare(tmp_path / "images", tmp_path / "cache", PrepareConfig(size=16))
    (note,) = LatentCache(tmp_path / "cache").notes()
    assert "1 of 2 classes (such as 'cat')" in note and "plain target" in note


def refusal(path, **options):
    with pytest.raises(InvalidInput) as e:
        LatentCache(path, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_what_is_wrong_with_a_cache_is_said(made, tmp_path):
    path, _ = made
    with_features(path)
    assert "is no latent cache" in refusal(tmp_path / "nothing")
    assert "no features of dinov2-giant (has: dinov2-base)" in refusal(
        path, features=["dinov2-giant"]
    )
    assert "patches of 2, the network has patches of 4" in refusal(
        path, features=["dinov2-base"], patch_size=4
    )

    folder = CacheFolder.open(path)
    first = folder.shard(LATENTS, 0)
    whole = first.read_bytes()
    first.write_bytes(whole[:-100])
    assert "latents-00000.safetensors cannot be read" in refusal(path)
    save_file({"x": torch.zeros(1)}, first)
    assert "latents-00000.safetensors cannot be read" in refusal(path)
    first.unlink()
    assert "it is missing" in refusal(path)
    first.write_bytes(whole)

    folder.write(LATENTS, 0, folder.read(LATENTS, 0)._replace(fingerprint="another"))
    assert "latents-00000.safetensors is from another VAE" in refusal(path)
    first.write_bytes(whole)
    other = folder.read("dinov2-base", 1)._replace(fingerprint="another")
    folder.write("dinov2-base", 1, other)
    assert "dinov2-base-00001.safetensors is from another encoder" in refusal(
        path, features=["dinov2-base"]
    )
    other = folder.read("dinov2-base", 0)._replace(fingerprint="ab")
    folder.write("dinov2-base", 1, other)
    assert "of other pictures" in refusal(path, features=["dinov2-base"])

    index = path / "index.json"
    text = index.read_text()
    index.write_text(text.replace('"complete": true', '"complete": false'))
    assert "is not finished" in refusal(path)
    index.write_text(text[:100])
    assert "is damaged" in refusal(path)
    index.write_text(text.replace('"format": 1', '"format": 2'))
    assert "format 2" in refusal(path)


def test_a_network_for_other_latents_is_refused(made):
    path, _ = made
    cache = LatentCache(path)
    cache.require_latent(pixels(3), "net.safetensors")
    with pytest.raises(InvalidInput, match=r"net.safetensors is for sd latents of 4 channels"):
        cache.require_latent(SD_VAE, "net.safetensors")


def test_numbers_decide_whether_latents_fit_not_names():
    cache = LatentCache.__new__(LatentCache)  # only its latent is asked
    for mine, network, fits in (
        (latents("wan21"), latents("qwen_image"), True),
        (latents("sd"), latents("sdxl"), False),
        (latents("sd3"), latents("flux"), False),
        (latents("wan22"), latents("wan21"), False),
        (latents("flux"), replace(latents("flux"), scale=0.3611 * (1 + 1e-6)), True),
        (latents("flux"), replace(latents("flux"), shift=0.116), False),
        (latents("flux"), replace(latents("flux"), scale=(0.3611,) * 16), True),
    ):
        cache.path, cache.index = "cache", SimpleNamespace(latent=mine)
        if fits:
            cache.require_latent(network, "net")
        else:
            with pytest.raises(InvalidInput, match="prepare one with the network's own VAE"):
                cache.require_latent(network, "net")


def test_companions_are_of_the_class_and_the_shape(tmp_path):
    for name, shape in SHAPES.items():
        write_pictures(tmp_path / "images/train" / "cat", {name: 3}, shape)
        write_pictures(tmp_path / "images/train" / "dog", {name: 2}, shape)
    write_pictures(tmp_path / "images/val" / "cat", {"x": 2})
    config = PrepareConfig(size=32, buckets="aspect", step=8, flip="both")
    prepare(tmp_path / "images", tmp_path / "cache", config)
    cache = LatentCache(tmp_path / "cache")
    assert sorted(cache.shapes) == [(3, 24, 40), (3, 32, 32)]
    with pytest.raises(InvalidInput, match="are of 2 shapes"):
        _ = cache.shape
    counts = Counter()
    for i in cache.train.tolist():
        chosen = cache.companions(i, 99, Generator())
        assert chosen[0] == i and len(set(chosen.tolist())) == len(chosen)
        assert set(cache.labels[chosen].tolist()) == {int(cache.labels[i])}
        assert set(cache.bucket[chosen].tolist()) == {int(cache.bucket[i])}
        assert not set(chosen.tolist()) & set(cache.held_out.tolist())
        counts[len(chosen)] += 1
        assert len(cache.pool(i, 99, Generator())) == 10
        assert len(cache.pool(i, 4, Generator())) == 4
    assert counts == {6: 12, 4: 8}  # three cats and two dogs of each shape, mirrored too


def test_repeats_are_the_shares_of_draws(tmp_path):
    write_pictures(tmp_path / "images", {"3_cat": 2, "1_dog": 4, "bird": 2})
    prepare(tmp_path / "images", tmp_path / "cache", PrepareConfig(size=16, repeats="folders"))
    cache = LatentCache(tmp_path / "cache")
    assert cache.conditions == ["bird", "cat", "dog"] and len(cache.train) == 8
    drawn = cache.labels[cache.draw(12000, Generator().manual_seed(0))].bincount()
    for count, share in zip(drawn.tolist(), (2 / 12, 6 / 12, 4 / 12), strict=True):
        assert abs(count - 12000 * share) < 4 * (12000 * share * (1 - share)) ** 0.5
    assert sorted(cache.companions(0, 9, Generator()).tolist()) == [0, 1, 2, 3]  # the dogs
    assert sorted(cache.companions(4, 9, Generator()).tolist()) == [4, 5]
    assert len(cache.pool(0, 99, Generator())) == 12
    assert not [note for note in cache.notes() if "cat" in note]


def test_masks_lie_on_the_latents_cells(tmp_path):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for name in ("half", "none"):
        Image.new("RGB", (32, 16), "red").save(folder / f"{name}.png")
    half = Image.new("L", (64, 32))  # of twice the size, white on the left third of the crop
    half.paste(255, (0, 0, 16 + 12, 32))
    half.save(folder / "half.mask.png")
    config = PrepareConfig(size=16, masks="suffix", flip="both")
    prepare(tmp_path / "images", tmp_path / "cache", config)
    cache = LatentCache(tmp_path / "cache")
    masks = cache.masks([0, 1, 2, 3])
    assert masks.shape == (4, 1, 16, 16)
    columns = masks[0, 0].mean(0)  # the crop shows columns 8 to 24, of which 8 to 14 are white
    assert columns[:5].tolist() == [1.0] * 5 and columns[8:].tolist() == [0.0] * 8
    assert torch.equal(masks[1], masks[0].flip(-1)) and (masks[2:] == 1).all()
    latents, labels, features = cache.gather([0, 1])  # as ever
    assert latents.shape == (2, 3, 16, 16) and len(labels) == 2 and features == ()

    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 16, 4))
    for name in ("half.png", "none.png", "half.mask.png"):
        (folder / name).unlink()
    clear.save(folder / "clear.png")
    prepare(tmp_path / "images", tmp_path / "alpha", PrepareConfig(size=16, masks="alpha"))
    mask = LatentCache(tmp_path / "alpha").masks([0])[0, 0]
    assert (mask[:4] == 0).all() and (mask[4:] == 1).all()
    prepare(tmp_path / "images", tmp_path / "no", PrepareConfig(size=16))
    assert LatentCache(tmp_path / "no").masks([0]) is None
