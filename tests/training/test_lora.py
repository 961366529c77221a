"""LoRA on networks of any layers: its formula, its gradients, its names, its files."""

import functools
import os
import socket
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sv_core.errors import InvalidInput
from training import lora

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 12


class Fp8Linear(nn.Module):
    """A layer that is no nn.Linear, with fp8 weights and a scale, as ComfyUI's."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        weight = torch.randn(outputs, inputs) * 16
        self.weight = nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = nn.Parameter(torch.tensor(1 / 64))

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias.to(x.dtype))


class Block(nn.Module):
    def __init__(self, linear=nn.Linear):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.to_q, self.out = linear(WIDTH, 20), linear(20, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x):
        h = self.norm(x.to(self.norm.weight.dtype))
        return x + self.out(F.silu(self.to_q(h.to(self.to_q.bias.dtype)))).to(x.dtype)


class Net(nn.Module):
    def __init__(self, linear=nn.Linear):
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(Block(linear) for _ in range(3))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = self.embed(x.to(self.embed.weight.dtype))
        for block in self.blocks:
            x = block(x)
        return self.head(x.to(self.head.weight.dtype))


def make(linear=nn.Linear, dtype=None, seed=0):
    torch.manual_seed(seed)
    net = Net(linear)
    return net if dtype is None else net.to(dtype)


def move(net, seed=1):
    """Give the additions an effect."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in lora.adapters(net).values():
        nn.init.normal_(adapter.lora_B, generator=generator)
    return net


@pytest.fixture
def x():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(3))


def gradients(net, x):
    net.zero_grad()
    net(x).float().square().mean().backward()
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.requires_grad}


def worst(a, b):
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm()) for n in b)


def test_it_begins_at_the_base_and_trains_itself_only(x):
    net, base = make(), make()
    names = lora.inject(net, rank=3)
    assert names == [f"blocks.{i}.{layer}" for i in range(3) for layer in ("to_q", "out")]
    assert torch.equal(net(x), base(x))
    trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
    assert set(trained) == {f"{name}.lora.lora_{m}" for name in names for m in "AB"}
    assert all(p.dtype == torch.float32 for p in trained.values())
    a = trained["blocks.0.to_q.lora.lora_A"]
    # Uniform on +-1/sqrt(12): the standard deviation is 1/6.
    assert a.shape == (3, WIDTH) and 0.1 < a.std() < a.abs().max() < 0.289
    # The base's own names and values are what they were.
    own = {n: v for n, v in net.state_dict().items() if ".lora." not in n}
    assert own.keys() == base.state_dict().keys()
    assert all(torch.equal(own[n], v) for n, v in base.state_dict().items())


def test_the_draw_depends_on_the_seed_and_the_name_only():
    nets = [make(), make(seed=9), make()]
    lora.inject(nets[0], rank=3)
    lora.inject(nets[1], rank=3, targets=["blocks.1.out"])
    lora.inject(nets[2], rank=3, seed=1)
    a, b, c = (lora.adapters(net)["blocks.1.out"].lora_A for net in nets)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert not torch.equal(a, lora.adapters(nets[0])["blocks.2.out"].lora_A)


