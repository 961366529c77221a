"""How ComfyUI samples flow models: samplers, schedulers, denoisers, and the types of model.

Flow models follow the linear path, so that the host's SIGMAS are the time grid of sv_core.
Everything here works on ComfyUI 0.3.64 and on 0.29.
"""

import math
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ...sv_core.errors import InvalidInput
from ...sv_core.models import families
from ...sv_core.sampling import Callback, NoiseFn, VelocityFn
from .contract import HostChanged, is_linear_flow, of_the_host
from .interrupt import stop_if_interrupted

if TYPE_CHECKING:
    from comfy.samplers import KSAMPLER as Sampler
else:  # where the host has none, the nodes that need it are off, and the others import this file
    Sampler = getattr(comfy.samplers, "KSAMPLER", object)
"""The host's class of a SAMPLER, from which ours are derived."""

NOISE_SEED_OFFSET = 0x5AB1E
"""Added to the seed for noise drawn during a run, which thus differs from the initial noise."""

OWN_SAMPLER, OWN_SCHEDULER = "stable_vs", "regime_split"
"""Our entries in KSampler's drop-downs; neither can serve as its own base."""

UNFIT_SAMPLERS = {
    "ddpm": "it assumes a variance-preserving diffusion model",
    "dpm_fast": "it chooses its own noise levels and ignores the grid",
    "dpm_adaptive": "it chooses its own noise levels and ignores the grid",
    "dpmpp_2s_ancestral_cfg_pp": "it adds noise as a diffusion model needs it",
    "res_multistep_ancestral": "it adds noise as a diffusion model needs it",
    "res_multistep_ancestral_cfg_pp": "it adds noise as a diffusion model needs it",
}
"""The host's samplers that give wrong results with flow models, each with the reason."""

MULTISTEP_ONLY = ("uni_pc", "uni_pc_bh2")
"""The host's samplers that return their input unchanged when the grid has a single step."""


@of_the_host
def _listed(name: str, drop_down: str) -> list[str]:
    """One of the host's lists of names, or the same list as KSampler has it."""
    names = getattr(comfy.samplers, name, None)
    return getattr(comfy.samplers.KSampler, drop_down) if names is None else names


def sampler_names() -> list[str]:
    """The host's samplers that work with flow models, including those of other packs."""
    names = _listed("SAMPLER_NAMES", "SAMPLERS")
    return [n for n in names if n not in UNFIT_SAMPLERS and n != OWN_SAMPLER]


def scheduler_names() -> list[str]:
    """The host's schedulers whose grids can be thinned, including those of other packs."""
    return [n for n in _listed("SCHEDULER_NAMES", "SCHEDULERS") if n != OWN_SCHEDULER]


def require_fit_sampler(name: str) -> None:
    """Raise InvalidInput for a sampler that the host lacks or that is wrong for flow models."""
    if name in UNFIT_SAMPLERS:
        raise InvalidInput(
            f"{name} does not work with flow models ({UNFIT_SAMPLERS[name]}): choose euler, "
            "dpmpp_2m, uni_pc or another base sampler"
        )
    if name == OWN_SAMPLER:
        raise InvalidInput(
            f"{name} is this sampler itself: choose euler, dpmpp_2m, uni_pc or another base sampler"
        )
    if name not in _listed("SAMPLER_NAMES", "SAMPLERS"):
        raise InvalidInput(f"this ComfyUI has no sampler {name!r:.60}: choose another base sampler")


def require_linear_flow(model_sampling: Any) -> None:
    """Raise InvalidInput unless v = (x - denoised) / sigma holds for the model."""
    if is_exploding_flow(model_sampling):
        raise InvalidInput(
            "this model's noise levels go far above 1 (Cosmos-Predict2), which this node does not "
            "follow: use Fewer Calls, StableVS Sampler or Regime Split Scheduler"
        )
    if not is_linear_flow(model_sampling):
        bases = (c.__name__ for c in type(model_sampling).__mro__)
        kind = next((n for n in bases if hasattr(comfy.model_sampling, n) and n.isupper()), "other")
        raise InvalidInput(
            f"Stable Velocity needs a flow-matching model ({families.names('sampling')}, SiT); "
            f"this model's sampling type is {kind}: use the ordinary samplers and schedulers"
        )


def require_flow(model_sampling: Any) -> None:
    """Raise InvalidInput unless the velocity follows from x and denoised data."""
    if not is_exploding_flow(model_sampling):
        require_linear_flow(model_sampling)


def is_exploding_flow(model_sampling: Any) -> bool:
    """Whether it is a linear flow whose x the host keeps as x0 + sigma eps (Cosmos-Predict2)."""
    exploding = getattr(comfy.model_sampling, "COSMOS_RFLOW", None)
    return exploding is not None and isinstance(model_sampling, exploding)


def highest_sigma(model_sampling: Any) -> float:
    """Where a family's noise levels end: 1, or for an exploding flow what the model says."""
    if is_exploding_flow(model_sampling):
        return float(getattr(model_sampling, "sigma_max", math.inf))
    return 1.0


MOST_STEPS = 100_000
"""Of a grid of which the last steps are kept: what the host allows, ten times over."""


