"""Calibrations: which calls of a grid a model needs, as small JSON files that people can read.

They lie in ComfyUI's output folder, where its own nodes save what they make of models: it can
always be written to, and ``--output-directory`` moves it.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ..sv_core.errors import InvalidInput

FOLDER = "stable_velocity"
FORMAT = "stable_velocity calibration 1"
ADVICE = "record one with StableVS Calibrate"
Nodes = tuple[int, ...]


def fingerprint(model: Any) -> tuple[str, str]:
    """A MODEL's class, and a hash of its weights' names and shapes; not where they were read.

    Vectors do not count: files of scaled weights hold more of them for the same model.
    """
    network = model.model.diffusion_model
    shapes = sorted((k, tuple(p.shape)) for k, p in network.named_parameters() if p.ndim > 1)
    return type(model.model).__name__, hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


def write_nodes(nodes: Sequence[int]) -> str:
    """As people read and enter them: ``0 2 4 7``."""
    return " ".join(map(str, nodes))


def read_nodes(text: str) -> Nodes:
    """The other way; commas are fine, and nothing gives (). Raises InvalidInput, in words."""
    words = text.replace(",", " ").split()
    if not all(re.fullmatch(r"\d{1,5}", word) for word in words):
        raise InvalidInput(
            f"nodes must be whole numbers such as 0 2 4 7, or empty, got {text.strip()[:60]!r}"
        )
    nodes = tuple(int(word) for word in words)
    if nodes and (nodes[0] != 0 or any(a >= b for a, b in pairwise(nodes))):
        raise InvalidInput(f"nodes must begin with 0 and ascend, got {write_nodes(nodes[:40])}")
    return nodes


@dataclass(frozen=True)
class Calibration:
    """The nodes to call at, by number of calls, for one model on one grid."""

    model: str
    shapes: str
    """With ``model`` the fingerprint."""
    sigmas: tuple[float, ...]
    nodes: dict[int, Nodes]
    drift: tuple[float, ...]
    """|dv/dsigma| / |v| between neighbouring nodes, (n-1,): a curve to look at."""
    split: float | None
    """Where the drift leaves its plateau towards noise, if it does."""
    runs: int
    seed: int
    checked: int
    """The number of calls whose list was checked in runs of the model."""

    @property
    def default_name(self) -> str:
        """One per model and schedule."""
        grid = hashlib.sha256(repr(self.sigmas).encode()).hexdigest()[:6]
        return f"{self.model}-{self.shapes[:6]}-{len(self.sigmas) - 1}steps-{grid}"

    def same_grid(self, sigmas: Tensor | tuple[float, ...]) -> bool:
        """Equal but for rounding."""
        own, other = self.sigmas, list(map(float, sigmas))
        return len(own) == len(other) and all(
            abs(a - b) < 1e-5 for a, b in zip(own, other, strict=True)
        )

    def nodes_for(self, model: Any, sigmas: Tensor, calls: int) -> Nodes:
        """Raises InvalidInput, in words, for another model, another grid, and calls without a list.

        With as many calls as steps that is every node.
        """
        name, shapes = fingerprint(model)
        if (name, shapes) != (self.model, self.shapes):
            why = f"of the class {self.model}, this is {name}"
            if name == self.model:
                why = f"whose weights have other shapes, though it is a {name} too"
            raise InvalidInput(f"this calibration belongs to a model {why}: {ADVICE} for this one")
        if not self.same_grid(sigmas):
            steps, own = len(sigmas) - 1, len(self.sigmas) - 1
            why = f"{own} steps, SIGMAS has {steps}"
            if own == steps:
                why = f"{own} other noise levels (scheduler, shift or denoise differ)"
            raise InvalidInput(
                f"this calibration belongs to a grid of {why}: connect the SIGMAS that it was "
                f"recorded on, or {ADVICE} for these"
            )
        if calls >= len(sigmas) - 1:
            return tuple(range(len(sigmas) - 1))
        if calls not in self.nodes:
            raise InvalidInput(
                f"this calibration has no list of {calls} calls: choose {min(self.nodes)} to "
                f"{max(self.nodes)}"
            )
        return self.nodes[calls]

    def to_json(self) -> str:
        lists = {str(calls): write_nodes(nodes) for calls, nodes in self.nodes.items()}
        fields = {"format": FORMAT, **vars(self), "nodes": lists}
        # One line for every field, one for every list.
        lines = (f" {json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items() if k != "nodes")
        rows = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in lists.items())
        return "{\n" + ",\n".join([*lines, ' "nodes": {\n' + ",\n".join(rows) + "\n }"]) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Raises InvalidInput, KeyError or TypeError for anything but ``to_json``'s text."""
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise InvalidInput("another format")
        lists = {int(calls): read_nodes(nodes) for calls, nodes in fields.pop("nodes").items()}
        sigmas, drift = (tuple(map(float, fields.pop(k))) for k in ("sigmas", "drift"))
        made = cls(**fields, sigmas=sigmas, drift=drift, nodes=lists)
        if not lists or any(
            len(nodes) != calls or nodes[-1] >= len(sigmas) - 1 for calls, nodes in lists.items()
        ):
            raise InvalidInput("a list that does not fit its grid")
        return made


def folder() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER


def names() -> list[str]:
    """The files that there are."""
    return sorted(p.name for p in folder().glob("*.json"))


def file_name(name: str) -> str:
    """``name`` as a file's, without folders. Raises InvalidInput when nothing of it is left."""
    safe = re.sub(r"[^\w.-]+", "_", name).strip("._-")[:80]
    if not safe:
        raise InvalidInput(f"{name!r} is no name for a file: use letters and digits")
    return safe if safe.endswith(".json") else f"{safe}.json"


def save(calibration: Calibration, name: str = "") -> str:
    """Write it under ``name``, or its own default one; returns the file's name.

    The same model and grid are replaced. Raises InvalidInput rather than replace others'.
    """
    target = folder() / file_name(name or calibration.default_name)
    if target.exists():
        old = load(target.name)
        if (old.model, old.shapes) != (
            calibration.model,
            calibration.shapes,
        ) or not old.same_grid(calibration.sigmas):
            raise InvalidInput(
                f"{target.name} holds the calibration of another model or grid: choose another name"
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(calibration.to_json(), "utf-8")
    draft.replace(target)  # never half a file
    return target.name


def load(name: str) -> Calibration:
    """Raises InvalidInput, in words, for a file that is not there or no calibration."""
    if name not in names():
        raise InvalidInput(
            f"{name} is not in ComfyUI's output/{FOLDER}: {ADVICE}, or press R to refresh the list"
        )
    try:
        return Calibration.from_json((folder() / name).read_text("utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
        raise InvalidInput(
            f"{name} is no calibration, or damaged ({str(e)[:80]}): delete it and {ADVICE}"
        ) from e


FEWEST, MOST = 6, 20
