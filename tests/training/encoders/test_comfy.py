"""Caches for ComfyUI's families: its VAEs' latents, its encoders' text, refusals in words."""

import contextlib
import gc
import io
import logging
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from sv_core.models.families import having, latents
from tests.training.in_comfy import HOST, MODELS, WORK, refused, run_outside
from training.caching import (
    images,
    videos,
)
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.data.cache import LatentCache
from training.encoders import comfy as comfy_encoders
from training.prepare import main

pytestmark = pytest.mark.inside

OUT = WORK / "caches"
PICTURES = WORK / "pictures"
OUT.mkdir()
SD3 = dict(family="sd3", vae=str(MODELS / "vae/ae.safetensors"), comfy=str(HOST.folder), size=32)
WAN = SD3 | dict(family="wan21", vae=str(MODELS / "vae/wan_2.1_vae.safetensors"))
TEMPLATE = "the digit ({}:1.3)"  # brackets, which a prompt would take for emphasis


def host_vae(path):
    state = load_file(path)
    return HOST.sd.VAE(sd=state, dtype=torch.float32)


def near(ours, theirs, tolerance=2e-3):
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    scale = theirs.abs().max().item()
    off = (ours - theirs).abs().max().item() / scale
    assert off < tolerance, f"off by {off:.2e} of the largest"


@pytest.fixture(scope="module", autouse=True)
def pictures(tiny_models):
    """Twenty digits of four classes, and Flux's VAE with what diffusers makes of them."""
    run_outside("tests.training.encoders.pictures", PICTURES)
    logging.disable(logging.NOTSET)
    yield
    for folder in (OUT, PICTURES):
        for large in folder.glob("*.safetensors"):
            large.unlink()


def clip_l():
    """A CLIP-L of random numbers, as the official file has it; made once."""
    path = OUT / "clip_l.safetensors"
    if not path.exists():
        import comfy.sd1_clip

        model = comfy.sd1_clip.SDClipModel(dtype=torch.float16).transformer
        draw = torch.Generator().manual_seed(0)
        state = {}
        for name, like in model.state_dict().items():
            small = torch.randn(like.shape, generator=draw).mul_(0.03)
            ones = like.ndim == 1 and name.endswith("weight")
            state[name] = (small + 1 if ones else small).half()
        save_file(state, path)
    return path


def test_the_families_numbers_are_those_of_the_host():
    import comfy.latent_formats

    formats = comfy.latent_formats
    theirs = {
        "sd": formats.SD15, "sdxl": formats.SDXL, "sd3": formats.SD3, "flux": formats.Flux,
        "qwen_image": formats.Wan21, "wan21": formats.Wan21, "wan22": formats.Wan22,
    }  # fmt: skip
    assert set(theirs) == {f.latent.kind for f in having("latent")}
    for name, latent in ((name, latents(name)) for name in theirs):
        shape = (
            2,
            latent.channels,
            *(3, 4, 5)[-2 if name in ("sd", "sdxl", "sd3", "flux") else 0 :],
        )
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(latent.to_model(x), theirs[name]().process_in(x))
        torch.testing.assert_close(latent.from_model(latent.to_model(x)), x)


