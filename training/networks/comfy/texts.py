"""The text inputs of networks: text encoders' tensors, looked up by the condition's number."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sv_core.errors import InvalidInput

from .families import Family, text_widths

Entry = Mapping[str, Tensor]


class Texts(Protocol):
    """What the text encoders made of each condition.

    ``context`` (L, D), and where the family has them ``pooled`` (P,) and ``attention_mask`` (L,).
    """

    def __getitem__(self, k: int) -> Entry: ...


def grouped(texts: Texts, numbers: Sequence[int]) -> list[tuple[list[int], dict[str, Tensor]]]:
    """Rows whose texts have the same shapes, with these texts stacked: (b, L, D).

    So no text is padded: ComfyUI pads by repetition, and not every version masks the padding.
    Tensors are float32, because autocast on a CPU cannot stack float16.
    """
    entries = {
        k: {
            n: x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x
            for n, x in texts[k].items()
        }
        for k in set(numbers)
    }
    alike: dict[Any, list[int]] = {}
    for row, k in enumerate(numbers):
        shapes = tuple(sorted((name, tuple(x.shape)) for name, x in entries[k].items()))
        alike.setdefault(shapes, []).append(row)
    return [
        (rows, {name: torch.stack([entries[numbers[r]][name] for r in rows]) for name, _ in shapes})
        for shapes, rows in alike.items()
    ]


def require(texts: Texts, family: Family, network: nn.Module, path: Path) -> None:
    """Raises InvalidInput, in one sentence, for texts of other encoders than the network's."""
    entry = texts[0]
    for name, width in text_widths(family, network).items():
        has = entry[name].shape[-1] if name in entry else 0
        if has < width or (name == "context" and has != width):
            raise InvalidInput(
                f"{path} takes {name} text of width {width}, the cached text has {has or 'none'}: "
                f"prepare the cache with {family.name}'s text encoders"
            )


def empty_text(family: Family, network: nn.Module, device: str) -> dict[str, Tensor]:
    """Zeros in place of one text, of two tokens."""
    widths = text_widths(family, network)
    entry = {"context": torch.zeros(1, 2, widths["context"], device=device)}
    if widths["pooled"]:
        entry["pooled"] = torch.zeros(1, widths["pooled"], device=device)
    return entry
