"""What nodes check of their inputs, in one place: splits, steps, grids, pictures."""

from torch import Tensor

from ..sv_core.errors import InvalidInput
from .calibration_file import FEWEST, MOST

STEPS = 8, 100

SPLIT = 0.85


def require_steps(sigmas: Tensor, calls: int) -> None:
    """Raise InvalidInput, in words, for a grid that cannot be calibrated."""
    require_grid(sigmas)
    steps, (low, high) = len(sigmas) - 1, STEPS
    if not low <= steps <= high:
        raise InvalidInput(
            f"SIGMAS has {steps} steps, but {low} to {high} can be calibrated: connect the native "
            "grid, of about 30 steps"
        )
    if not FEWEST <= calls <= min(MOST, steps - 1):
        raise InvalidInput(
            f"calls must lie between {FEWEST} and {min(MOST, steps - 1)} on this grid, got {calls}"
        )


def require_grid(sigmas: Tensor) -> None:
    """Raise InvalidInput, in words, unless there are noise levels and they descend."""
    if len(sigmas) == 0:
        raise InvalidInput("SIGMAS is empty: connect a scheduler with at least one step")
    if not (sigmas[:-1] > sigmas[1:]).all():
        raise InvalidInput(
            "SIGMAS must descend from noise to 0 and never repeat a value, but these do not: "
            "connect a scheduler's output as it is"
        )


def check_grid(name: str, sigmas: Tensor) -> Tensor:
    """A grid as float64 on the CPU; InvalidInput in words where it is not a flow model's."""
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
    """Raise InvalidInput, in words, for a boundary outside [0, 1)."""
    if not 0 <= boundary < 1:
        raise InvalidInput(
            "boundary must lie between 0 (one expert) and 1; Wan2.2 14B has 0.875 for "
            f"text-to-video and 0.9 for image-to-video, got {boundary:g}"
        )


def check_pair(reference: Tensor, candidate: Tensor) -> None:
    """Raise InvalidInput, in words, unless two IMAGE batches (b, h, w, c) can be compared."""
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
    """Raise InvalidInput, in words, for a split outside (0, 1)."""
    if not 0 < split < 1:
        raise InvalidInput(f"split must lie between 0 and 1 (the paper uses 0.85), got {split:g}")
