"""Files that are written whole or not at all, and what is read back from them."""

import contextlib
import functools
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sv_core.errors import InvalidInput, Unavailable

from .. import files
from ..config.load import dump, load
from ..config.schema import Config
from ..engine.distributed import whole
from ..files import _TEMPORARY, read_weights, write_atomically
from ..lora import state_dict
from ..networks.base import Backbone
from .state import FORMAT, TrainState

STATE = "state.pt"


def prepare_folder(out: Path) -> None:
    """Make a run's folder and clear what a killed process left half written in it.

    Raises Unavailable, in one sentence, when nothing can be written there.
    """
    try:
        (out / "previews").mkdir(parents=True, exist_ok=True)
        for folder in (out, out / "previews"):
            for stale in folder.glob(f".*{_TEMPORARY}"):
                stale.unlink()
        probe = out / f".probe{_TEMPORARY}"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise Unavailable(
            f"cannot write into {out}: {e.strerror or e}; choose another folder with run.out"
        ) from e


@functools.cache
def git_hash() -> str | None:
    """The commit this code is at, when it is a git checkout and git is there."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    return None


def weights_path(out: Path, step: int, decay: float | None = None) -> Path:
    """Where the averaged weights of a step are; those of a further average by its ``decay``."""
    suffix = "" if decay is None else f"-ema{decay:g}"
    return out / f"weights-{step:06d}{suffix}.safetensors"


def bank_path(out: Path, step: int | str, process: int) -> Path:
    """Where the memory bank of another process than the first is."""
    step = f"{step:06d}" if isinstance(step, int) else step
    return out / f"bank-{step}-{process:03d}.pt"


def save_state(out: Path, state: Mapping[str, Any]) -> None:
    """Everything that resuming needs, in one file. Raises Unavailable, in one sentence."""
    write_atomically(out / STATE, lambda file: torch.save(dict(state), file))


def save_bank(path: Path, bank: Mapping[str, Tensor]) -> None:
    """One process's memory bank. Raises Unavailable, in one sentence."""
    write_atomically(path, lambda file: torch.save(dict(bank), file))


def read_state(out: Path) -> dict[str, Any]:
    """The saved state of a run. Raises InvalidInput, in one sentence, when there is none."""
    if not (out / STATE).exists():
        raise InvalidInput(f"nothing to resume: {out} holds no {STATE}; leave out --resume")
    return read_weights(out / STATE)[0]


CONFIG = "config.toml"


def open_run(config: Config, state: TrainState, resume: bool) -> None:
    """Make the run's folder, or take up the state that is in it.

    Raises InvalidInput when there is a state and ``resume`` is false, or none and it is true, or
    when configuration, data or processes are not those that the state was made with; Unavailable
    for an unusable folder.
    """
    out, processes = Path(config.run.out), state.processes
    if not resume and (out / STATE).exists():
        raise InvalidInput(
            f"{out} already holds a run: go on with it by --resume, or choose another folder "
            f"with --set run.out=..."
        )
    if resume:
        saved = read_state(out)
        _check_resumable(config, load(out / CONFIG))
        _check_saved(config, state, saved)
        if processes.index and state.bank is not None:
            path = bank_path(out, saved["step"], processes.index)
            saved["bank"] = files.read_weights(path)[0]
        state.load_state_dict(saved)
    processes.wait()
    if processes.is_main:
        prepare_folder(out)
        text = dump(config).encode()
        files.write_atomically(out / CONFIG, lambda file: file.write(text))
    processes.wait()


def save(config: Config, state: TrainState) -> Path:
    """Averaged weights, then the state that resumes from them. Raises Unavailable in one sentence.

    In this order: a kill in between leaves weights that the resumed run writes again, the same.
    With several processes the first one writes, but each its own bank, before the state and under
    the name of the step, so that the state never meets the bank of another moment.
    """
    out, processes = Path(config.run.out), state.processes
    path = weights_path(out, state.step)
    _save_weights(config, state)
    tree = state.state_dict()
    bank = bank_path(out, state.step, processes.index)
    if processes.index and state.bank is not None:
        save_bank(bank, tree["bank"])
    processes.wait()
    if processes.is_main:
        save_state(out, tree)
    processes.wait()
    if processes.index and state.bank is not None:
        for old in out.glob(bank_path(out, "*", processes.index).name):
            if old != bank:
                with contextlib.suppress(OSError):
                    old.unlink()
    return path


