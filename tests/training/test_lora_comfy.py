"""LoRA on the host's own networks, in its interpreter: PACK RESULTS FOLDER, in the host's folder.

Every ``check_*`` raises AssertionError or returns; ``test_lora.py`` reads the results. FOLDER is
where LoRA files are written for the host's loader node.
"""

import json
import logging
import os
import sys
import time
import traceback
from importlib import util
from pathlib import Path

PACK, RESULTS, FOLDER = (Path(path) for path in sys.argv[1:4])
sys.path.insert(0, os.getcwd())
sys.path.append(str(PACK))  # behind the host, whose nodes.py must be found first

import comfy.options  # noqa: E402  before the arguments, as the host's main does
from comfy.cli_args import args  # noqa: E402

args.cpu = True
logging.disable(logging.WARNING)

import comfy.model_detection  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.flux.model import FluxParams  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import nodes  # noqa: E402
from training import lora  # noqa: E402
from training.engine import memory, offload  # noqa: E402


def _own(name: str, path: Path):
    spec = util.spec_from_file_location(name, path)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _own("sv_tiny", PACK / "tests/host/tiny.py")
torch.set_num_threads(1)
comfy.model_management.in_training = True
folder_paths.add_model_folder_path("loras", str(FOLDER), is_default=True)

NEW = "txt_ids_dims" in FluxParams.__dataclass_fields__
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
CPU = torch.device("cpu")
FIGURES: dict[str, str] = {}

SMALL = {  # two blocks of a kind at least, and widths that a CPU runs in milliseconds
    "sd35": tiny.SD35,
    "flux": tiny.FLUX | {"depth_single_blocks": 2} | ({"txt_ids_dims": []} if NEW else {}),
    "qwen": tiny.QWEN | {"num_layers": 2, "num_attention_heads": 1},
    "wan": tiny.WAN_14B | {"num_layers": 2},
}
CONTEXT = {"sd35": 4096, "flux": 4096, "qwen": 3584, "wan": 4096}
POOLED = {"sd35": 2048, "flux": 768}


def build(
    family: str,
    dtype: torch.dtype,
    compute: torch.dtype,
    rounded: torch.dtype | None = None,
    **changes: int,
):
    """A patcher over the host's own class with random weights, ``rounded`` to another dtype."""
    config = comfy.model_detection.model_config_from_unet_config(SMALL[family] | changes, {})
    config.set_inference_dtype(dtype, compute if compute != dtype else None)
    model = config.get_model({}, device="cpu")
    for name, value in model.diffusion_model.state_dict().items():  # the parameters themselves
        value.copy_(tiny.fill(name, value, 1, 0.7).to(rounded or dtype))
    model.diffusion_model.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def build_scaled(family: str):
    """The same from a file with scaled fp8 weights, through the host's loader."""
    config, gain = {"sd35": (tiny.SD35, 0.7), "wan": (tiny.WAN_14B | {"num_layers": 2}, 0.6)}[
        family
    ]
    whole = tiny.diffusion_model(config, 1, gain)
    file = {"scaled_fp8": torch.zeros(0, dtype=FP8)}
    for name, value in whole.items():
        file[name] = value
        layer = name.removesuffix(".weight")
        if "block" in name and layer != name and value.ndim == 2:
            scale = value.abs().max() / 448
            file[name], file[f"{layer}.scale_weight"] = (value / scale).to(FP8), scale
    return comfy.sd.load_diffusion_model_state_dict(file)


def call(patcher, family: str, compute: torch.dtype, size: int = 8) -> torch.Tensor:
    """v of the same inputs, as training calls the network."""
    generator = torch.Generator().manual_seed(5)
    frames = {"qwen": (1,), "wan": (2,)}.get(family, ())
    shape = (2, 16, *frames, size, size)
    x = torch.randn(shape, generator=generator).to(BF16).to(compute)
    options = {
        "context": torch.randn(2, 7, CONTEXT[family], generator=generator).to(BF16).to(compute)
    }
    if family in POOLED:
        options["y"] = torch.randn(2, POOLED[family], generator=generator).to(BF16).to(compute)
    if family == "flux":
        options["guidance"] = torch.full((2,), 3.5)
    t = patcher.model.model_sampling.timestep(torch.tensor([0.3, 0.8])).float()
    return patcher.model.diffusion_model(x, t, transformer_options={}, **options)


