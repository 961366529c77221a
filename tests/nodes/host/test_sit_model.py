"""A SiT as a MODEL of ComfyUI: classes, previews, the names of its weights."""

import pytest
import torch

from tests.nodes.loaded_pack import (
    complaint,
    latent,
    sit,
    sit_model,
)

pytestmark = pytest.mark.inside


def test_text_conditioning_is_refused_in_words():
    words = complaint(lambda: sit_model.classes_from_conditioning(torch.zeros(1, 77, 768), 10))
    assert "not on text" in words
    assert sit_model.classes_from_conditioning(torch.zeros(1, 1, 1), 10).tolist() == [10]


def test_previews_show_pixels_and_the_sd_vae_s_latents():
    import latent_preview

    for spec, channels in ((latent.pixels(1), 1), (latent.pixels(3), 3), (latent.SD_VAE, 4)):
        form = sit_model.SpecLatentFormat(spec)
        previewer = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors)
        black = previewer.decode_latent_to_preview(torch.full((1, channels, 8, 8), -1.0))
        assert black.size == (8, 8)
        image = torch.rand(2, channels, 8, 8)
        assert torch.allclose(form.process_out(form.process_in(image)), image, atol=1e-6)
        if spec.kind == "pixels":
            white = previewer.decode_latent_to_preview(
                form.process_in(torch.ones(1, channels, 8, 8))
            )
            assert black.getpixel((0, 0)) == (0, 0, 0) and white.getpixel((0, 0)) == (255,) * 3


def test_lora_finds_the_published_parameter_names():
    config = sit.SiTConfig(input_size=8, hidden_size=32, depth=1, num_heads=2, num_classes=3)
    model = sit_model.SiTModel(sit.SiT(config), latent.SD_VAE, 3.0)
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(model, {})
    assert "diffusion_model.blocks.0.attn.qkv" in keys
