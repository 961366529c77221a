"""SiT as a backbone: by name, by sizes, or from a checkpoint."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sv_core.alignment import capture
from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec
from sv_core.models.sit import SiT, SiTConfig, with_interval
from sv_core.models.sit_file import from_checkpoint, to_metadata

from ..config.schema import ModelConfig
from ..data.dataset import Dataset
from ..files import read_weights
from ..tensors import Lazy
from .base import Backbone, Value


@dataclass(frozen=True)
class SiTBackbone:
    """v(x_t, t, labels) of a SiT; its model handles the checkpoint's own direction of time."""

    model: nn.Module
    config: SiTConfig
    latent: LatentSpec
    shift: float = 1.0
    span: tuple[float, float] = (0.0, 1.0)

    @property
    def blocks(self) -> nn.ModuleList:
        blocks = self.model.blocks
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def patch_size(self) -> int:
        return self.config.patch_size

    def velocity(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.model(x_t, t, cond)

    @property
    def interval(self) -> bool:
        """Whether there is an average velocity, and r = t is the velocity."""
        return self.config.interval

    def average_velocity(self, x_t: Tensor, r: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u(x_t, r, t, cond) over [r, t] <= 1: x_t (b, ...), r, t, cond (b,) -> (b, ...)."""
        return self.model(x_t, t, cond, r)

    def forward_mode(self) -> AbstractContextManager[None]:
        return nullcontext()

    def watch(self, number: int) -> AbstractContextManager[list[Tensor]]:
        return capture(self.blocks[number - 1])

    def on(self, model: Callable[..., Any]) -> "SiTBackbone":
        return replace(self, model=model)

    def weights(self, value: Value = Tensor.detach) -> Mapping[str, Tensor]:
        own = self.model.state_dict()
        return Lazy({name: partial(value, x) for name, x in own.items()})

    def sidecar(self, value: Value = Tensor.detach) -> None:
        """None: its interval embedder is among the weights."""

    def metadata(self) -> dict[str, str]:
        return to_metadata(self.config, self.latent) | {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": "sit",
            "modelspec.implementation": "stable-velocity",
            "modelspec.prediction_type": "average velocity" if self.interval else "velocity",
            "modelspec.resolution": f"{self.config.input_size}x{self.config.input_size}",
        }


_PROVED: type[Backbone] = SiTBackbone  # to the type checker


def load(path: Path) -> SiTBackbone:
    """A backbone from a checkpoint file. Raises InvalidInput, in one sentence, for other files."""
    state, metadata = read_weights(path)
    try:
        model, latent = from_checkpoint(state, metadata)
    except InvalidInput as e:
        raise InvalidInput(f"{path}: {e}") from e
    return SiTBackbone(model, model.config, latent)


def build(config: ModelConfig, data: Dataset, seed: int, *, interval: bool = False) -> SiTBackbone:
    """The network of [model], made for the data; new weights are a function of the seed.

    ``interval`` makes it predict average velocities; a checkpoint that did not still predicts what
    it predicted, for every r. Without it, a MeanFlow checkpoint stays one. Raises InvalidInput when
    [model] contradicts itself or does not fit the data.
    """
    given = {f.name: getattr(config, f.name) for f in fields(config)}
    given = {name: value for name, value in given.items() if value is not None}
    sizes = given.keys() - {"name", "checkpoint"}
    if config.checkpoint is not None:
        if len(given) > 1:
            raise InvalidInput(
                f"model.checkpoint already says what the network is: remove model."
                f"{sorted(given.keys() - {'checkpoint'})[0]}"
            )
        backbone = load(Path(config.checkpoint))
    else:
        if config.name is not None and sizes:
            raise InvalidInput(
                f"model.name already says the sizes: remove model.{sorted(sizes)[0]}"
            )
        missing = sorted({"patch_size", "hidden_size", "depth", "num_heads"} - sizes)
        if config.name is None and missing:
            raise InvalidInput(
                f"model.{missing[0]} is missing: give all four sizes, or model.name, "
                f"or model.checkpoint"
            )
        sit = _describe(config, data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = SiTBackbone(SiT(sit), sit, data.latent)
    _check(backbone, data, config)
    return _with_interval(backbone, seed) if interval and not backbone.interval else backbone


def _with_interval(backbone: SiTBackbone, seed: int) -> SiTBackbone:
    assert isinstance(backbone.model, SiT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = with_interval(backbone.model)
    return replace(backbone, model=model, config=model.config)


def _describe(config: ModelConfig, data: Dataset) -> SiTConfig:
    channels, height, size = data.shape
    if height != size:
        raise InvalidInput(
            f"a SiT is for square pictures, these latents are {height}x{size}: prepare a cache "
            f"with --set buckets=square"
        )
    if config.name is not None:
        sit = SiTConfig.named(
            config.name, input_size=size, in_channels=channels, num_classes=data.num_classes
        )
    else:
        patch, width, depth, heads = (
            config.patch_size,
            config.hidden_size,
            config.depth,
            config.num_heads,
        )
        assert patch is not None and width is not None and depth is not None and heads is not None
        sit = SiTConfig(
            patch_size=patch,
            hidden_size=width,
            depth=depth,
            num_heads=heads,
            input_size=size,
            in_channels=channels,
            num_classes=data.num_classes,
        )
    if sit.hidden_size % sit.num_heads:
        raise InvalidInput(
            f"model.hidden_size = {sit.hidden_size} cannot be shared among model.num_heads = "
            f"{sit.num_heads}: use a multiple"
        )
    if sit.hidden_size % 4:
        raise InvalidInput(f"model.hidden_size must be a multiple of 4, got {sit.hidden_size}")
    if size % sit.patch_size:
        raise InvalidInput(f"patches of {sit.patch_size} do not tile latents of {size}x{size}")
    return sit


def _check(backbone: SiTBackbone, data: Dataset, config: ModelConfig) -> None:
    """Check that a checkpoint has the data's shape and classes. Raises InvalidInput if not."""
    sit = backbone.config
    data.require_latent(backbone.latent, str(config.checkpoint))
    channels, height, width = data.shape
    has = (sit.in_channels, sit.input_size, sit.input_size, sit.num_classes)
    if has != (channels, height, width, data.num_classes):
        raise InvalidInput(
            f"{config.checkpoint} is a SiT for {has[1]}x{has[2]} latents of {has[0]} channels "
            f"and {has[3]} classes, the data are {height}x{width} of {channels} in "
            f"{data.num_classes} classes"
        )
