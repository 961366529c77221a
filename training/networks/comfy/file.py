"""The user's own file of a model: what is in it, read for ComfyUI, and written back as it was.

    diffusion model     blocks.0.q.weight, ...          bf16, fp16, fp32, fp8, scaled fp8
    checkpoint          model.diffusion_model.blocks.0.q.weight, ..., and a VAE, text encoders

Scaled fp8 keeps W / s in 8 bits, and s beside it as ``q.scale_weight`` (with a tensor called
``scaled_fp8`` in the file) or as ``q.weight_scale`` (with ``q.comfy_quant``, or metadata).
"""

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from sv_core.errors import InvalidInput

from ...files import read_weights
from ...tensors import Lazy, TensorFile
from .host import Host

SCALES = ("scale_weight", "weight_scale")
_BESIDE = (*SCALES, "scale_input", "input_scale", "comfy_quant", "scaled_fp8")
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_QUANTISED = "_quantization_metadata"


@dataclass(frozen=True)
class ModelFile:
    """Where the diffusion model's tensors are in a file, and how they are stored there.

    ``dtypes`` are by the file's own names without ``prefix``; ``scales`` are those of scaled fp8,
    by the names of the weights that they belong to.
    """

    path: Path
    prefix: str
    metadata: dict[str, str]
    dtypes: dict[str, torch.dtype]
    scales: dict[str, Tensor]
    quantisation: str | None
    """None, ``old`` (a tensor ``scaled_fp8`` says so), ``new``, or ``unsaid``."""
    dtype: torch.dtype
    """The one that most of its numbers are stored in."""

    def weights(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The whole file again with other values: ``tensors`` by the file's names, no prefix.

        Each is stored as before (fp8 with its scale, which grows where values have outgrown it),
        and what is not the diffusion model's, such as a VAE, is read from the file once more: one
        tensor at a time, when it is asked for. Raises InvalidInput, in one sentence, when the file
        is gone or damaged.
        """
        result: dict[str, Callable[[], Tensor]] = {}
        for name in tensors:
            if name in self.scales:
                key = self.prefix + self._scale_key(name)
                result[key] = lambda name=name: self._scale(name, tensors[name])
            result[self.prefix + name] = lambda name=name: self._stored(name, tensors[name])
        return Lazy(result | _others(self.path, result.keys()))

    def _scale(self, name: str, value: Tensor) -> Tensor:
        return _outgrown(value, self.scales[name], self.dtypes[name])

    def _stored(self, name: str, value: Tensor) -> Tensor:
        """A weight as the file has it."""
        stored = self.dtypes[name]
        if name in self.scales:
            value = value.float() / self._scale(name, value)
        if stored in _FP8:  # what is too large becomes the largest number, not NaN
            limit = torch.finfo(stored).max
            value = value.clamp(-limit, limit)
        return value.to(stored)

    def _scale_key(self, weight: str) -> str:
        layer = weight.removesuffix("weight")
        return next(layer + s for s in SCALES if layer + s in self.dtypes)


def read(path: Path, host: Host) -> tuple[ModelFile, dict[str, Tensor]]:
    """A file, and the tensors of its diffusion model by their names without prefix.

    Raises InvalidInput, in one sentence, when it cannot be read.
    """
    state, metadata = read_weights(path)
    prefix = host.detection.unet_prefix_from_state_dict(state)
    part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not part:
        prefix, part = "", state
    scales = {}
    for key, value in part.items():
        layer, _, last = key.rpartition(".")
        weight = part.get(f"{layer}.weight")
        if last in SCALES and weight is not None and weight.dtype in _FP8:
            scales[f"{layer}.weight"] = value.clone()  # not the whole file in memory
    dtypes = {key: value.dtype for key, value in part.items()}
    quantisation = "unsaid" if scales else None
    if "scaled_fp8" in part:
        quantisation = "old"
    elif _QUANTISED in metadata or any(key.endswith(".comfy_quant") for key in part):
        quantisation = "new"
    dtype = host.utils.weight_dtype(part)
    return ModelFile(path, prefix, metadata, dtypes, scales, quantisation, dtype), part


def dequantised(
    file: ModelFile, part: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The diffusion model without scales: W = fp8 x s, in ``dtype``.

    Raises InvalidInput, in one sentence, for another quantisation than scaled fp8.
    """
    result = {}
    for key, value in part.items():
        if key.rpartition(".")[2] in _BESIDE:
            continue
        scale = file.scales.get(key)
        blocks = scale is not None and (scale.numel() not in (1, len(value)) or scale.itemsize < 2)
        if scale is not None and not blocks:
            value = (value.float() * scale.float()).to(dtype)
        elif blocks or not value.is_floating_point():
            raise InvalidInput(
                f"{file.path} is quantised in a way that cannot be undone here ({key} is "
                f"{str(value.dtype).removeprefix('torch.')}): train a LoRA on it with "
                f"comfy.dtype = file, or use its bf16 or fp16 file"
            )
        result[key] = value
    return result


def host_metadata(file: ModelFile) -> dict[str, str]:
    """The metadata as ComfyUI wants it for tensors that lost their prefix."""
    if _QUANTISED not in file.metadata:
        return dict(file.metadata)
    try:
        stated = json.loads(file.metadata[_QUANTISED])
    except json.JSONDecodeError as e:
        raise InvalidInput(
            f"{file.path} says in a damaged way how it is quantised: fetch or save it again"
        ) from e
    layers = {k.removeprefix(file.prefix): v for k, v in stated.get("layers", {}).items()}
    return file.metadata | {_QUANTISED: json.dumps(stated | {"layers": layers})}


def known_to(file: ModelFile, host: Host) -> bool:
    """Whether this ComfyUI knows how a file is quantised; else it would take W / s for W."""
    newer = hasattr(host.utils, "convert_old_quants")
    return file.quantisation in ((None, "old", "new") if newer else (None, "old"))


def beside(name: str) -> bool:
    """Whether a tensor only describes how another one is quantised."""
    return name.rpartition(".")[2] in _BESIDE


def _outgrown(value: Tensor, scale: Tensor, stored: torch.dtype) -> Tensor:
    """The same scale s, unless W / s is too large for the 8 bits.

    So weights that did not change are stored as before, bit for bit.
    """
    least = value.abs().amax().float() / torch.finfo(stored).max
    return torch.maximum(scale.float().to(least.device), least).to(scale.dtype)


def _others(path: Path, known: Container[str]) -> dict[str, Callable[[], Tensor]]:
    """The file's tensors that are not in ``known``, each to be read when it is asked for."""
    if path.suffix != ".safetensors":
        state = read_weights(path)[0]
        return {name: lambda name=name: state[name] for name in state if name not in known}
    try:
        file = TensorFile(path)
    except (OSError, SafetensorError) as e:
        raise InvalidInput(
            f"{path} cannot be read any more ({e}), and what is to be saved contains parts of it: "
            f"put it back"
        ) from e
    return {name: lambda name=name: file[name] for name in file.places if name not in known}
