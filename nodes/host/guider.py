"""Whole sampling runs, as the host's SamplerCustomAdvanced makes them."""

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from . import flow
from .compat import supported
from .contract import of_the_host


@of_the_host
def cfg_guider(model: Any, positive: list, negative: list, cfg: float) -> Any:
    """A GUIDER for classifier-free guidance, as the host's node CFGGuider makes it."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


@of_the_host
def starting_latent(patcher: Any, latent: dict) -> Tensor:
    """A LATENT's samples; an empty latent gets the number of channels that the model has."""
    return supported(
        comfy.sample.fix_empty_latent_channels,
        patcher,
        latent["samples"],
        downscale_ratio_spacial=latent.get("downscale_ratio_spacial"),
        downscale_ratio_temporal=latent.get("downscale_ratio_temporal"),
    )


@of_the_host
def preview_callback(patcher: Any, total: int) -> Callable:
    """The host's callback with previews and a progress bar of ``total`` steps."""
    return latent_preview.prepare_callback(patcher, total)


@of_the_host
def run_guider(
    guider: Any,
    start: Tensor,
    latent: dict,
    sampler: flow.Sampler,
    sigmas: Tensor,
    seed: int,
    callback: Callable,
) -> None:
    """One run of a GUIDER from the noise of ``seed``; its samples are not returned.

    ``start`` is ``starting_latent``; mask and batch index are those of the LATENT.
    """
    guider.sample(
        comfy.sample.prepare_noise(start, seed, latent.get("batch_index")),
        start,
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
