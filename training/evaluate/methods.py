"""The ways to a picture that are measured beside each other, and the prompt of each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from sv_core.errors import InvalidInput

from .graph import Info, Picture, Place, Prompt, input_types
from .steps import Grid, longest, scaled
from .surgery import (
    OURS,
    PAPER_SHARE,
    behind_models,
    measured,
    share_settings,
    with_paper_grid,
    with_values,
)
from .texts import seed_values
from .widgets import default_of, inputs_of, is_widget, options_of, type_of

ORIGINAL, CONVERGED, FEWER, STEPS, RIVAL = "original", "converged", "ours", "steps", "rival"
PAPER = "paper"


@dataclass(frozen=True)
class Rival:
    """A node from MODEL to MODEL that leaves out calls, and the input that decides how many."""

    kind: str
    knob: str
    settings: Mapping[str, Any] = field(default_factory=dict)


RIVALS = (
    Rival("EasyCache", "reuse_threshold"),
    Rival("LazyCache", "reuse_threshold"),
    Rival("TeaCache", "rel_l1_thresh"),
    Rival("MagCache", "magcache_thresh"),
    Rival("ApplyFBCacheOnModel", "residual_diff_threshold"),
)
"""ComfyUI's own, and those of the packs ComfyUI-TeaCache, ComfyUI-MagCache and Comfy-WaveSpeed."""


@dataclass(frozen=True)
class Method:
    """One way to a picture; ``settings`` are found before the first whole round."""

    key: str
    """Names its files."""
    name: str
    kind: str
    share: float = 1.0
    """Of the original's calls, which it aims at."""
    rival: Rival | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bed:
    """A workflow, ready to be measured."""

    prompt: Prompt
    info: Info
    picture: Picture
    samplers: tuple[str, ...]
    models: tuple[Place, ...]
    texts: tuple[Place, ...]
    seeds: tuple[Place, ...]
    grids: tuple[Grid, ...]
    """Empty where the number of steps cannot be changed."""
    notes: tuple[str, ...] = ()


def share_in_words(share: float) -> str:
    fraction = Fraction(share).limit_denominator(10)
    near = abs(float(fraction) - share) < 0.005
    return f"{fraction.numerator}/{fraction.denominator}" if near else f"{share:.2f}"


def list_methods(
    bed: Bed, shares: Sequence[float], rivals: Sequence[Rival], steps: int
) -> list[Method]:
    """The methods in the order of their runs; those of rivals and steps are settled later.

    ``steps`` are those of the converged reference.
    """
    methods = [Method(ORIGINAL, "original", ORIGINAL)]
    if bed.grids:
        ratio = max(steps / longest(list(bed.grids)), 2.0)
        steps = round(ratio * longest(list(bed.grids)))
        methods.append(
            Method(CONVERGED, f"converged, {steps} steps", CONVERGED, settings={"ratio": ratio})
        )
    kinds: list[tuple[str, str, str, Rival | None]] = [("Fewer Calls", FEWER, FEWER, None)]
    kinds += [("fewer steps", STEPS, STEPS, None)] if bed.grids else []
    kinds += [(rival.kind, rival.kind, RIVAL, rival) for rival in rivals]
    for name, key, kind, rival in kinds:
        for share in shares:
            words, percent = share_in_words(share), round(100 * share)
            methods.append(Method(f"{key}_{percent}", f"{name} {words}", kind, share, rival))
    if with_paper_grid(bed.prompt, bed.info, bed.samplers) is not None:
        methods.append(Method(PAPER, "the paper's grid", PAPER, PAPER_SHARE))
    return methods