def _save_weights(config: Config, state: TrainState) -> None:
    """The first average under the step's name; further ones under their decay's as well."""
    out = Path(config.run.out)
    data = config.data.cache and Path(config.data.cache).name
    metadata = state.backbone.metadata()
    metadata |= {
        "modelspec.title": f"{data or config.data.name}, {config.objective.kind}, "
        f"step {state.step}",
        "step": str(state.step),
        "training_config": dump(config),  # "config" is a network's own, to ComfyUI and others
    }
    commit = git_hash()
    if commit:
        metadata["git"] = commit
    kind = metadata["modelspec.architecture"]
    beside = metadata | {"modelspec.architecture": f"{kind}/interval-embedder"}
    if state.lora:
        metadata |= {
            "modelspec.architecture": f"{kind}/lora",
            "ss_network_dim": str(config.lora.rank),
            "ss_network_alpha": str(config.lora.alpha or config.lora.rank),
        }
    for number in range(max(1, len(state.averages))):
        decay = config.optim.ema[number] if number else None
        with state.averaged(number) as backbone:
            tensors, sidecar = _shipped(state, backbone), whole(backbone.sidecar())
            if state.processes.is_main:
                path = weights_path(out, state.step, decay)
                if sidecar:  # first, so that weights never lie without it
                    own, said = sidecar
                    files.save_weights(files.interval_path(path), own, beside | said)
                files.save_weights(path, tensors, metadata)


def _shipped(state: TrainState, backbone: Backbone) -> dict[str, Tensor]:
    """What the first process writes; all must ask."""
    if state.lora:
        return whole(state_dict(state.model))
    with state.processes.assembled(state.model):
        return backbone.weights() if state.processes.is_main else {}


def _check_resumable(now: Config, before: Config) -> None:
    """What defines a run must be what it was; how long it runs and reports may change."""
    sections = [
        (n, getattr(before, n), getattr(now, n))
        for n in ("model", "lora", "objective", "meanflow", "align")
    ]
    # The checkpoint and ComfyUI may have moved, too; where frozen weights wait changes nothing.
    free = {
        name: getattr(before.comfy, name) for name in ("checkpoint", "folder", "offload_blocks")
    }
    sections.append(("comfy", before.comfy, replace(now.comfy, **free)))
    # A cache may have moved; whether it is the same is for its identity to say.
    moved = replace(now.data, cache=before.data.cache) if now.data.cache else now.data
    sections.append(("data", before.data, moved))
    sections.append(("run", replace(now.run, seed=before.run.seed), now.run))
    kept = {"optimizer": before.optim.optimizer, "ema": before.optim.ema}
    sections.append(("optim", replace(now.optim, **kept), now.optim))
    for section, old, new in sections:
        for name, value in vars(old).items():
            if vars(new)[name] != value:
                raise InvalidInput(
                    f"the run to resume began with {section}.{name} = {value}, this config says "
                    f"{vars(new)[name]}: use the value it began with, or another run.out"
                )


def _check_saved(config: Config, state: TrainState, saved: dict[str, Any]) -> None:
    """The state must be of this version, of these data and of as many banks as there are now."""
    out, processes = config.run.out, state.processes
    if saved.get("format") != FORMAT:
        raise InvalidInput(
            f"the run in {out} is of an older version: begin anew in another run.out"
        )
    if saved["step"] > config.optim.steps:
        raise InvalidInput(
            f"the run in {out} is at step {saved['step']}, past optim.steps = "
            f"{config.optim.steps}: raise optim.steps, or choose another run.out"
        )
    was, now = saved["data"], state.dataset.identity
    other = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
    if other:
        raise InvalidInput(
            f"the run in {out} learnt from other data (another {min(other)} than that of "
            f"{config.data.cache or config.data.name}): resume with the cache that it began with"
        )
    if state.bank is not None and saved["processes"] != processes.count:
        raise InvalidInput(
            f"the run in {out} has {saved['processes']} memory banks, one per process, and there "
            f"are {processes.count} processes now: start as many as before"
        )
