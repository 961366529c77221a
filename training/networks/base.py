"""The interface between the trainer and a network of any family."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from sv_core.latent import LatentSpec

Value = Callable[[Tensor], Tensor]


class Conditional(Protocol):
    """What sampling asks of a network, in our notation: t = 0 is data, the output the velocity."""

    @property
    def model(self) -> nn.Module:
        """The network, perhaps wrapped for several processes."""
        ...

    @property
    def latent(self) -> LatentSpec:
        """The kind of latents that it was made for."""
        ...

    def velocity(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """v(x_t, t, cond): x_t (b, ...), t (b,), cond (b,) the condition's number -> (b, ...)."""
        ...


class Backbone(Conditional, Protocol):
    """What training asks of it, too.

    Parameters that require gradients are trained; the others are frozen.
    """

    @property
    def shift(self) -> float:
        """The time shift of its own schedule, which training uses by default."""
        ...

    @property
    def span(self) -> tuple[float, float]:
        """The times that it is for: (0, 1), or the part of one of two experts."""
        ...

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The transformer blocks, in order."""
        ...

    @property
    def width(self) -> int:
        """The channels of a block's tokens."""
        ...

    @property
    def patch_size(self) -> int:
        """The latent cells of a token, each way."""
        ...

    @property
    def interval(self) -> bool:
        """Whether it takes r beside t, and so predicts average velocities over [r, t]."""
        ...

    def average_velocity(self, x_t: Tensor, r: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u(x_t, r, t, cond) over [r, t]: r (b,). With ``interval`` only; r = t: the velocity."""
        ...

    def forward_mode(self) -> AbstractContextManager[None]:
        """Context manager: both velocities have a forward derivative, ``torch.func.jvp``."""
        ...

    def watch(self, number: int) -> AbstractContextManager[list[Tensor]]:
        """Context manager: forward passes append block ``number``'s image tokens (b, n, width).

        Blocks count from 1; tokens are in row-major order.
        """
        ...

    def on(self, model: Callable[..., Any]) -> "Backbone":
        """The same adapter with ``model``, a wrapped network or its bare ``forward``, in place."""
        ...

    def weights(self, value: Value = Tensor.detach) -> Mapping[str, Tensor]:
        """The tensors of a checkpoint file, by the file's own names.

        ``value`` is what is to be written of one of the network's tensors, such as its average.
        """
        ...

    def sidecar(
        self, value: Value = Tensor.detach
    ) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """(tensors, metadata) of a second file, which holds the interval embedder.

        None when the first file holds all of the network.
        """
        ...

    def metadata(self) -> dict[str, str]:
        """The metadata of a checkpoint file, from which others can rebuild the network."""
        ...
