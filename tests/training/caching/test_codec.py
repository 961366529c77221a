"""Caches made with a VAE and an encoder: their own numbers, and refusals of other ones."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sv_core.errors import InvalidInput
from tests.training.picture_files import DIGITS, contents, write_digits, write_photos
from training.caching import codec, images
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.data.cache import LatentCache
from training.encoders import dinov2


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
    with pytest.raises(InvalidInput, match=r"features of dinov2-64 in .* are not whole"):
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
        with pytest.raises(InvalidInput, match=match):
            prepare(root, cache, PrepareConfig(**other))
    with pytest.raises(InvalidInput, match="kind = sd, now sdxl"):
        prepare(root, cache, PrepareConfig(**(settings | {"family": "sdxl"})))
    assert json.loads((cache / "index.json").read_text())["complete"]


def test_a_network_that_fails_leaves_the_folder_free_for_the_right_one(tmp_path, vae_file):
    path, _ = vae_file
    root, cache = write_digits(tmp_path / "digits", 4), tmp_path / "cache"
    settings = dict(size=16, vae=str(path), family="flux")
    with pytest.raises(InvalidInput, match=r"latents of 4 channels.*use SD or SDXL"):
        prepare(root, cache, PrepareConfig(**settings))
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    state["encoder.conv_in.bias"][0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    broken = settings | {"vae": str(tmp_path / "nan.safetensors"), "family": "sd"}
    with pytest.raises(FloatingPointError, match="latents are not finite"):
        prepare(root, cache, PrepareConfig(**broken))
    assert prepare(root, cache, PrepareConfig(**(settings | {"family": "sd"}))).index.complete


class EveryFourth:
    """In a video VAE's place: of frames 0, 4, 8, ... every eighth pixel, in sixteen channels."""

    model = torch.nn.Identity()

    def encode(self, images):
        assert images.ndim == 5
        seen = images[:, :, ::4, ::8, ::8].mean(1, keepdim=True)
        return seen.repeat_interleave(16, 1), None


def test_videos_and_pictures_share_a_cache_in_buckets_of_their_own(
    tmp_path, monkeypatch, encoder_file
):
    monkeypatch.setattr(codec, "open_vae", lambda *_: EveryFourth())
    encoder_path, _ = encoder_file
    (tmp_path / "vae.safetensors").write_bytes(b"")
    root = write_digits(tmp_path / "digits", 6)
    clips = {}
    for name, count in (("long", 12), ("short", 8)):
        folder = root / "0" / f"{name}.frames"
        folder.mkdir()
        noise = torch.randint(256, (count, 28, 28), dtype=torch.uint8)
        clips[name] = noise
        for k, frame in enumerate(noise):
            Image.fromarray(frame.numpy()).save(folder / f"{k}.png")
    settings = PrepareConfig(
        size=16,
        family="wan21",
        vae=str(tmp_path / "vae.safetensors"),
        encoder=str(encoder_path),
        frames=9,
        batch=20,
        flip="both",
    )
    outcome = prepare(root, tmp_path / "cache", settings)
    cache = LatentCache(tmp_path / "cache", features=["dinov2-64"], patch_size=2)
    assert len(cache) == 14 and sorted(cache.shapes) == [(16, 1, 2, 2), (16, 3, 2, 2)]
    assert outcome.index.buckets == [(1, 16, 16), (9, 16, 16)]
    assert (
        "short.frames\tit is too short: 8 of 9 frames"
        in (tmp_path / "cache" / "skipped.txt").read_text()
    )
    ((film, mirror),) = [g.tolist() for b, g in cache.groups.items() if b[0] == 9]
    frames = [
        images.pixels(root / f"0/long.frames/{k}.png", (16, 16), 3).float() / 255 for k in range(9)
    ]
    for item, flip in ((film, False), (mirror, True)):
        wanted = torch.stack([frames[k].flip(-1) if flip else frames[k] for k in (0, 4, 8)], 1)
        latent = cache[item].latent
        assert torch.equal(latent[3], wanted[0, :, ::8, ::8].half().float())
        # Features: of each of the latent's frames a token for a patch of 2 x 2 cells, in order.
        z = cache[item].features[0]
        alone = [
            dinov2.load(encoder_path).features(wanted[:, k][None], (1, 1))[0, 0] for k in range(3)
        ]
        torch.testing.assert_close(z, torch.stack(alone), rtol=2e-3, atol=2e-3)
    assert set(cache.companions(film, 9, torch.Generator()).tolist()) == {film, mirror}
    for step in range(20):
        latents, *_ = cache.gather(cache.draw(4, torch.Generator().manual_seed(step)))
        assert latents.shape[1:] in cache.shapes
    with pytest.raises(InvalidInput, match="frames = 9, now 17"):
        prepare(root, tmp_path / "cache", replace(settings, frames=17))
    prepare(root, tmp_path / "still", replace(settings, frames=1))  # of videos the first frame
    assert LatentCache(tmp_path / "still").shapes == [(16, 1, 2, 2)]


def test_without_comfyui_one_sentence_and_nothing_is_bound(tmp_path, vae_file):
    path, _ = vae_file
    root, cache = write_digits(tmp_path / "digits", 4), tmp_path / "cache"
    settings = PrepareConfig(size=16, vae=str(path), family="sd", comfy=str(tmp_path))
    with pytest.raises(InvalidInput, match=r"is not a ComfyUI folder.*--set comfy=FOLDER"):
        prepare(root, cache, settings)
    assert prepare(root, cache, replace(settings, comfy=None)).index.complete
