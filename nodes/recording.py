"""Ordinary runs of a model, recorded for a calibration."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ..sv_core import sampling
from ..sv_core.regimes import Recorder, calibrate, drift, suggest_split
from . import host
from .calibration import Calibration, fingerprint

FEWEST, MOST = 6, 20
"""Numbers of calls for which a calibration holds a list."""


@torch.no_grad()
def record_euler(
    model: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    recorder: Recorder | None = None,
) -> Tensor:
    """The host's ``euler``, recorded: a sampler function of the host."""
    host.require_linear_flow(host.sampling_of(model))
    report = host.step_report(callback, 0)

    def after_call(k: int, x: Tensor, v: Tensor, t: Tensor) -> None:
        report(k, x, v, t)
        recorder(k, x, v, t)

    velocity = host.velocity_from_denoiser(model, extra_args or {})
    return sampling.sample_euler(velocity, x, sigmas, callback=after_call)


def record_runs(guider: Any, latent: dict, sigmas: Tensor, runs: int, seed: int) -> np.ndarray:
    """Inner products (n, n), summed over runs, one after the other, of seeds that count on."""
    patcher, steps = guider.model_patcher, len(sigmas) - 1
    start = host.known(
        comfy.sample.fix_empty_latent_channels,
        patcher,
        latent["samples"],
        downscale_ratio_spacial=latent.get("downscale_ratio_spacial"),
        downscale_ratio_temporal=latent.get("downscale_ratio_temporal"),
    )
    show = latent_preview.prepare_callback(patcher, runs * steps)
    gram = np.zeros((steps, steps))
    for run in range(runs):
        recorder = Recorder(sigmas)

        def shown(i: int, denoised: Tensor, x: Tensor, total: int, before: int = run * steps):
            show(before + i, denoised, x, runs * steps)

        guider.sample(
            comfy.sample.prepare_noise(start, seed + run, latent.get("batch_index")),
            start,
            comfy.samplers.KSAMPLER(record_euler, {"recorder": recorder}),
            sigmas,
            denoise_mask=latent.get("noise_mask"),
            callback=shown,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed + run,
        )
        gram += recorder.gram()
    if not np.isfinite(gram).all():
        raise ValueError(
            "a recorded run diverged (its velocities are not numbers): check model, guidance and "
            "SIGMAS with an ordinary run first"
        )
    return gram


def calibration_from(
    gram: np.ndarray, model: Any, sigmas: Tensor, runs: int, seed: int
) -> Calibration:
    """What recorded runs say about a model on a grid."""
    times, steps = sigmas.double().tolist(), len(sigmas) - 1
    nodes = {n: tuple(calibrate(gram, times, n)) for n in range(FEWEST, min(MOST, steps - 1) + 1)}
    curve = drift(gram, times)
    middle = [(a + b) / 2 for a, b in pairwise(times[:-1])]
    # Where the velocity does not turn more towards noise, there is no plateau to leave.
    rises = curve[: curve.argmin() + 1].max() > 1.2 * curve.min()
    return Calibration(
        *fingerprint(model),
        sigmas=tuple(round(t, 7) for t in times),
        nodes=nodes,
        drift=tuple(round(float(c), 5) for c in curve),
        split=round(suggest_split(middle, curve), 3) if rises else None,
        runs=runs,
        seed=seed,
    )