def prompt_of(bed: Bed, method: Method, text: str, seed: int, label: str) -> Prompt:
    """What is queued for one row."""
    values: dict[Place, Any] = dict.fromkeys(bed.texts, text)
    values |= seed_values(bed.prompt, list(bed.seeds), seed)
    if method.kind in (CONVERGED, STEPS):
        values |= scaled(bed.prompt, list(bed.grids), method.settings["ratio"])
    prompt = with_values(bed.prompt, values)
    if method.kind == FEWER:
        prompt = behind_models(prompt, bed.models, OURS, share_settings(bed.info, method.share))
    if method.kind == PAPER:
        prompt = with_paper_grid(prompt, bed.info, bed.samplers) or prompt
    if method.rival is not None:
        settings = {**rival_defaults(bed.info, method.rival), **method.settings}
        prompt = behind_models(prompt, bed.models, method.rival.kind, settings)
    return measured(prompt, bed.models, bed.picture, label)


def rival_defaults(info: Info, rival: Rival) -> dict[str, Any]:
    """Its inputs as the page would show them, with what the user has set."""
    specs = inputs_of(info[rival.kind])
    found = {name: default_of(spec) for name, spec in specs.items() if is_widget(spec)}
    return {k: v for k, v in found.items() if v is not None} | dict(rival.settings)


def parse_share(text: str) -> float:
    """``1/3`` or ``0.33``. Raises InvalidInput."""
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0.05 <= value < 1:
        raise InvalidInput(f"{text} is no share of the calls from 0.05 to below 1, such as 1/2")
    return value


def parse_rival(text: str) -> Rival:
    """``TeaCache:rel_l1_thresh,model_type=flux``. Raises InvalidInput."""
    kind, _, rest = text.partition(":")
    knob, *more = rest.split(",")
    pairs = [part.partition("=") for part in more]
    if not kind or not knob or "=" in knob or any(not (k and sign) for k, sign, _ in pairs):
        raise InvalidInput(
            f"{text} names no rival: write CLASS:INPUT, and further inputs as in "
            f"TeaCache:rel_l1_thresh,model_type=flux"
        )
    return Rival(kind, knob, {k: _number(v) for k, _, v in pairs})


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def installed_rivals(
    info: Info, named: Sequence[Rival], tell: Callable[[str], None]
) -> list[Rival]:
    """Those named and those known that this ComfyUI has. Raises InvalidInput for one it lacks."""
    for rival in named:
        if rival.kind not in info:
            raise InvalidInput(f"this ComfyUI has no node {rival.kind}")
        if rival.knob not in input_types(info, rival.kind):
            raise InvalidInput(f"{rival.kind} has no input {rival.knob}")
    found = list(named)
    for rival in RIVALS:
        if rival.kind not in info or rival.kind in [r.kind for r in named]:
            continue
        if "model_type" in input_types(info, rival.kind):
            tell(
                f"{rival.kind} is installed but must be told the model: "
                f"--rival {rival.kind}:{rival.knob},model_type=..."
            )
        else:
            found.append(rival)
    return found


def knob_range(info: Info, rival: Rival) -> tuple[float, float]:
    """The smallest value worth trying and the largest. Raises InvalidInput."""
    spec = inputs_of(info[rival.kind])[rival.knob]
    if type_of(spec) not in ("FLOAT", "INT"):
        raise InvalidInput(f"{rival.kind}'s input {rival.knob} is no number")
    options = options_of(spec)
    high = float(options.get("max", 1.0))
    return max(float(options.get("min", 0.0)), 1e-4 * high), high


def next_trial(known: Mapping[float, int], target: int, low: float, high: float) -> float | None:
    """The next value of a knob to try, whose calls fall as it grows; None when it is found.

    ``known`` has the calls of the values tried. Between the nearest on either side it halves on a
    logarithmic scale, until they are 2 % apart.
    """
    if target in known.values():
        return None
    if len(known) == 1 and min(known.values()) > target and high not in known:
        return high  # a knob that does nothing, or too little, shows it at once
    low = max([v for v, calls in known.items() if calls > target], default=low)
    high = min([v for v, calls in known.items() if calls < target and v > low], default=high)
    return math.sqrt(low * high) if high > 1.02 * low else None


def best_trial(known: Mapping[float, int], target: int) -> float:
    """The value whose calls are nearest; of two as near the one with more calls."""
    return min(known, key=lambda value: (abs(known[value] - target), -known[value], value))
