"""DINOv2 from a file computes what the saved network computes, whoever named its tensors."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu

from sv_core.errors import InvalidInput
from training.encoders import dinov2 as dino

transformers = pytest.importorskip("transformers")

GRID = 4  # tokens a side of the pictures that the tiny networks are made for
KINDS = [(registers, swiglu) for registers in (0, 4) for swiglu in (False, True)]
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def tiny(registers=0, swiglu=False):
    sizes = dict(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=14 * GRID,
        patch_size=14,
        use_swiglu_ffn=swiglu,
    )
    if registers:
        config = transformers.Dinov2WithRegistersConfig(num_register_tokens=registers, **sizes)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def meta(registers=0, swiglu=False, width=128, depth=2):
    """Random weights under the names of the original .pth."""
    g = torch.Generator().manual_seed(0)

    def random(*shape):
        return 0.2 * torch.randn(shape, generator=g)

    state = {
        "cls_token": random(1, 1, width),
        "pos_embed": random(1, 1 + GRID**2, width),
        "mask_token": random(1, width),
        "patch_embed.proj.weight": random(width, 3, 14, 14),
        "patch_embed.proj.bias": random(width),
        "norm.weight": 1 + random(width),
        "norm.bias": random(width),
    }
    if registers:
        state["register_tokens"] = random(1, registers, width)
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
    wide = (("w12", 2 * hidden, width), ("w3", width, hidden))
    if not swiglu:
        wide = (("fc1", 4 * width, width), ("fc2", width, 4 * width))
    for i in range(depth):
        maps = [("attn.qkv", 3 * width, width), ("attn.proj", width, width)]
        maps += [(f"mlp.{name}", out, into) for name, out, into in wide]
        for name, out, into in maps:
            state[f"blocks.{i}.{name}.weight"] = random(out, into)
            state[f"blocks.{i}.{name}.bias"] = random(out)
        for name in ("norm1", "norm2"):
            state[f"blocks.{i}.{name}.weight"] = 1 + random(width)
            state[f"blocks.{i}.{name}.bias"] = random(width)
        for name in ("ls1", "ls2"):
            state[f"blocks.{i}.{name}.gamma"] = random(width)
    return state


def dinov2(s, x, heads=2):
    """The published network, written out: patch tokens (b, n, d) of normalised pictures."""

    def part(name, z):
        return linear(z, s[f"{name}.weight"], s[f"{name}.bias"])

    def norm(name, z):
        return layer_norm(z, z.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)

    patches = torch.nn.functional.conv2d(
        x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=14
    )
    z = torch.cat([s["cls_token"].expand(len(x), -1, -1), patches.flatten(2).mT], 1)
    z = z + s["pos_embed"]
    extra = s["register_tokens"] if "register_tokens" in s else z[:1, :0]
    z = torch.cat([z[:, :1], extra.expand(len(x), -1, -1), z[:, 1:]], 1)
    for i in range(2):
        block = f"blocks.{i}"
        qkv = part(f"{block}.attn.qkv", norm(f"{block}.norm1", z))
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        z = z + s[f"{block}.ls1.gamma"] * part(f"{block}.attn.proj", attended)
        y = norm(f"{block}.norm2", z)
        if f"{block}.mlp.w12.weight" in s:
            gate, up = part(f"{block}.mlp.w12", y).chunk(2, -1)
            y = part(f"{block}.mlp.w3", silu(gate) * up)
        else:
            y = part(f"{block}.mlp.fc2", gelu(part(f"{block}.mlp.fc1", y)))
        z = z + s[f"{block}.ls2.gamma"] * y
    return norm("norm", z)[:, 1 + extra.shape[1] :]


@pytest.mark.parametrize("registers, swiglu", KINDS)
def test_a_saved_network_is_the_same_one_again(tmp_path, registers, swiglu):
    model = tiny(registers, swiglu)
    model.save_pretrained(tmp_path)
    encoder = dino.load(tmp_path / "model.safetensors")
    assert (encoder.dim, encoder.registers) == (128, registers)
    assert encoder.name == "dinov2-128" + ("-registers" if registers else "")
    images = torch.rand(2, 3, 14 * 3, 14 * 5)
    with torch.no_grad():
        own = model((images - MEAN) / STD).last_hidden_state[:, 1 + registers :]
        torch.testing.assert_close(encoder.features(images, (3, 5)), own, rtol=0, atol=1e-6)


@pytest.mark.parametrize("registers, swiglu", KINDS)
def test_the_original_names_compute_the_published_network(tmp_path, registers, swiglu):
    state = meta(registers, swiglu)
    torch.save(state, tmp_path / "dinov2.pth")
    encoder = dino.load(tmp_path / "dinov2.pth")
    images = torch.rand(2, 3, 14 * GRID, 14 * GRID)
    with torch.no_grad():
        own = dinov2(state, (images - MEAN) / STD)
        torch.testing.assert_close(encoder.features(images, (GRID, GRID)), own, rtol=0, atol=2e-5)


def test_a_patch_is_its_token(tmp_path):
    """Row by row: what changes most when one square of a wide picture changes is its own token."""
    torch.save(meta(4), tmp_path / "dinov2.pth")
    encoder = dino.load(tmp_path / "dinov2.pth")
    images = torch.rand(1, 3, 16 * 3, 16 * 5)
    changed = images.clone()
    changed[..., 16 * 2 : 16 * 3, 16 * 1 : 16 * 2] = 0  # row 2, column 1 of 3 x 5
    with torch.no_grad():
        difference = encoder.features(changed, (3, 5)) - encoder.features(images, (3, 5))
    assert difference.norm(dim=-1).argmax() == 2 * 5 + 1


def refusal(path):
    with pytest.raises(InvalidInput) as e:
        dino.load(path)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_files_that_are_no_dinov2_are_refused_in_words(tmp_path, monkeypatch, capfd):
    path = tmp_path / "model.safetensors"
    assert "there is no checkpoint" in refusal(path)
    tiny().save_pretrained(tmp_path)
    capfd.readouterr()
    whole = load_file(path)
    save_file({k: v for k, v in whole.items() if k != "layernorm.weight"}, path)
    assert "layernorm.weight is missing" in refusal(path)
    save_file(whole | {"head.weight": torch.zeros(1)}, path)
    assert "head.weight" in refusal(path)
    projection = "embeddings.patch_embeddings.projection.weight"
    save_file(whole | {projection: torch.zeros(128, 3, 16, 16)}, path)
    assert "patches of 14 pixels" in refusal(path) and "this has 16" in refusal(path)
    narrow = {k: v[:64] if k == "layernorm.weight" else v for k, v in whole.items()}
    save_file(narrow, path)
    assert "layernorm.weight is missing or does not fit" in refusal(path)
    save_file({"pos_embed": torch.zeros(1)}, path)
    assert "holds no DINOv2" in refusal(path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install transformers" in refusal(path)
    assert capfd.readouterr() == ("", "")
