"""The metadata of a run's files, and what must be unchanged when a run is resumed."""

import contextlib
import functools
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

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
        "training_config": dump(shareable(config)),  # "config" is a network's own, to ComfyUI
    }
    commit = git_hash()
    return metadata | ({"git": commit} if commit else {})


PATHS = (
    ("model", "checkpoint"), ("comfy", "checkpoint"), ("comfy", "folder"), ("data", "cache"),
    ("lora", "checkpoint"), ("run", "out"), ("run", "vae"),
)  # fmt: skip
"""The keys that are paths of the machine that trained."""


def shareable(config: Config) -> Config:
    """The configuration with the last part of each path only: others get it with the weights."""
    for section, key in PATHS:
        part = getattr(config, section)
        path = getattr(part, key)
        if path is not None:
            name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
            config = replace(config, **{section: replace(part, **{key: name})})
    return config


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
    _require_form(out, state, saved)
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


MOMENTS = ("exp_avg", "exp_avg_sq", "z")
"""What optimisers keep in the shape of the parameter that it belongs to."""


def _require_form(out: str, state: TrainState, saved: dict[str, Any]) -> None:
    """Check that every tensor of a state has its place and its shape: none may be broadcast.

    Raises InvalidInput, in one sentence.
    """
    projectors = state.projectors.state_dict() if state.projectors else {}
    try:
        _require_shapes("model", state.trained, saved["model"])
        for ours, theirs in zip(state.averages, saved["averages"], strict=True):
            named = dict(zip(state.trained, ours.tensors, strict=True))
            _require_shapes("averages", named, theirs)
        _require_shapes("projectors", projectors, saved["projectors"])
        _require_shapes("bank", state.bank.state_dict() if state.bank else {}, saved["bank"])
        _require_moments(state, saved["optimizer"])
        if type(saved["step"]) is not int or not isinstance(saved["data"], dict):
            raise InvalidInput("step or data is of another kind")
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as e:
        raise InvalidInput(
            f"the state in {out} is not one of this run ({e}): resume with the configuration that "
            f"it began with, or begin anew in another run.out"
        ) from e


def _require_moments(state: TrainState, saved: dict[str, Any]) -> None:
    """Check the optimiser's part. Raises InvalidInput, or what a foreign one leads to."""
    groups = state.optimizer.param_groups
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in saved["param_groups"]]:
        raise InvalidInput("optimizer.param_groups is of another network")
    for number, moments in saved["state"].items():
        found = {key: x for key, x in moments.items() if key in MOMENTS}
        own = dict.fromkeys(found, state.parameters[int(number)])
        _require_shapes(f"optimizer.state.{number}", own, found)


def _require_shapes(part: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name in sorted(own.keys() | saved.keys()):
        want = tuple(own[name].shape) if name in own else "not there"
        have = tuple(saved[name].shape) if name in saved else "not there"
        if have != want:
            raise InvalidInput(f"{part}.{name} is {have}, and the run's is {want}")
