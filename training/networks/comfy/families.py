"""Where the blocks and widths of ComfyUI's networks are, as the records of their families say.

A family is found by the name of the host's class for the whole model. Everything else (timestep,
conditioning, latent format, time shift) is asked of the host, never written down here.
"""

import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec
from sv_core.models import families
from sv_core.models.family import Family, Layout, Place

Tokens = Callable[[Any, int], Tensor]
"""A block's output and the number of image tokens -> those tokens (b, n, width)."""

_TOKENS: dict[Place, Tokens] = {
    "all": lambda out, n: out,
    "first part": lambda out, n: out[0],
    "second part": lambda out, n: out[1],
    "first tokens": lambda out, n: out[:, :n],
    "last tokens": lambda out, n: out[:, -n:],
}


def trained_family(base: Any) -> Family | None:
    """The family of a host's whole model, if its networks can be trained.

    By the very class: one that is built upon it may differ in what training must know.
    """
    family = families.of_host([type(base).__name__])
    return None if family is None or family.layout is None else family


def layout(family: Family) -> Layout:
    """Where things are in the networks of a family that can be trained."""
    assert family.layout is not None, family.name
    return family.layout


def blocks(family: Family, network: nn.Module) -> list[tuple[nn.Module, Tokens]]:
    """A network's blocks in the order of running, and how each one's image tokens are read."""
    return [
        (block, _TOKENS[place])
        for name, place in layout(family).blocks.items()
        for block in getattr(network, name)
    ]


def width(family: Family, network: nn.Module) -> int:
    """The width of a network's image tokens."""
    return attrgetter(layout(family).width)(network)


def text_widths(family: Family, network: nn.Module) -> dict[str, int]:
    """The widths of the text that a network takes; 0 where it takes none of that kind."""
    where = {"context": layout(family).context, "pooled": layout(family).pooled}
    return {name: attrgetter(path)(network) or 0 if path else 0 for name, path in where.items()}


def tiny(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """A file's configuration, changed to a network of the same kind that takes milliseconds."""
    changes = layout(family)
    only = {k: value for k, value in changes.tiny_where_set.items() if config.get(k)}
    return {**config, **changes.tiny, **only}


def span_of(path: Path, family: Family, expert: str | None) -> tuple[float, float]:
    """The noise levels that a file is for, by what the user says, else by its official name.

    Raises InvalidInput, in one sentence, for an expert of a family that has none.
    """
    boundary = family.boundary
    if boundary is None:
        if expert is not None:
            raise InvalidInput(
                f"comfy.expert = {expert} is for files of {families.names('boundary')}, and "
                f"{path} is of {family.name}: leave it out"
            )
        return 0.0, 1.0
    named = re.search(r"(high|low)[_-]?noise", path.name.lower())
    which = expert or (named[1] if named else "")
    return {"high": (boundary, 1.0), "low": (0.0, boundary)}.get(which, (0.0, 1.0))


def latent_of(form: Any, family: Family) -> LatentSpec:
    """(latent - shift) * scale per channel, as ``form`` (a latent format of ComfyUI's) does it.

    Raises InvalidInput, in one sentence, for one that does anything else.
    """
    known = families.latents(family.name)
    channels = form.latent_channels
    trailing = [2] * form.latent_dimensions

    def apply(x: Tensor) -> Tensor:
        return form.process_in(x.clone())

    def filled(value: float) -> Tensor:
        return apply(torch.full((1, channels, *trailing), value, dtype=torch.float64))

    at_zero, slope = filled(0.0), filled(1.0) - filled(0.0)
    x = torch.randn((2, channels, *trailing), generator=torch.Generator().manual_seed(0)).double()
    if at_zero.shape[1] != channels or not torch.allclose(apply(x), slope * x + at_zero):
        raise InvalidInput(
            f"latents of the kind that ComfyUI calls {type(form).__name__} are not scaled channel "
            f"by channel: this network cannot be trained here"
        )
    scale = slope[0].flatten(1)[:, 0]
    shift = -at_zero[0].flatten(1)[:, 0] / scale
    return LatentSpec(
        type(form).__name__.lower(),
        channels,
        scale=_numbers(scale),
        shift=_numbers(shift),
        # An older ComfyUI does not say how many pixels a cell has.
        downscale=getattr(form, "spacial_downscale_ratio", known.downscale),
    )


def _numbers(values: Tensor) -> float | tuple[float, ...]:
    """One number where all channels have the same; without float64's last digits."""
    numbers = tuple(float(f"{v:.9g}") + 0.0 for v in values.tolist())
    return numbers[0] if len(set(numbers)) == 1 else numbers