def test_latents_are_the_vaes_own():
    prepare(PICTURES / "digits", OUT / "sd3", PrepareConfig(**SD3, flip="both"))
    cache, vae = LatentCache(OUT / "sd3"), host_vae(SD3["vae"])
    assert len(cache) == 40 and cache.shape == (16, 4, 4)
    assert cache.index.posterior_share is None and 0.3 < cache.index.model_std < 3
    for i in range(0, len(cache), 7):
        picture = images.pixels(PICTURES / "digits" / cache.index.paths[i // 2], (32, 32), 3)
        picture = picture.flip(-1) if i % 2 else picture
        near(cache[i].latent, vae.encode(picture.permute(1, 2, 0)[None].float() / 255)[0])


def test_flux_latents_are_those_that_diffusers_makes():
    path = PICTURES / "flux_vae.safetensors"
    config = SD3 | dict(family="flux", vae=str(path))
    prepare(PICTURES / "few", OUT / "flux", PrepareConfig(**config))
    ours, theirs = LatentCache(OUT / "flux"), LatentCache(PICTURES / "flux")
    assert ours.identity == theirs.identity and ours.latent == theirs.latent
    for i in range(len(ours)):
        near(ours[i].latent, theirs[i].latent)


def test_text_is_the_encoders_own_and_is_read_literally():
    config = PrepareConfig(**SD3, text=(str(clip_l()),), template=TEMPLATE)
    alive = []
    real_vae, real_text = comfy_encoders.HostVae.__init__, comfy_encoders.HostText.__init__

    def vae_made(self, *args):
        real_vae(self, *args)
        alive.append(weakref.ref(self.vae.first_stage_model))

    def text_made(self, *args):
        gc.collect()
        assert [ref() for ref in alive] == [None], "the VAE is still there"
        real_text(self, *args)
        alive.append(weakref.ref(self.clip.cond_stage_model))

    comfy_encoders.HostVae.__init__, comfy_encoders.HostText.__init__ = vae_made, text_made
    try:
        outcome = prepare(PICTURES / "digits", OUT / "text", config)
    finally:
        comfy_encoders.HostVae.__init__, comfy_encoders.HostText.__init__ = real_vae, real_text
    gc.collect()
    assert outcome.texts == 1 and [ref() for ref in alive] == [None, None], "it stays in memory"
    cache = LatentCache(OUT / "text")
    table = cache.require_text()
    assert len(table) == 1 + table.null == 5 and table.null == len(cache.conditions)
    kind = HOST.sd.CLIPType.SD3
    clip = HOST.sd.load_clip([str(clip_l())], clip_type=kind)
    # What the host makes of the text when its brackets are escaped, as a person would.
    escaped = TEMPLATE.replace("(", "\\(").replace(")", "\\)")
    for k, text in ((2, escaped.format(cache.conditions[2])), (table.null, "")):
        ((context, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        assert table[k]["context"].shape == (77, 4096) and table[k].keys() == {"context", "pooled"}
        near(table[k]["context"].float(), context[0])
        assert torch.equal(table[k]["pooled"], extra["pooled_output"][0])
    differ = (table[2]["context"].float() - table[3]["context"].float()).abs().max()
    assert differ > 0.01, "two digits have the same text"
    assert prepare(PICTURES / "digits", OUT / "text", config).nothing_to_do


def test_text_encoders_that_do_not_fit_are_refused():
    digits = PICTURES / "digits"
    refused(
        lambda: prepare(digits, OUT / "no", PrepareConfig(**WAN, text=(str(clip_l()),))),
        "is CLIP-L, and family Wan2.2 14B takes UMT5-XXL",
    )
    state = load_file(clip_l())
    for name in [k for k in state if ".layers.5." in k]:
        del state[name]
    save_file(state, OUT / "part.safetensors")
    config = PrepareConfig(**SD3, text=(str(OUT / "part.safetensors"),))
    refused(lambda: prepare(digits, OUT / "part", config), "are not whole", "layers.5.")
    # It has bound nothing: the right file goes on, and leaves the pictures as they are.
    whole = PrepareConfig(**SD3, text=(str(clip_l()),))
    outcome = prepare(digits, OUT / "part", whole)
    assert outcome.encoded == 0 and outcome.texts == 1


def test_a_vae_that_does_not_fit_is_refused():
    digits = PICTURES / "digits"
    other = SD3 | dict(vae=str(MODELS / "vae/wan2.2_vae.safetensors"))
    refused(
        lambda: prepare(digits, OUT / "no", PrepareConfig(**other)),
        "makes latents of 48 channels, 8 times", "family SD3.5 has 16 and 8",
    )  # fmt: skip
    for name in ("clip_l", "nothing"):
        save_file({"x": torch.zeros(1)}, OUT / "nothing.safetensors")
        other = SD3 | dict(vae=str(OUT / f"{name}.safetensors"))
        refused(lambda o=other: prepare(digits, OUT / "no", PrepareConfig(**o)), "holds no VAE")
    state = load_file(SD3["vae"])
    del state["taesd_encoder.5.conv.2.weight"]
    save_file(state, OUT / "part_vae.safetensors")
    other = SD3 | dict(vae=str(OUT / "part_vae.safetensors"))
    refused(lambda: prepare(digits, OUT / "no", PrepareConfig(**other)), "is not a whole VAE")


def test_pictures_of_video_families_are_one_frame():
    for family, file in (("qwen_image", "qwen_image_vae"), ("wan22", "wan2.2_vae")):
        path = MODELS / f"vae/{file}.safetensors"
        settings = SD3 | dict(family=family, vae=str(path))
        prepare(PICTURES / "digits", OUT / family, PrepareConfig(**settings))
        cache, vae = LatentCache(OUT / family), host_vae(path)
        assert cache.shape == (latents(family).channels, 1, 4, 4)
        picture = images.pixels(PICTURES / "digits" / cache.index.paths[5], (32, 32), 3)
        theirs = vae.encode(picture.permute(1, 2, 0)[None].float() / 255)[0]
        near(cache[5].latent[:, 0], theirs)


def film(path, frames, fps, codec, pix_fmt, turn=0):
    """Write (n, h, w, 3) bytes as a video file, to be shown turned counterclockwise."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if turn:
            stream.set_display_rotation(turn)
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def moving(n):
    """A bright block that moves a pixel a frame: (n, 32, 48, 3) bytes."""
    frames = torch.full((n, 32, 48, 3), 40, dtype=torch.uint8)
    for k in range(n):
        frames[k, 8:24, k : k + 12, 0] = 220
        frames[k, 12:20, k : k + 12, 1] = 200
    return frames.numpy()


def test_videos_become_the_latents_of_their_frames():
    folder = OUT / "films"
    folder.mkdir()
    kinds = {  # fps of the file, codec, pixel format, how far a pixel may be off on average
        "exact.avi": (32, "ffv1", "bgr0", 0.0),
        "a.mp4": (32, "mpeg4", "yuv420p", 0.05),
        "b.webm": (16, "libvpx", "yuv420p", 0.05),
        "c.gif": (16, "gif", "rgb8", 0.15),
    }
    for name, (fps, codec, pix_fmt, tolerance) in kinds.items():
        drawn = moving(33)
        film(folder / name, drawn, fps, codec, pix_fmt)
        (folder / name).with_suffix(".txt").write_text(f"a block in {name}")
        ours = videos.pixels(folder / name, (32, 48), 17, 16.0)
        wanted = torch.from_numpy(drawn[:: fps // 16][:17]).permute(3, 0, 1, 2)
        assert ours.shape == wanted.shape == (3, 17, 32, 48)
        off = (ours.float() - wanted.float()).abs().mean().item() / 255
        assert off <= tolerance, f"{name} is off by {off:.3f}"
    film(folder / "short.mp4", moving(20), 32, "mpeg4", "yuv420p")
    (folder / "short.txt").write_text("too short")
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:200])
    (folder / "broken.txt").write_text("cut")
    config = PrepareConfig(**(WAN | dict(buckets="aspect", step=16, size=40)))
    prepare(folder, OUT / "wan21", config)
    cache, vae = LatentCache(OUT / "wan21"), host_vae(WAN["vae"])
    assert len(cache) == 4 and cache.shape == (16, 5, 4, 6)
    listed = (OUT / "wan21/skipped.txt").read_text()
    assert "short.mp4\tit is too short: 10 of 17 frames at 16 a second" in listed, listed
    assert "broken.mp4\t" in listed and len(listed.splitlines()) == 2
    i = cache.labels.tolist().index(cache.conditions.index("a block in exact.avi"))
    frames = torch.from_numpy(moving(33)[::8][:5]).float() / 255
    near(cache[i].latent, vae.encode(frames).movedim(0, 1))


def test_videos_of_a_telephone_stand_upright():
    for turn in (-90, 90, 180):
        path = OUT / f"turned{turn}.mp4"
        film(path, moving(5), 16, "mpeg4", "yuv420p", turn)
        shape = (32, 48) if turn == 180 else (48, 32)
        assert videos.shape(path) == shape
        wanted = torch.from_numpy(moving(5)).rot90(turn // 90, (1, 2)).permute(3, 0, 1, 2)
        off = (videos.pixels(path, shape, 5, 16.0).float() - wanted.float()).abs().mean()
        assert off < 0.05 * 255, f"turned by {turn}: off by {off / 255:.2f}"


def test_a_real_video_vae_sees_all_the_frames():
    import comfy.ldm.wan.vae

    if HOST.version < (0, 4):
        pytest.skip("its Wan VAE has but one size, of 500 MB")
    options = dict(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = comfy.ldm.wan.vae.WanVAE(**options)
    state = {k: 0.1 * torch.randn(v.shape) for k, v in model.state_dict().items()}
    state |= {k: 1 + v for k, v in state.items() if k.endswith("gamma")}
    save_file(state, OUT / "wan_vae.safetensors")
    folder = OUT / "clip"
    folder.mkdir()
    film(folder / "x.avi", moving(17), 16, "ffv1", "bgr0")
    (folder / "x.txt").write_text("a block")
    config = WAN | dict(vae=str(OUT / "wan_vae.safetensors"))
    prepare(folder, OUT / "real", PrepareConfig(**config))
    cache, vae = LatentCache(OUT / "real"), host_vae(config["vae"])
    assert cache.shape == (16, 5, 4, 4)
    pixels = videos.pixels(folder / "x.avi", (32, 32), 17, 16.0)
    near(cache[0].latent, vae.encode(pixels.permute(1, 2, 3, 0).float() / 255)[0])
    first = vae.encode(pixels[:, :5].permute(1, 2, 3, 0).float() / 255)[0]
    near(cache[0].latent[:, :2], first)  # causal: later frames change nothing before them


def test_the_command_says_what_it_made():
    said = io.StringIO()
    settings = [f"{k}={v}" for k, v in SD3.items()] + [f"text={clip_l()}"]
    with contextlib.redirect_stdout(said):
        arguments = [a for s in settings for a in ("--set", s)]
        assert main([str(PICTURES / "digits"), str(OUT / "told"), *arguments]) == 0
    text = said.getvalue()
    assert "of 4 conditions, and of none at all (context 77x4096, pooled 2048)" in text, text
    assert "as the network sees them" in text and "own noise" not in text
