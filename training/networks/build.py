"""Which network a configuration says: the SiT of [model], or ComfyUI's of [comfy]."""

from dataclasses import replace
from pathlib import Path

from ..config.schema import Config
from ..data.dataset import Dataset
from ..engine.distributed import Processes
from ..files import interval_path
from . import sit
from .base import Backbone


def build(config: Config, data: Dataset, processes: Processes) -> Backbone:
    """The network that [model] or [comfy] says, for these data; all of it is to be trained.

    Raises InvalidInput, in one sentence, when it cannot be had or does not fit the data.
    """
    if config.comfy.checkpoint is None:
        interval = config.objective.kind == "meanflow"
        return sit.build(config.model, data, config.run.seed, interval=interval)
    from .comfy import load as comfy  # what it needs of ComfyUI only some users have

    backbone = comfy.build(config.comfy, data, processes.device)
    # Spread weights come together by calls that all processes make equally often.
    return replace(backbone, agree=processes.largest) if processes.sharded else backbone


def with_interval(backbone: Backbone, config: Config) -> Backbone:
    """What MeanFlow trains: a network of ComfyUI's with an embedder of intervals beside it.

    It goes on with that of the LoRA or the model that the run begins with, where one lies beside
    that file. Call this when it is known what else is trained. Raises InvalidInput, in one
    sentence, for an embedder that does not fit.
    """
    if config.objective.kind != "meanflow" or backbone.interval:
        return backbone
    from .comfy import load as comfy

    begun = [Path(f) for f in (config.lora.checkpoint, config.comfy.checkpoint) if f is not None]
    assert isinstance(backbone, comfy.ComfyBackbone)  # a SiT of [model] has its intervals already
    found = [path for path in map(interval_path, begun) if path.exists()]
    return comfy.with_interval(backbone, config.run.seed, found[0] if found else None)
