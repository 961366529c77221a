"""Weights of ComfyUI's own networks that rest elsewhere."""

import pytest
import torch

from tests.training.lora_networks import BF16, CPU, build, build_scaled, gradients, train_by_chance
from training.engine import offload

pytestmark = pytest.mark.inside


def recompute(blocks) -> None:
    for block in blocks:
        block.forward = _recomputed(block.forward)


def _recomputed(forward):
    from torch.utils.checkpoint import checkpoint

    return lambda *a, **k: checkpoint(forward, *a, use_reentrant=False, **k)


def test_weights_that_rest_elsewhere_give_the_same_gradients():
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
