"""The folder of a run: where each of its files is, and how they are opened, saved and resumed.

    config.toml                  the whole configuration, defaults included
    metrics.jsonl                a line for each step
    bins.png                     a chart of them by noise level (reports.py)
    state.pt                     everything that resuming needs
    bank-000500-001.pt           the memory bank of another process, of the state's step
    weights-000500.safetensors   the averaged weights of a step; -ema0.9: by another average;
                                 -interval: the interval embedder that belongs to them
    previews/000500.png          pictures from the network at that step

Every file but the metrics is written whole or not at all.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sv_core.errors import InvalidInput, Unavailable

from .. import files
from ..config.load import dump, load
from ..config.schema import Config
from ..engine.distributed import whole
from ..files import _TEMPORARY, _in_words, write_atomically
from ..lora import state_dict
from ..networks.base import Backbone
from .checkpoint import describe, describe_sidecar, require_fitting, require_same
from .state import TrainState


class RunFolder:
    """The folder ``run.out``: a run reads from it and writes into it only through this class."""

    def __init__(self, out: Path):
        self.out = out
        self.config = out / "config.toml"
        self.metrics = out / "metrics.jsonl"
        self.chart = out / "bins.png"
        self.state = out / "state.pt"
        self.previews = out / "previews"

    def weights(self, step: int, decay: float | None = None) -> Path:
        """The path of the averaged weights of a step; ``decay`` is that of a further average."""
        suffix = "" if decay is None else f"-ema{decay:g}"
        return self.out / f"weights-{step:06d}{suffix}.safetensors"

    def bank(self, step: int | str, process: int) -> Path:
        """The path of the memory bank of a process other than the first; step may be a pattern."""
        step = f"{step:06d}" if isinstance(step, int) else step
        return self.out / f"bank-{step}-{process:03d}.pt"

    def preview(self, step: int) -> Path:
        """The path of the pictures of a step."""
        return self.previews / f"{step:06d}.png"

    def last_weights(self) -> Path | None:
        """The weights that were saved last, None without any."""
        return max(self.out.glob("weights-*.safetensors"), default=None)

    def is_of(self, config: Config) -> bool:
        """Whether the folder belongs to a run with this configuration."""
        return self.config.is_file() and self.config.read_text("utf-8") == dump(config)

    def open(self, config: Config, state: TrainState, resume: bool) -> None:
        """Make the folder, or take up the state that is in it. All processes must call it.

        Raises InvalidInput when there is a state and ``resume`` is false, or none and it is true,
        or when configuration, data or processes are not those that the state was made with;
        Unavailable for an unusable folder.
        """
        processes = state.processes
        if not resume and self.state.exists():
            raise InvalidInput(
                f"{self.out} already holds a run: go on with it by --resume, or choose another "
                f"folder with --set run.out=..."
            )
        if resume:
            self._resume(config, state)
        processes.wait()
        if processes.is_main:
            self.make()
            text = dump(config).encode()
            write_atomically(self.config, lambda file: file.write(text))
        processes.wait()

    def _resume(self, config: Config, state: TrainState) -> None:
        saved = self.read_state()
        require_same(config, load(self.config))
        require_fitting(config, state, saved)
        process = state.processes.index
        if process and state.bank is not None:
            saved["bank"] = files.read_weights(self.bank(saved["step"], process))[0]
        state.load_state_dict(saved)

    def make(self) -> None:
        """Make the folder and clear what a killed process left half written in it.

        Raises Unavailable, in one sentence, when nothing can be written there.
        """
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
            for folder in (self.out, self.previews):
                for stale in folder.glob(f".*{_TEMPORARY}"):
                    stale.unlink()
            probe = self.out / f".probe{_TEMPORARY}"
            probe.touch()
            probe.unlink()
        except OSError as e:
            raise Unavailable(
                f"cannot write into {self.out}: {e.strerror or e}; choose another folder with "
                f"run.out"
            ) from e

    def save(self, config: Config, state: TrainState) -> Path:
        """Write the averaged weights, then the state to resume from; returns the weights' path.

        In this order: a kill in between leaves weights that the resumed run writes again, the same.
        All processes must call it. The first one writes, but each its own bank, before the state
        and under the name of the step, so that the state never meets the bank of another moment.
        Raises Unavailable, in one sentence.
        """
        processes = state.processes
        banked = processes.index > 0 and state.bank is not None
        self._save_weights(config, state)
        tree = state.state_dict()
        bank = self.bank(state.step, processes.index)
        if banked:
            write_atomically(bank, lambda file: torch.save(dict(tree["bank"]), file))
        processes.wait()
        if processes.is_main:
            self.write_state(tree)
        processes.wait()
        if banked:
            for old in self.out.glob(self.bank("*", processes.index).name):
                if old != bank:
                    with contextlib.suppress(OSError):
                        old.unlink()
        return self.weights(state.step)

    def _save_weights(self, config: Config, state: TrainState) -> None:
        """The first average under the step's name; further ones under their decay's as well."""
        metadata = describe(config, state)
        for number in range(max(1, len(state.averages))):
            decay = config.optim.ema[number] if number else None
            with state.averaged(number) as backbone:
                tensors, sidecar = _shipped(state, backbone), whole(backbone.sidecar())
                if state.processes.is_main:
                    path = self.weights(state.step, decay)
                    if sidecar:  # first, so that there are never weights without it
                        own, facts = sidecar
                        beside = describe_sidecar(config, state) | facts
                        files.save_weights(files.interval_path(path), own, beside)
                    files.save_weights(path, tensors, metadata)

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Everything that resuming needs, in one file. Raises Unavailable, in one sentence."""
        write_atomically(self.state, lambda file: torch.save(dict(state), file))

    def read_state(self) -> dict[str, Any]:
        """The saved state. Raises InvalidInput, in one sentence, when there is none."""
        if not self.state.exists():
            raise InvalidInput(
                f"nothing to resume: {self.out} holds no {self.state.name}; leave out --resume"
            )
        return files.read_weights(self.state)[0]


def _shipped(state: TrainState, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors that the first process writes. All must call it: each may hold a part."""
    if state.lora:
        return whole(state_dict(state.model))
    with state.processes.assembled(state.model):
        return backbone.weights() if state.processes.is_main else {}


class Metrics:
    """metrics.jsonl: one line per step, none twice and none missing, also after a crash."""

    def __init__(self, path: Path, step: int):
        """Go on after ``step``: lines of later steps are removed, as a crash undid them."""
        self.path = path
        kept = []
        if step and self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # the line that a kill cut short
                    break
                if record["step"] > step:
                    break
                kept.append(line + "\n")
        write_atomically(self.path, lambda file: file.write("".join(kept).encode()))
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one step's record and flush it, so that a kill loses none."""
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as e:
            raise _in_words(e, self.path) from e

    def sync(self) -> None:
        """Sync the file to the disk, before a state is saved that assumes these lines."""
        try:
            os.fsync(self.file.fileno())
        except OSError as e:
            raise _in_words(e, self.path) from e

    def close(self) -> None:
        # What a full disk has refused is still in the buffer, and would fail again.
        with contextlib.suppress(OSError):
            self.file.close()
