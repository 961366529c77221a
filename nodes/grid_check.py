"""The one check of every time grid, wherever it comes from: a graph, the host or a file."""

from torch import Tensor

from ..sv_core.errors import InvalidInput

MOST_STEPS = 10_000
"""Of any grid: as many as the host's own nodes offer."""

ROUNDING = 1e-4
"""Relative: by how much a host's sigmas may lie above the highest one."""


def require_flow_grid(
    sigmas: Tensor,
    name: str = "SIGMAS",
    *,
    fewest: int = 0,
    most: int = MOST_STEPS,
    highest: float = 1.0,
    repeats: bool = False,
) -> Tensor:
    """The input ``name`` as float64 on the CPU: the one check of every time grid.

    Refuses what is no list of finite noise levels from 0 to ``highest`` (a linear flow's is 1) that
    descends (or stays, with ``repeats``), with ``fewest`` to ``most`` steps.
    """
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or sigmas.is_complex():
        raise InvalidInput(f"{name} is no list of noise levels: connect a scheduler's output")
    ts, steps = sigmas.detach().cpu().double(), len(sigmas) - 1
    if steps < 0:
        raise InvalidInput(f"{name} is empty: connect a scheduler with at least one step")
    if steps < fewest:
        raise InvalidInput(f"{name} holds {len(ts)} sigmas: a grid needs at least {fewest + 1}")
    if steps > most:
        raise InvalidInput(f"{name} has {steps} steps, more than {most}: choose fewer")
    if not ts.isfinite().all():
        raise InvalidInput(f"{name} holds values that are not numbers: choose another scheduler")
    if ts.min() < 0 or ts.max() > highest * (1 + ROUNDING):
        raise InvalidInput(
            f"{name} runs from {ts.max():.4g} to {ts.min():.4g}, but the sigmas of a flow-matching "
            f"model lie between 0 and {highest:g}: connect the SIGMAS of such a model"
        )
    if not (ts.diff() <= 0 if repeats else ts.diff() < 0).all():
        raise InvalidInput(
            f"{name} does not descend: every sigma must be smaller than the last, so connect a "
            "scheduler's output as it is"
        )
    return ts
