"""DINOv2 from one local file: the patch features that REPA and VA-REPA align with."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import interpolate

from sv_core.errors import InvalidInput

from ..files import read_weights

PATCH = 14
_HEAD = 64  # channels per attention head in every published DINOv2
_SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as DINOv2 was trained

# Names of the original .pth -> those of transformers' files.
_RENAMED = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^register_tokens$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(?:\d+\.)?(\d+)\.(?=[a-z])", r"encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.w12\.", ".mlp.weights_in."),
    (r"\.mlp\.w3\.", ".mlp.weights_out."),
    (r"^norm\.", "layernorm."),
)


class Encoder(NamedTuple):
    """A loaded DINOv2. ``name`` says which, such as dinov2-base-registers; ``dim`` channels."""

    model: nn.Module
    name: str
    dim: int
    registers: int

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images (b, 3, H, W) in [0, 1] -> final patch features (b, h w, dim), row by row.

        The picture is scaled to 14 h x 14 w pixels, so that each token of the h x w grid has one
        patch; class and register tokens are left out. [arXiv 2304.07193, 2309.16588]
        """
        size = (PATCH * grid[0], PATCH * grid[1])
        if tuple(images.shape[-2:]) != size:
            images = interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (images.new_tensor(x)[:, None, None] for x in (_MEAN, _STD))
        tokens = self.model((images - mean) / std).last_hidden_state
        return tokens[:, 1 + self.registers :]


def load(path: Path) -> Encoder:
    """A DINOv2 of any size, with or without registers, as transformers or Meta published it.

    Raises InvalidInput, in one sentence, when transformers is missing or the file is damaged or
    holds something else.
    """
    try:
        from transformers import (
            Dinov2Config,
            Dinov2Model,
            Dinov2WithRegistersConfig,
            Dinov2WithRegistersModel,
        )
    except ImportError as e:
        raise InvalidInput(
            f"reading DINOv2 needs the package transformers ({e}): pip install transformers, or "
            f"leave out encoder"
        ) from e
    state = _published_names(read_weights(path)[0])
    try:
        sizes, registers = _sizes(state)
    except KeyError as e:
        raise InvalidInput(f"{path} holds no DINOv2 ({e} is missing)") from e
    if sizes["hidden_size"] % _HEAD or sizes["patch_size"] != PATCH:
        raise InvalidInput(
            f"{path} is no DINOv2: that has patches of {PATCH} pixels and a width that is a "
            f"multiple of {_HEAD}, this has {sizes['patch_size']} and {sizes['hidden_size']}"
        )
    kind, config = Dinov2Model, Dinov2Config
    if registers:
        kind, config = Dinov2WithRegistersModel, Dinov2WithRegistersConfig
        sizes["num_register_tokens"] = registers
    with _quiet():
        # from_pretrained knows older names of tensors, a plain load_state_dict does not.
        # transformers declares a model here, and gives a pair with output_loading_info.
        model, report = kind.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            None,
            config=config(**sizes),
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # then they are reported, and refused below
        )
    other_shapes = {key for key, *_ in report["mismatched_keys"]}
    wrong = {*report["missing_keys"], *report["unexpected_keys"]} | other_shapes
    wrong = sorted(wrong - {"embeddings.mask_token"})  # of use in DINOv2's own training only
    if wrong:
        raise InvalidInput(f"{path} is not a whole DINOv2: {wrong[0]} is missing or does not fit")
    width = sizes["hidden_size"]
    name = f"dinov2-{_SIZES.get(width, width)}" + ("-registers" if registers else "")
    return Encoder(model.float().eval().requires_grad_(False), name, width, registers)


def _published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of the original release to transformers' names; these stay as they are."""
    if "cls_token" not in state:
        return {re.sub(r"^dinov2(_with_registers)?\.", "", k): v for k, v in state.items()}
    renamed = {}
    for key, value in state.items():
        name = key
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        if ".attn.qkv." in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            for part, third in parts:
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = third
        else:
            renamed[name] = value
    return renamed


def _sizes(state: Mapping[str, Tensor]) -> tuple[dict, int]:
    """(the settings, the number of registers), from the shapes. Raises KeyError."""
    positions = state["embeddings.position_embeddings"]  # (1, 1 + n, d), n a square
    width = positions.shape[-1]
    swiglu = "encoder.layer.0.mlp.fc1.weight" not in state
    layers = [int(m[1]) for k in state if (m := re.match(r"encoder\.layer\.(\d+)\.", k))]
    if not layers:
        raise KeyError("encoder.layer.0")
    hidden = 4 * width if swiglu else state["encoder.layer.0.mlp.fc1.weight"].shape[0]
    registers = state.get("embeddings.register_tokens")
    return {
        "hidden_size": width,
        "num_hidden_layers": 1 + max(layers),
        "num_attention_heads": width // _HEAD,
        "mlp_ratio": hidden // width,
        "image_size": PATCH * math.isqrt(positions.shape[1] - 1),
        "patch_size": state["embeddings.patch_embeddings.projection.weight"].shape[-1],
        "use_swiglu_ffn": swiglu,
    }, 0 if registers is None else registers.shape[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: transformers prints no load report and no progress bar."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
