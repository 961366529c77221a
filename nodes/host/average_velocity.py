"""Average velocities in the host: pass the end r of an interval [r, t] to one call of a model.

A sampler calls the host's denoiser with ``with_interval_end(extra_args, r)``. The model reads r
from its ``transformer_options`` and predicts the average velocity over [r, t]; without the entry it
predicts the velocity (r = t). The value is an argument of that one call, so that it cannot leak
into other calls, runs or prompts.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...sv_core.errors import InvalidInput
from ...sv_core.models import families, interval
from ...sv_core.models.interval import IntervalEmbedder
from . import flow
from .contract import of_the_host

INTERVAL_END = "stable_velocity_r"
"""The entry of transformer_options that holds r, the time at which a call's interval ends."""

EMBEDDER_KEY = "stable_velocity_interval"
"""The key of an embedder among a MODEL's wrappers and additional models."""


def with_interval_end(extra_args: dict, r: Tensor) -> dict:
    """A copy of a denoiser's arguments that requests the average velocity over [r, t]."""
    model_options = extra_args.get("model_options", {})
    options = model_options.get("transformer_options", {}) | {INTERVAL_END: float(r)}
    return extra_args | {"model_options": model_options | {"transformer_options": options}}


def interval_end(transformer_options: dict) -> float | None:
    """The end r of the current call's interval; None requests the velocity, r = t."""
    return transformer_options.get(INTERVAL_END)


@of_the_host
def has_average_velocity(model: Any) -> bool:
    """Whether a MODEL predicts average velocities: a SiT with an interval, or by an embedder."""
    config = getattr(model.model.diffusion_model, "config", None)
    attached = EMBEDDER_KEY in getattr(model, "additional_models", {})
    return attached or getattr(config, "interval", False) is True


def require_average_velocity(model: Any) -> None:
    """Raise InvalidInput for a MODEL that predicts velocities only."""
    if not has_average_velocity(model):
        raise InvalidInput(
            "this model knows no average velocity, so it cannot jump: load a SiT that was trained "
            "with MeanFlow, or put MeanFlow Loader behind the model; for other models use another "
            "sampler"
        )


def _interval_wrapper(embedder: IntervalEmbedder, family: str) -> Callable:
    """A wrapper for the host's APPLY_MODEL that embeds the interval of each network call."""

    def apply_model(
        executor: Any,
        x: Tensor,
        sigma: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **conds: Any,
    ) -> Tensor:
        model, options = executor.class_obj, transformer_options or {}
        r = interval_end(options)

        def intervals(times: Tensor) -> Tensor:
            t = times / getattr(model.model_sampling, "multiplier", 1.0)
            # Frames that are conditions (t = 0) have an interval of length 0.
            return t * 0 if r is None else (t - r).clamp_min(0)

        with interval.embed_intervals(model.diffusion_model, family, embedder, intervals):
            return executor(x, sigma, c_concat, c_crossattn, control, options, **conds)

    return apply_model


@of_the_host
def attach(model: Any, embedder: IntervalEmbedder, family: str) -> Any:
    """A copy of a MODEL whose network also embeds the intervals of its calls.

    Raises InvalidInput when the embedder is for another family or width.
    """
    # Only here, so that a host without these keeps everything but MeanFlow Loader.
    from comfy.model_management import unet_offload_device
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrappersMP

    found = flow.family(model)
    if found is None or found.time_embedding is None:
        raise InvalidInput(
            f"an interval embedder goes behind {families.names('time_embedding', ' or ')}, this "
            f"model is {type(model.model).__name__}: a SiT's own file holds its embedder already"
        )
    interval.require_fit(embedder, family, model.model.diffusion_model, found.name)
    model = model.clone()
    wrapper = _interval_wrapper(embedder, found.name)
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, EMBEDDER_KEY)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, EMBEDDER_KEY, wrapper)
    # As an additional model, it is loaded to the model's device and its memory is counted.
    managed = ModelPatcher(
        embedder, load_device=model.load_device, offload_device=unet_offload_device()
    )
    model.set_additional_models(EMBEDDER_KEY, [managed])
    return model
