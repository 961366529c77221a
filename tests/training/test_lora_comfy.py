"""LoRA on ComfyUI's own networks: what is trained here, its loader node gives back.

``pytest -s`` prints the figures.
"""

import pytest
import torch
from safetensors.torch import save_file

import nodes
from tests.training.in_comfy import NEW
from tests.training.lora_networks import (
    BF16,
    CPU,
    FOLDER,
    FP8,
    SMALL,
    build,
    build_scaled,
    call,
    gradients,
    note,
    train_by_chance,
)
from training import lora

pytestmark = pytest.mark.inside


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
    note(label, f"{error:.1e} of the LoRA's effect, {worst:.1e} of the largest output")
    return error


def test_float32_reloads_exactly():
    for family in SMALL:
        outputs = run(build(family, torch.float32, torch.float32), family, torch.float32)
        assert share(outputs, f"{family} fp32") <= 2e-6, family
        worst = (outputs["host"] - outputs["ours"]).abs().max()
        assert worst <= 2e-6 * outputs["ours"].abs().max(), (family, worst)


def test_bf16_and_fp8_reload_within_the_host_s_rounding_of_merged_weights():
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


def test_scaled_fp8_reloads_within_the_host_s_rounding_of_merged_weights():
    for family in ("sd35", "wan"):
        patcher = build_scaled(family)
        layer = patcher.model.diffusion_model.get_submodule(
            {"sd35": "joint_blocks.0.x_block.attn.qkv", "wan": "blocks.0.ffn.0"}[family]
        )
        assert FP8 in {layer.weight.dtype, getattr(layer.weight, "_qdata", layer.weight).dtype}
        assert isinstance(layer, torch.nn.Linear) != NEW
        error = share(run(patcher, family, torch.float32), f"{family} scaled fp8 weights")
        assert error <= 0.12, (family, error)


def test_in_bf16_ours_is_about_as_far_from_exact_as_the_host():
    for family in SMALL:
        for dtype, name in ((BF16, "bf16"), (FP8, "fp8")):
            exact = run(build(family, dtype, torch.float32), family, torch.float32)["ours"]
            outputs = run(build(family, dtype, BF16), family, BF16)
            error = share(outputs, f"{family} {name} weights computed in bf16")
            ours, host = ((outputs[k] - exact).norm() / exact.norm() for k in ("ours", "host"))
            note(f"{family} {name} weights in bf16, to exact", f"{ours:.1e}, host {host:.1e}")
            assert ours <= 1.25 * host and error <= 0.12, (family, name, ours, host, error)


def test_every_kind_of_base_trains_after_a_move():
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


def test_what_fsdp_cannot_spread_is_known():
    network = build_scaled("sd35").model.diffusion_model
    train_by_chance(network)
    whole = lora.unspreadable(network)
    assert whole and not any(p.requires_grad for p in whole)
    spread = {n: p for n, p in network.named_parameters() if p not in whole}
    assert all(type(p.data) is torch.Tensor and p.ndim for p in spread.values())
    weights = {n for n, p in spread.items() if p.element_size() == 1}
    assert all(name.startswith("joint_blocks.") for name in weights) and bool(weights) != NEW
