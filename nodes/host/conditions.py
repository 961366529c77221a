"""A run's conditioning made again for a smaller picture, with its times mapped.

ComfyUI prepares conditioning for one size when a run begins. What is drawn in the latent's cells
(areas, pictures of reference) must be made again for another size, and what is switched by the
noise level (percentages of ConditioningSetTimestepRange, ControlNets, keyframes of hooks) is
compared with the level that the network is given, which belongs to that size.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.samplers
from torch import Tensor
from torch.nn.functional import interpolate

from ...sv_core.spectrum import Size, low
from .contract import of_the_host

Conditions = Mapping[str, list[dict[str, Any]]]
"""Lists of entries by name ("positive", "negative", ...), as a guider of the host keeps them."""

LATENTS = ("concat_latent_image", "reference_latents")
"""Entries that hold latents, which can be made smaller like the picture itself."""


def unfit(conditions: Conditions, full: Size, references: bool) -> str | None:
    """Why a run with these conditions cannot be made smaller, or None."""
    for entry in (e for entries in conditions.values() for e in entries):
        if entry.get("gligen") is not None:
            return "GLIGEN's boxes are in cells of the full latent"
        if entry.get("reference_latents") is not None and not references:
            return "it edits a picture, which is not yet shown to work: see its input edit_models"
        for name, value in entry.items():
            if name not in LATENTS and name != "mask" and _is_spatial(value, full):
                return f"its conditioning has {name}, made for the full size"
    return None


def _is_spatial(value: Any, full: Size) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_spatial(v, full) for v in value)
    return isinstance(value, Tensor) and value.ndim >= 4 and tuple(value.shape[-2:]) == full


def _smaller(latent: Tensor, ratio: float, size: Size | None = None) -> Tensor:
    """A latent of clean data at a smaller size: its amplitude stays."""
    h, w = size or (max(2, round(n / ratio / 2) * 2) for n in latent.shape[-2:])
    actual = math.sqrt(latent.shape[-2] * latent.shape[-1] / (h * w))
    return (low(latent, (h, w)) / actual).to(latent)


def _smaller_area(area: tuple, full: Size, size: Size) -> tuple:
    """(h, w, y, x) or (f, h, w, g, y, x) in cells; percentages and None stay."""
    if area is None or area[0] == "percentage":
        return area
    made, axes = list(area), len(area) // 2
    for axis, before, after in zip((axes - 2, axes - 1), full, size, strict=True):
        made[axis] = max(1, round(area[axis] * after / before))
        made[axes + axis] = min(round(area[axes + axis] * after / before), after - 1)
    return tuple(made)


def _entry_at(entry: dict[str, Any], full: Size, size: Size, ratio: float) -> dict[str, Any]:
    made = dict(entry)
    if "area" in made:
        made["area"] = _smaller_area(made["area"], full, size)
    if made.get("concat_latent_image") is not None:
        latent = made["concat_latent_image"]
        fits = tuple(latent.shape[-2:]) == full
        made["concat_latent_image"] = _smaller(latent, ratio, size if fits else None)
    if made.get("reference_latents") is not None:
        made["reference_latents"] = [_smaller(r, ratio) for r in made["reference_latents"]]
    return made


class _AtOtherTimes:
    """The host's model or its ``model_sampling``, with percentages as times of another size."""

    def __init__(self, inner: Any, mapped: Callable[[float], float]):
        self._inner, self._mapped = inner, mapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def model_sampling(self) -> Any:
        return _AtOtherTimes(self._inner.model_sampling, self._mapped)

    def percent_to_sigma(self, percent: float) -> float:
        """The host's level of a percentage; its ends mean always and never, and stay."""
        sigma = self._inner.percent_to_sigma(percent)
        return self._mapped(sigma) if 0 < sigma < 1 else sigma


def _keyframes(conditions: Conditions) -> list[Any]:
    hooks = [e["hooks"] for entries in conditions.values() for e in entries if e.get("hooks")]
    return [hook.hook_keyframe for group in hooks for hook in group.hooks]


@contextmanager
def _progress_kept(conditions: Conditions) -> Iterator[None]:
    """Preparing conditions begins hooks anew; in the middle of a run they must go on."""
    saved = [(group, dict(vars(group))) for group in _keyframes(conditions)]
    yield
    for group, state in saved:
        vars(group).update(state)


@dataclass(frozen=True)
class Inputs:
    """What the host prepares a run's conditions from, at full size; ``model`` is its BaseModel."""

    model: Any
    noise: Tensor
    latent: Tensor | None
    mask: Tensor | None
    seed: int | None

    @property
    def full(self) -> Size:
        """Cells of the latent."""
        return (self.noise.shape[-2], self.noise.shape[-1])


@of_the_host
def conditions_at(
    raw: Conditions, inputs: Inputs, size: Size, ratio: float, mapped: Callable[[float], float]
) -> dict[str, list[dict]]:
    """The ``raw`` conditions (before the host's preparation) for a smaller picture.

    ``mapped`` turns a noise level of the full size into that of the smaller one.
    """
    full = inputs.full
    made = {k: [_entry_at(e, full, size, ratio) for e in v] for k, v in raw.items()}
    noise = low(inputs.noise, size).to(inputs.noise)
    latent = None if inputs.latent is None else _smaller(inputs.latent, ratio, size)
    mask = None if inputs.mask is None else _smaller_mask(inputs.mask, size)
    prepare = comfy.samplers.process_conds
    # ComfyUI 0.3.64 knows no nested latents.
    named = "latent_shapes" in inspect.signature(prepare).parameters
    shapes = {"latent_shapes": [noise.shape]} if named else {}
    model = _AtOtherTimes(inputs.model, mapped)
    with _progress_kept(made):
        return prepare(model, noise, made, noise.device, latent, mask, inputs.seed, **shapes)


def _smaller_mask(mask: Tensor, size: Size) -> Tensor:
    """By area, for networks that read it: masking itself happens at full size."""
    flat = mask.flatten(0, -3)[None].float()
    return interpolate(flat, size, mode="area").view(*mask.shape[:-2], *size).to(mask)


@of_the_host
def retime(conditions: Conditions, model: Any, mapped: Callable[[float], float]) -> None:
    """Set ControlNets and hooks, which all sizes share, to the times of one size again."""
    model = _AtOtherTimes(model, mapped)
    for group in _keyframes(conditions):
        group.initialize_timesteps(model)
    for entries in conditions.values():
        comfy.samplers.pre_run_control(model, entries)
