"""What the trainer asks of a network, whatever family it is of."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from sv_core.latent import LatentSpec


class Backbone(Protocol):
    """A network in our notation: t = 0 is data, and the output is the velocity."""

    model: nn.Module
    latent: LatentSpec

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The transformer blocks, in order."""

    @property
    def width(self) -> int:
        """The channels of a block's tokens."""

    @property
    def patch_size(self) -> int:
        """The latent cells of a token, each way."""

    def velocity(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """v(x_t, t, cond): x_t (b, ...), t (b,) -> (b, ...)."""

    def on(self, model: nn.Module) -> "Backbone":
        """The same adapter over other weights: wrapped ones, averaged ones."""

    def metadata(self) -> dict[str, str]:
        """What a checkpoint file must say for others to rebuild the network."""
