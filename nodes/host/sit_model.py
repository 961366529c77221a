"""A SiT as an ordinary MODEL of ComfyUI, with the sampling, patches and previews of any other."""

from dataclasses import replace
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ...sv_core.errors import InvalidInput
from ...sv_core.latent import LatentSpec
from ...sv_core.models.sit import SiT
from ...sv_core.models.sit_file import from_checkpoint
from . import average_velocity
from .contract import of_the_host
from .files import read_tensors
from .interrupt import stop_if_interrupted

SIT_FOLDER = "diffusion_models"
"""The models folder in which SiT checkpoints lie."""


class SpecLatentFormat(comfy.latent_formats.LatentFormat):
    """A ``LatentSpec`` as the host's latent format.

    Pixel models inherit 8 pixels per cell too: Empty Latent Image divides its size by 8 on every
    version, and the smallest size it offers would be too large for the digits otherwise.
    """

    @of_the_host
    def __init__(self, spec: LatentSpec):
        self.spec = spec
        self.latent_channels = spec.channels
        self.scale_factor = spec.scale
        if spec.kind == "pixels":
            # Previews show -1 as black and 1 as white, which is the network's range.
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
    """The host's description of a family of models: latent format and sampling settings."""

    @of_the_host
    def __init__(self, spec: LatentSpec, shift: float):
        super().__init__({"disable_unet_model_creation": True})
        self.latent_format = SpecLatentFormat(spec)
        self.sampling_settings = {"shift": shift, "multiplier": 1.0}


def _sit_arguments(module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
    """The host's arguments of a network as those of ``SiT.forward``: class labels, and r."""
    r = average_velocity.interval_end(options.get("transformer_options", {}))
    arguments = {"y": options["y"]}
    if r is not None:
        arguments["r"] = torch.full_like(args[1], r)
    return args, arguments


def _stop_if_interrupted(module: nn.Module, args: tuple) -> None:
    stop_if_interrupted()


class SiTModel(comfy.model_base.BaseModel):
    """The host's wrapper around the network: flow sampling and class conditioning."""

    @of_the_host
    def __init__(self, sit: SiT, spec: LatentSpec, shift: float):
        super().__init__(SiTFamily(spec, shift), comfy.model_base.ModelType.FLOW)
        # A wrapping module would change the names of the parameters, which LoRA files refer to.
        sit.register_forward_pre_hook(_sit_arguments, with_kwargs=True)
        for block in sit.blocks:
            block.register_forward_pre_hook(_stop_if_interrupted)
        self.diffusion_model = sit

    def get_dtype(self) -> torch.dtype:
        return self.diffusion_model.pos_embed.dtype

    def process_timestep(self, timestep: Tensor, **inputs: Any) -> Tensor:
        """A SiT's time is sigma; the host's timestep is sigma times the sampling's multiplier."""
        return timestep / getattr(self.model_sampling, "multiplier", 1.0)

    @of_the_host
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
    """A CONDITIONING (n, 1, 1) that holds class + 1; None, for no class, is a single 0.

    With that code the host's node ConditioningZeroOut also means "no class".
    """
    codes = [0] if classes is None else [c + 1 for c in classes]
    return [[torch.tensor(codes, dtype=torch.float32)[:, None, None], {}]]


def classes_from_conditioning(cond: Tensor | None, num_classes: int) -> Tensor:
    """The inverse of ``conditioning_from_classes``: labels (n,), ``num_classes`` for no class.

    Raises InvalidInput for text conditioning, and for a class that the network does not have.
    """
    if not isinstance(cond, Tensor) or cond.shape[1:] != (1, 1) or not len(cond):
        raise InvalidInput(
            "a SiT is conditioned on classes, not on text: connect SiT Class Condition to its "
            "positive and negative"
        )
    codes = cond.flatten().long()
    require_classes((codes - 1).tolist(), num_classes)
    return torch.where(codes == 0, num_classes, codes - 1)


def require_classes(classes: list[int], num_classes: int) -> None:
    """Raise InvalidInput for a class that the network does not have."""
    if max(classes) >= num_classes:
        raise InvalidInput(
            f"class {max(classes)} does not exist: this SiT knows the classes 0 to "
            f"{num_classes - 1}"
        )


@of_the_host
def load_sit(name: str, shift: float, data_time: int | None) -> comfy.model_patcher.ModelPatcher:
    """A checkpoint as a MODEL; ``data_time`` None leaves the checkpoint's time convention.

    Raises InvalidInput when the file is missing, damaged or not a SiT's.
    """
    state, metadata = read_tensors(SIT_FOLDER, name)
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


@of_the_host
def require_sit(model: Any) -> SiT:
    """The network of a MODEL from SiT Loader. Raises InvalidInput for other models."""
    if not isinstance(model.model, SiTModel):
        raise InvalidInput(
            "SiT Class Condition needs the MODEL of SiT Loader, this is "
            f"{type(model.model).__name__}: condition other models with text"
        )
    return model.model.diffusion_model


@of_the_host
def empty_latent(sit: SiT, count: int) -> Tensor:
    """Zeros for ``count`` pictures of the network's size, on the host's device for latents."""
    config, device = sit.config, comfy.model_management.intermediate_device()
    return torch.zeros(
        count, config.in_channels, config.input_size, config.input_size, device=device
    )


class PixelVAE:
    """The VAE of pixel models: latents (b, c, h, w) in [0, 1] are the IMAGE (b, h, w, 3)."""

    def __init__(self, channels: int):
        self.channels = channels

    def decode(self, latent: Tensor) -> Tensor:
        image = latent.movedim(1, -1).float().clamp(0, 1)
        return image.expand(*image.shape[:-1], 3) if self.channels == 1 else image

    def encode(self, image: Tensor) -> Tensor:
        latent = image[..., :3].movedim(-1, 1)
        return latent.mean(1, keepdim=True) if self.channels == 1 else latent


class MissingVAE:
    """The VAE output of a latent-space SiT, whose file has no VAE: raises InvalidInput on use."""

    def decode(self, latent: Tensor) -> Tensor:
        raise InvalidInput(
            "this SiT works in the latents of the Stable Diffusion VAE, which its file does not "
            "hold: connect Load VAE with vae-ft-mse-840000-ema-pruned.safetensors here"
        )

    encode = decode


@of_the_host
def vae_of(model: comfy.model_patcher.ModelPatcher) -> PixelVAE | MissingVAE:
    """The VAE output of SiT Loader for its MODEL."""
    spec = model.model.latent_format.spec
    return PixelVAE(spec.channels) if spec.kind == "pixels" else MissingVAE()
