"""Sheets of samples while a run goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sv_core.errors import InvalidInput
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.data.cache import LatentCache
from training.data.format import LATENTS, CacheFolder
from training.files import fingerprint, save_weights
from training.run.loop import train
from training.run.preview import Preview


@pytest.fixture
def latents(pictures, tmp_path):
    """A cache of a random VAE's latents, and the VAE's file."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    save_weights(tmp_path / "vae.safetensors", vae.state_dict(), {})
    config = PrepareConfig(size=32, vae=str(tmp_path / "vae.safetensors"), family="sd", batch=60)
    prepare(pictures, tmp_path / "latents", config)
    return tmp_path / "latents", tmp_path / "vae.safetensors"


def test_latents_train_and_their_previews_go_through_their_own_vae(tiny, latents, tmp_path):
    path, vae = latents
    config = replace(
        tiny,
        model=replace(tiny.model, patch_size=2),
        data=replace(tiny.data, cache=str(path)),
        optim=replace(tiny.optim, steps=2),
        run=replace(tiny.run, vae=str(vae)),
    )
    train(config)
    with Image.open(Path(config.run.out) / "previews" / "000002.png") as picture:
        assert picture.size == (10 * 33, 10 * 33) and picture.mode == "RGB"
    other = tmp_path / "other.safetensors"
    save_weights(other, {"x": torch.ones(1)}, {})
    with pytest.raises(InvalidInput, match="is not the VAE that the cache was made with"):
        Preview(LatentCache(path), other)
    # The index names the VAE by its content, so a cache of another one cannot be resumed with.
    folder = CacheFolder.open(path)
    assert folder.index.settings["vae"] == fingerprint(vae)
    further = replace(config, optim=replace(config.optim, steps=3))
    for number in range(len(folder.index.shards())):
        shard = folder.read(LATENTS, number)
        folder.write(LATENTS, number, shard._replace(fingerprint="another"))
    folder.update(settings=folder.index.settings | {"vae": "another"})
    further = replace(further, run=replace(further.run, vae=None))
    with pytest.raises(InvalidInput, match=r"learnt from other data \(another vae than"):
        train(further, resume=True)
