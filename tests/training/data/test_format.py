"""A cache's files: shards come back to the bit, and what is not whole is known by its number."""

import numpy as np
import pytest
import torch
from scipy import stats

from sv_core.errors import InvalidInput, Unavailable
from sv_core.latent import pixels
from training.data.format import LATENTS, CacheFolder, FeatureSpec, Index, Shard, share_of


def index(bucket: list[int], shard: int = 3, **more) -> Index:
    n = len(bucket)
    return Index(
        settings={"flip": "none", "shard": shard, "vae": "pixels"},
        latent=pixels(1),
        conditions=["a", "ü"],
        buckets=[(8, 8), (4, 16)],
        paths=[f"{i}.png" for i in range(n)],
        sizes=[1] * n,
        mtimes=[2] * n,
        condition=[0] * n,
        held_out=[0] * n,
        bucket=bucket,
        aside={},
        **more,
    )


@pytest.fixture
def folder(tmp_path) -> CacheFolder:
    """Seven pictures in two buckets, the third of which could not be opened; all shards whole."""
    made = CacheFolder(tmp_path, index([0, 1, -1, 0, 0, 1, 0]))
    made.update()
    for number, (_, rows) in enumerate(made.index.shards()):
        data = torch.full((len(rows), 1, 1, 2, 2), number, dtype=torch.uint8)
        made.write(LATENTS, number, Shard(data, "pixels", rows, {}, {"x": 0.5}))
    return made


def test_every_picture_is_in_one_shard_of_its_bucket(folder):
    shards = folder.index.shards()
    assert shards == [(0, [0, 3, 4]), (0, [6]), (1, [1, 5])]
    many = index([0] * 10_000, shard=None)
    assert 32 <= len(many.shards()) <= 128 and sum(len(rows) for _, rows in many.shards()) == 10_000


def test_an_index_comes_back_as_it_was_written(folder):
    folder.update(features={"dino": FeatureSpec("ab", 5, 2)}, complete=True)
    assert CacheFolder.open(folder.path).index == folder.index


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_a_shard_comes_back_to_the_bit(folder, dtype):
    data = torch.randn(2, 1, 3, 4).mul(50).to(dtype)
    folder.write("dino", 4, Shard(data, "ab", [1, 9], {"3": "damaged"}, {"sum": 1 / 3}, ["e"]))
    found = folder.read("dino", 4)
    assert torch.equal(found.data.whole(), data) and found.data.dtype == dtype
    assert found[1:] == ("ab", [1, 9], {"3": "damaged"}, {"sum": 1 / 3}, ["e"])


def test_what_is_not_whole_is_missing(folder):
    assert not list(folder.missing(None))
    folder.shard(LATENTS, 2).unlink()
    cut = folder.shard(LATENTS, 0)
    cut.write_bytes(cut.read_bytes()[:-1])
    jobs = list(folder.missing(None))
    assert [(job.number, job.bucket, job.pictures) for job in jobs] == [
        (0, (8, 8), [0, 3, 4]),
        (2, (4, 16), [1, 5]),
    ]
    with pytest.raises(InvalidInput, match=r"latents-00002.*it is missing.*remove it"):
        folder.read(LATENTS, 2)


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        (Shard(torch.zeros(1, 1), "other", [6], {}, {}), "another VAE"),
        (Shard(torch.zeros(1, 1), "pixels", [5], {}, {}), "of other pictures"),
        (Shard(torch.zeros(0, 1), "pixels", [6], {}, {}), "of other pictures"),
    ],
)
def test_a_shard_of_another_cache_is_refused_by_its_name(folder, shard, words):
    folder.write(LATENTS, 1, shard)
    parts = [rows for _, rows in folder.index.shards()]
    with pytest.raises(InvalidInput, match=rf"latents-00001.*{words}"):
        folder.read_all(LATENTS, parts)
    folder.write(LATENTS, 1, Shard(torch.zeros(0, 1), "pixels", [], {"6": "damaged"}, {}))
    assert len(folder.read_all(LATENTS, parts)) == 3  # skipped, and known to be


def test_too_small_a_disk_is_said_before_the_work(folder, monkeypatch):
    for number in range(3):
        folder.shard(LATENTS, number).unlink()
    jobs = list(folder.missing(None))
    need = 6 * 64  # bytes: six pictures of 64 cells of one byte
    for free, enough in ((need, True), (need - 1, False)):
        usage = type("Usage", (), {"free": free})()
        monkeypatch.setattr("shutil.disk_usage", lambda path, usage=usage: usage)
        if enough:
            folder.require_space(jobs, None)
        else:
            with pytest.raises(Unavailable, match="make room"):
                folder.require_space(jobs, None)


def test_shares_of_paths_are_even_and_each_path_s_own():
    shares = [share_of(f"a/{i}.png") for i in range(2000)]
    assert stats.kstest(shares, "uniform").pvalue > 0.01
    assert shares == [share_of(f"a/{i}.png") for i in range(2000)]
    assert np.unique(shares).size == 2000


def test_skipped_pictures_are_listed_with_their_reasons(folder):
    folder.list_skipped({"3": "cut short", "0": "no picture"})
    assert (folder.path / "skipped.txt").read_text() == "0.png\tno picture\n3.png\tcut short\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"condition": [2] * 7}, "a condition that is not there"),
        ({"condition": [-1] * 7}, "a condition that is not there"),
        ({"others": [[0]] * 6 + [[9]]}, "a condition that is not there"),
        ({"bucket": [2] * 7}, "a bucket that is not there"),
        ({"buckets": [(8, 8), (60_000, 60_000)]}, "a side that is not from 1 to 16384"),
        ({"held_out": [0]}, "held_out has 1 entries for 7 pictures"),
        ({"repeats": [0] * 7}, "repeated a number of times that is none"),
        ({"conditions": ["a", 5]}, "no text"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(folder, changes, words):
    folder.update(**changes)
    with pytest.raises(InvalidInput, match=rf"is damaged or of something else .*{words}"):
        CacheFolder.open(folder.path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1}', "[]", "7", '{"format": 1, "x": 2}']
)
def test_an_index_that_is_none_is_refused(folder, text):
    (folder.path / "index.json").write_text(text)
    with pytest.raises(InvalidInput, match="damaged or of something else"):
        CacheFolder.open(folder.path)


def test_latents_of_another_shape_than_the_index_says_are_refused(folder):
    data = torch.zeros(1, 1, 2, 2, 2, dtype=torch.uint8)  # two channels
    folder.write(LATENTS, 1, Shard(data, "pixels", [6], {}, {}))
    with pytest.raises(InvalidInput, match=r"latents-00001.* is of another shape"):
        folder.read_all(LATENTS, [rows for _, rows in folder.index.shards()])
