"""How a network is told its times: t, and the interval t - r that an average velocity is over.

The interval's embedder joins the embedding of t by addition and begins as zero, so that a network
trained for the velocity predicts what it predicted, for any r, until MeanFlow trains it further. A
SiT has it as a part of itself; for the families of ComfyUI it is a file of its own.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from . import families

PREFIX = "interval_embedder."
"""What the embedder's tensors are called, inside a SiT's file and in a file of their own."""


def linear(layers: nn.Sequential, k: int) -> nn.Linear:
    """Layer ``k`` of several, which is a linear one. Raises AssertionError when it is not."""
    layer = layers[k]
    assert isinstance(layer, nn.Linear)
    return layer


class TimestepEmbedder(nn.Module):
    """Sinusoids of t, then two linear layers: (b,) -> (b, d)."""

    omega: Tensor

    def __init__(self, hidden_size: int, frequencies: int = 256):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        half = frequencies // 2
        self.register_buffer(
            "omega", torch.exp(torch.arange(half) * (-math.log(10000) / half)), persistent=False
        )

    def forward(self, t: Tensor) -> Tensor:
        # At least float32, whatever the weights are: half precision cannot tell times apart.
        t = t.to(torch.promote_types(self.omega.dtype, torch.float32))
        angle = t[:, None] * self.omega
        waves = torch.cat([angle.cos(), angle.sin()], dim=1)
        return self.mlp(waves.to(linear(self.mlp, 0).weight.dtype))


class IntervalEmbedder(TimestepEmbedder):
    """The same of t - r, zero until it is trained."""

    def __init__(self, hidden_size: int, frequencies: int = 256):
        super().__init__(hidden_size, frequencies)
        first, last = linear(self.mlp, 0), linear(self.mlp, 2)
        nn.init.normal_(first.weight, std=0.02)
        for zero in (first.bias, last.weight, last.bias):
            nn.init.zeros_(zero)


def has_interval(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors hold an interval's embedder."""
    return any(name.startswith(PREFIX) for name in state)


def to_file(embedder: IntervalEmbedder, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a family's embedder as a file of its own."""
    tensors = {PREFIX + name: tensor for name, tensor in embedder.state_dict().items()}
    said = {"family": family, "width": width(embedder)}
    return tensors, {"interval_embedder": json.dumps(said)}


def from_file(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> tuple[IntervalEmbedder, str]:
    """(embedder, family) of what ``to_file`` gave. Raises InvalidInput in words for other files."""
    try:
        said = json.loads((metadata or {})["interval_embedder"])
        embedder = IntervalEmbedder(*state[PREFIX + "mlp.0.weight"].shape)
        embedder.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items()})
        family = said["family"]
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as e:
        raise InvalidInput(
            "this is not an interval embedder, or a damaged one: choose the file that MeanFlow's "
            "training wrote beside the LoRA or the weights"
        ) from e
    return embedder.eval(), family


def time_embedding(network: nn.Module, family: str) -> nn.Module:
    """The part of a family's network whose output the interval's embedding joins."""
    record = families.find(family)
    assert record is not None and record.time_embedding is not None, family
    return getattr(network, record.time_embedding)


def width(embedding: nn.Module) -> int:
    """The numbers that an embedding of time gives: those of its last linear layer.

    Linear layers are known by ``out_features``: the host's quantised ones are not ``nn.Linear``.
    """
    sizes = [getattr(m, "out_features", None) for m in embedding.modules()]
    return [size for size in sizes if size is not None][-1]


def require_fit(embedder: IntervalEmbedder, family: str, network: nn.Module, found: str) -> None:
    """Raises InvalidInput for one of another family or size than a network of ``found``'s.

    ``family`` is what the embedder's file says, see ``from_file``; an alias of ``found`` is right.
    """
    record = families.find(found)
    if record is None or not record.answers_to(family):
        raise InvalidInput(f"this interval embedder is for {family}, the model is {found}")
    wanted = width(time_embedding(network, found))
    if wanted != width(embedder):
        raise InvalidInput(
            f"this interval embedder is {width(embedder)} wide, the model {wanted}: it was trained "
            f"for another size of {found}"
        )


@contextmanager
def told(
    network: nn.Module,
    family: str,
    embedder: IntervalEmbedder,
    interval: Callable[[Tensor], Tensor],
) -> Iterator[None]:
    """While it lasts, a family's ``network`` is told the interval of each of its times.

    ``network(x, times, ...)`` has times (b,), or (b, n) where every frame has its own, in its own
    unit; ``interval`` gives t - r of those, shaped alike. Nothing of it stays on the network.
    """
    times: list[Tensor] = []

    def hear(module: nn.Module, args: tuple) -> None:
        times[:] = [args[1]]

    handle = network.register_forward_pre_hook(hear)
    try:
        with joined(network, family, embedder, lambda: interval(times[0])):
            yield
    finally:
        handle.remove()


@contextmanager
def joined(
    network: nn.Module, family: str, embedder: IntervalEmbedder, gap: Callable[[], Tensor]
) -> Iterator[None]:
    """While it lasts, what ``embedder`` makes of ``gap()`` joins a network's embedding of time.

    ``gap`` is t - r of the times that the network is called with, in their order. It also holds
    where the network's ``forward`` is called without its hooks.
    """

    def add(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        rows = gap().flatten().to(embedder.omega.device)
        # Qwen-Image's editing model appends rows of time 0, for the pictures it is shown.
        rows = torch.cat([rows, rows.new_zeros(len(out) - len(rows))])
        return out + embedder(rows).to(out)

    handle = time_embedding(network, family).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
