"""The parts of the nodes' schemas: widgets and outputs in one call each, and those that are shared.

The text of an input, an output or a node is written once, in its schema: ``locales/generate.py``
makes the English translation file from it.
"""

from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io

from .checks import PAPER_SPLIT
from .host.compat import supported

SAMPLING = "sampling/stable velocity"
LOADERS = "loaders/stable velocity"
CONDITIONING = "conditioning/stable velocity"
"""The categories of the nodes in ComfyUI's menu."""

CALIBRATION = io.Custom("CALIBRATION")
"""The type of link between StableVS Calibrate or its loader and StableVS Sampler."""

SPECTRUM = io.Custom("SPECTRUM")
"""The type of link between Latent Spectrum and Coarse First."""


def number(
    name: str, default: float, limits: tuple[float, ...], tooltip: str, **options: Any
) -> io.Input:
    """A FLOAT or INT widget, by the type of ``default``.

    ``limits`` are the smallest and the largest value, and for a FLOAT the step.
    """
    kind = io.Float if isinstance(default, float) else io.Int
    options |= dict(zip(("min", "max", "step"), limits, strict=False))
    return supported(kind.Input, name, default=default, tooltip=tooltip, **options)


def choice(name: str, options: Iterable[str], tooltip: str, **more: Any) -> io.Input:
    """A drop-down."""
    return supported(io.Combo.Input, name, options=list(options), tooltip=tooltip, **more)


def text(name: str, default: str, tooltip: str, **options: Any) -> io.Input:
    """A line of text."""
    return supported(io.String.Input, name, default=default, tooltip=tooltip, **options)


def toggle(name: str, default: bool, tooltip: str, **options: Any) -> io.Input:
    """A switch."""
    return supported(io.Boolean.Input, name, default=default, tooltip=tooltip, **options)


def output(kind: Any, name: str, tooltip: str) -> io.Output:
    """An output of a type such as ``io.Sigmas``; its identifier is the name in capitals."""
    return kind.Output(name.upper(), display_name=name, tooltip=tooltip)


def split_input(tooltip: str, **options: Any) -> io.Input:
    """The noise level between the two regimes."""
    return number("split", PAPER_SPLIT, (0.0, 1.0, 0.01), tooltip, **options)


def boundary_input(addition: str = "", **options: Any) -> io.Input:
    """The noise level between two experts; ``addition`` continues the tooltip."""
    tooltip = (
        "Noise level at which a second expert takes over: 0.875 for Wan2.2 14B text-to-video, 0.9 "
        "for image-to-video. 0: the model has one expert."
    )
    return number("boundary", 0.0, (0.0, 1.0, 0.005), tooltip + addition, **options)


def calibration_output() -> io.Output:
    """A calibration."""
    return output(CALIBRATION, "calibration", "Connect to StableVS Sampler, mode calibrated.")
