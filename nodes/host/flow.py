"""How ComfyUI samples. With ``host_model`` the only file that knows the host's internals.

Everything here works on ComfyUI 0.3.64 and on 0.29; a host's SIGMAS are the core's time grid, since
flow models take the linear path.
"""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ...sv_core.errors import InvalidInput
from ...sv_core.models import families
from ...sv_core.sampling import Callback, NoiseFn, VelocityFn

CATEGORY = "sampling/stable velocity"

NOISE_SEED_OFFSET = 0x5AB1E
"""Keeps noise drawn inside a run apart from the initial noise of this and of the next seeds."""

OWN_SAMPLER, OWN_SCHEDULER = "stable_vs", "regime_split"
"""Our names in KSampler's drop-downs; neither can be built upon itself."""

UNFIT_SAMPLERS = {
    "ddpm": "it assumes a variance-preserving diffusion model",
    "dpm_fast": "it chooses its own noise levels and ignores the grid",
    "dpm_adaptive": "it chooses its own noise levels and ignores the grid",
    "dpmpp_2s_ancestral_cfg_pp": "it adds noise as a diffusion model needs it",
    "res_multistep_ancestral": "it adds noise as a diffusion model needs it",
    "res_multistep_ancestral_cfg_pp": "it adds noise as a diffusion model needs it",
}
"""Samplers of the host that give wrong results with flow models, and why."""

MULTISTEP_ONLY = ("uni_pc", "uni_pc_bh2")
"""Samplers of the host that do nothing at all when they are given a single step."""


def sampler_names() -> list[str]:
    """The host's samplers that suit flow models, those of other packs included."""
    names = comfy.samplers.SAMPLER_NAMES
    return [n for n in names if n not in UNFIT_SAMPLERS and n != OWN_SAMPLER]


def scheduler_names() -> list[str]:
    """The host's schedulers whose grids can be thinned, those of other packs included."""
    return [n for n in comfy.samplers.SCHEDULER_NAMES if n != OWN_SCHEDULER]


def require_fit_sampler(name: str) -> None:
    """Raise InvalidInput, with the reason, for a sampler that is wrong for flow models."""
    if name in UNFIT_SAMPLERS:
        raise InvalidInput(
            f"{name} does not work with flow models ({UNFIT_SAMPLERS[name]}): choose euler, "
            "dpmpp_2m, uni_pc or another base sampler"
        )
    if name == OWN_SAMPLER:
        raise InvalidInput(
            f"{name} is this sampler itself: choose euler, dpmpp_2m, uni_pc or another base sampler"
        )
    if name not in comfy.samplers.SAMPLER_NAMES:
        raise InvalidInput(f"this ComfyUI has no sampler {name!r}: choose another base sampler")


def require_linear_flow(model_sampling: Any) -> None:
    """Raise InvalidInput, in words, unless v = (x - denoised) / sigma holds for the model."""
    const = comfy.model_sampling.CONST
    # Subclasses exist that give the model's output another meaning (image-to-image flows).
    if getattr(type(model_sampling), "calculate_denoised", None) is not const.calculate_denoised:
        bases = (c.__name__ for c in type(model_sampling).__mro__)
        kind = next((n for n in bases if hasattr(comfy.model_sampling, n) and n.isupper()), "other")
        raise InvalidInput(
            f"Stable Velocity needs a flow-matching model ({families.names('sampling')}, SiT); "
            f"this model's sampling type is {kind}: use the ordinary samplers and schedulers"
        )


def total_steps(steps: int, denoise: float) -> int:
    """How long a grid the host makes, to keep its last ``steps``."""
    return int(steps / denoise) if denoise < 1 else steps


def host_grid(model: Any, scheduler: str, steps: int, denoise: float) -> Tensor:
    """The SIGMAS of the host's own BasicScheduler: (steps+1,), or none at all for denoise 0.

    Raises InvalidInput, in words, when the MODEL is not a linear flow or the host's grid is none.
    """
    model_sampling = model.get_model_object("model_sampling")
    require_linear_flow(model_sampling)
    if denoise <= 0:
        return torch.zeros(0)
    total = total_steps(steps, denoise)
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, scheduler, total)
    if not sigmas.isfinite().all():
        raise InvalidInput(
            f"the scheduler {scheduler} has no grid of {total} steps (it divides by zero): choose "
            "more steps or another scheduler"
        )
    return sigmas.cpu()[-(steps + 1) :]


def family(model: Any) -> families.Family | None:
    """Which family a MODEL belongs to, also by what its class is built upon; None for any other."""
    return families.of_host(c.__name__ for c in type(model.model).__mro__)


def has_own_shift(model: Any) -> bool:
    """Whether a ModelSampling node has changed the MODEL's sampling."""
    return "model_sampling" in model.object_patches


def sampling_of(denoiser: Any) -> Any:
    """The model_sampling behind what the host hands to a sampler function."""
    return denoiser.inner_model.model_patcher.get_model_object("model_sampling")


def velocity_from_denoiser(denoiser: Callable, extra_args: dict) -> VelocityFn:
    """v = (x - D) / sigma; guidance, masks and hooks happen inside D, the host's own denoiser."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return (x - denoiser(x, x.new_ones(len(x)) * t, **extra_args)) / t

    return velocity


def seeded_noise(denoiser: Any, extra_args: dict) -> NoiseFn:
    """Standard noise from the run's seed, the same on every device, in the model's own scale."""
    seed = (extra_args.get("seed") or 0) + NOISE_SEED_OFFSET
    generator = torch.Generator("cpu").manual_seed(seed % 2**63)
    scale = getattr(sampling_of(denoiser), "noise_scale", 1.0)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x) * scale

    return noise


def step_report(callback: Callable[[dict], None] | None, first: int) -> Callback:
    """The core's callback as the host's: steps count on from ``first``."""

    def report(i: int, x: Tensor, v: Tensor, t: Tensor) -> None:
        if callback is not None:
            denoised = x - t * v
            callback({"x": x, "i": first + i, "sigma": t, "sigma_hat": t, "denoised": denoised})

    return report


def run_sampler(
    name: str,
    denoiser: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict,
    callback: Callable[[dict], None] | None,
    disable: bool | None,
) -> Tensor:
    """One of the host's samplers over ``sigmas``, which may end above 0."""
    if name in MULTISTEP_ONLY and len(sigmas) == 2:
        name = "euler"
    sampler = comfy.samplers.sampler_object(name)
    # Copies: uni_pc writes into its sigmas, the cfg_pp samplers into their arguments.
    return sampler.sampler_function(
        denoiser,
        x,
        sigmas.clone(),
        extra_args=dict(extra_args),
        callback=callback,
        disable=disable,
        **sampler.extra_options,
    )


def make_sampler(function: Callable, base: str, **options: Any) -> comfy.samplers.KSAMPLER:
    """A SAMPLER of our own that treats inpainting as ``base`` does."""
    inpainting = comfy.samplers.sampler_object(base).inpaint_options
    return comfy.samplers.KSAMPLER(
        function, extra_options={"base": base, **options}, inpaint_options=inpainting
    )
