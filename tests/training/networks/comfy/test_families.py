"""What each family is once it is loaded, and how its latents are scaled."""

import pytest
import torch

from sv_core.models.families import FLUX, QWEN_IMAGE, SD35, WAN22_5B, WAN22_14B
from tests.training.in_comfy import HOST, close, refused
from tests.training.networks.comfy.tiny_backbones import DIFFUSION, FILES, backbone
from training.networks.comfy import load as comfy_load

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


def test_latents_are_scaled_as_the_host_does_it():
    for name in FILES:
        one = backbone(name)
        frames = (2,) if one.family.frames else ()
        latent = torch.randn(2, one.latent.channels, *frames, 3, 3).double()
        x = one.base.process_latent_in(latent.clone())
        close(one.latent.to_model(latent), x, 1e-6, name)
        close(one.latent.from_model(x), one.base.process_latent_out(x.clone()), 1e-6, name)
    kinds = {n: (backbone(n).latent.kind, backbone(n).latent.downscale) for n in FILES}
    assert kinds == {
        "sd3": ("sd3", 8), "flux": ("flux", 8), "qwen": ("wan21", 8), "wan": ("wan21", 8),
        "wan 5B": ("wan22", 16),
    }, kinds  # fmt: skip


def test_what_each_family_is():
    for name, family, shift, width, architecture in (
        ("sd3", SD35, 3.0, 128, "sd3"), ("flux", FLUX, 3.158193, 128, "flux"),
        ("qwen", QWEN_IMAGE, 3.158193, 3072, "qwen-image"),
        ("wan", WAN22_14B, 8.0, 128, "wan"), ("wan 5B", WAN22_5B, 8.0, 128, "wan"),
    ):  # fmt: skip
        one = backbone(name)
        assert (one.family, one.width, one.patch_size) == (family, width, 2), name
        assert abs(one.shift - shift) < 1e-5, (name, one.shift)
        assert one.latent_rank == (5 if family.frames else 4)
        assert one.metadata()["modelspec.architecture"] == architecture
    low = DIFFUSION / "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
    assert backbone("wan").span == (0.875, 1.0) and comfy_load.load(low, HOST).span == (0.0, 0.875)
    assert backbone("wan 5B").span == (0.0, 1.0)
    assert comfy_load.load(low, HOST, expert="high").span == (0.875, 1.0)
    refused(
        lambda: comfy_load.load(FILES["qwen"], HOST, expert="low"), "comfy.expert", "Qwen-Image"
    )
