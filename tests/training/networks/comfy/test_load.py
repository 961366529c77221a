"""Every way of storing a model is read, and what cannot be trained is refused in words."""

import pytest
import torch
from safetensors.torch import save_file

from tests.host import tiny as tiny_files
from tests.training.in_comfy import HOST, MODELS, NEW, close, refused
from tests.training.networks.comfy.tiny_backbones import (
    OUT,
    SOURCES,
    VARIANTS,
    WAN_FILE,
    plain_tensors,
    scaled,
    variant,
    velocity_of,
)
from training.networks.comfy import load as comfy_load

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


def test_every_way_of_storing_is_read():
    for name, source in SOURCES.items():
        exact = velocity_of(comfy_load.load(source, HOST))
        for how, change in VARIANTS.items():
            path = variant(source, f"{name} {how}", change)
            one = comfy_load.load(path, HOST)
            limit = {"bf16": 0.02, "fp16": 0.003}.get(how, 0.2)
            error = close(velocity_of(one), exact, limit, f"{name} in {how}")
            print(f"{name} in {how}: velocity off by {error:.1e}")
            eight = "fp8" in how
            assert one.trainable == (not eight), (name, how)
            kept = sum(p.untyped_storage().nbytes() for p in plain_tensors(one.model))
            numbers = sum(p.numel() for p in one.model.parameters())
            assert kept < numbers * (1.7 if eight else 2.2), (name, how, kept / numbers)
            if eight:
                refused(one.unfreeze, "8 bits", "comfy.dtype")
                refused(one.weights, "8 bits")
                full = comfy_load.load(path, HOST, torch.float32)
                # ComfyUI keeps a plain fp8 file's norms and biases, too, in 8 bits; an older one
                # those biases of a scaled file.
                limit = 0.05 if how == "fp8" or not NEW else 1e-5
                close(velocity_of(full), velocity_of(one), limit, f"{name} in {how} multiplied out")
                assert full.trainable and full.unfreeze() == []


def test_quantisation_that_the_host_would_not_see_is_refused():
    for style in ("unsaid",) if NEW else ("unsaid", "new"):
        path = variant(WAN_FILE, f"{style} scales", scaled(style))
        refused(lambda p=path: comfy_load.load(p, HOST), "quantised", "comfy.dtype")
        exact, found = (comfy_load.load(p, HOST, torch.float32) for p in (WAN_FILE, path))
        close(velocity_of(found), velocity_of(exact), 0.2)
    four = variant(
        WAN_FILE, "four bits", lambda s: {k: v for k, v in scaled("old")(s).items()} | {
            "blocks.0.ffn.0.weight": torch.zeros(256, 64, dtype=torch.uint8)
        },
    )  # fmt: skip
    refused(lambda: comfy_load.load(four, HOST, torch.bfloat16), "cannot be undone", "comfy.dtype")


def test_models_that_want_a_picture_are_refused():
    config = tiny_files.WAN | {"in_dim": 36, "out_dim": 16}
    state = tiny_files.diffusion_model(config, 4, 0.6)
    path = OUT / "wan2.2_i2v_high_noise.safetensors"
    save_file(state, path)
    refused(lambda: comfy_load.load(path, HOST), "given picture", "text-to-video", "Wan")


def test_bad_files_are_refused_in_words():
    sit = OUT / "sit.safetensors"
    save_file({"blocks.0.attn.qkv.weight": torch.zeros(12, 4), "pos_embed": torch.zeros(4)}, sit)
    noise = OUT / "noise.safetensors"
    save_file({f"layer{i}": torch.zeros(3) for i in range(9)}, noise)
    for path in (sit, noise, MODELS / "vae/ae.safetensors"):
        refused(lambda p=path: comfy_load.load(p, HOST), str(path), "no flow model", "Qwen-Image")
    cut = OUT / "cut.safetensors"
    cut.write_bytes(WAN_FILE.read_bytes()[:-1000])
    refused(lambda: comfy_load.load(cut, HOST), str(cut), "damaged")
    refused(lambda: comfy_load.load(OUT / "none.safetensors", HOST), "there is no checkpoint")
    last = "blocks.0.ffn.2.bias"
    partly = variant(WAN_FILE, "partly", lambda s: {k: v for k, v in s.items() if k != last})
    refused(lambda: comfy_load.load(partly, HOST), "lacks 1 tensors", last, "damaged")


def test_another_family_is_refused_by_its_name():
    if not NEW:
        return  # its detection of the next file's kind came later
    config = tiny_files.FLUX | {"txt_ids_dims": []}
    made = HOST.detection.model_config_from_unet_config(config, {})
    made.set_inference_dtype(torch.float32, None)
    base = HOST.model_base.LongCatImage(made, device=torch.device("cpu"))
    before = HOST.sd.load_diffusion_model_state_dict
    HOST.sd.load_diffusion_model_state_dict = lambda *a, **k: type("P", (), {"model": base})()
    try:
        refused(lambda: comfy_load.load(WAN_FILE, HOST), "LongCatImage", "cannot be trained here")
    finally:
        HOST.sd.load_diffusion_model_state_dict = before
