"""What a step changes, how it is saved, and how a run is opened or taken up again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sv_core.bank import MemoryBank

from . import checkpoint
from .backbones.base import Backbone
from .backbones.sit import build
from .config import Config, dump, load
from .data import Dataset
from .objective import build_bank
from .optim import Ema, build_optimizer

CONFIG = "config.toml"


class TrainState:
    """Weights, their average, the optimiser, the bank of references and the step."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device):
        self.backbone: Backbone = build(config.model, dataset, config.run.seed)
        self.model: nn.Module = self.backbone.model.to(device).train()
        self.ema = Ema(self.model, config.optim.ema)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.bank: MemoryBank | None = build_bank(config.objective, dataset, device)
        self.step = 0

    @property
    def averaged(self) -> Backbone:
        """The backbone with the averaged weights: what is validated, previewed and shipped."""
        return self.backbone.on(self.ema.model)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "bank": self.bank.state_dict() if self.bank else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])
        self.step = state["step"]


def open_run(config: Config, state: TrainState, resume: bool) -> None:
    """Make the run's folder, or take up the state that is in it.

    Raises ValueError when there is a state and ``resume`` is false, or none and it is true, or
    when the configuration is not the one the state was made with; OSError for an unusable folder.
    """
    out = Path(config.run.out)
    if resume:
        saved = checkpoint.read_state(out)
        _check_resumable(config, load(out / CONFIG))
        if saved["step"] > config.optim.steps:
            raise ValueError(
                f"the run in {out} is at step {saved['step']}, past optim.steps = "
                f"{config.optim.steps}: raise optim.steps, or choose another run.out"
            )
        checkpoint.prepare_folder(out)
        state.load_state_dict(saved)
    else:
        if (out / checkpoint.STATE).exists():
            raise ValueError(
                f"{out} already holds a run: go on with it by --resume, or choose another folder "
                f"with --set run.out=..."
            )
        checkpoint.prepare_folder(out)
    text = dump(config).encode()
    checkpoint.write_atomically(out / CONFIG, lambda file: file.write(text))


def save(config: Config, state: TrainState) -> Path:
    """Averaged weights, then the state that resumes from them. Raises OSError in one sentence.

    In this order: a kill in between leaves weights that the resumed run writes again, the same.
    """
    out = Path(config.run.out)
    path = checkpoint.weights_path(out, state.step)
    metadata = state.backbone.metadata() | {
        "modelspec.title": f"{config.data.name} SiT, {config.objective.kind}, step {state.step}",
        "step": str(state.step),
        "config": dump(config),
    }
    commit = checkpoint.git_hash()
    if commit:
        metadata["git"] = commit
    checkpoint.save_weights(path, state.ema.model.state_dict(), metadata)
    checkpoint.save_state(out, state.state_dict())
    return path


def _check_resumable(now: Config, before: Config) -> None:
    """What defines a run must be what it was; how long it runs and reports may change."""
    pairs = [(name, getattr(before, name), getattr(now, name)) for name in ("model", "data")]
    pairs.append(("objective", before.objective, now.objective))
    pairs.append(("run", replace(now.run, seed=before.run.seed), now.run))
    for section, old, new in pairs:
        for name, value in vars(old).items():
            if vars(new)[name] != value:
                raise ValueError(
                    f"the run to resume began with {section}.{name} = {value}, this config says "
                    f"{vars(new)[name]}: use the value it began with, or another run.out"
                )