def total_steps(steps: int, denoise: float) -> int:
    """The length of the grid whose last ``steps`` steps the host keeps for ``denoise`` below 1.

    Raises InvalidInput for a grid that nobody can wait for.
    """
    if not 1 <= steps <= MOST_STEPS * denoise:
        raise InvalidInput(
            f"{steps} steps at denoise {denoise:g} are the end of a grid of more than {MOST_STEPS} "
            "steps, or of none: choose fewer steps or a higher denoise"
        )
    return int(steps / denoise) if denoise < 1 else steps


@of_the_host
def scheduler_sigmas(model_sampling: Any, scheduler: str, steps: int) -> Tensor:
    """The grid of one of the host's schedulers: (steps+1,)."""
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps)
    if not isinstance(sigmas, Tensor):
        raise HostChanged(f"the scheduler {scheduler} makes no tensor")
    return sigmas


def host_grid(model: Any, scheduler: str, steps: int, denoise: float) -> Tensor:
    """The SIGMAS of the host's node BasicScheduler: (steps+1,), or (0,) for denoise 0.

    Raises InvalidInput when the MODEL is not a flow or the grid is not finite.
    """
    model_sampling = model_sampling_of(model)
    require_flow(model_sampling)
    if denoise <= 0:
        return torch.zeros(0)
    total = total_steps(steps, denoise)
    sigmas = scheduler_sigmas(model_sampling, scheduler, total)
    if not sigmas.isfinite().all():
        raise InvalidInput(
            f"the scheduler {scheduler} has no grid of {total} steps (it divides by zero): choose "
            "more steps or another scheduler"
        )
    return sigmas.cpu()[-(steps + 1) :]


@of_the_host
def to_model(model: Any, latents: Tensor) -> Tensor:
    """Latents of a VAE as a MODEL's network has them."""
    return model.model.process_latent_in(latents)


@of_the_host
def family(model: Any) -> families.Family | None:
    """Which family a MODEL belongs to, also by what its class is built upon; None for any other."""
    config = getattr(getattr(model.model, "model_config", None), "unet_config", None)
    return families.of_host((c.__name__ for c in type(model.model).__mro__), config)


@of_the_host
def has_own_shift(model: Any) -> bool:
    """Whether a ModelSampling node has changed the MODEL's sampling."""
    return "model_sampling" in model.object_patches


@of_the_host
def model_sampling_of(model: Any) -> Any:
    """The ``model_sampling`` of a MODEL, as a ModelSampling node may have changed it."""
    if hasattr(model, "get_model_object"):
        return model.get_model_object("model_sampling")
    return model.object_patches.get("model_sampling", model.model.model_sampling)


@of_the_host
def patcher_of(denoiser: Any) -> Any:
    """The MODEL of the denoiser that the host passes to a sampler function."""
    return denoiser.inner_model.model_patcher


def sampling_of(denoiser: Any) -> Any:
    """The ``model_sampling`` of that denoiser."""
    return model_sampling_of(patcher_of(denoiser))


def parts_of(denoiser: Any) -> tuple[int, ...]:
    """How many numbers of a sample belong to each latent that the host packs into one row.

    Picture and sound (LTX-2), a scene and its camera (TripoSplat); () for a single latent.
    """
    conds = getattr(denoiser.inner_model, "conds", None) or {}
    entries = [
        entry.get("model_conds", {}) for conds_of_one in conds.values() for entry in conds_of_one
    ]
    shapes = next((e["latent_shapes"].cond for e in entries if "latent_shapes" in e), ())
    return tuple(prod(shape[1:]) for shape in shapes) if len(shapes) > 1 else ()


def velocity_from_denoiser(denoiser: Callable, extra_args: dict) -> VelocityFn:
    """v = (x - D) / sigma. The host's denoiser D applies guidance, masks and hooks."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        stop_if_interrupted()
        return (x - denoiser(x, x.new_ones(len(x)) * t, **extra_args)) / t

    return velocity


def seeded_noise(denoiser: Any, extra_args: dict) -> NoiseFn:
    """Noise from the run's seed, the same on every device, times the model's ``noise_scale``."""
    seed = (extra_args.get("seed") or 0) + NOISE_SEED_OFFSET
    generator = torch.Generator("cpu").manual_seed(seed % 2**63)
    scale = getattr(sampling_of(denoiser), "noise_scale", 1.0)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x) * scale

    return noise


def step_report(callback: Callable[[dict], None] | None, first: int) -> Callback:
    """The host's callback as one of sv_core's samplers, with ``first`` added to the step."""

    def report(i: int, x: Tensor, v: Tensor, t: Tensor) -> None:
        if callback is not None:
            denoised = x - t * v
            callback({"x": x, "i": first + i, "sigma": t, "sigma_hat": t, "denoised": denoised})

    return report


@of_the_host
def run_sampler(
    name: str,
    denoiser: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict,
    callback: Callable[[dict], None] | None,
    disable: bool | None,
) -> Tensor:
    """Run the host's sampler ``name`` over ``sigmas``, which may end above 0."""
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


@of_the_host
def make_sampler(function: Callable, base: str, **options: Any) -> Sampler:
    """A SAMPLER from a sampler function, with the inpainting options of the sampler ``base``."""
    inpainting = comfy.samplers.sampler_object(base).inpaint_options
    return Sampler(function, extra_options={"base": base, **options}, inpaint_options=inpainting)
