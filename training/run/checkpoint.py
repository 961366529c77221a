"""The metadata of a run's files, and what must be unchanged when a run is resumed."""

import contextlib
import functools
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from sv_core.errors import InvalidInput

from ..config.load import dump
from ..config.schema import Config
from .state import FORMAT, TrainState


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


def describe(config: Config, state: TrainState) -> dict[str, str]:
    """The metadata of a file of weights, or of a LoRA."""
    metadata = _common(config, state)
    if state.lora:
        metadata |= {
            "modelspec.architecture": f"{metadata['modelspec.architecture']}/lora",
            "ss_network_dim": str(config.lora.rank),
            "ss_network_alpha": str(config.lora.alpha or config.lora.rank),
        }
    return metadata


def describe_sidecar(config: Config, state: TrainState) -> dict[str, str]:
    """The metadata of the interval embedder's file, without what concerns the backbone."""
    metadata = _common(config, state)
    kind = metadata["modelspec.architecture"]
    return metadata | {"modelspec.architecture": f"{kind}/interval-embedder"}


def _common(config: Config, state: TrainState) -> dict[str, str]:
    data = config.data.cache and Path(config.data.cache).name
    metadata = state.backbone.metadata()
    metadata |= {
        "modelspec.title": f"{data or config.data.name}, {config.objective.kind}, "
        f"step {state.step}",
        "step": str(state.step),
        "training_config": dump(config),  # "config" is a network's own, to ComfyUI and others
    }
    commit = git_hash()
    return metadata | ({"git": commit} if commit else {})


def require_same(now: Config, before: Config) -> None:
    """Check that what defines the run is unchanged; how long it runs and reports may change.

    Raises InvalidInput, in one sentence.
    """
    sections = [
        (n, getattr(before, n), getattr(now, n))
        for n in ("model", "lora", "objective", "meanflow", "align")
    ]
    # The checkpoint and ComfyUI may have moved, too; where frozen weights wait changes nothing.
    free = {
        name: getattr(before.comfy, name) for name in ("checkpoint", "folder", "offload_blocks")
    }
    sections.append(("comfy", before.comfy, replace(now.comfy, **free)))
    # A cache may have moved; ``identity`` says whether it is the same.
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


def require_fitting(config: Config, state: TrainState, saved: dict[str, Any]) -> None:
    """Check that the state is of this version, of these data and of as many processes.

    Raises InvalidInput, in one sentence.
    """
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
