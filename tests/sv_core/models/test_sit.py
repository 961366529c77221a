"""sv_core.models.sit: the published layout, the direction of time, and where each pixel goes."""

import math

import pytest
import torch
from torch.nn import functional as F

from sv_core.errors import InvalidInput
from sv_core.latent import SD_VAE, LatentSpec, pixels
from sv_core.models.sit import SiT, SiTConfig, position_embedding
from sv_core.models.sit_file import from_checkpoint, to_metadata

TINY = SiTConfig(
    input_size=8, patch_size=2, in_channels=3, hidden_size=32, depth=2, num_heads=4, num_classes=5
)
# Width, blocks and heads in the SiT paper's table of models.
PUBLISHED = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


def published_layout(d, depth, patch):
    """Parameter names and shapes of the released ImageNet-256 checkpoints, sigma included."""
    layout = {
        "pos_embed": (1, (32 // patch) ** 2, d),
        "x_embedder.proj.weight": (d, 4, patch, patch),
        "x_embedder.proj.bias": (d,),
        "t_embedder.mlp.0.weight": (d, 256),
        "t_embedder.mlp.0.bias": (d,),
        "t_embedder.mlp.2.weight": (d, d),
        "t_embedder.mlp.2.bias": (d,),
        "y_embedder.embedding_table.weight": (1001, d),
        "final_layer.linear.weight": (patch * patch * 8, d),
        "final_layer.linear.bias": (patch * patch * 8,),
        "final_layer.adaLN_modulation.1.weight": (2 * d, d),
        "final_layer.adaLN_modulation.1.bias": (2 * d,),
    }
    for i in range(depth):
        layout |= {
            f"blocks.{i}.attn.qkv.weight": (3 * d, d),
            f"blocks.{i}.attn.qkv.bias": (3 * d,),
            f"blocks.{i}.attn.proj.weight": (d, d),
            f"blocks.{i}.attn.proj.bias": (d,),
            f"blocks.{i}.mlp.fc1.weight": (4 * d, d),
            f"blocks.{i}.mlp.fc1.bias": (4 * d,),
            f"blocks.{i}.mlp.fc2.weight": (d, 4 * d),
            f"blocks.{i}.mlp.fc2.bias": (d,),
            f"blocks.{i}.adaLN_modulation.1.weight": (6 * d, d),
            f"blocks.{i}.adaLN_modulation.1.bias": (6 * d,),
        }
    return layout


@pytest.fixture
def model(generator):
    """A small SiT whose every weight matters: the initial one is the zero function."""
    return perturbed(SiT(TINY), generator)


def perturbed(model, generator):
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model.eval()


def inputs(generator, config=TINY, n=3):
    x = torch.randn(
        n, config.in_channels, config.input_size, config.input_size, generator=generator
    )
    return x, torch.rand(n, generator=generator), torch.arange(n) % config.num_classes


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size", PUBLISHED)
def test_published_layout_and_back(size, patch):
    width, depth, heads = PUBLISHED[size]
    config = SiTConfig.named(f"SiT-{size}/{patch}", learn_sigma=True, data_time=1)
    assert (config.hidden_size, config.depth, config.num_heads) == (width, depth, heads)
    with torch.device("meta"):
        state = SiT(config).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == published_layout(width, depth, patch)
    assert SiTConfig.from_state_dict(state) == config


def test_repa_files_have_half_the_outputs_and_our_time():
    config = SiTConfig.named("SiT-XL/2")
    with torch.device("meta"):
        state = SiT(config).state_dict()
    assert state["final_layer.linear.weight"].shape == (2 * 2 * 4, 1152)
    assert SiTConfig.from_state_dict(state) == config
    assert config.data_time == 0


def test_number_of_parameters_of_xl():
    with torch.device("meta"):
        model = SiT(SiTConfig.named("SiT-XL/2", learn_sigma=True))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 675  # the paper's table


@pytest.mark.parametrize("name", ["SiT-M/2", "SiT-B", "B/x", "DiT-XL/2"])
def test_unknown_names(name):
    with pytest.raises(InvalidInput, match=r"use SiT-S, -B, -L or -XL with /2, /4 or /8"):
        SiTConfig.named(name)


def test_begins_as_zero_and_its_blocks_as_identity(generator):
    model = SiT(TINY)
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append(torch.equal(args[0], out)))
    assert not model(*inputs(generator)).any()
    assert seen == [True] * TINY.depth


def test_reversed_time_is_the_same_flow_told_backwards(model, generator):
    """data_time = 1: the network was trained on s = 1 - t, and dx/ds = -dx/dt."""
    reverse = SiT(SiTConfig(**{**TINY.__dict__, "data_time": 1})).eval()
    reverse.load_state_dict(model.state_dict())
    x, t, y = inputs(generator)
    torch.testing.assert_close(reverse(x, t, y), -model(x, 1 - t, y), rtol=0, atol=0)
    assert not torch.allclose(reverse(x, t, y), model(x, t, y), atol=0.1)


def test_time_and_class_matter_and_samples_do_not_mix(model, generator):
    x, t, y = inputs(generator)
    out = model(x, t, y)
    for other in (model(x, t + 0.1, y), model(x, t, (y + 1) % 5), model(x, t, torch.full((3,), 5))):
        assert ((out - other).abs().flatten(1).amax(1) > 1e-3).all()
    torch.testing.assert_close(model(x[1:2], t[1:2], y[1:2]), out[1:2], rtol=1e-5, atol=1e-5)


def test_the_second_half_of_learned_outputs_is_left_out(generator):
    model = perturbed(SiT(SiTConfig(**{**TINY.__dict__, "learn_sigma": True})), generator)
    args = inputs(generator)
    out = model(*args)
    assert out.shape == args[0].shape
    with torch.no_grad():  # rows are (p q c), c running over the six channels
        model.final_layer.linear.weight.view(4, 6, -1)[:, 3:] = 7
        assert torch.equal(model(*args), out)
        model.final_layer.linear.weight.view(4, 6, -1)[:, :3] += 1
        assert not torch.allclose(model(*args), out)


@pytest.mark.parametrize("patch", [2, 4])
def test_patches_come_back_where_they_were(patch, generator):
    """Identity blocks, embedding and output: what is left is the final norm of each patch."""
    d = 4 * patch * patch
    config = SiTConfig(
        input_size=8, patch_size=patch, in_channels=4, hidden_size=d, depth=1, num_heads=1
    )
    model = SiT(config)
    with torch.no_grad():
        model.pos_embed.zero_()
        model.x_embedder.proj.weight.copy_(torch.eye(d).view(d, 4, patch, patch))
        c_p_q = torch.eye(d).view(4, patch, patch, d)
        model.final_layer.linear.weight.copy_(c_p_q.permute(1, 2, 0, 3).reshape(d, d))
    x, t, y = inputs(generator, config)
    patches = F.unfold(x, patch, stride=patch).transpose(1, 2)  # (b, n, c p q)
    normed = F.layer_norm(patches, (d,), eps=1e-6).transpose(1, 2)
    expected = F.fold(normed, (8, 8), patch, stride=patch)
    torch.testing.assert_close(model(x, t, y), expected, rtol=0, atol=1e-5)


def test_attention_is_softmax_of_scaled_products(model, generator):
    attention = model.blocks[0].attn
    x = torch.randn(2, 7, 32, generator=generator)
    q, k, v = (p.view(2, 7, 4, 8) for p in attention.qkv(x).chunk(3, dim=-1))
    w = (torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(8)).softmax(-1)
    expected = attention.proj(torch.einsum("bhij,bjhd->bihd", w, v).flatten(2))
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)


