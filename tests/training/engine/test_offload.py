"""Weights that visit the device: the same gradients, the right trips, never more than two blocks.

On the CPU the copies are real, too: the device is a second copy of the weights, and the watch
counts how many of them live.
"""

import functools
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sv_core.errors import InvalidInput
from training import lora
from training.engine.offload import offload

CPU = torch.device("cpu")
WIDTH, BLOCKS = 16, 5


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.first, self.second = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.register_buffer("gain", torch.ones(WIDTH))

    def forward(self, x):
        return x + self.gain * self.second(F.silu(self.first(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make(dtype=torch.float32):
    torch.manual_seed(0)
    net = Net().to(dtype)
    lora.inject(net, rank=2)
    for adapter in lora.adapters(net).values():
        nn.init.normal_(adapter.lora_B, generator=torch.Generator().manual_seed(1))
    return net


def recomputed(net):
    for block in net.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return net


class Watch:
    """Copies as it is told to, notes which block each copy is of, and which copies live."""

    def __init__(self):
        self.trips, self.made, self.most, self.numbers = [], [], 0, {}

    def of(self, offloaded):
        for number, block in enumerate(offloaded.resting):
            self.numbers |= {x.data_ptr(): number for _, _, x in block}
        return offloaded

    def __call__(self, target, source):
        assert target.data_ptr() != source.data_ptr() and target.device.type == "cpu"
        target.copy_(source)
        number = self.numbers[source.data_ptr()]
        if not self.trips or self.trips[-1] != number:
            self.trips.append(number)
        self.made.append((number, StorageWeakRef(target.untyped_storage())))
        self.most = max(self.most, len(self.alive))

    @property
    def alive(self):
        """The blocks of which some memory is held, by whomever (autograd holds what it saves)."""
        return {number for number, storage in self.made if not storage.expired()}


@pytest.fixture
def x():
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3))


def gradients(net, x):
    net.zero_grad()
    net(x).square().mean().backward()
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.requires_grad}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("n", range(1, BLOCKS + 1))
def test_gradients_are_the_same_and_trips_the_fewest(x, n):
    want = gradients(recomputed(make()), x)
    net, watch = make(), Watch()
    watch.of(offload(net.blocks, n, CPU, recompute=True, copy=watch))
    recomputed(net)
    for _ in range(2):
        watch.trips.clear()
        assert same(gradients(net, x), want)
        # Up, the last one stays for the turn, and down.
        assert watch.trips == [*range(n), *range(n - 2, -1, -1)]
        assert not watch.alive
    assert watch.most == min(n, 2)


def test_the_next_block_is_fetched_while_one_runs(x):
    net, watch = make(), Watch()
    offloaded = watch.of(offload(net.blocks, 4, CPU, recompute=True, copy=watch))
    seen = []
    for number, block in enumerate(net.blocks[1:]):
        block.norm.register_forward_hook(
            lambda *_, number=number: seen.append((number, sorted(offloaded.here)))
        )
    gradients(recomputed(net), x)
    up = [(0, [0, 1]), (1, [1, 2]), (2, [2, 3]), (3, [3])]
    down = [(3, [2, 3]), (2, [1, 2]), (1, [0, 1]), (0, [0])]
    assert seen == up + down


def test_validation_between_steps_changes_nothing(x):
    want, value = gradients(recomputed(make()), x), make()(x)
    net, watch = make(), Watch()
    watch.of(offload(net.blocks, 3, CPU, recompute=True, copy=watch))
    recomputed(net)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(net(x), value)
    assert watch.trips == [0, 1, 2, 0, 1, 2] and not watch.alive
    assert same(gradients(net, x), want)
    net(x)  # a forward pass without a backward pass
    assert same(gradients(net, x), want) and watch.most == 2


def test_at_rest_no_module_has_them(x):
    net, whole = make(), make()
    frozen = [p for block in whole.blocks[2:] for p in block.parameters() if not p.requires_grad]
    offloaded = offload(net.blocks, 3, CPU, recompute=True)
    assert all(map(torch.equal, offloaded.tensors(), frozen))
    # What is trained, and the buffers, move with the network; moving it elsewhere is harmless.
    recomputed(net).to("meta").to_empty(device=CPU)
    left = {n for n, _ in net.blocks[4].named_parameters()}
    assert left == {f"{p}.lora.lora_{m}" for p in ("first", "second") for m in "AB"}
    assert all(not p.requires_grad for p in net.blocks[0].norm.parameters())


