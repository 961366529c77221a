"""Training on a cache: what it learns from, what it says, what does not fit together."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sv_core.errors import InvalidInput
from sv_core.latent import SD_VAE
from sv_core.models.sit import SiT, SiTConfig
from sv_core.models.sit_file import to_metadata
from training.caching.encode import prepare
from training.config.load import dump
from training.config.prepare import PrepareConfig
from training.config.schema import DataConfig, ModelConfig
from training.data import dataset as datasets
from training.data.cache import LatentCache
from training.files import save_weights
from training.finetune import main
from training.networks.sit import build
from training.run.loop import train


def records(config) -> list[dict]:
    lines = (Path(config.run.out) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_cache_and_the_digits_in_memory_train_alike(tiny, tmp_path, monkeypatch):
    """The same pictures in the same order, once in memory and once as a cache."""
    memory = datasets.load(DataConfig())
    images = (memory.images * 255).round() / 255
    monkeypatch.setattr(memory, "images", images)
    monkeypatch.setitem(datasets.DATASETS, "digits", lambda: memory)
    order = []
    for part, rows in (("train", memory.train), ("val", memory.held_out)):
        for number, row in enumerate(rows[:200] if part == "train" else rows[:20]):
            label = int(memory.labels[row])
            path = tmp_path / "images" / part / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((images[row, 0] * 255).byte().numpy()).save(path)
            order.append((f"{part}/{label}/{number:04d}.png", int(row)))
    prepare(tmp_path / "images", tmp_path / "cache", PrepareConfig(size=8, channels=1))
    rows = torch.tensor([row for _, row in sorted(order)])
    memory.images, memory.labels = memory.images[rows], memory.labels[rows]
    memory.train, memory.held_out = torch.arange(200), torch.arange(200, 220)
    # A cache spends one more random number, on the bucket.
    draw = datasets.Pictures.draw
    monkeypatch.setattr(LatentCache, "draw", lambda self, n, generator: draw(self, n, generator))
    short = replace(tiny, optim=replace(tiny.optim, steps=5))
    cached = replace(
        short,
        data=replace(short.data, cache=str(tmp_path / "cache")),
        run=replace(short.run, out=str(tmp_path / "cached")),
    )
    train(short)
    train(cached)
    for one, other in zip(records(short), records(cached), strict=True):
        for name in one.keys() - {"samples_per_s"}:
            assert one[name] == other[name], name


def test_what_a_person_should_know_is_said(aligned, charts, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, count in (("cat", 1), ("dog", 5)):
        for i in range(count):
            path = tmp_path / "images" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    prepare(tmp_path / "images", tmp_path / "lonely", PrepareConfig(size=8, channels=1))
    config = replace(
        aligned,
        data=replace(aligned.data, cache=str(tmp_path / "lonely"), held_out=0.0),
        align=replace(aligned.align, encoders=()),
        optim=replace(aligned.optim, steps=3),
    )
    file = tmp_path / "config.toml"
    file.write_text(dump(config))
    assert main([str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 to learn from, 0 held out, 2 conditions" in said
    assert "(such as 'cat') has one picture" in said
    assert main([str(file)]) == 0
    assert "one picture and no mirror image" in capsys.readouterr().err
    # Nothing is held out, so there is no validation loss, and no made-up one.
    assert all("val_loss" not in r for r in records(config))
    assert (Path(config.run.out) / "bins.png").exists()


def test_a_checkpoint_for_other_latents_is_refused(tiny, cache, tmp_path):
    dataset = LatentCache(cache)
    other = tmp_path / "latents.safetensors"
    config = SiTConfig(8, 4, 4, 16, 1, 2, num_classes=10)
    save_weights(other, SiT(config).state_dict(), to_metadata(config, SD_VAE))
    with pytest.raises(
        InvalidInput, match=r"is for sd latents of 4 channels.*holds pixels latents"
    ):
        build(ModelConfig(checkpoint=str(other)), dataset, 0)


def test_pictures_of_several_shapes_or_none_square_are_refused(tiny, tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("a", (16, 32)), ("b", (16, 16))):
        path = tmp_path / "images" / name / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
    options = PrepareConfig(size=32, channels=1, buckets="aspect", step=8)
    prepare(tmp_path / "images", tmp_path / "both", options)
    config = replace(tiny, data=replace(tiny.data, cache=str(tmp_path / "both"), held_out=0.0))
    with pytest.raises(InvalidInput, match=r"are of 2 shapes.*buckets=square"):
        train(config)
    (tmp_path / "images" / "b" / "0.png").unlink()
    prepare(tmp_path / "images", tmp_path / "wide", options)
    config = replace(config, data=replace(config.data, cache=str(tmp_path / "wide")))
    with pytest.raises(InvalidInput, match=r"a SiT is for square pictures.*buckets=square"):
        train(config)
    assert not Path(tiny.run.out).exists()


def test_a_damaged_shard_is_said_before_anything_is_written(aligned, cache):
    shard = cache / "one-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(InvalidInput, match=r"one-00001\.safetensors cannot be read.*anew"):
        train(aligned)
    assert not Path(aligned.run.out).exists()
