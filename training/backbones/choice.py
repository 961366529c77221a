"""Which network a configuration says: the SiT of [model], or ComfyUI's of [comfy]."""

from dataclasses import replace

from ..config import Config
from ..data import Dataset
from ..parallel import Processes
from . import sit
from .base import Backbone


def build(config: Config, data: Dataset, processes: Processes) -> Backbone:
    """The network that [model] or [comfy] says, for these data; all of it is to be trained.

    Raises ValueError, in one sentence, when it cannot be had or does not fit the data.
    """
    if config.comfy.checkpoint is None:
        interval = config.objective.kind == "meanflow"
        return sit.build(config.model, data, config.run.seed, interval=interval)
    from . import comfy  # what it needs of ComfyUI only some users have

    backbone = comfy.build(config.comfy, data, processes.device)
    # Spread weights come together by calls that all processes make equally often.
    return replace(backbone, agree=processes.largest) if processes.sharded else backbone
