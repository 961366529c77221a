"""From folders to a cache: what is taken, what is skipped, and that a kill costs nothing."""

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

from sv_core.errors import InvalidInput
from tests.training.picture_files import DIGITS, contents, write_digits, write_photos
from training.caching import listing, plan
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.data import format
from training.data.cache import LatentCache
from training.lock import LOCK
from training.prepare import configure, main

ROOT = Path(__file__).resolve().parents[3]


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
    with pytest.raises(InvalidInput, match="none of the 40 pictures could be read"):
        prepare(root, tmp_path / "none", DIGITS)
    with pytest.raises(InvalidInput, match="none of the 40 pictures could be read"):
        prepare(root, tmp_path / "aspect", PrepareConfig(size=64, buckets="aspect"))


def test_a_lost_disk_is_not_a_damaged_picture(tmp_path, monkeypatch):
    root = write_digits(tmp_path / "digits", 40)
    files = sorted(root.rglob("*.png"))
    real = listing.scan

    def scan_then_lose(*args, **kwargs):
        found = real(*args, **kwargs)
        files[20].rename(tmp_path / "away.png")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(plan, "scan", scan_then_lose)
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
            assert not list(cache.glob(".*.partial"))
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
    # Large enough that it is still at work when a busy machine looks again.
    command += [x for s in ("size=128", "channels=1", "shard=8", "workers=1") for x in ("--set", s)]

    def listen() -> None:  # where the tests themselves run in the background, Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=listen
    )
    while not list((tmp_path / "cache").glob("latents-*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in said
    assert said.rstrip().endswith("stopped; finished shards are kept, the same command goes on")
    assert main(command[3:]) == 0 and len(LatentCache(tmp_path / "cache")) == 800


def test_a_finished_cache_is_left_alone(tmp_path, capsys):
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    command = [str(root), str(cache), "--set", "size=8", "--set", "channels=1"]
    assert main(command) == 0
    before = {p: p.stat().st_mtime_ns for p in cache.iterdir() if p.name != LOCK}
    capsys.readouterr()
    assert main(command) == 0
    assert "is finished already: nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir() if p.name != LOCK} == before
    # A shard that was damaged since is made anew, and the others are not.
    shard = cache / "latents-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert main(command) == 0 and shard.read_bytes() == whole


def test_too_small_a_disk_is_said_at_once_and_a_full_one_when_it_is(tmp_path, monkeypatch):
    root, cache = write_digits(tmp_path / "digits", 40), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(format.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2559}))
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


def test_verify_makes_damaged_shards_anew(tmp_path, capsys):
    """One bit of a shard's rows: training says it, and --verify mends it and nothing else."""
    root, cache = write_digits(tmp_path / "digits", 60), tmp_path / "cache"
    command = [str(root), str(cache), "--set", "size=8", "--set", "channels=1", "--set", "shard=16"]
    assert main(command) == 0
    shard = cache / "latents-00001.safetensors"
    whole, others = shard.read_bytes(), contents(cache)
    shard.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    with pytest.raises(InvalidInput, match=r"latents-00001\.safetensors is damaged, its checksum"):
        opened = LatentCache(cache)
        opened.gather(range(len(opened)))
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().out
    assert main([*command, "--verify"]) == 0
    assert shard.read_bytes() == whole and contents(cache) == others
    assert "16 pictures" in capsys.readouterr().out
    assert main([*command, "--verify"]) == 0 and "nothing to do" in capsys.readouterr().out


def test_a_shard_that_is_cut_while_it_is_used_is_a_sentence(tmp_path):
    """Through a memory map it was SIGBUS, the end of the process without a word."""
    root, cache = write_digits(tmp_path / "digits", 60), tmp_path / "cache"
    prepare(root, cache, DIGITS)
    opened = LatentCache(cache)
    opened.gather([0, 20])
    shard = cache / "latents-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(InvalidInput, match="cut short since it was opened"):
        opened.gather(range(16))


def test_other_pixels_under_the_same_names_are_other_data(tmp_path):
    identities = []
    for shade in (1, 2):
        root = write_digits(tmp_path / f"digits {shade}", 20)
        for picture in root.rglob("*.png"):
            with Image.open(picture) as image:
                image.point(lambda x, shade=shade: x // shade).save(picture)
        prepare(root, tmp_path / f"cache {shade}", DIGITS)
        identities.append(LatentCache(tmp_path / f"cache {shade}").identity)
    one, other = identities
    assert one["pictures"] != other["pictures"] and one["vae"] == other["vae"]