def test_the_output_is_that_of_merged_weights(x):
    net, merged = make().double(), make().double()
    lora.inject(net, rank=3, alpha=1.5, ranks={"out": 2})
    move(net).double()
    with torch.no_grad():
        for name, adapter in lora.adapters(net).items():
            scale = 1.5 / (2 if name.endswith("out") else 3)
            merged.get_submodule(name).weight += scale * adapter.lora_B @ adapter.lora_A
    torch.testing.assert_close(net(x), merged(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("linear", [nn.Linear, Fp8Linear])
def test_the_base_keeps_its_dtype_and_is_followed(x, dtype, linear):
    net, base = make(linear, dtype), make(linear, dtype)
    if linear is Fp8Linear:  # which .to() has cast
        for part in (net, base):
            for block in part.blocks:
                for layer in (block.to_q, block.out):
                    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    lora.inject(net, rank=3)
    assert torch.equal(net(x), base(x))
    y = move(net)(x)
    assert y.dtype == (dtype or torch.float32) and not torch.equal(y, base(x))
    assert all(g.dtype == torch.float32 for g in gradients(net, x).values())
    before = {n: p.dtype for n, p in base.named_parameters()}
    assert {n: p.dtype for n, p in net.named_parameters() if ".lora." not in n} == before


def test_gradients_are_the_same_recomputed_compiled_copied_and_under_autocast(x):
    net = make()
    lora.inject(net, rank=3)
    move(net)
    want = gradients(net, x)
    # In float64, by hand: the chain rule through merged weights.
    merged = make().double()
    scale = {n: a.alpha / a.rank for n, a in lora.adapters(net).items()}
    with torch.no_grad():
        for name, a in lora.adapters(net).items():
            merged.get_submodule(name).weight += (scale[name] * a.lora_B @ a.lora_A).double()
    merged(x.double()).square().mean().backward()
    for name, a in lora.adapters(net).items():
        g = merged.get_submodule(name).weight.grad
        by_hand = (scale[name] * a.lora_B.double().T @ g, scale[name] * g @ a.lora_A.double().T)
        for got, exact in zip((a.lora_A.grad, a.lora_B.grad), by_hand, strict=True):
            assert (got - exact).norm() < 1e-5 * exact.norm()
    copied, recomputed, compiled, cast = (deepcopy(net) for _ in range(4))
    for block in recomputed.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    for block in compiled.blocks:
        block.forward = torch.compile(block.forward, backend="aot_eager", fullgraph=True)
    assert worst(gradients(copied, x), want) == 0
    assert worst(gradients(recomputed, x), want) == 0
    assert worst(gradients(compiled, x), want) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert 1e-5 < worst(gradients(cast, x), want) < 0.1


def test_a_copy_is_its_own(x):
    net = make()
    lora.inject(net, rank=3)
    copied = deepcopy(net)
    move(copied)
    assert torch.equal(net(x), make()(x)) and not torch.equal(copied(x), net(x))


def test_removed_it_is_the_base(x):
    net = make()
    lora.inject(net, rank=3)
    before = move(net)(x)
    lora.remove(net)
    assert torch.equal(net(x), make()(x)) and not torch.equal(net(x), before)
    assert net.state_dict().keys() == make().state_dict().keys()
    assert "forward" not in vars(net.blocks[0].out)
    lora.inject(net, rank=2)  # and anew


def test_dropout_drops_inputs_in_training_only():
    net = make()
    lora.inject(net, rank=3, dropout=0.25)
    move(net)
    layer = net.blocks[0].to_q
    x = torch.ones(40_000, WIDTH)
    base = F.linear(x, layer.weight, layer.bias)
    layer.eval()
    whole = layer(x) - base
    layer.train()
    torch.manual_seed(5)
    dropped = layer(x) - base
    error = dropped.std(0) / len(x) ** 0.5
    assert (dropped.std(0) > 0.05).all()
    assert ((dropped.mean(0) - whole[0]).abs() < 4.5 * error).all()
    torch.manual_seed(5)  # and is drawn again for a recomputation that keeps the random state
    plain = gradients(net, torch.ones(8, 4))
    for block in net.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    torch.manual_seed(5)
    assert worst(gradients(net, torch.ones(8, 4)), plain) == 0


@pytest.mark.parametrize(
    ("targets", "ranks", "expected"),
    [
        (None, {}, {f"blocks.{i}.{k}": 4 for i in range(3) for k in ("to_q", "out")}),
        (["to_q"], {}, {f"blocks.{i}.to_q": 4 for i in range(3)}),
        (["blocks.0.*", "head"], {}, {"blocks.0.to_q": 4, "blocks.0.out": 4, "head": 4}),
        (["*"], {"blocks.*": 2, "blocks.1.*": 0}, {
            "embed": 4, "blocks.0.to_q": 2, "blocks.0.out": 2, "blocks.2.to_q": 2,
            "blocks.2.out": 2, "head": 4,
        }),
    ],
)  # fmt: skip
def test_patterns_choose_layers_and_ranks(targets, ranks, expected):
    net = make()
    assert lora.inject(net, rank=4, targets=targets, ranks=ranks) == list(expected)
    assert {n: a.rank for n, a in lora.adapters(net).items()} == expected
    assert all(a.alpha == a.rank for a in lora.adapters(net).values())


def test_what_cannot_be_is_said():
    net = make()
    for options, words in (
        ({"targets": ["to_k"]}, r"no layer fits 'to_k'; .*blocks\.0\.to_q"),
        ({"targets": ["blocks.*.conv"]}, r"fits blocks\.0\.conv \(Conv1d\), but only linear"),
        ({"ranks": {"head": 8}}, r"lora\.ranks: no layer fits 'head'"),
        ({"ranks": {"*": 0}}, "leaves no layer"),
    ):
        with pytest.raises(InvalidInput, match=words):
            lora.inject(net, **options)
        assert not lora.adapters(net) and all(p.requires_grad for p in net.parameters())
    with pytest.raises(InvalidInput, match=r"no list of blocks: say by lora\.targets"):
        lora.inject(nn.Sequential(nn.Linear(2, 2)))
    lora.inject(net)
    with pytest.raises(RuntimeError, match="already"):
        lora.inject(net)


def test_a_file_is_taken_up_again(x):
    net = make()
    lora.inject(net, rank=3, alpha=6, ranks={"out": 2})
    file = lora.state_dict(move(net))
    assert set(file) == {
        f"diffusion_model.blocks.{i}.{k}.{end}"
        for i in range(3)
        for k in ("to_q", "out")
        for end in ("lora_A.weight", "lora_B.weight", "alpha")
    }
    assert file["diffusion_model.blocks.0.out.lora_B.weight"].shape == (WIDTH, 2)
    assert float(file["diffusion_model.blocks.0.out.alpha"]) == 6
    half = lora.state_dict(net, torch.bfloat16)
    assert {v.dtype for n, v in half.items() if n.endswith("weight")} == {torch.bfloat16}
    other = make()
    lora.inject(other, rank=3, alpha=6, ranks={"out": 2}, seed=8)
    assert lora.load_state_dict(other, file) == []
    assert torch.equal(other(x), net(x))
    # Another alpha in the run, another spelling in the file: the same effect.
    kohya = {
        name.replace("diffusion_model.", "lora_unet_").replace(".", "_", 2).replace(
            "lora_A", "lora_down").replace("lora_B", "lora_up"): value
        for name, value in file.items()
    }  # fmt: skip
    assert "lora_unet_blocks_0_to_q.lora_down.weight" in kohya
    other = make()
    lora.inject(other, rank=3, alpha=1, ranks={"out": 2})
    lora.load_state_dict(other, kohya)
    torch.testing.assert_close(other(x), net(x))
    # Without alpha the factor is 1; layers that the file lacks begin at 0.
    bare = {n: v for n, v in file.items() if ".to_q." in n and not n.endswith("alpha")}
    assert lora.load_state_dict(other, bare) == [f"blocks.{i}.out" for i in range(3)]
    adapter = lora.adapters(other)["blocks.1.to_q"]
    torch.testing.assert_close(
        adapter.lora_B * adapter.alpha / adapter.rank,
        file["diffusion_model.blocks.1.to_q.lora_B.weight"],
    )


def test_a_file_that_does_not_fit_is_refused_whole():
    net = make()
    lora.inject(net, rank=3)
    file = lora.state_dict(move(net))
    before = {n: v.clone() for n, v in file.items()}
    name = "diffusion_model.blocks.2.out"
    longer = file | {f"{name}.lora_A.weight": torch.zeros(5, 20),
                     f"{name}.lora_B.weight": torch.zeros(WIDTH, 5)}  # fmt: skip
    wide = file | {f"{name}.lora_A.weight": torch.zeros(3, 21)}
    cut = {n: v for n, v in file.items() if n != f"{name}.lora_B.weight"}
    more = file | {"diffusion_model.head.lora_A.weight": torch.zeros(3, 4)}
    for bad, words in (
        (longer, "has rank 5 for blocks.2.out, and this run rank 3"),
        (wide, "belongs to another model"),
        (cut, "does not fit blocks.2.out"),
        (more, "holds diffusion_model.head.lora_A.weight, which this run does not train"),
    ):
        bad = {n: v + 1 for n, v in bad.items()}
        with pytest.raises(InvalidInput, match=words):
            lora.load_state_dict(net, bad)
        assert all(torch.equal(v, before[n]) for n, v in lora.state_dict(net).items())


def test_what_fsdp_cannot_spread_is_known():
    net = make(Fp8Linear)
    net.head = Fp8Linear(WIDTH, 4)
    lora.inject(net, rank=3)
    names = {n for n, p in net.named_parameters() if p in lora.unspreadable(net)}
    scales = {f"blocks.{i}.{layer}.scale" for i in range(3) for layer in ("to_q", "out")}
    assert names == scales | {"head.weight", "head.scale"}


# Both ways of several processes over every kind of base, against one process with the whole batch.
WORKER = """
import functools, os, sys
from copy import deepcopy
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from tests.training.test_lora import Fp8Linear, gradients, make, move
from training import lora

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
x = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
for kind in ("fp32", "bf16", "mixed", "fp8"):
    for way in ("ddp", "fsdp"):
        net = make(Fp8Linear if kind == "fp8" else torch.nn.Linear)
        if kind == "bf16":
            net.to(torch.bfloat16)
        if kind in ("mixed", "fp8"):
            for block in net.blocks:
                block.norm.to(torch.bfloat16)
        lora.inject(net, rank=3, dropout=0.0)
        want = gradients(deepcopy(move(net)), x)
        if way == "ddp":
            run = DistributedDataParallel(net)
        else:
            for module in (*net.blocks, net):
                fully_shard(module, ignored_params=lora.unspreadable(net))
            run = net
        for block in net.blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        run(x[4 * rank :][:4]).float().square().mean().backward()
        error = 0
        for name, p in net.named_parameters():
            if p.requires_grad:
                got = p.grad.full_tensor() if way == "fsdp" else p.grad
                error = max(error, float((got - want[name]).norm() / want[name].norm()))
        file = {n: v.full_tensor() if way == "fsdp" else v
                for n, v in lora.state_dict(net).items() if not n.endswith("alpha")}
        again = make()
        lora.inject(again, rank=3)
        same = all(torch.equal(v, lora.state_dict(move(again))[n]) for n, v in file.items())
        if rank == 0:
            print(kind, way, error, same, flush=True)
dist.destroy_process_group()
"""


def test_two_processes():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2",
                           "OMP_NUM_THREADS": "1"}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=ROOT, env=common | {"RANK": str(i)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(p.returncode == 0 for p in processes), [error[-2000:] for _, error in outputs]
    lines = [line.split() for line in outputs[0][0].splitlines()]
    assert len(lines) == 8
    for kind, way, error, same in lines:
        assert float(error) < {"fp32": 1e-5}.get(kind, 0.02), (kind, way, error)
        assert same == "True", (kind, way)
