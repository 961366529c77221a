"""Memory by calculation: exact for what is stored, a bound for what a block saves."""

import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from sv_core.models.sit import SiT, SiTConfig
from training import lora
from training.engine.memory import (
    GIB,
    RESERVE,
    footprint,
    least_offload,
    network_of,
    saved_states,
    size_of,
    tensor_bytes,
)
from training.engine.offload import offload
from training.engine.stochastic_rounding import step_in_float32

FLUX = size_of("Flux")


@pytest.fixture
def sit():
    config = SiTConfig(input_size=16, hidden_size=64, depth=4, num_heads=2, num_classes=5)
    return SiT(config)


def sizes(sit):
    return network_of(sit, sit.blocks, 64, 4.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_lora_run_stores_is_exact(sit, dtype):
    sit = sit.to(dtype)
    network, name = sizes(sit), {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    said = footprint(network, 64, rank=3, weights=name, compute=name, offload_blocks=3)
    lora.inject(sit, rank=3)
    frozen = [p for p in sit.parameters() if not p.requires_grad]
    trained = [p for p in sit.parameters() if p.requires_grad]
    everything = tensor_bytes(frozen)
    rest = offload(sit.blocks, 3, torch.device("cpu"), recompute=True)
    resting = tensor_bytes(rest.tensors())
    assert said.weights == everything - resting
    assert said.visiting == resting * 2 / 3
    assert said.trained == tensor_bytes(trained) == 4 * 3 * network.features
    optimizer = torch.optim.AdamW(trained)
    for p in trained:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert said.gradients == tensor_bytes(p.grad for p in trained)
    assert said.moments == tensor_bytes(
        value for state in optimizer.state.values() for k, value in state.items() if k != "step"
    )
    assert said.averages == tensor_bytes(p.detach().float() for p in trained)
    assert said.casts == 0 and said.total == sum(astuple(said))


def test_what_bf16_training_of_all_weights_stores_is_exact(sit):
    sit = sit.to(torch.bfloat16)
    said = footprint(sizes(sit), 64, averages=0)
    parameters = list(sit.parameters())
    optimizer = step_in_float32(torch.optim.AdamW(parameters), 1)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert said.weights == said.visiting == said.averages == 0
    assert said.trained == said.gradients == tensor_bytes(parameters)
    assert said.moments == tensor_bytes(
        value for state in optimizer.state.values() for k, value in state.items() if k != "step"
    )


def test_what_a_block_saves_is_within_the_bound(sit):
    lora.inject(sit, rank=2)
    x, c = torch.randn(3, 64, 64), torch.randn(3, 64)
    own = {p.untyped_storage().data_ptr() for p in sit.parameters()}
    seen = {}

    def save(t):
        if t.untyped_storage().data_ptr() not in own:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(save, lambda t: t):
        sit.blocks[1](x, c)
    saved = sum(storage.nbytes() for storage in seen.values()) / (4 * 3 * 64 * 64)
    assert 0.5 * saved_states(4) < saved <= saved_states(4)


def test_by_hand():
    # Flux at 1024 x 1024: 4096 + 512 tokens of 3072 channels in bf16.
    said = footprint(FLUX, 4608, rank=16, weights="fp8", batch=2, averages=2)
    state = 2 * 4608 * 3072 * 2
    assert FLUX.weights == said.weights == 11_901_408_320
    assert said.casts == 2 * 339_831_296
    assert said.boundaries == 58 * state and said.inside == 40 * state
    assert said.trained == said.gradients == 4 * 16 * 4_786_176
    assert said.averages == said.moments == 2 * said.trained
    # The last 38 blocks are the small ones; 39 take one of the large ones along.
    off = footprint(FLUX, 4608, rank=16, offload_blocks=38)
    assert off.weights == 2 * (FLUX.weights - 38 * 141_591_808)
    assert off.visiting == 4 * 141_591_808
    off = footprint(FLUX, 4608, rank=16, offload_blocks=39)
    assert off.visiting == 2 * (339_831_296 + 141_591_808)


def test_the_least_offloading_is_the_least():
    budget = 16 * GIB
    n = least_offload(budget, FLUX, 4608, rank=16)
    totals = [footprint(FLUX, 4608, rank=16, offload_blocks=k).total + RESERVE for k in (n - 1, n)]
    assert totals[0] > budget >= totals[1]
    assert least_offload(80 * GIB, FLUX, 4608, rank=16) == 0
    assert least_offload(1 * GIB, FLUX, 4608, rank=16) is None


def test_a_12b_lora_fits_cards_of_16_and_24_gb():
    for tokens in (1536, 4608):
        for weights in ("bf16", "fp8"):
            for card in (12, 16, 24):
                options = {"rank": 16, "weights": weights}
                assert least_offload(card * GIB, FLUX, tokens, **options) is not None
    assert least_offload(24 * GIB, FLUX, 4608, rank=16, weights="fp8") == 0


def test_the_table_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "training.engine.memory"],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and all(line.count("|") == 9 for line in lines)
    n = least_offload(16 * GIB, FLUX, 4608, rank=16)
    assert re.search(rf"bf16 \| 1024 x 1024 .* offload_blocks = {n} ", lines[3])