def train_by_chance(network, **options) -> list[str]:
    """Additions of about the base's size."""
    names = lora.inject(network, rank=4, alpha=6.0, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for a in lora.adapters(network).values():
            a.lora_B.copy_(torch.randn(a.lora_B.shape, generator=generator) * 0.5)
    return names


@torch.no_grad()
def run(patcher, family: str, compute: torch.dtype) -> dict[str, torch.Tensor]:
    """The outputs of the base, of ours with additions, and of the host's with their file."""
    network = patcher.model.diffusion_model
    base = call(patcher, family, compute).float()
    names = train_by_chance(network)
    assert all("block" in name for name in names) and len(names) >= 8
    ours = call(patcher, family, compute).float()
    save_file(lora.state_dict(network), FOLDER / "file.safetensors")
    lora.remove(network)
    assert torch.equal(call(patcher, family, compute).float(), base)
    outputs = {}
    for strength in (1.0, 0.0):
        load = nodes.LoraLoaderModelOnly().load_lora_model_only
        loaded = load(patcher, "file.safetensors", strength)[0]
        assert strength == 0 or len(loaded.patches) == len(names), "some were not loaded"
        loaded.patch_model(device_to=CPU)
        outputs[strength] = call(loaded, family, compute).float()
        loaded.unpatch_model(device_to=CPU)
    assert torch.equal(outputs[0.0], base), "strength 0 is not the base"
    assert (ours - base).norm() > 0.3 * base.norm(), "there was nothing to compare"
    return {"base": base, "ours": ours, "host": outputs[1.0]}


def share(outputs: dict[str, torch.Tensor], label: str) -> float:
    """How far the host is from ours, of the LoRA's effect."""
    ours, host = outputs["ours"], outputs["host"]
    error = float((host - ours).norm() / (ours - outputs["base"]).norm())
    worst = float((host - ours).abs().max() / ours.abs().max())
    FIGURES[label] = f"{error:.1e} of the LoRA's effect, {worst:.1e} of the largest output"
    return error


def check_float32_reloads_exactly():
    for family in SMALL:
        outputs = run(build(family, torch.float32, torch.float32), family, torch.float32)
        assert share(outputs, f"{family} fp32") <= 2e-6, family
        worst = (outputs["host"] - outputs["ours"]).abs().max()
        assert worst <= 2e-6 * outputs["ours"].abs().max(), (family, worst)


def check_bf16_and_fp8_reload_within_the_host_s_rounding_of_merged_weights():
    # Computed in float32, so that this rounding is all that is left.
    for family in SMALL:
        for dtype, name, limit in ((BF16, "bf16", 0.008), (FP8, "fp8", 0.12)):
            outputs = run(build(family, dtype, torch.float32), family, torch.float32)
            error = share(outputs, f"{family} {name} weights")
            assert error <= limit, (family, name, error)
            # The host's own network of the same base in float32 merges without rounding.
            wide = build(family, torch.float32, torch.float32, rounded=dtype)
            error = share(outputs | {"host": run(wide, family, torch.float32)["host"]},
                          f"{family} {name} weights, merged in fp32")  # fmt: skip
            assert error <= 2e-6, (family, name, error)


def check_scaled_fp8_reloads_within_the_host_s_rounding_of_merged_weights():
    for family in ("sd35", "wan"):
        patcher = build_scaled(family)
        layer = patcher.model.diffusion_model.get_submodule(
            {"sd35": "joint_blocks.0.x_block.attn.qkv", "wan": "blocks.0.ffn.0"}[family]
        )
        assert FP8 in {layer.weight.dtype, getattr(layer.weight, "_qdata", layer.weight).dtype}
        assert isinstance(layer, torch.nn.Linear) != NEW
        error = share(run(patcher, family, torch.float32), f"{family} scaled fp8 weights")
        assert error <= 0.12, (family, error)


def check_in_bf16_ours_is_about_as_far_from_exact_as_the_host():
    for family in SMALL:
        for dtype, name in ((BF16, "bf16"), (FP8, "fp8")):
            exact = run(build(family, dtype, torch.float32), family, torch.float32)["ours"]
            outputs = run(build(family, dtype, BF16), family, BF16)
            error = share(outputs, f"{family} {name} weights computed in bf16")
            ours, host = ((outputs[k] - exact).norm() / exact.norm() for k in ("ours", "host"))
            FIGURES[f"{family} {name} weights in bf16, to exact"] = f"{ours:.1e}, host {host:.1e}"
            assert ours <= 1.25 * host and error <= 0.12, (family, name, ours, host, error)


def gradients(patcher, family: str, compute: torch.dtype) -> dict[str, torch.Tensor]:
    network = patcher.model.diffusion_model
    network.zero_grad()
    call(patcher, family, compute).float().square().mean().backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.requires_grad}


