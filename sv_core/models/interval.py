"""Embeddings of time: of t, and of t - r, the length of an average velocity's interval.

The embedding of t - r is added to that of t. It begins as zero, so that a network that was trained
for the velocity predicts the same for every r until MeanFlow trains it further. In a SiT the
embedder is a part of the network; for ComfyUI's families of models it is a file of its own.
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
"""The prefix of the embedder's tensors, inside a SiT's file and in a file of their own."""


def linear(layers: nn.Sequential, k: int) -> nn.Linear:
    """Layer ``k``, which must be a linear one: AssertionError otherwise."""
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
        # In float32 or better, whatever the weights are: half precision rounds times together.
        t = t.to(torch.promote_types(self.omega.dtype, torch.float32))
        angle = t[:, None] * self.omega
        waves = torch.cat([angle.cos(), angle.sin()], dim=1)
        return self.mlp(waves.to(linear(self.mlp, 0).weight.dtype))


class IntervalEmbedder(TimestepEmbedder):
    """A ``TimestepEmbedder`` of t - r whose output is zero until it is trained."""

    def __init__(self, hidden_size: int, frequencies: int = 256):
        super().__init__(hidden_size, frequencies)
        first, last = linear(self.mlp, 0), linear(self.mlp, 2)
        nn.init.normal_(first.weight, std=0.02)
        for zero in (first.bias, last.weight, last.bias):
            nn.init.zeros_(zero)


def has_interval(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a file include an interval embedder."""
    return any(name.startswith(PREFIX) for name in state)


def to_file(embedder: IntervalEmbedder, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a family's embedder as a file of its own."""
    tensors = {PREFIX + name: tensor for name, tensor in embedder.state_dict().items()}
    description = {"family": family, "width": width(embedder)}
    return tensors, {"interval_embedder": json.dumps(description)}


def from_file(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> tuple[IntervalEmbedder, str]:
    """(embedder, family) from what ``to_file`` returned. Raises InvalidInput for other files."""
    try:
        family = json.loads((metadata or {})["interval_embedder"])["family"]
        shapes = {k.removeprefix(PREFIX): v.shape for k, v in state.items()}
        with torch.device("meta"):
            embedder = IntervalEmbedder(*shapes["mlp.0.weight"])
        if not isinstance(family, str) or shapes != {
            k: v.shape for k, v in embedder.state_dict().items()
        }:
            raise TypeError("another description or other tensors")
        embedder = IntervalEmbedder(*shapes["mlp.0.weight"])
        embedder.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items()})
    except (
        *(KeyError, IndexError, ValueError, TypeError, RuntimeError),
        *(RecursionError, AttributeError),
    ) as e:
        raise InvalidInput(
            "this is not an interval embedder, or a damaged one: choose the file that MeanFlow's "
            "training wrote beside the LoRA or the weights"
        ) from e
    return embedder.eval(), family


def time_embedding(network: nn.Module, family: str) -> nn.Module:
    """The module of a family's network to whose output the interval's embedding is added."""
    record = families.find(family)
    assert record is not None and record.time_embedding is not None, family
    return getattr(network, record.time_embedding)


def width(embedding: nn.Module) -> int:
    """The width of an embedding of time: the number of outputs of its last linear layer.

    Linear layers are recognised by ``out_features``: ComfyUI has quantised ones of another class.
    """
    sizes = [getattr(m, "out_features", None) for m in embedding.modules()]
    return [size for size in sizes if size is not None][-1]


def require_fit(embedder: IntervalEmbedder, family: str, network: nn.Module, found: str) -> None:
    """Raise InvalidInput unless an embedder of ``family`` fits a network of the family ``found``.

    ``family`` is the one that the embedder's file names, see ``from_file``: an alias of ``found``
    fits. The widths must agree.
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
def embed_intervals(
    network: nn.Module,
    family: str,
    embedder: IntervalEmbedder,
    interval: Callable[[Tensor], Tensor],
) -> Iterator[None]:
    """Context manager: embed the interval of each time in calls ``network(x, times, ...)``.

    ``times`` are (b,), or (b, n) with one for each frame, in the network's unit; ``interval`` maps
    them to t - r in [0, 1], of the same shape. The hooks are removed at the end.
    """
    times: list[Tensor] = []

    def keep_times(module: nn.Module, args: tuple) -> None:
        times[:] = [args[1]]

    handle = network.register_forward_pre_hook(keep_times)
    try:
        with add_embedding(network, family, embedder, lambda: interval(times[0])):
            yield
    finally:
        handle.remove()


@contextmanager
def add_embedding(
    network: nn.Module, family: str, embedder: IntervalEmbedder, interval: Callable[[], Tensor]
) -> Iterator[None]:
    """Context manager: add the embedding of ``interval()`` to the network's embedding of time.

    ``interval()`` is t - r of the times that the network is called with, in their order. The hook
    is on the embedding of time, so it also works when ``network.forward`` is called directly.
    """

    def add(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        rows = interval().flatten().to(embedder.omega.device)
        # Qwen-Image's editing model appends rows of time 0, for its reference pictures.
        rows = torch.cat([rows, rows.new_zeros(len(out) - len(rows))])
        return out + embedder(rows).to(out)

    handle = time_embedding(network, family).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
