"""A VAE file in any of its layouts gives back the very network that was saved."""

import re
import sys

import pytest
import torch
from safetensors.torch import save_file

from sv_core.errors import InvalidInput
from training.encoders import vae

diffusers = pytest.importorskip("diffusers")

STEPS = 4  # levels of resolution: 8 times smaller


def tiny(latent_channels=4, quant=True, seed=0):
    """An AutoencoderKL with every parameter random, norms and biases included."""
    model = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * STEPS,
        up_block_types=("UpDecoderBlock2D",) * STEPS,
        layers_per_block=1,
        latent_channels=latent_channels,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def to_ldm(state):
    """The CompVis names: levels of the decoder count from the picture, attention is 1x1 conv."""
    out = {}
    for name, value in state.items():
        key = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(
            r"up_blocks\.(\d)\.(resnets|upsamplers\.0)",
            lambda m: f"up.{STEPS - 1 - int(m[1])}.{'block' if m[2][0] == 'r' else 'upsample'}",
            key,
        )
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        key = re.sub(r"to_([qkv])", r"\1", key).replace("to_out.0", "proj_out")
        out[key] = value[:, :, None, None] if "attn_1" in key and value.ndim == 2 else value
    return out


def to_old_diffusers(state):
    """As sd-vae-ft-mse was published: attention before its renaming."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        state = {k.replace(new, old): v for k, v in state.items()}
    return state


def inside_a_checkpoint(state):
    ldm = {f"first_stage_model.{k}": v for k, v in to_ldm(state).items()}
    return ldm | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4)}


LAYOUTS = {
    "diffusers": dict,
    "old diffusers": to_old_diffusers,
    "ldm": to_ldm,
    "in a checkpoint": inside_a_checkpoint,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network(tmp_path, layout):
    model = tiny()
    state = {k: v.contiguous() for k, v in LAYOUTS[layout](model.state_dict()).items()}
    save_file(state, tmp_path / "vae.safetensors")
    loaded = vae.load(tmp_path / "vae.safetensors", "sd")
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        posterior = model.encode(images * 2 - 1).latent_dist
        picture = model.decode(posterior.mean).sample
        mean, std = loaded.encode(images)
        assert torch.equal(mean, posterior.mean) and torch.equal(std, posterior.std)
        assert torch.equal(loaded.decode(mean), (picture / 2 + 0.5).clamp(0, 1))
    assert mean.shape == (2, 4, 4, 6)


def test_our_ldm_names_are_those_that_diffusers_itself_converts():
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = tiny().state_dict()
    converted = convert_ldm_vae_checkpoint(
        to_ldm(state), {"down_block_types": [0] * STEPS, "up_block_types": [0] * STEPS}
    )
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[k], state[k]) for k in state)


def test_sixteen_channels_with_scale_and_shift(tmp_path):
    model = tiny(16, quant=False)
    save_file(model.state_dict(), tmp_path / "ae.safetensors")
    loaded = vae.load(tmp_path / "ae.safetensors", "flux")
    latent = torch.tensor([0.1159, 1.1159])
    assert torch.allclose(loaded.latent.to_model(latent), torch.tensor([0.0, 0.3611]))
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.encode(images)[0], model.encode(images * 2 - 1).latent_dist.mean)


def refusal(path, family="sd"):
    with pytest.raises(InvalidInput) as e:
        vae.load(path, family)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_files_that_are_no_such_vae_are_refused_in_words(tmp_path, monkeypatch):
    path = tmp_path / "vae.safetensors"
    assert "there is no checkpoint" in refusal(path)
    state = tiny().state_dict()
    save_file(state, path)
    assert "latents of 4 channels" in refusal(path, "flux") and "SD or SDXL" in refusal(path, "sd3")
    path.write_bytes(path.read_bytes()[:-1000])
    assert "damaged or cut short" in refusal(path)
    save_file({k: v for k, v in state.items() if k != "decoder.conv_in.bias"}, path)
    assert "decoder.conv_in.bias is missing" in refusal(path)
    save_file({"blocks.0.attn.qkv.weight": torch.zeros(3)}, path)
    assert "holds no AutoencoderKL" in refusal(path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "pip install diffusers" in refusal(path)
