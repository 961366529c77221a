"""A SiT as an ordinary MODEL of ComfyUI, with the sampling, patches and previews of any other."""

import pickle
from dataclasses import replace
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ...sv_core.errors import InvalidInput
from ...sv_core.latent import LatentSpec
from ...sv_core.models.sit import SiT, from_checkpoint
from . import average_velocity

FOLDER = "diffusion_models"
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError)


class SpecLatentFormat(comfy.latent_formats.LatentFormat):
    """The host's latent format that says what a ``LatentSpec`` says.

    The inherited 8 pixels per cell stay for pixel models too: it is what Empty Latent Image counts
    in, on every version, and its smallest size would be too large for digits otherwise.
    """

    def __init__(self, spec: LatentSpec):
        self.spec = spec
        self.latent_channels = spec.channels
        self.scale_factor = spec.scale
        if spec.kind == "pixels":
            # The network's [-1, 1] is what previews take for black to white.
            colours = {1: torch.ones(1, 3), 3: torch.eye(3)}
            if spec.channels in colours:
                self.latent_rgb_factors = colours[spec.channels].tolist()
        else:
            known = comfy.latent_formats.SD15()
            self.latent_rgb_factors = known.latent_rgb_factors
            self.taesd_decoder_name = known.taesd_decoder_name

    def process_in(self, latent: Tensor) -> Tensor:
        return self.spec.to_model(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return self.spec.from_model(latent)


class SiTFamily(comfy.supported_models_base.BASE):
    """What the host asks about a family of models."""

    def __init__(self, spec: LatentSpec, shift: float):
        super().__init__({"disable_unet_model_creation": True})
        self.latent_format = SpecLatentFormat(spec)
        self.sampling_settings = {"shift": shift, "multiplier": 1.0}


def _as_sit_takes_it(module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
    taken, r = {"y": options["y"]}, average_velocity.led_to(options.get("transformer_options", {}))
    if r is not None:
        taken["r"] = torch.full_like(args[1], r)
    return args, taken


def _stop_if_interrupted(module: nn.Module, args: tuple) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


class SiTModel(comfy.model_base.BaseModel):
    """The host's wrapper around a network: flow sampling, class conditioning, checks in words."""

    def __init__(self, sit: SiT, spec: LatentSpec, shift: float):
        super().__init__(SiTFamily(spec, shift), comfy.model_base.ModelType.FLOW)
        # Hooks instead of a wrapping module keep the parameters' names, which LoRA files use.
        sit.register_forward_pre_hook(_as_sit_takes_it, with_kwargs=True)
        for block in sit.blocks:
            block.register_forward_pre_hook(_stop_if_interrupted)
        self.diffusion_model = sit

    def get_dtype(self) -> torch.dtype:
        return self.diffusion_model.pos_embed.dtype

    def process_timestep(self, timestep: Tensor, **inputs: Any) -> Tensor:
        """ModelSampling nodes count time in their own units; a SiT wants sigma itself."""
        return timestep / getattr(self.model_sampling, "multiplier", 1.0)

    def extra_conds(self, **inputs: Any) -> dict:
        config = self.diffusion_model.config
        size, got = config.input_size, tuple(inputs["noise"].shape[-2:])
        if got != (size, size):
            raise InvalidInput(
                f"this SiT makes latents of {size}x{size}, but the latent is {got[1]}x{got[0]}: "
                f"connect SiT Class Condition's latent, or Empty Latent Image with {8 * size}x"
                f"{8 * size}"
            )
        y = classes_from_conditioning(inputs.get("cross_attn"), config.num_classes)
        return {"y": comfy.conds.CONDRegular(y.to(inputs["noise"].device))}


def conditioning_from_classes(classes: list[int] | None) -> list:
    """A CONDITIONING (n, 1, 1) that holds class + 1; None gives one entry of 0, for no class.

    So the host's own ConditioningZeroOut means "no class" too.
    """
    codes = [0] if classes is None else [c + 1 for c in classes]
    return [[torch.tensor(codes, dtype=torch.float32)[:, None, None], {}]]


def classes_from_conditioning(cond: Tensor | None, num_classes: int) -> Tensor:
    """The other way: labels (n,), with ``num_classes`` for no class."""
    if cond is None or cond.shape[1:] != (1, 1):
        raise InvalidInput(
            "a SiT is conditioned on classes, not on text: connect SiT Class Condition to its "
            "positive and negative"
        )
    codes = cond.flatten().long()
    require_classes((codes - 1).tolist(), num_classes)
    return torch.where(codes == 0, num_classes, codes - 1)


def require_classes(classes: list[int], num_classes: int) -> None:
    """Raise InvalidInput, in words, for a class that the network does not know."""
    if max(classes) >= num_classes:
        raise InvalidInput(
            f"class {max(classes)} does not exist: this SiT knows the classes 0 to "
            f"{num_classes - 1}"
        )


def file_path(folder: str, name: str) -> str:
    """Where a model's file is. Raises InvalidInput, in words, when it is not there."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise InvalidInput(
            f"{name} is not in ComfyUI's models/{folder}: put the file there, then press R to "
            "refresh the list"
        )
    return path


def read_tensors(folder: str, name: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """(tensors, metadata) of a file. Raises InvalidInput, in words, when it cannot be read."""
    path = file_path(folder, name)
    try:
        state, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
        return state, metadata
    except UNREADABLE as e:
        raise InvalidInput(
            f"{name} cannot be read as a checkpoint (safetensors, or a .pt that holds nothing but "
            "tensors): it is truncated or of another format, copy or download it again"
        ) from e


def load_sit(name: str, shift: float, data_time: int | None) -> comfy.model_patcher.ModelPatcher:
    """Read a checkpoint into a MODEL; ``data_time`` None takes what the checkpoint says.

    Raises InvalidInput in words when the file is missing, damaged or not a SiT's.
    """
    state, metadata = read_tensors(FOLDER, name)
    try:
        sit, spec = from_checkpoint(state, metadata)
    except InvalidInput as e:
        raise InvalidInput(f"{name}: {e}") from e
    if data_time is not None:
        sit.config = replace(sit.config, data_time=data_time)
    return comfy.model_patcher.ModelPatcher(
        SiTModel(sit, spec, shift),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def require_sit(model: Any) -> SiT:
    """The network inside a MODEL of SiTLoader; other models raise InvalidInput, in words."""
    if not isinstance(model.model, SiTModel):
        raise InvalidInput(
            "SiT Class Condition needs the MODEL of SiT Loader, this is "
            f"{type(model.model).__name__}: condition other models with text"
        )
    return model.model.diffusion_model


class PixelVAE:
    """The identity as a VAE: pixel latents (b, c, h, w) in [0, 1] and IMAGE (b, h, w, 3)."""

    def __init__(self, channels: int):
        self.channels = channels

    def decode(self, latent: Tensor) -> Tensor:
        image = latent.movedim(1, -1).float().clamp(0, 1)
        return image.expand(*image.shape[:-1], 3) if self.channels == 1 else image

    def encode(self, image: Tensor) -> Tensor:
        latent = image[..., :3].movedim(-1, 1)
        return latent.mean(1, keepdim=True) if self.channels == 1 else latent


class OtherVAE:
    """Stands where a VAE is needed that a SiT's file does not hold, and says which."""

    def decode(self, latent: Tensor) -> Tensor:
        raise InvalidInput(
            "this SiT works in the latents of the Stable Diffusion VAE, which its file does not "
            "hold: connect Load VAE with vae-ft-mse-840000-ema-pruned.safetensors here"
        )

    encode = decode


def image_codec(model: comfy.model_patcher.ModelPatcher) -> PixelVAE | OtherVAE:
    """The VAE output of SiTLoader."""
    spec = model.model.latent_format.spec
    return PixelVAE(spec.channels) if spec.kind == "pixels" else OtherVAE()
