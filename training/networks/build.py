"""The network that a configuration names: a SiT by [model], or one of ComfyUI by [comfy]."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..config.schema import ComfyConfig, ModelConfig
from ..data.dataset import Dataset
from ..engine.distributed import Processes
from ..files import interval_path
from . import sit
from .base import Backbone


def build(
    model: ModelConfig,
    comfy: ComfyConfig,
    data: Dataset,
    processes: Processes,
    seed: int,
    interval: bool = False,
) -> Backbone:
    """The network that [model] or [comfy] names, for these data; all of it is to be trained.

    A SiT gets its interval embedder here if it needs one (``interval``), a network of ComfyUI by
    ``with_interval``. Raises InvalidInput, in one sentence, when the network cannot
    be had or does not fit the data.
    """
    if comfy.checkpoint is None:
        return sit.build(model, data, seed, interval=interval)
    from .comfy import load  # it needs ComfyUI, which not every user has

    backbone = load.build(comfy, data, processes.device)
    # Sharded weights are gathered by collective calls: all processes must make equally many.
    return replace(backbone, agree=processes.largest) if processes.sharded else backbone


def with_interval(backbone: Backbone, begun: Iterable[str | None], seed: int) -> Backbone:
    """The backbone for MeanFlow: a network of ComfyUI gets an interval embedder.

    If one lies beside the LoRA or the model that the run begins with (``begun``), training goes on
    with it. Call this after it is decided what else is trained. Raises InvalidInput, in one
    sentence, for an embedder that does not fit.
    """
    if backbone.interval:
        return backbone
    from .comfy import load

    assert isinstance(backbone, load.ComfyBackbone)  # a SiT of [model] has its intervals already
    paths = [interval_path(Path(file)) for file in begun if file is not None]
    found = [path for path in paths if path.exists()]
    return load.with_interval(backbone, seed, found[0] if found else None)
