"""Average velocities in the host: how a call is told where it leads, and who can be told.

A sampler says ``leading_to(extra_args, r)`` for one call of the host's denoiser; inside it the
model finds r in its ``transformer_options``, and without it predicts the velocity, r = t. The value
lives in the arguments of that one call, so that no other call, run or queue ever sees it.
"""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...sv_core.errors import InvalidInput
from ...sv_core.models import families, interval
from ...sv_core.models.interval import IntervalEmbedder
from . import flow

LEADS_TO = "stable_velocity_r"
"""The entry of transformer_options that holds r, the time at which a call's interval ends."""

KEY = "stable_velocity_interval"
"""What the host keeps an attached embedder under."""


def leading_to(extra_args: dict, r: Tensor) -> dict:
    """The arguments of a call whose velocity is the average over [r, t]; the given ones stay."""
    model_options = extra_args.get("model_options", {})
    options = model_options.get("transformer_options", {}) | {LEADS_TO: float(r)}
    return extra_args | {"model_options": model_options | {"transformer_options": options}}


def led_to(transformer_options: dict) -> float | None:
    """Where the current call leads; None asks for the velocity itself."""
    return transformer_options.get(LEADS_TO)


def has_average_velocity(model: Any) -> bool:
    """Whether a MODEL can be asked for average velocities: by its file, or by an embedder."""
    config = getattr(model.model.diffusion_model, "config", None)
    attached = model.get_wrappers(WrappersMP.APPLY_MODEL, KEY)
    return bool(attached) or getattr(config, "interval", False) is True


def require_average_velocity(model: Any) -> None:
    """Raise InvalidInput, in words, for a MODEL that only knows velocities."""
    if not has_average_velocity(model):
        raise InvalidInput(
            "this model knows no average velocity, so it cannot jump: load a SiT that was trained "
            "with MeanFlow, or put MeanFlow Loader behind the model; for other models use another "
            "sampler"
        )


def _tell(embedder: IntervalEmbedder, family: str) -> Callable:
    """A wrapper of the host's that tells each call of the network its interval."""

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
        r = led_to(options)

        def intervals(times: Tensor) -> Tensor:
            t = times / getattr(model.model_sampling, "multiplier", 1.0)
            # Frames that are given (t = 0) stay where they are.
            return t * 0 if r is None else (t - r).clamp_min(0)

        with interval.told(model.diffusion_model, family, embedder, intervals):
            return executor(x, sigma, c_concat, c_crossattn, control, options, **conds)

    return apply_model


def attach(model: Any, embedder: IntervalEmbedder, family: str) -> Any:
    """A MODEL of a host's family that is told intervals; the given one stays as it is.

    Raises InvalidInput, in words, when the embedder is for another family or width.
    """
    found = flow.family(model)
    if found is None or found.time_embedding is None:
        raise InvalidInput(
            f"an interval embedder goes behind {families.names('time_embedding', ' or ')}, this "
            f"model is {type(model.model).__name__}: a SiT's own file holds its embedder already"
        )
    interval.require_fit(embedder, family, model.model.diffusion_model, found.name)
    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _tell(embedder, found.name))
    # The host loads it to the model's device, and counts its memory.
    managed = comfy.model_patcher.ModelPatcher(
        embedder,
        load_device=model.load_device,
        offload_device=comfy.model_management.unet_offload_device(),
    )
    model.set_additional_models(KEY, [managed])
    return model