def recompute(blocks) -> None:
    for block in blocks:
        block.forward = _recomputed(block.forward)


def _recomputed(forward):
    from torch.utils.checkpoint import checkpoint

    return lambda *a, **k: checkpoint(forward, *a, use_reentrant=False, **k)


def check_every_kind_of_base_trains_after_a_move():
    # Moving the network makes the scaled layers' own parameters anew, untrained.
    makers = {"bf16": lambda f: build(f, BF16, BF16), "fp8": lambda f: build(f, FP8, BF16),
              "scaled fp8": build_scaled}  # fmt: skip
    for kind, maker in makers.items():
        for family in ("sd35", "wan"):
            patcher = maker(family)
            network = patcher.model.diffusion_model
            names = train_by_chance(network)
            network.to(CPU)
            got = gradients(patcher, family, torch.float32 if kind == "scaled fp8" else BF16)
            assert len(got) == 2 * len(names), (kind, family)
            assert all(g.dtype == torch.float32 and g.isfinite().all() for g in got.values())
            moved = [n for n, g in got.items() if g.norm() > 0]
            assert len(moved) >= 0.9 * len(got), (kind, family, len(moved), len(got))


def check_weights_that_rest_elsewhere_give_the_same_gradients():
    for kind, compute in (("bf16", BF16), ("scaled fp8", torch.float32)):
        for family, list_name in (("sd35", "joint_blocks"), ("wan", "blocks")):
            results = []
            for n in (0, 2):
                patcher = build(family, BF16, BF16) if kind == "bf16" else build_scaled(family)
                network = patcher.model.diffusion_model
                train_by_chance(network)
                blocks = getattr(network, list_name)
                if n:
                    rest = offload.offload(blocks, n, CPU, recompute=True)
                    assert rest.tensors() and not any(
                        name.startswith(f"{list_name}.") and ".lora." not in name
                        for name, _ in network.named_parameters()
                    )
                    network.to(CPU)
                recompute(blocks)
                results.append(gradients(patcher, family, compute))
            assert results[0].keys() == results[1].keys() and results[0]
            assert all(torch.equal(results[0][n], results[1][n]) for n in results[0]), (
                kind,
                family,
            )


def check_what_fsdp_cannot_spread_is_known():
    network = build_scaled("sd35").model.diffusion_model
    train_by_chance(network)
    whole = lora.unspreadable(network)
    assert whole and not any(p.requires_grad for p in whole)
    spread = {n: p for n, p in network.named_parameters() if p not in whole}
    assert all(type(p.data) is torch.Tensor and p.ndim for p in spread.values())
    weights = {n for n, p in spread.items() if p.element_size() == 1}
    assert all(name.startswith("joint_blocks.") for name in weights) and bool(weights) != NEW


def check_what_a_block_saves_is_within_the_calculation():
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
        FIGURES[f"{family} block saves"] = f"{saved:.1f} hidden states"
        assert 0.7 * memory.saved_states(4) < saved <= memory.saved_states(4), (family, saved)


def check_the_sizes_of_the_published_networks():
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


def main():
    results = {}
    for name, check in globals().items():
        if name.startswith("check_"):
            began = time.perf_counter()
            try:
                check()
                results[name.removeprefix("check_")] = None
            except Exception:
                results[name.removeprefix("check_")] = traceback.format_exc(limit=-3)
            print(f"{time.perf_counter() - began:7.2f} s  {name}", file=sys.stderr)
    RESULTS.write_text(json.dumps({"checks": results, "figures": FIGURES}))


main()
