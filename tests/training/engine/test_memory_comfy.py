"""Memory by calculation against ComfyUI's own networks."""

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import pytest
import torch

from tests.host import tiny
from tests.training.in_comfy import NEW
from tests.training.lora_networks import BF16, SMALL, build, call, note, train_by_chance
from training.engine import memory

pytestmark = pytest.mark.inside


def test_what_a_block_saves_is_within_the_calculation():
    # Of each family's first block, without its weights; 256 image tokens and 7 of text.
    wide = {"sd35": {}, "flux": {"hidden_size": 256, "num_heads": 2}, "wan": {"ffn_dim": 512},
            "qwen": {"num_attention_heads": 2}}  # fmt: skip
    for family, name in (("sd35", "joint_blocks"), ("flux", "double_blocks"),
                         ("qwen", "transformer_blocks"), ("wan", "blocks")):  # fmt: skip
        if family == "flux" and not NEW:
            continue  # its width is fixed there
        patcher = build(family, BF16, BF16, **wide[family])
        network = patcher.model.diffusion_model
        train_by_chance(network)
        block, seen = getattr(network, name)[0], {}
        forward, own = block.forward, {p.untyped_storage().data_ptr() for p in block.parameters()}

        def watched(*args, forward=forward, own=own, seen=seen, **options):
            def save(x):
                if x.untyped_storage().data_ptr() not in own:
                    seen[x.untyped_storage().data_ptr()] = x.untyped_storage()
                return x

            with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
                return forward(*args, **options)

        block.forward = watched
        call(patcher, family, BF16, size=32)
        width = 256 if family in ("flux", "qwen") else 128
        tokens = 2 * ({"wan": 2}.get(family, 1) * 16**2 + (0 if family == "wan" else 7))
        saved = sum(storage.nbytes() for storage in seen.values()) / (2 * tokens * width)
        note(f"{family} block saves", f"{saved:.1f} hidden states")
        assert 0.7 * memory.saved_states(4) < saved <= memory.saved_states(4), (family, saved)


def test_the_sizes_of_the_published_networks():
    published = {
        "sd3.5-large": tiny.SD35 | {
            "depth": 38, "num_patches": 36864, "pos_embed_max_size": 192,
            "context_embedder_config": {"target": "torch.nn.Linear",
                                        "params": {"in_features": 4096, "out_features": 2432}},
        },
        "flux-dev": SMALL["flux"] | {"hidden_size": 3072, "num_heads": 24, "depth": 19,
                                     "depth_single_blocks": 38},
        "qwen-image": tiny.QWEN | {"num_layers": 60},
        "wan2.2-14b": tiny.WAN_14B | {"dim": 5120, "num_heads": 40, "ffn_dim": 13824,
                                      "num_layers": 40},
        "wan2.2-5b": tiny.WAN_5B | {"dim": 3072, "num_heads": 24, "ffn_dim": 14336,
                                    "num_layers": 30},
    }  # fmt: skip
    records = memory.families
    assert {*map(records.spelled, published)} == {f.name for f in records.having("size")}
    for name, config in published.items():
        config = comfy.model_detection.model_config_from_unet_config(dict(config), {})
        config.set_inference_dtype(torch.float32, None)
        network = config.get_model({}, device="meta").diffusion_model
        lists = [m for m in network.children() if isinstance(m, torch.nn.ModuleList)]
        blocks = [sum(p.numel() for p in b.parameters()) for part in lists for b in part]
        rest = sum(p.numel() for p in network.parameters()) - sum(blocks)
        expected = memory.size_of(name)
        assert (rest, tuple(blocks)) == (expected.rest, expected.blocks), (name, rest, set(blocks))
        assert memory.network_of(network, [b for part in lists for b in part],
                                    expected.width, expected.mlp_ratio) == expected  # fmt: skip
