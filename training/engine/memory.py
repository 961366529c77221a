"""How much GPU memory a run takes, by calculation: python -m training.engine.memory [NETWORK]

Exact for what is stored (weights, gradients, moments, averages). Activations are those of
recomputation: one hidden state per block, and what one block saves for its backward pass, of which
the factor is a bound measured on the blocks of its families. What cannot be calculated (CUDA's
own memory, fragmentation) is ``RESERVE``.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from torch import Tensor, nn

from sv_core.errors import InvalidInput
from sv_core.models import families
from sv_core.models.families import Size

from ..cli import add_debug, guard
from .offload import Composed

GIB = 1 << 30
RESERVE = GIB
CARDS = (12, 16, 24, 48, 80)
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
# Of each trained weight; AdamW in 8 bits has a scale for 256 of them, and rounds at most.
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2.04, "schedule_free": 8.0}


@dataclass(frozen=True)
class Footprint:
    """What a run takes on the device, in bytes."""

    weights: float  # the frozen ones that stay
    visiting: float  # frozen weights of offloaded blocks: two blocks
    casts: float  # one block's weights in the dtype of the computation
    trained: float
    gradients: float
    moments: float
    averages: float
    boundaries: float  # a hidden state per block
    inside: float  # one block's activations in the backward pass

    @property
    def total(self) -> float:
        return sum(astuple(self))


def footprint(
    network: Size,
    tokens: int,
    *,
    batch: int = 1,
    rank: int = 0,
    weights: str = "bf16",
    compute: str = "bf16",
    optimizer: str = "adamw",
    averages: int = 1,
    offload_blocks: int = 0,
) -> Footprint:
    """The memory of a LoRA of that rank over a frozen base, or (rank 0) of training all weights.

    ``tokens`` is of one sample, text and image. Averages and a LoRA are float32; so are moments,
    also those of weights in bf16 (``training.engine.stochastic_rounding``).
    """
    size = BYTES[weights]
    if rank:
        resting = sorted(network.blocks[len(network.blocks) - offload_blocks :], reverse=True)
        count, each = rank * network.features, 4
        stays, visiting = network.weights - sum(resting), sum(resting[:2])
    else:
        count, each, stays, visiting = network.weights, size, 0, 0
    cast = max(network.blocks) * BYTES[compute] if weights != compute else 0
    state = batch * tokens * network.width * BYTES[compute]  # the bytes of one hidden state
    return Footprint(
        weights=stays * size,
        visiting=visiting * size,
        casts=cast,
        trained=count * each,
        gradients=count * each,
        moments=count * MOMENTS[optimizer],
        averages=averages * count * 4,
        boundaries=(len(network.blocks) + 1) * state,
        inside=state * (saved_states(network.mlp_ratio) + 2 + network.mlp_ratio),
    )


def saved_states(mlp_ratio: float) -> float:
    """What a block of attention and MLP saves for its backward pass, in hidden states.

    With a LoRA on every linear layer, modulation and normalised queries and keys; a bound: measured
    27 to 34 at a ratio of 4 on the blocks of Flux, SD3.5, Qwen-Image and Wan.
    """
    return 26 + 2 * mlp_ratio


def least_offload(budget: float, network: Size, tokens: int, **options: Any) -> int | None:
    """The fewest ``offload_blocks`` with which a LoRA run fits into so many bytes; None if none."""
    for n in range(len(network.blocks) + 1):
        if footprint(network, tokens, offload_blocks=n, **options).total + RESERVE <= budget:
            return n
    return None


def network_of(
    module: nn.Module, blocks: Iterable[nn.Module], width: int, mlp_ratio: float
) -> Size:
    """The numbers of a real network, which may be on the meta device."""
    blocks = list(blocks)
    sizes = tuple(sum(p.numel() for p in block.parameters()) for block in blocks)
    features = sum(
        getattr(layer, "in_features", 0) + getattr(layer, "out_features", 0)
        for block in blocks
        for layer in block.modules()
        if hasattr(layer, "in_features") and hasattr(layer, "out_features")
    )
    rest = sum(p.numel() for p in module.parameters()) - sum(sizes)
    return Size(rest, sizes, width, mlp_ratio, features)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """The bytes of tensors as stored; tensors of several parts (ComfyUI's fp8) by their parts."""
    total = 0
    for x in tensors:
        if isinstance(x, Composed):
            total += tensor_bytes(getattr(x, name) for name in x.__tensor_flatten__()[0])
        else:
            total += x.numel() * x.element_size()
    return total


def table(network: Size, text: int = 512, rank: int = 16) -> str:
    """Markdown: what to set for a LoRA on each card, at 512 and 1024 pixels squared, 16 a token."""
    lines = [
        "| base | pixels | without offloading | "
        + " | ".join(f"{card} GB" for card in CARDS)
        + " |",
        "|---|---|---|" + "---|" * len(CARDS),
    ]
    for weights in ("bf16", "fp8"):
        for pixels in (512, 1024):
            tokens = text + (pixels // 16) ** 2
            options = {"rank": rank, "weights": weights}
            whole = (footprint(network, tokens, **options).total + RESERVE) / GIB
            cells = []
            for card in CARDS:
                n = least_offload(card * GIB, network, tokens, **options)
                cells.append("does not fit" if n is None else f"offload_blocks = {n}")
            row = [weights, f"{pixels} x {pixels}", f"{whole:.1f} GB", *cells]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def size_of(name: str) -> Size:
    """A family's published network. Raises InvalidInput, in one sentence, for an unknown one."""
    family = families.find(name)
    if family is None or family.size is None:
        raise InvalidInput(f"unknown network {name!r} (have: {families.names('size')})")
    return family.size


def run(options: argparse.Namespace) -> int:
    """Print the table of a network."""
    print(table(size_of(options.network)))
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="GPU memory of a LoRA run, by calculation.")
    parser.add_argument(
        "network", nargs="?", default=families.FLUX.name, help=families.names("size")
    )
    add_debug(parser)
    options = parser.parse_args(arguments)
    return guard(lambda: run(options), options)


if __name__ == "__main__":
    sys.exit(main())
