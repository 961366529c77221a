"""The objective of a run, and the memory bank that StableVM takes its references from."""

import functools
import inspect

import torch
from torch import Tensor

from sv_core.bank import MemoryBank
from sv_core.objective import Objective, References
from sv_core.posterior import effective_size, posterior_weights
from sv_core.targets import Path
from sv_core.timesteps import TIMESTEPS

from .config import ObjectiveConfig
from .data import Batch, Dataset


def build_objective(config: ObjectiveConfig) -> Objective:
    """Raises ValueError for a parameter that the named timesteps do not have."""
    draw = TIMESTEPS[config.timesteps]
    known = list(inspect.signature(draw).parameters)[2:]  # after n and the generator
    for name in config.timestep_params:
        if name not in known:
            raise ValueError(
                f"unknown config key 'objective.timestep_params.{name}' for timesteps "
                f"{config.timesteps!r} (have: {', '.join(known) or 'none'})"
            )
    return Objective(
        timesteps=functools.partial(draw, **config.timestep_params), threshold=config.threshold
    )


def build_bank(
    config: ObjectiveConfig, data: Dataset, device: torch.device | str
) -> MemoryBank | None:
    """One ring per class and a last one, the pool of all, for dropped labels; none for cfm."""
    if config.kind == "cfm":
        return None
    return MemoryBank(data.num_classes + 1, config.bank, data.train.shape[1:], device=device)


def references(bank: MemoryBank | None, batch: Batch, null: int) -> References:
    """Take the batch in, then give each row the references of its condition.

    In this order, because a sample that is not among its own references would bias the target.
    """
    if bank is None:
        return ()
    bank.add(batch.x0, batch.labels)
    bank.add(batch.x0, torch.full_like(batch.labels, null))
    return [
        (torch.nonzero(batch.cond == key).flatten(), bank.refs(key))
        for key in batch.cond.unique().tolist()
    ]


def mean_effective_size(objective: Objective, path: Path, refs: References) -> float | None:
    """How many references share a target's weight, on average over t >= threshold; None if none.

    1 means that the target is the conditional one: StableVM has then changed nothing.
    """
    sizes: list[Tensor] = []
    for rows, r in refs:
        rows = rows.to(path.t.device)
        rows = rows[path.t[rows] >= objective.threshold]
        w = posterior_weights(objective.interpolant, path.x_t[rows], r, path.t[rows])
        sizes.append(effective_size(w))
    together = torch.cat(sizes) if sizes else torch.empty(0)
    return float(together.mean()) if len(together) else None
