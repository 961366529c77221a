"""From folders to a cache: what is taken, what is skipped, and that a kill costs nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from training import encode, images
from training.cache import LatentCache
from training.encode import prepare
from training.plan import PrepareConfig
from training.prepare import configure, main

ROOT = Path(__file__).resolve().parents[2]
DIGITS = PrepareConfig(size=8, channels=1, shard=16, batch=8, workers=2)


def write_digits(root, n=100):
    data = load_digits()
    for i in range(n):
        path = root / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8)).save(path)
    return root


def write_photos(root):
    root.mkdir()
    for name, array in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(array).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"a photo of {name}\n")
    return root


def contents(cache):
    """The bytes of every file but the lock."""
    files = (p for p in cache.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(cache)): p.read_bytes() for p in files}


# --- pictures ------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="8 bits"):
        images.pixels(tmp_path / "deep.png", (8, 8), 1)


def test_layouts(tmp_path):
    for path in ("train/n02/b.png", "train/n01/x/a.png", "val/n02/c.png", "train/loose.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / path)
    (tmp_path / "train" / "n01" / "._a.png").write_bytes(b"the system's")
    listing = images.scan(tmp_path)
    assert listing.layout == "classes" and listing.conditions == ["n01", "n02"]
    found = [(p.path, p.condition, p.held_out) for p in listing.pictures]
    assert found == [
        ("train/n01/x/a.png", "n01", False),
        ("train/n02/b.png", "n02", False),
        ("val/n02/c.png", "n02", True),
    ]
    assert listing.aside == {"train/loose.png": "it lies in no class folder"}

    (tmp_path / "train" / "n02" / "b.txt").write_text(" a bee\n", encoding="utf-8")
    listing = images.scan(tmp_path)
    assert listing.layout == "captions" and listing.conditions == ["a bee"]
    assert len(listing.aside) == 3 and "no .txt caption" in listing.aside["val/n02/c.png"]


# --- the cache -----------------------------------------------------------------------------------


def test_digits_come_back_exactly(tmp_path):
    root = write_digits(tmp_path / "digits")
    outcome = prepare(root, tmp_path / "cache", DIGITS)
    cache = LatentCache(tmp_path / "cache")
    assert outcome.encoded == len(cache) == 100
    for i, path in enumerate(outcome.index.paths):
        array = np.array(Image.open(root / path))
        assert torch.equal(cache[i].latent[0], torch.from_numpy(array) / 255)
        assert cache.conditions[cache[i].label] == path[0]


def test_photos_with_captions_fall_into_buckets(tmp_path):
    root = write_photos(tmp_path / "photos")
    (root / "broken.png").write_bytes(b"")
    (root / "broken.txt").write_text("nothing")
    config = PrepareConfig(size=256, buckets="aspect", step=64, flip="both")
    prepare(root, tmp_path / "cache", config)
    cache = LatentCache(tmp_path / "cache")
    assert cache.conditions == ["a photo of china", "a photo of flower", "nothing"]
    assert cache.labels.tolist() == [0, 0, 1, 1]
    assert (tmp_path / "cache" / "skipped.txt").read_text().startswith("broken.png\t")
    assert {b: len(g) for b, g in cache.groups.items()} == {(192, 320): 4}
    assert not cache.notes()  # each has its mirror image for a second reference


def test_damaged_pictures_are_skipped_and_listed(tmp_path, capsys):
    root = write_digits(tmp_path / "digits", 40)
    files = sorted(root.rglob("*.png"))
    for file in files[:16]:  # all of the first shard
        file.write_bytes(file.read_bytes()[:60])
    files[17].write_bytes(b"")
    files[19].write_text("not a picture")
    Image.new("L", (8, 8)).save(root / "loose.png")
    command = [str(root), str(tmp_path / "cache"), "--set", "size=8", "--set", "channels=1"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "pictures    22" in text and "skipped     19 pictures" in text
    listed = (tmp_path / "cache" / "skipped.txt").read_text().splitlines()
    assert len(listed) == 19 and "loose.png\tit lies in no class folder" in listed
    cache = LatentCache(tmp_path / "cache")
    for i, file in enumerate([files[16], files[18], *files[20:]]):
        array = np.array(Image.open(file))
        assert torch.equal(cache[i].latent[0], torch.from_numpy(array) / 255)
        assert cache.conditions[cache[i].label] == file.parent.name

    for file in files:
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 40 pictures could be read"):
        prepare(root, tmp_path / "none", DIGITS)
    with pytest.raises(ValueError, match="none of the 40 pictures could be read"):
        prepare(root, tmp_path / "aspect", PrepareConfig(size=64, buckets="aspect"))


def test_a_lost_disk_is_not_a_damaged_picture(tmp_path, monkeypatch):
    root = write_digits(tmp_path / "digits", 40)
    files = sorted(root.rglob("*.png"))
    real = images.scan

    def scan_then_lose(*args):
        listing = real(*args)
        files[20].rename(tmp_path / "away.png")
        return listing

    with monkeypatch.context() as patch:
        patch.setattr(images, "scan", scan_then_lose)
        with pytest.raises(
            OSError, match=f"cannot read .*{files[20].name}.*finished shards are kept"
        ):
            prepare(root, tmp_path / "cache", DIGITS)
    (tmp_path / "away.png").rename(files[20])
    assert prepare(root, tmp_path / "cache", DIGITS).encoded == 24  # the first 16 had been kept


def test_a_crash_at_any_write_is_made_good_bit_for_bit(tmp_path, monkeypatch):
    root = write_digits(tmp_path / "digits", 60)
    prepare(root, tmp_path / "whole", DIGITS)
    whole, real = contents(tmp_path / "whole"), os.replace
    for after in (False, True):
        for stop in range(6):  # the index, four shards, the index again
            cache = tmp_path / f"{stop}{after}"
            calls = 0

            def crash(source, target, stop=stop, after=after):
                nonlocal calls
                calls += 1
                if calls - 1 == stop:
                    if after:
                        real(source, target)
                    raise KeyboardInterrupt
                real(source, target)

            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", crash)
                with pytest.raises(KeyboardInterrupt):
                    prepare(root, cache, DIGITS)
            assert after or list(cache.glob(".*.partial"))
            resumed = prepare(root, cache, DIGITS)
            assert contents(cache) == whole
            kept = min(max(stop - 1 + after, 0), 4)
            assert resumed.encoded == 60 - min(16 * kept, 60)


@pytest.mark.slow
def test_kill_9_then_the_same_command(tmp_path):
    root = write_digits(tmp_path / "digits", 800)
    settings = ["size=8", "channels=1", "shard=8", "flip=both"]
    command = [sys.executable, "-m", "training.prepare", str(root)]
    command += [x for s in settings for x in ("--set", s)]
    prepare(root, tmp_path / "whole", configure(settings))
    cache = tmp_path / "cache"
    for shards in (1, 30):
        process = subprocess.Popen([*command, str(cache)], cwd=ROOT, stderr=subprocess.DEVNULL)
        while len(list(cache.glob("latents-*"))) < shards and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = {p: p.stat().st_mtime_ns for p in cache.glob("latents-*")}
    assert 30 <= len(before) < 100
    done = subprocess.run([*command, str(cache)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "pictures    800" in done.stdout
    assert contents(cache) == contents(tmp_path / "whole")
    assert {p: p.stat().st_mtime_ns for p in before} == before  # finished shards were not redone


@pytest.mark.slow
def test_ctrl_c_leaves_a_cache_that_goes_on(tmp_path):
    root = write_digits(tmp_path / "digits", 800)
    command = [sys.executable, "-m", "training.prepare", str(root), str(tmp_path / "cache")]
    command += ["--set", "size=8", "--set", "channels=1", "--set", "shard=8"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "cache").glob("latents-*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in said
    assert said.rstrip().endswith("stopped; finished shards are kept, the same command goes on")
    assert main(command[3:]) == 0 and len(LatentCache(tmp_path / "cache")) == 800


def test_a_finished_cache_is_leftalone(tmp_path, capsys):
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    command = [str(root), str(cache), "--set", "size=8", "--set", "channels=1"]
    assert main(command) == 0
    before = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    capsys.readouterr()
    assert main(command) == 0
    assert "is finished already: nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir()} == before
    # A shard that was damaged since is made anew, and the others are not.
    shard = cache / "latents-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert main(command) == 0 and shard.read_bytes() == whole


def test_refusals_are_one_sentence_and_change_nothing(tmp_path, capsys, monkeypatch):
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    small = ["size=8", "channels=1"]

    def refused(*settings, images=root, out=cache):
        before = contents(out) if out.is_dir() else None
        arguments = [x for s in settings for x in ("--set", s)]
        assert main([str(images), str(out), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        assert (contents(out) if out.is_dir() else None) == before
        return said

    assert "there is no folder" in refused(images=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused(images=tmp_path / "empty")
    assert "unknown config key 'sise'" in refused("sise=8")
    assert "size must be a whole number" in refused("size=big")
    assert "give both, such as vae=FILE and family=sd" in refused("vae=x.safetensors")
    assert "must be a multiple of 8 pixels" in refused("size=12", "vae=x", "family=sd")
    assert "cannot read" in refused("size=16", "vae=x", "family=sd")
    assert "name a new or an empty folder" in refused(*small, out=root)
    (tmp_path / "file").write_text("")
    assert "cannot write into" in refused(*small, out=tmp_path / "file" / "cache")

    assert main([str(root), str(cache), "--set", small[0], "--set", small[1]]) == 0
    capsys.readouterr()
    assert "other settings (size = 8, now 16)" in refused("size=16", "channels=1")
    assert "other settings (channels = 1, now 3)" in refused("size=8")
    new = root / "0" / "new.png"
    Image.new("L", (8, 8)).save(new)
    assert "1 new, 0 gone, 0 changed (such as 0/new.png)" in refused(*small)
    new.unlink()
    changed = next(root.rglob("*.png"))
    os.utime(changed, (0, 0))
    assert "0 new, 0 gone, 1 changed" in refused(*small)
    changed.unlink()
    assert "0 new, 1 gone, 0 changed" in refused(*small)


def test_too_small_a_disk_is_said_at_once_and_a_full_one_when_it_is(tmp_path, monkeypatch):
    root, cache = write_digits(tmp_path / "digits", 40), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(encode.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2559}))
        with pytest.raises(OSError, match=r"needs 0.0 GiB more and the disk of .* make room"):
            prepare(root, cache, DIGITS)
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200)); "
        "from training.prepare import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [str(root), str(cache), "--set", "size=8", "--set", "channels=1"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "the disk is full (or a quota is reached)" in done.stderr.splitlines()[-1]
    assert prepare(root, cache, DIGITS).index.complete and len(LatentCache(cache)) == 40


def test_two_runs_at_once_do_not_mix(tmp_path):
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    with encode.alone(cache), pytest.raises(ValueError, match=r"another training\.prepare"):
        prepare(root, cache, DIGITS)
    assert prepare(root, cache, DIGITS).index.complete


# --- networks ------------------------------------------------------------------------------------


@pytest.fixture
def vae_file(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    save_file(model.state_dict(), tmp_path / "vae.safetensors")
    return tmp_path / "vae.safetensors", model.eval()


@pytest.fixture
def encoder_file(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=1, image_size=56, patch_size=14
    )
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "dino")
    return tmp_path / "dino" / "model.safetensors", model


def test_latents_and_features_are_the_networks_own(tmp_path, vae_file, encoder_file):
    (vae_path, vae), (encoder_path, encoder) = vae_file, encoder_file
    root = write_photos(tmp_path / "photos")
    config = PrepareConfig(
        size=64,
        buckets="aspect",
        step=16,
        vae=str(vae_path),
        family="sd",
        encoder=str(encoder_path),
        flip="both",
    )
    outcome = prepare(root, tmp_path / "cache", config)
    cache = LatentCache(tmp_path / "cache", features=["dinov2-64"], patch_size=2)
    for i, path in enumerate(outcome.index.paths):
        bucket = outcome.index.buckets[outcome.index.bucket[i]]
        image = images.pixels(root / path, bucket, 3).float() / 255
        for view, picture in enumerate((image, image.flip(-1))):
            item = cache[2 * i + view]
            with torch.no_grad():
                mean = vae.encode(picture[None] * 2 - 1).latent_dist.mean[0]
            torch.testing.assert_close(item.latent, mean, rtol=1e-3, atol=1e-3)  # float16
            h, w = mean.shape[1] // 2, mean.shape[2] // 2
            assert item.features[0].shape == (h * w, 64)
            resized = torch.nn.functional.interpolate(
                picture[None], (14 * h, 14 * w), mode="bicubic", antialias=True
            ).clamp(0, 1)
            normal = (resized - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
                [0.229, 0.224, 0.225]
            )[:, None, None]
            with torch.no_grad():
                tokens = encoder(normal).last_hidden_state[0, 1:]
            torch.testing.assert_close(item.features[0], tokens, rtol=2e-3, atol=2e-3)
    assert outcome.index.posterior_share > 0 and cache.latent.kind == "sd"


def test_an_encoder_added_later_gives_the_same_cache(tmp_path, encoder_file):
    path, _ = encoder_file
    root = write_digits(tmp_path / "digits", 40)
    plain = PrepareConfig(**(vars(DIGITS) | {"patch_size": 4}))
    both = PrepareConfig(**(vars(plain) | {"encoder": str(path)}))
    prepare(root, tmp_path / "together", both)
    prepare(root, tmp_path / "later", plain)
    before = (tmp_path / "later" / "latents-00001.safetensors").stat().st_mtime_ns
    prepare(root, tmp_path / "later", both)
    assert contents(tmp_path / "later") == contents(tmp_path / "together")
    assert (tmp_path / "later" / "latents-00001.safetensors").stat().st_mtime_ns == before
    assert prepare(root, tmp_path / "later", both).nothing_to_do
    assert prepare(root, tmp_path / "later", plain).nothing_to_do

    (tmp_path / "later" / "dinov2-64-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"features of dinov2-64 in .* are not whole"):
        prepare(root, tmp_path / "later", plain)
    assert prepare(root, tmp_path / "later", both).encoded == 8
    assert contents(tmp_path / "later") == contents(tmp_path / "together")


def test_another_network_is_refused(tmp_path, vae_file, encoder_file):
    (vae_path, _), (encoder_path, _) = vae_file, encoder_file
    root, cache = write_digits(tmp_path / "digits", 4), tmp_path / "cache"
    settings = dict(size=16, vae=str(vae_path), family="sd", encoder=str(encoder_path))
    prepare(root, cache, PrepareConfig(**settings))
    from safetensors.torch import load_file, save_file

    for path, key, match in (
        (vae_path, "vae", "other settings \\(vae = "),
        (encoder_path, "encoder", "features of another dinov2-64"),
    ):
        state = load_file(path)
        state[min(state)] += 1
        save_file(state, tmp_path / f"other-{key}.safetensors")
        other = settings | {key: str(tmp_path / f"other-{key}.safetensors")}
        with pytest.raises(ValueError, match=match):
            prepare(root, cache, PrepareConfig(**other))
    with pytest.raises(ValueError, match="kind = sd, now sdxl"):
        prepare(root, cache, PrepareConfig(**(settings | {"family": "sdxl"})))
    assert json.loads((cache / "index.json").read_text())["complete"]


def test_a_network_that_fails_leaves_the_folder_free_for_the_right_one(tmp_path, vae_file):
    path, _ = vae_file
    root, cache = write_digits(tmp_path / "digits", 4), tmp_path / "cache"
    settings = dict(size=16, vae=str(path), family="flux")
    with pytest.raises(ValueError, match=r"latents of 4 channels.*use sd or sdxl"):
        prepare(root, cache, PrepareConfig(**settings))
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    state["encoder.conv_in.bias"][0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    broken = settings | {"vae": str(tmp_path / "nan.safetensors"), "family": "sd"}
    with pytest.raises(FloatingPointError, match="latents are not finite"):
        prepare(root, cache, PrepareConfig(**broken))
    assert prepare(root, cache, PrepareConfig(**(settings | {"family": "sd"}))).index.complete
