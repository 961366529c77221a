"""A SiT's file: tensors, and a description of the network and its latents in the metadata.

Files come from strangers. What one says of itself is compared with its tensors before anything is
built, so that a file costs no more time and memory than its own size.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..latent import SD_VAE, LatentSpec, pixels
from .sit import SiT, SiTConfig


def to_metadata(config: SiTConfig, latent: LatentSpec) -> dict[str, str]:
    """The description in a checkpoint file, as safetensors metadata."""
    return {"sit": json.dumps(asdict(config)), "latent": json.dumps(asdict(latent))}


def _described(kind: type, text: str | None):
    """A part of what ``to_metadata`` wrote, or None for a file without it."""
    try:
        return None if text is None else kind(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as e:
        why = f" ({e})" if isinstance(e, InvalidInput) else ""
        raise InvalidInput(
            f"the file's description of itself ({kind.__name__}) is damaged or from another "
            f"version{why}: save the checkpoint again"
        ) from e


def _tensors_of(state: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name. Raises InvalidInput for anything else."""
    if isinstance(state, Mapping):
        inner = (state.get(key) for key in ("ema", "state_dict", "model"))
        state = next((part for part in inner if isinstance(part, Mapping)), state)
    if (
        not isinstance(state, Mapping)
        or not all(isinstance(name, str) for name in state)
        or not all(isinstance(x, Tensor) and x.is_floating_point() for x in state.values())
    ):
        raise InvalidInput("this is not a SiT checkpoint: it holds other things than tensors")
    require_stored(state.values())
    return {k: v for k, v in state.items() if not k.startswith("projectors.")}


def require_stored(tensors: Iterable[Tensor]) -> None:
    """Refuse tensors that are larger than what a file holds of them.

    A .pt file can hold one number and call it a matrix of any size. Tensors may share what is
    stored, but on the whole not more than twice.
    """
    stored, claimed = {}, 0
    for x in tensors:
        if x.layout is not torch.strided or x.is_meta:
            raise InvalidInput("this is no ordinary checkpoint: it holds tensors without numbers")
        storage = x.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        claimed += x.numel() * x.element_size()
    if claimed > 2 * sum(stored.values()):
        raise InvalidInput("this is no ordinary checkpoint: its tensors are not stored whole")


def _require_same_sizes(described: SiTConfig, found: SiTConfig) -> None:
    """Refuse a description with other sizes than the tensors have, before anything is built.

    How many heads there are, and which way time runs, no shape tells.
    """
    width = int(described.hidden_size * described.mlp_ratio)
    if width == int(found.hidden_size * found.mlp_ratio):
        found = replace(found, mlp_ratio=described.mlp_ratio)
    found = replace(found, num_heads=described.num_heads, data_time=described.data_time)
    wrong = [k for k, value in asdict(described).items() if value != asdict(found)[k]]
    if wrong:
        raise InvalidInput(
            "this is not a SiT checkpoint that fits its description: by that its "
            f"{wrong[0]} is {asdict(described)[wrong[0]]}, by its tensors "
            f"{asdict(found)[wrong[0]]}"
        )


def from_checkpoint(
    state: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> tuple[SiT, LatentSpec]:
    """(SiT in evaluation mode, specification of its latents) from a checkpoint's tensors.

    Our own files describe both in their metadata. For others the shapes decide: one or three
    channels are pixels, four the Stable Diffusion VAE's. REPA's projectors are left out; of a
    dictionary with "ema", "state_dict" or "model" the inner tensors are used. Raises InvalidInput
    when the tensors are those of another architecture, and before anything is built when they are
    not those that the description names; a DiT has the same tensors as a SiT, and would sample
    noise.
    """
    metadata, state = metadata or {}, _tensors_of(state)
    config = _described(SiTConfig, metadata.get("sit"))
    latent = _described(LatentSpec, metadata.get("latent"))
    found = SiTConfig.from_state_dict(state)
    config = config or found
    _require_same_sizes(config, found)
    if latent is None:
        latent = SD_VAE if config.in_channels == 4 else pixels(config.in_channels)
    if latent.channels != config.in_channels:
        raise InvalidInput(
            f"this SiT has {config.in_channels} channels, but by the file's description its "
            f"latents have {latent.channels}"
        )
    with torch.device("meta"):
        model = SiT(config)
    wanted = {k: v.shape for k, v in model.state_dict().items()}
    wrong = sorted(
        k
        for k in wanted.keys() | state.keys()
        if k not in wanted or k not in state or wanted[k] != state[k].shape
    )
    if wrong:
        raise InvalidInput(
            f"this is not a SiT checkpoint that fits its description: {len(wrong)} tensors are "
            f"missing, misshapen or unknown, {wrong[0]} first"
        )
    model = SiT(config)
    model.load_state_dict(state)
    return model.eval(), latent
