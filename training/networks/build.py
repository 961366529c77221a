"""Which network a configuration says: the SiT of [model], or ComfyUI's of [comfy]."""

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
    """The network that [model] or [comfy] says, for these data; all of it is to be trained.

    A SiT gets its embedder of intervals here where it needs one (``interval``), a network of
    ComfyUI's by ``with_interval``. Raises InvalidInput, in one sentence, when the network cannot
    be had or does not fit the data.
    """
    if comfy.checkpoint is None:
        return sit.build(model, data, seed, interval=interval)
    from .comfy import load  # what it needs of ComfyUI only some users have

    backbone = load.build(comfy, data, processes.device)
    # Spread weights come together by calls that all processes make equally often.
    return replace(backbone, agree=processes.largest) if processes.sharded else backbone


def with_interval(backbone: Backbone, begun: Iterable[str | None], seed: int) -> Backbone:
    """What MeanFlow trains: a network of ComfyUI's with an embedder of intervals beside it.

    It goes on with that of the LoRA or the model that the run begins with (``begun``), where one
    lies beside that file. Call this when it is known what else is trained. Raises InvalidInput, in
    one sentence, for an embedder that does not fit.
    """
    if backbone.interval:
        return backbone
    from .comfy import load

    assert isinstance(backbone, load.ComfyBackbone)  # a SiT of [model] has its intervals already
    paths = [interval_path(Path(file)) for file in begun if file is not None]
    found = [path for path in paths if path.exists()]
    return load.with_interval(backbone, seed, found[0] if found else None)
