"""LoRA: low-rank additions to the frozen layers of any network [arXiv 2106.09685].

    y = W x + b + alpha/rank B A dropout(x),   A (rank, in), B (out, rank)

A layer is whatever has ``in_features``, ``out_features`` and a matrix: torch's, ComfyUI's, and its
scaled-fp8 ones, which are no ``nn.Linear``. Its forward is replaced on the instance, so names of
weights stay, and the layer still does its own casting, scaling and patching.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MethodType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sv_core.errors import InvalidInput

PREFIX = "diffusion_model."
# How files name the two matrices (ours, and those of the other trainers).
_SPELLINGS = (("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight"))


class Adapter(nn.Module):
    """x (..., in), y (..., out) -> y + alpha/rank B A dropout(x), in the dtypes of x and y.

    The matrices are float32 whatever the layer's dtype: an update is far smaller than bf16's steps.
    A is uniform on +-1/sqrt(in) and B is 0, so that training begins at the base network.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float):
        super().__init__()
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def reset(self, generator: torch.Generator) -> None:
        nn.init.kaiming_uniform_(self.lora_A, math.sqrt(5), generator=generator)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = F.dropout(x, self.dropout, self.training)
        # The scale is applied where the tensor is smallest.
        hidden = F.linear(x, self.lora_A.to(x.dtype)) * (self.alpha / self.rank)
        hidden = hidden.reshape(-1, self.rank).to(y.dtype)
        # Product and sum in one: a rounding and two passes over a tensor of y's size less.
        rows = y.reshape(-1, y.shape[-1])
        return torch.addmm(rows, hidden, self.lora_B.to(y.dtype).t()).view(y.shape)


class Layer(nn.Module):
    """A layer that an addition can join, by its attributes: for the type checker only."""

    in_features: int
    out_features: int
    weight: Tensor
    lora: Adapter


def _forward(self: Layer, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """Takes the place of a layer's forward. A method, so that a copied layer uses its own."""
    return self.lora(x, type(self).forward(self, x, *args, **options))


def inject(
    module: nn.Module,
    rank: int = 16,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    dropout: float = 0.0,
    ranks: Mapping[str, int] | None = None,
    seed: int = 0,
) -> list[str]:
    """Freeze a network and give its layers trained low-rank additions; the names of these layers.

    ``targets`` are patterns (``*`` and ``?``) of dotted names or of their ends: ``*.img_attn.*``,
    ``to_q``, ``double_blocks.0.*``; None: every layer in the blocks. ``ranks`` gives other ranks by
    such patterns, the last that matches holds, 0 leaves a layer out. ``alpha`` None: each rank, so
    that the factor is 1. The values drawn depend on the seed and a layer's name only.

    Call it before the network is moved, spread, compiled or wrapped. Raises InvalidInput, in one
    sentence, when a pattern fits no layer or nothing is left; RuntimeError when there are additions
    already.
    """
    if adapters(module):
        raise RuntimeError("this network has LoRA layers already: remove them first")
    layers = dict(_layers(module))
    if targets is None:
        chosen = {name for name in layers if name.startswith(tuple(_blocks(module)))}
        if not chosen:
            raise InvalidInput(
                f"this network has no list of blocks: say by lora.targets which layers to train"
                f"{_examples(layers)}"
            )
    else:
        chosen = {n for p in targets for n in _matching(module, layers, p, "lora.targets")}
    rank_of = dict.fromkeys(sorted(chosen, key=list(layers).index), rank)
    for pattern, other in (ranks or {}).items():
        for name in _matching(module, {n: layers[n] for n in rank_of}, pattern, "lora.ranks"):
            rank_of[name] = other
    rank_of = {name: r for name, r in rank_of.items() if r > 0}
    if not rank_of:
        raise InvalidInput("lora.ranks leaves no layer to train: every one has rank 0")
    module.requires_grad_(False)
    for name, r in rank_of.items():
        layer = layers[name]
        size = layer.in_features, layer.out_features
        adapter = Adapter(*size, r, float(r if alpha is None else alpha), dropout)
        adapter.reset(torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode())))
        # A child, not the layer's own parameters: ComfyUI's scaled-fp8 layers make all of theirs
        # anew, untrained, whenever they are moved.
        layer.lora = adapter.to(layer.weight.device).train(layer.training)
        layer.forward = MethodType(_forward, layer)
    # Every process has read the same file, so DDP need not send it round, at the start or (buffers)
    # at each step; and it could not: gloo knows no fp8.
    fixed = [name for name, p in module.named_parameters() if not p.requires_grad]
    fixed += [n for n, _ in module.named_buffers()]
    # torch declares that a module holds tensors and modules only; DDP reads this list of names.
    module._ddp_params_and_buffers_to_ignore = fixed  # pyright: ignore[reportArgumentType]
    return list(rank_of)


def remove(module: nn.Module) -> None:
    """Take all additions out: the base network is left, with frozen weights."""
    for name in adapters(module):
        layer = module.get_submodule(name)
        del layer.lora, layer.forward
    del module._ddp_params_and_buffers_to_ignore


