"""The networks that can be trained, one adapter each."""

import torch

from ..config import Config
from ..data import Dataset
from . import sit
from .base import Backbone


def build(config: Config, data: Dataset, device: torch.device) -> Backbone:
    """The network that [model] or [comfy] says, for these data; all of it is to be trained.

    Raises ValueError, in one sentence, when it cannot be had or does not fit the data.
    """
    if config.comfy.checkpoint is None:
        return sit.build(config.model, data, config.run.seed)
    from . import comfy  # what it needs of ComfyUI only some users have

    return comfy.build(config.comfy, data, device)