def test_without_positions_patches_are_a_set(model, generator):
    x, t, y = inputs(generator)
    with torch.no_grad():
        still = model(x, t, y)
        moved = model(x.roll(2, -1), t, y)
        assert not torch.allclose(moved, still.roll(2, -1), atol=1e-3)
        model.pos_embed.zero_()
        still, moved = model(x, t, y), model(x.roll(2, -1), t, y)
    torch.testing.assert_close(moved, still.roll(2, -1), rtol=0, atol=1e-4)


def test_position_embedding_in_closed_form():
    d, grid = 12, 3
    table = position_embedding(d, grid)[0]
    for row in range(grid):
        for column in range(grid):
            omega = [10000 ** (-i / 3) for i in range(3)]
            expected = [
                f(p * w) for p in (column, row) for f in (math.sin, math.cos) for w in omega
            ]
            torch.testing.assert_close(table[row * grid + column], torch.tensor(expected))


def test_timestep_waves_in_closed_form(model, generator):
    seen = []
    model.t_embedder.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x, t, y = inputs(generator)
    model(x, t, y)
    omega = [10000 ** (-i / 128) for i in range(128)]
    expected = [[f(at * w) for f in (math.cos, math.sin) for w in omega] for at in t.tolist()]
    torch.testing.assert_close(seen[0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_another_latent_size_is_refused_in_words(model, generator):
    x, t, y = inputs(generator)
    with pytest.raises(InvalidInput, match="made for 8x8 latents, got 8x16"):
        model(torch.cat([x, x], dim=-1), t, y)


def test_our_files_describe_themselves(model, generator):
    latent = LatentSpec("flux", 3, scale=0.3611, shift=0.1159, downscale=8)
    loaded, spec = from_checkpoint(model.state_dict(), to_metadata(TINY, latent))
    assert (loaded.config, spec) == (TINY, latent)
    assert not loaded.training
    args = inputs(generator)
    assert torch.equal(loaded(*args), model(*args))


@pytest.mark.parametrize(("channels", "latent"), [(4, SD_VAE), (3, pixels(3)), (1, pixels(1))])
def test_others_files_are_read_by_their_shapes(channels, latent, generator):
    config = SiTConfig(**{**TINY.__dict__, "in_channels": channels, "num_heads": 1})
    model = perturbed(SiT(config), generator)
    state = model.state_dict()
    state["projectors.0.0.weight"] = torch.zeros(2, 2)
    for file in (state, {"ema": state, "model": {}, "opt": {}}):
        loaded, spec = from_checkpoint(file)
        assert spec == latent
        args = inputs(generator, config)
        assert torch.equal(loaded(*args), model(*args))


def test_half_precision_files_are_loaded_in_float32(model):
    state = {k: v.half() for k, v in model.state_dict().items()}
    loaded, _ = from_checkpoint(state, to_metadata(TINY, pixels(3)))
    for name, p in loaded.state_dict().items():
        assert torch.equal(p, state[name].float())


def without(state, name):
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: {},
        lambda s: {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)},
        lambda s: without(s, "pos_embed"),
        lambda s: without(s, "blocks.1.attn.proj.bias"),
        lambda s: {k: v for k, v in s.items() if not k.startswith("blocks.")},
        lambda s: s | {"blocks.1.attn.norm_q.weight": torch.ones(8)},
        lambda s: s | {"blocks.1.mlp.fc2.bias": torch.ones(8)},
        lambda s: s | {"x_embedder.proj.weight": torch.ones(32, 12)},
        lambda s: s | {"pos_embed": torch.ones(16)},
        lambda s: {"ema": {}},
    ],
)
def test_another_architecture_is_refused_in_words(model, damage):
    with pytest.raises(InvalidInput, match="this is not a SiT checkpoint"):
        from_checkpoint(damage(dict(model.state_dict())))


@pytest.mark.parametrize("name", ["SiT-B/3", "SiT-B/0", "SiT-Q/2", "SiT-B", "DiT-XL/2"])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(InvalidInput, match="use SiT-S, -B, -L or -XL with /2, /4 or /8"):
        SiTConfig.named(name)


@pytest.mark.parametrize("text", ["{", '{"depths": 3}', "[]"])
def test_a_damaged_description_is_said_in_words(text):
    with pytest.raises(InvalidInput, match="description of itself"):
        from_checkpoint({}, {"sit": text})
