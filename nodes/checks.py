"""The checks of the nodes' inputs; each raises InvalidInput with a sentence for the user."""

import math
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from ..sv_core.errors import InvalidInput
from .calibration_file import FEWEST_CALLS, MOST_CALLS
from .grid_check import require_flow_grid

PAPER_SPLIT = 0.85
"""The paper's noise level between the two regimes. [arXiv 2602.05435]"""

CALIBRATED_STEPS = 8, 100
"""The shortest and the longest grid that can be calibrated: a shorter one has no steps to save.

The search looks at every three of its nodes: of 100 it takes a second, of 2,000 it would take 60
GiB.
"""

MOST_RUNS = 32
"""Runs of a model that are recorded for a calibration."""

MOST_NUMBERS = 2**31
"""Of a latent: 16 channels of 11,000 x 11,000 cells."""

MOST_PIXELS = 2**28
"""Of a batch of pictures that are compared: with three panels of each, 10 GiB."""


def first_complaint(*checks: tuple[Callable[[Any], Any], Any]) -> bool | str:
    """The result of ``validate_inputs``, with which the host checks widgets before a prompt runs.

    ``checks`` are pairs (check, value). Returns True, or the sentence of the first InvalidInput. A
    connected value is None here and is checked when the node runs.
    """
    try:
        for check, value in checks:
            if value is not None:
                check(value)
    except InvalidInput as e:
        return str(e)
    return True


def require_steps(sigmas: Tensor, calls: int) -> None:
    """Refuse a grid that cannot be calibrated for this number of calls."""
    steps, (low, high) = len(require_flow_grid(sigmas)) - 1, CALIBRATED_STEPS
    if not low <= steps <= high:
        raise InvalidInput(
            f"SIGMAS has {steps} steps, but {low} to {high} can be calibrated: connect the native "
            "grid, of about 30 steps"
        )
    most = min(MOST_CALLS, steps - 1)
    if not FEWEST_CALLS <= calls <= most:
        raise InvalidInput(
            f"calls must lie between {FEWEST_CALLS} and {most} on this grid, got {calls}"
        )


def require_seed(seed: int, runs: int = 1) -> None:
    """Refuse a seed that the host's random numbers do not have, and a number of runs below 1."""
    if not 0 <= seed < 2**64:
        raise InvalidInput(f"a seed must lie between 0 and 2^64 - 1, got {seed}")
    if not 1 <= runs <= MOST_RUNS:
        raise InvalidInput(f"runs must lie between 1 and {MOST_RUNS}, got {runs}")


def require_choice(name: str, value: object, options: Collection[str]) -> None:
    """Refuse a value that a drop-down does not have; a link can bring any."""
    if value not in options:
        raise InvalidInput(
            f"{name} has no choice {str(value)[:40]!r}: choose {', '.join(map(str, options))}"
        )


def require_latent(latent: Any) -> None:
    """Refuse what is no LATENT, or one of nothing, or of what nobody can sample."""
    samples: Any = latent.get("samples") if isinstance(latent, dict) else None
    if getattr(samples, "is_nested", False):  # picture and sound together
        return
    if getattr(samples, "ndim", 0) < 3 or not samples.is_floating_point():
        raise InvalidInput("latent holds no samples: connect Empty Latent Image or VAE Encode")
    if not 0 < samples.numel() <= MOST_NUMBERS or not samples.isfinite().all():
        raise InvalidInput(
            "latent is empty, too large, or holds values that are not numbers: connect another one"
        )


def require_gain(gain: float) -> None:
    """Refuse an amplification that is no number."""
    if not 0 <= gain <= 256:
        raise InvalidInput(f"amplify must lie between 0 (chosen) and 256, got {gain:g}")


def require_jumps(calls: int) -> None:
    """Refuse a number of MeanFlow's jumps that is none."""
    if not 1 <= calls <= 1000:
        raise InvalidInput(f"calls must lie between 1 and 1000 (1 to 8 are usual), got {calls}")


def require_cfg(cfg: float) -> None:
    """Refuse a guidance scale that is no number."""
    if not 0 <= cfg < math.inf:
        raise InvalidInput(f"cfg must be 0 or more (1 is no guidance), got {cfg:g}")


def require_shift(shift: float) -> None:
    """Refuse a shift that makes no grid."""
    if not 0 < shift < math.inf:
        raise InvalidInput(f"shift must be above 0 (3 is usual, 1 none), got {shift:g}")


def require_noise(noise: float) -> None:
    """Refuse a share of fresh noise outside [0, 1]."""
    if not 0 <= noise <= 1:
        raise InvalidInput(f"noise must lie between 0 and 1 (the paper uses 0), got {noise:g}")


def require_boundary(boundary: float) -> None:
    """Refuse a boundary between experts outside [0, 1); 0 means one expert."""
    if not 0 <= boundary < 1:
        raise InvalidInput(
            "boundary must lie between 0 (one expert) and 1; Wan2.2 14B has 0.875 for "
            f"text-to-video and 0.9 for image-to-video, got {boundary:g}"
        )


def require_comparable(reference: Tensor, candidate: Tensor) -> None:
    """Refuse two IMAGE batches (b, h, w, c) that cannot be compared picture by picture."""
    if any(t.ndim != 4 or not t.numel() for t in (reference, candidate)):
        raise InvalidInput("reference and candidate must be pictures: connect two IMAGE outputs")
    if len(reference) != len(candidate):
        raise InvalidInput(
            f"reference holds {len(reference)} pictures and candidate {len(candidate)}: compare "
            "batches of the same length, made from the same seeds"
        )
    sizes = [f"{t.shape[2]} x {t.shape[1]}" for t in (reference, candidate)]
    if sizes[0] != sizes[1]:
        raise InvalidInput(
            f"reference is {sizes[0]} pixels and candidate {sizes[1]}: only pictures of one size "
            "can be compared, so sample both at the same size"
        )
    if reference.shape[3] != candidate.shape[3]:
        raise InvalidInput(
            f"reference has {reference.shape[3]} channels and candidate {candidate.shape[3]}: "
            "remove the transparency of one of them"
        )
    if reference[..., 0].numel() > MOST_PIXELS:
        raise InvalidInput(
            f"{len(reference)} pictures of {sizes[0]} are too many to compare at once: compare a "
            "part of the batch"
        )
    for name, pictures in (("reference", reference), ("candidate", candidate)):
        if not pictures.isfinite().all():
            raise InvalidInput(
                f"{name} holds values that are not numbers: its sampling run diverged"
            )


def require_split(split: float) -> None:
    """Refuse a split outside (0, 1)."""
    if not 0 < split < 1:
        raise InvalidInput(f"split must lie between 0 and 1 (the paper uses 0.85), got {split:g}")