def unspreadable(module: nn.Module) -> set[nn.Parameter]:
    """Frozen weights that stay whole: ``fully_shard(..., ignored_params=unspreadable(model))``.

    FSDP spreads no numbers (the scales of fp8 layers) and no quantised tensor classes; nor, over
    gloo, a group of nothing but fp8: what is outside the blocks, where no LoRA is, may be one.
    """
    inside = tuple(_blocks(module))
    return {
        p
        for name, p in module.named_parameters()
        if not p.requires_grad
        and (
            p.ndim == 0
            or type(p.data) is not Tensor
            or (p.element_size() == 1 and not name.startswith(inside))
        )
    }


def adapters(module: nn.Module) -> dict[str, Adapter]:
    """The additions by the names of their layers."""
    found = ((n, getattr(layer, "lora", None)) for n, layer in module.named_modules())
    return {name: adapter for name, adapter in found if isinstance(adapter, Adapter)}


def state_dict(
    module: nn.Module,
    dtype: torch.dtype = torch.float32,
    prefix: str = PREFIX,
    value: Callable[[Tensor], Tensor] = Tensor.detach,
) -> dict[str, Tensor]:
    """What a LoRA file holds: ``<prefix><layer>.lora_A.weight``, ``.lora_B.weight``, ``.alpha``.

    ``value`` is what is to be written of a matrix, such as its average. With ``prefix``
    "diffusion_model." any ComfyUI loads it by its generic names. Matrices that are spread over
    processes are spread in here, too.
    """
    result = {}
    for name, adapter in adapters(module).items():
        result[f"{prefix}{name}.lora_A.weight"] = value(adapter.lora_A.detach()).to(dtype)
        result[f"{prefix}{name}.lora_B.weight"] = value(adapter.lora_B.detach()).to(dtype)
        result[f"{prefix}{name}.alpha"] = torch.tensor(adapter.alpha)
    return result


@torch.no_grad()
def load_state_dict(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str = PREFIX
) -> list[str]:
    """Go on from a LoRA file, of ours or of another trainer's (``lora_unet_*.lora_down.weight``).

    The file's effect is kept when its alpha is another than this run's. Returns the names of the
    layers that it does not hold; they begin at 0. Raises InvalidInput, in one sentence and before
    anything is changed, when a rank differs or the file holds what this run does not train.
    """
    left, plan, missing = set(state), [], []
    for name, adapter in adapters(module).items():
        bases = [f"{prefix}{name}.", f"lora_unet_{name.replace('.', '_')}."]
        found = next(
            ((b, pair) for b in bases for pair in _SPELLINGS if b + pair[0] in state), None
        )
        if found is None:
            missing.append(name)
            continue
        base, pair = found
        a, b = state[base + pair[0]], state.get(base + pair[1])
        want = tuple(adapter.lora_A.shape), tuple(adapter.lora_B.shape)
        have = tuple(a.shape), b is not None and tuple(b.shape)
        if have != want:
            raise InvalidInput(
                f"the LoRA file has rank {a.shape[0]} for {name}, and this run rank "
                f"{adapter.rank}: use the file's by lora.rank or lora.ranks"
                if b is not None and (a.shape[1], b.shape[0]) == (want[0][1], want[1][0])
                else f"the LoRA file does not fit {name}: it belongs to another model"
            )
        alpha = float(state.get(f"{base}alpha", adapter.rank))
        plan.append((adapter, a, b, alpha / adapter.alpha))
        left -= {base + end for end in (*pair, "alpha")}
    if left:
        raise InvalidInput(
            f"the LoRA file holds {min(left)}, which this run does not train: add its layer to "
            f"lora.targets, or take the file of this model"
        )
    for adapter, a, b, factor in plan:
        adapter.lora_A.copy_(a)
        adapter.lora_B.copy_(b if factor == 1 else b.float() * factor)
    return missing


def _layers(module: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Layers that can have an addition, by name: linear maps with one matrix (no experts)."""
    for name, layer in module.named_modules():
        if _fits(layer):
            yield name, layer


def _fits(layer: nn.Module) -> TypeGuard[Layer]:
    sizes = (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
    weight = getattr(layer, "weight", None)
    return all(isinstance(n, int) for n in sizes) and getattr(weight, "ndim", 0) == 2


def _blocks(module: nn.Module) -> list[str]:
    """The prefixes of the names of everything in the network's lists of blocks."""
    return [f"{name}." for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]


def _matching(
    module: nn.Module, layers: Mapping[str, nn.Module], pattern: str, option: str
) -> list[str]:
    """The names that a pattern matches, in whole or at the end. Raises InvalidInput if none."""
    names = [n for n in layers if fnmatchcase(n, pattern) or fnmatchcase(n, f"*.{pattern}")]
    if names:
        return names
    linear = dict(_layers(module))
    others = [n for n, _ in module.named_modules() if fnmatchcase(n, pattern) and n not in linear]
    if others:
        kind = type(module.get_submodule(others[0])).__name__
        raise InvalidInput(
            f"{option}: {pattern!r} fits {others[0]} ({kind}), but only linear layers can have a "
            f"LoRA{_examples(layers)}"
        )
    raise InvalidInput(f"{option}: no layer fits {pattern!r}{_examples(layers)}")


def _examples(layers: Mapping[str, nn.Module]) -> str:
    """One name of each kind, the most frequent first: ``; there are ...``."""
    kinds: dict[str, list[str]] = {}
    for name in layers:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    shown = sorted(kinds.values(), key=len, reverse=True)[:6]
    return f"; there are for example {', '.join(names[0] for names in shown)}" if shown else ""
