# ruff: noqa: TID251
"""TaylorSeer's and Spectrum's forecasts where they are made: before a network's last layer."""

from collections.abc import Callable
from itertools import count

from host_beds import Bed, Spent

import comfy.samplers  # isort: skip  after host_beds, which starts the host
import torch
from comfy.patcher_extension import WrappersMP

from benchmarks.rivals import WEIGHTS, Nodes, Weights
from sv_core.solvers import combine


def run(bed: Bed, nodes: Nodes, weights: Weights) -> tuple[torch.Tensor, Spent]:
    """Euler's latents: elsewhere the last layer alone, on forecast features, at its own time.

    For the host's MMDiT behind a ``Seam``, cond and uncond in one batch, one evaluation a step.
    """
    network, times = bed.network.network, bed.native.tolist()
    steps, known = count(), []
    seen: list[torch.Tensor] = []

    def wrapper(executor, x, timestep, *args, y=None, **options):
        k = next(steps)
        if k in nodes:
            answer = executor(x, timestep, *args, y=y, **options)
            known.insert(0, (times[k], seen.pop()))
            return answer
        at, features = zip(*known, strict=True)
        c = network.t_embedder(timestep, dtype=x.dtype) + network.y_embedder(y)
        patches = network.final_layer(combine(weights(at, times[k]), features), c)
        return network.unpatchify(patches, hw=x.shape[-2:])

    patcher = bed.patcher.clone()
    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "features", wrapper)
    hook = network.final_layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        x, _ = bed.run(comfy.samplers.sampler_object("euler"), bed.native, patcher)
        return x, bed.spent
    finally:
        hook.remove()


def in_features(
    lists: Callable[[int, int], list[Nodes]], name: str, bed: Bed, calls: int
) -> tuple[torch.Tensor, Spent] | None:
    """The nearest of the forecast's settings on the lists."""
    found = lists(bed.steps, calls)
    most = max(map(len, found), default=0)
    results = [
        run(bed, nodes, weights)
        for nodes in found
        if len(nodes) == most
        for weights in WEIGHTS[name]
    ]
    return max(results, key=lambda result: bed.decibels(result[0], bed.base), default=None)
