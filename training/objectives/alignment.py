"""Alignment in training: a block's tokens, by hook, towards the cache's features."""

import functools
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sv_core.alignment import PROJECTORS, alignment_loss, spatial_normalize
from sv_core.errors import InvalidInput
from sv_core.weighting import WEIGHTS

from ..config.schema import AlignConfig
from ..data.dataset import Dataset
from ..networks.base import Backbone


class Projectors(nn.ModuleList):
    """One projector per encoder, from the same tokens: (b, n, d) -> [(b, n, d_i)]."""

    def forward(self, h: Tensor) -> list[Tensor]:
        return [projector(h) for projector in self]


class Alignment:
    """lambda sum w(t) l / sum w(t): the loss beside the velocity's. [arXiv 2602.05435, VA-REPA]

    ``projectors`` are trained with the network and are not part of it.
    """

    def __init__(self, config: AlignConfig, backbone: Backbone, dims: Sequence[int], seed: int):
        """Raises InvalidInput for a block that the network lacks, or one without a width."""
        blocks = list(backbone.blocks)
        if config.block > len(blocks):
            raise InvalidInput(
                f"align.block = {config.block}, but the network has {len(blocks)} blocks: use 1 to "
                f"{len(blocks)}"
            )
        self.config, self.backbone = config, backbone
        draw, known = WEIGHTS[config.weighting], {"split": config.split, "k": config.k}
        names = inspect.signature(draw).parameters.keys() & known
        self.weight = functools.partial(draw, **{name: known[name] for name in names})
        make = PROJECTORS[config.projector]
        if config.projector == "mlp":
            make = functools.partial(make, hidden=config.hidden)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)  # not the seed of the network's own weights
            self.projectors = Projectors(make(backbone.width, dim) for dim in dims)

    def watching(self) -> AbstractContextManager[list[Tensor]]:
        """Context manager: each forward pass appends the block's tokens to the list."""
        return self.backbone.watch(self.config.block)

    def loss(
        self, projected: Sequence[Tensor], features: Sequence[Tensor], t: Tensor, total: Tensor
    ) -> Tensor:
        """lambda sum_i w_i l_i / total; ``total`` is sum w over the whole batch of the step.

        The losses of a batch's parts, in one process or several, then add up to that of the whole.
        """
        w = self.weight(t)
        pairs = [(h, self._wanted(z)) for h, z in zip(projected, features, strict=True)]
        share = torch.where(total < 1e-8, 0.0, w.sum() / total.clamp_min(1e-8))
        return self.config.weight * alignment_loss(pairs, w) * share

    def _wanted(self, z: Tensor) -> Tensor:
        return z if self.config.gamma is None else spatial_normalize(z, self.config.gamma)


def build_alignment(
    config: AlignConfig, backbone: Backbone, data: Dataset, seed: int
) -> Alignment | None:
    """The alignment, None without encoders. Raises InvalidInput for features on another grid."""
    if not config.encoders:
        return None
    data.require_patch(backbone.patch_size)
    return Alignment(config, backbone, data.feature_dims, seed)
