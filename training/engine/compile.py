"""Making a network's blocks faster, or smaller in memory, without changing what they compute."""

import functools
from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..config.schema import RunConfig


def adapt(blocks: Iterable[nn.Module], config: RunConfig, random: bool = False) -> None:
    """Compile each block (``run.compile``), recompute it for its gradient (``run.recompute``).

    Only the blocks' own forward functions change: names of weights and what hooks on a block see
    stay as they were. Blocks of one kind share their compiled code. Where something in a block is
    ``random`` (dropout), recomputation draws the same again.
    """
    for block in blocks:
        if config.compile:
            block.forward = torch.compile(block.forward)
        if config.recompute:
            block.forward = functools.partial(
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=random
            )
