"""What the trainer asks of a network, whatever family it is of."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from sv_core.latent import LatentSpec


class Backbone(Protocol):
    """A network in our notation: t = 0 is data, and the output is the velocity.

    What its parameters require gradients for is trained; the rest of it is frozen.
    """

    @property
    def model(self) -> nn.Module:
        """The network, perhaps wrapped for several processes."""
        ...

    @property
    def latent(self) -> LatentSpec:
        """What the latents are that it was made for."""
        ...

    @property
    def shift(self) -> float:
        """The time shift of its own schedule, which training follows unless told otherwise."""
        ...

    @property
    def span(self) -> tuple[float, float]:
        """The times that it is for: all of (0, 1), but for half of a pair of experts."""
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

    def velocity(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """v(x_t, t, cond): x_t (b, ...), t (b,), cond (b,) the condition's number -> (b, ...)."""
        ...

    @property
    def interval(self) -> bool:
        """Whether it is told what interval an average velocity is over."""
        ...

    def average_velocity(self, x_t: Tensor, r: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u(x_t, r, t, cond) over [r, t]: r (b,). With ``interval`` only; r = t: the velocity."""
        ...

    def forward_mode(self) -> AbstractContextManager[None]:
        """While it lasts, both can be differentiated forwards: ``torch.func.jvp``."""
        ...

    def watch(self, number: int) -> AbstractContextManager[list[Tensor]]:
        """While it lasts, forward passes leave block ``number``'s image tokens (b, n, width) there.

        Blocks count from 1; tokens are in row-major order.
        """
        ...

    def on(self, model: Callable[..., Any]) -> "Backbone":
        """The same adapter over the network as it is wrapped, or over its bare ``forward``."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint file holds, by the file's own names."""
        ...

    def sidecar(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """(tensors, metadata) of a second file, of the embedder of intervals, where there is one.

        None where the first holds all of the network.
        """
        ...

    def metadata(self) -> dict[str, str]:
        """What a checkpoint file must say for others to rebuild the network."""
        ...