def test_other_dtypes_come_as_they_are(x):
    want = gradients(recomputed(make(torch.bfloat16)), x.bfloat16())
    net = make(torch.bfloat16)
    offload(net.blocks, 4, CPU, recompute=True)
    assert same(gradients(recomputed(net), x.bfloat16()), want)


class Quantised(torch.Tensor):
    """Numbers with a scale of their own, as ComfyUI keeps its fp8 weights."""

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32)

    def __init__(self, numbers, scale):
        self.numbers, self.scale = numbers, scale

    def __tensor_flatten__(self):
        return ["numbers", "scale"], None

    @staticmethod
    def __tensor_unflatten__(parts, context, size, stride):
        return Quantised(**parts)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return Quantised(args[0].numbers, args[0].scale)
        args = [a.numbers.float() * a.scale if isinstance(a, Quantised) else a for a in args]
        return function(*args, **(kwargs or {}))


def test_tensors_of_several_parts_are_brought_part_by_part(x):
    def quantise(net):
        for block in net.blocks:
            data = (block.first.weight.detach() * 64).to(torch.float8_e4m3fn)
            block.first.weight = nn.Parameter(
                Quantised(data, torch.tensor(1 / 64)), requires_grad=False
            )
        return net

    want, net, copied = gradients(recomputed(quantise(make())), x), quantise(make()), []

    def copy(target, source):
        copied.append((type(source), source.dtype))
        target.copy_(source)

    offload(net.blocks, 2, CPU, recompute=True, copy=copy)
    assert same(gradients(recomputed(net), x), want)
    assert (torch.Tensor, torch.float8_e4m3fn) in copied
    assert all(kind is torch.Tensor for kind, _ in copied)


def test_compiled_blocks(x):
    want = gradients(recomputed(make()), x)
    net, graphs = make(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    offload(net.blocks, 3, CPU, recompute=True)
    for block in net.blocks:
        block.forward = torch.compile(block.forward, backend=backend)
    got = gradients(recomputed(net), x)
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-7)
    calls = [node.target for graph in graphs for node in graph.graph.nodes]
    assert sum("linear" in str(target) for target in calls) >= 2  # what computes was compiled


def test_refusals_are_sentences():
    net = make()
    for n in (6, -1):
        with pytest.raises(InvalidInput, match="has 5 blocks"):
            offload(net.blocks, n, CPU, recompute=True)
    with pytest.raises(InvalidInput, match=r"run\.recompute = true"):
        offload(net.blocks, 2, CPU, recompute=False)
    with pytest.raises(InvalidInput, match="trains all of them"):
        offload(Net().blocks, 2, CPU, recompute=True)
    assert torch.equal(net(torch.ones(1, WIDTH)), make()(torch.ones(1, WIDTH)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu(x):
    device = torch.device("cuda")
    net, wide = make(), SimpleNamespace(width=4096)
    want = gradients(recomputed(deepcopy(net)).to(device), x.to(device))
    offloaded = offload(net.blocks, 4, device, recompute=True)
    assert all(tensor.is_pinned() for tensor in offloaded.tensors())
    recomputed(net).to(device)
    for _ in range(3):
        assert same(gradients(net, x.to(device)), want)
    # Big enough to measure: six blocks of 64 MB, of which two may be there.
    blocks = nn.ModuleList(nn.Linear(wide.width, wide.width, bias=False) for _ in range(6))
    big = nn.Module()
    big.blocks = blocks
    lora.inject(big, rank=4)
    offload(blocks, 6, device, recompute=True)
    big.to(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    h = torch.randn(8, wide.width, device=device)
    for block in blocks:
        h = checkpoint(block, h, use_reentrant=False)
    h.sum().backward()
    one = 4 * wide.width**2
    assert torch.cuda.max_memory_allocated() - before < 2.2 * one
