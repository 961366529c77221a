"""training.networks.comfy.families: where a record says that a network keeps things, they are."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sv_core.errors import InvalidInput
from sv_core.models.families import FLUX, SD35, WAN22_5B, WAN22_14B, find, having
from training.networks.comfy import families


def network(**parts) -> nn.Module:
    made = nn.Module()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def test_dotted_names_lead_through_attributes_and_layers() -> None:
    pooled = network(mlp=nn.Sequential(nn.Linear(24, 8), nn.SiLU()))
    sd3 = network(hidden_size=64, context_embedder=nn.Linear(32, 64), y_embedder=pooled)
    assert families.width(SD35, sd3) == 64
    assert families.text_widths(SD35, sd3) == {"context": 32, "pooled": 24}
    params = type("Params", (), {"context_in_dim": 5, "vec_in_dim": None})()
    assert families.text_widths(FLUX, network(params=params)) == {"context": 5, "pooled": 0}
    assert families.text_widths(WAN22_5B, network(text_dim=7)) == {"context": 7, "pooled": 0}


def test_image_tokens_are_read_in_the_order_of_running() -> None:
    flux = network(
        double_blocks=nn.ModuleList([nn.Linear(1, 1)]), single_blocks=nn.ModuleList([nn.ReLU()])
    )
    (double, first), (single, last) = families.blocks(FLUX, flux)
    assert (double, single) == (flux.double_blocks[0], flux.single_blocks[0])
    image, text = torch.rand(1, 3, 2), torch.rand(1, 4, 2)
    assert torch.equal(first((image, text), 3), image)
    assert torch.equal(last(torch.cat([text, image], 1), 3), image)


def test_a_small_network_of_the_same_kind_keeps_what_the_file_is() -> None:
    large, medium = ({"x_block_self_attn_layers": n, "qk_norm": "rms"} for n in ([], [0, 1, 2]))
    assert families.tiny(SD35, large)["x_block_self_attn_layers"] == []
    small = families.tiny(SD35, medium)
    assert small["x_block_self_attn_layers"] == [0] and small["qk_norm"] == "rms"
    assert small["depth"] == 1 and medium["x_block_self_attn_layers"] == [0, 1, 2]


def test_an_expert_s_noise_levels() -> None:
    high, plain = Path("wan2.2_t2v_high_noise_14B.safetensors"), Path("mine.safetensors")
    assert families.span_of(high, WAN22_14B, None) == (0.875, 1)
    assert families.span_of(high, WAN22_14B, "low") == (0, 0.875)
    assert families.span_of(plain, WAN22_14B, None) == (0, 1)
    for family in (WAN22_5B, FLUX):
        assert families.span_of(high, family, None) == (0, 1)
        with pytest.raises(
            InvalidInput, match=rf"of Wan2.2 14B, and .* is of {family.name}: leave"
        ):
            families.span_of(plain, family, "high")


def test_only_the_very_class_is_trained() -> None:
    made = {name: type(name, (), {})() for name in ("WAN22", "WAN21_Vace", "Flux2", "AuraFlow")}
    found = {name: families.trained_family(base) for name, base in made.items()}
    assert found == {"WAN22": WAN22_5B, "WAN21_Vace": None, "Flux2": None, "AuraFlow": None}


def test_what_is_trained_has_all_that_training_reads() -> None:
    for family in having("layout"):
        assert family.latent and family.time_embedding and family.text and family.size
        assert find(family.latent.kind) is family
