"""Optional trackers beside metrics.jsonl, which is always written."""

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sv_core.errors import InvalidInput

from .config import Config, dump


class Tracker(Protocol):
    """Takes in one step's record; lists become one curve per entry."""

    def add(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def library(package: str) -> Any:
    """The module of a tracker. Raises InvalidInput, in one sentence, when it is not installed."""
    try:
        return importlib.import_module(MODULES[package])
    except ImportError as e:
        raise InvalidInput(
            f"run.trackers names {package}, which is not installed ({e}): pip install {package}, "
            f"or leave it out; metrics.jsonl is written anyway"
        ) from e


def numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """A record as (name, number): nested names and places in lists joined by /, gaps left out."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from numbers({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}/")
        elif value is not None and name != "step":
            yield prefix + name, value


class TensorBoard:
    """Event files in the run's own folder: tensorboard --logdir RUN."""

    def __init__(self, config: Config, step: int):
        writer = library("tensorboard").SummaryWriter
        # What a crash undid is taken back.
        self._writer = writer(config.run.out, purge_step=step + 1)

    def add(self, record: Mapping[str, Any]) -> None:
        for name, value in numbers(record):
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, the same one again when it is resumed."""

    def __init__(self, config: Config, step: int):
        out = Path(config.run.out).resolve()
        self._run = library("wandb").init(
            project="stable-velocity",
            name=out.name,
            dir=str(out),
            id=hashlib.sha256(str(out).encode()).hexdigest()[:16],
            resume="allow",
            config={"toml": dump(config)},
        )

    def add(self, record: Mapping[str, Any]) -> None:
        self._run.log(dict(numbers(record)), step=record["step"])

    def close(self) -> None:
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": Wandb}


def open_trackers(config: Config, step: int) -> list[Tracker]:
    """Those of ``run.trackers``, from the step after ``step`` on."""
    return [TRACKERS[name](config, step) for name in config.run.trackers]
