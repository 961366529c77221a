"""The checks of the nodes' inputs; each raises InvalidInput with a sentence for the user."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..sv_core.errors import InvalidInput
from .calibration_file import FEWEST_CALLS, MOST_CALLS

PAPER_SPLIT = 0.85
"""The paper's noise level between the two regimes. [arXiv 2602.05435]"""

CALIBRATED_STEPS = 8, 100
"""The shortest and the longest grid that can be calibrated: a shorter one has no steps to save."""


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
    require_grid(sigmas)
    steps, (low, high) = len(sigmas) - 1, CALIBRATED_STEPS
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


def require_grid(sigmas: Tensor) -> None:
    """Refuse SIGMAS that are empty or do not descend."""
    if len(sigmas) == 0:
        raise InvalidInput("SIGMAS is empty: connect a scheduler with at least one step")
    if not (sigmas[:-1] > sigmas[1:]).all():
        raise InvalidInput(
            "SIGMAS must descend from noise to 0 and never repeat a value, but these do not: "
            "connect a scheduler's output as it is"
        )


def flow_grid(name: str, sigmas: Tensor) -> Tensor:
    """The input ``name`` as float64 on the CPU. Refuses SIGMAS that are not a flow model's."""
    ts = sigmas.detach().double().cpu()
    if ts.ndim != 1 or len(ts) < 2:
        raise InvalidInput(f"{name} holds {ts.numel()} sigmas: a grid needs at least two")
    if not ts.isfinite().all() or ts.min() < 0 or ts.max() > 1 + 1e-4:
        raise InvalidInput(
            f"{name} runs from {ts.max():.4g} to {ts.min():.4g}, but the sigmas of a "
            "flow-matching model lie between 0 and 1: connect the SIGMAS of such a model"
        )
    if (ts.diff() >= 0).any():
        raise InvalidInput(f"{name} does not descend: every sigma must be smaller than the last")
    return ts


def require_boundary(boundary: float) -> None:
    """Refuse a boundary between experts outside [0, 1); 0 means one expert."""
    if not 0 <= boundary < 1:
        raise InvalidInput(
            "boundary must lie between 0 (one expert) and 1; Wan2.2 14B has 0.875 for "
            f"text-to-video and 0.9 for image-to-video, got {boundary:g}"
        )


def require_comparable(reference: Tensor, candidate: Tensor) -> None:
    """Refuse two IMAGE batches (b, h, w, c) that cannot be compared picture by picture."""
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
    for name, pictures in (("reference", reference), ("candidate", candidate)):
        if not pictures.isfinite().all():
            raise InvalidInput(
                f"{name} holds values that are not numbers: its sampling run diverged"
            )


def require_split(split: float) -> None:
    """Refuse a split outside (0, 1)."""
    if not 0 < split < 1:
        raise InvalidInput(f"split must lie between 0 and 1 (the paper uses 0.85), got {split:g}")
