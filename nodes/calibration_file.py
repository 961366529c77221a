"""Calibrations: at which nodes of a grid a model is called, as small JSON files.

They lie in ComfyUI's output folder, where its own nodes save the models that they make: it is
writable, and ``--output-directory`` moves it.
"""

import hashlib
import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
import torch
from torch import Tensor

from ..sv_core.errors import InvalidInput, Unavailable
from .grid_check import require_flow_grid
from .host.contract import of_the_host

CALIBRATION_FOLDER = "stable_velocity"
"""The name of the folder within ComfyUI's output folder."""
FORMAT = "stable_velocity calibration 1"
FEWEST_CALLS, MOST_CALLS = 6, 20
"""The numbers of calls for which a calibration holds a list."""
LONGEST_NAME = 80
"""Bytes of a file's name without its ending."""
MOST_BYTES = 1 << 20
"""Of a file; one of 100 steps has 10,000."""
UNREADABLE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, RecursionError),
    OverflowError,
)
"""What reading another file, or half of one, raises."""
ADVICE = "record one with StableVS Calibrate"
Nodes = tuple[int, ...]


@of_the_host
def fingerprint(model: Any) -> tuple[str, str]:
    """A MODEL's class, and a hash of the names and shapes of its weights, whatever their file.

    Vectors are left out: files of scaled weights hold additional ones for the same model.
    """
    network = model.model.diffusion_model
    shapes = sorted((k, tuple(p.shape)) for k, p in network.named_parameters() if p.ndim > 1)
    return type(model.model).__name__, hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


def write_nodes(nodes: Sequence[int]) -> str:
    """A list of nodes as text: ``0 2 4 7``."""
    return " ".join(map(str, nodes))


def read_nodes(text: str) -> Nodes:
    """The nodes of a text such as ``0 2 4 7`` or ``0, 2, 4, 7``; an empty text gives ().

    Raises InvalidInput for other text, and for nodes that do not ascend from 0.
    """
    words = text.replace(",", " ").split()
    if not all(re.fullmatch(r"\d{1,5}", word) for word in words):
        raise InvalidInput(
            f"nodes must be whole numbers such as 0 2 4 7, or empty, got {text.strip()[:60]!r}"
        )
    nodes = tuple(int(word) for word in words)
    if nodes and (nodes[0] != 0 or any(a >= b for a, b in pairwise(nodes))):
        raise InvalidInput(f"nodes must begin with 0 and ascend, got {write_nodes(nodes[:40])}")
    return nodes


class Subject(NamedTuple):
    """What is calibrated: a model by its ``fingerprint``, on a grid."""

    model: str
    shapes: str
    sigmas: tuple[float, ...]

    @property
    def default_name(self) -> str:
        """A name for the file, another one for every model and grid."""
        grid = hashlib.sha256(repr(self.sigmas).encode()).hexdigest()[:6]
        return f"{self.model}-{self.shapes[:6]}-{len(self.sigmas) - 1}steps-{grid}"


def subject_of(model: Any, sigmas: Tensor) -> Subject:
    """A MODEL on a grid, whose values are rounded as files have them."""
    return Subject(*fingerprint(model), tuple(round(t, 7) for t in sigmas.double().tolist()))


def same_grid(own: Sequence[float], sigmas: Sequence[float] | Tensor) -> bool:
    """Whether two grids are the same, up to rounding."""
    other = list(map(float, sigmas))
    return len(own) == len(other) and all(
        abs(a - b) < 1e-5 for a, b in zip(own, other, strict=True)
    )


@dataclass(frozen=True)
class Calibration:
    """The nodes at which to call one model on one grid, for several numbers of calls."""

    model: str
    shapes: str
    """The hash of the model's ``fingerprint``; ``model`` is its class."""
    sigmas: tuple[float, ...]
    nodes: dict[int, Nodes]
    drift: tuple[float, ...]
    """|dv/dsigma| / |v| between neighbouring nodes, (n-1,), for the plot."""
    split: float | None
    """The sigma at which the drift leaves its plateau towards noise; None if it does not."""
    runs: int
    seed: int
    checked: int
    """The number of calls whose list was checked in runs of the model."""

    @property
    def subject(self) -> Subject:
        """What was calibrated."""
        return Subject(self.model, self.shapes, self.sigmas)

    def nodes_for(self, model: Any, sigmas: Tensor, calls: int) -> Nodes:
        """The nodes for this number of calls; every node if the grid has no more steps.

        Raises InvalidInput for another model or grid, and for a number of calls without a list.
        """
        name, shapes = fingerprint(model)
        if (name, shapes) != (self.model, self.shapes):
            why = f"of the class {self.model}, this is {name}"
            if name == self.model:
                why = f"whose weights have other shapes, though it is a {name} too"
            raise InvalidInput(f"this calibration belongs to a model {why}: {ADVICE} for this one")
        if not same_grid(self.sigmas, sigmas):
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
        # One line for each field, and one for each list.
        lines = (f" {json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items() if k != "nodes")
        rows = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in lists.items())
        return "{\n" + ",\n".join([*lines, ' "nodes": {\n' + ",\n".join(rows) + "\n }"]) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Raises one of UNREADABLE for anything but ``to_json``'s text."""
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise InvalidInput("another format")
        lists = {int(calls): read_nodes(nodes) for calls, nodes in fields.pop("nodes").items()}
        sigmas, drift = (tuple(map(float, fields.pop(k))) for k in ("sigmas", "drift"))
        made = cls(**fields, sigmas=sigmas, drift=drift, nodes=lists)
        made._require_sound()
        return made

    def _require_sound(self) -> None:
        """Raise InvalidInput for what no recorded run can have given."""
        steps, numbers = len(self.sigmas) - 1, (self.runs, self.seed, self.checked)
        require_flow_grid(torch.tensor(self.sigmas, dtype=torch.float64), "its grid", fewest=2)
        if not self.nodes or any(
            len(nodes) != calls or not nodes or nodes[-1] >= steps
            for calls, nodes in self.nodes.items()
        ):
            raise InvalidInput("a list that does not fit its grid")
        if len(self.drift) != steps - 1 or not all(map(math.isfinite, self.drift)):
            raise InvalidInput("a drift that does not fit its grid")
        if self.split is not None and not 0 <= self.split <= 1:
            raise InvalidInput("a split outside 0 to 1")
        if not all(isinstance(text, str) for text in (self.model, self.shapes)):
            raise InvalidInput("a model without a name")
        if not all(isinstance(number, int) for number in numbers) or self.checked not in self.nodes:
            raise InvalidInput("other numbers than were recorded")


@of_the_host
def folder() -> Path:
    """Where the calibrations lie; it exists once one was saved."""
    return Path(folder_paths.get_output_directory()) / CALIBRATION_FOLDER


def path_of(name: str) -> Path:
    """The path of a calibration's file, of which folders in ``name`` are no part."""
    return folder() / Path(name).name


def names() -> list[str]:
    """The names of all saved calibrations: of files, since a pipe would be waited for."""
    return sorted(p.name for p in folder().glob("*.json") if p.is_file())


def file_name(name: str) -> str:
    """``name`` as a file name without folders. Raises InvalidInput when no character remains."""
    safe = re.sub(r"[^\w.-]+", "_", name)
    # File systems count bytes, and a cut must not leave half a character.
    safe = safe.encode()[:LONGEST_NAME].decode(errors="ignore").strip("._-")
    if not safe:
        raise InvalidInput(f"{name[:40]!r} is no name for a file: use letters and digits")
    return safe if safe.endswith(".json") else f"{safe}.json"


def place_for(subject: Subject, name: str = "") -> Path:
    """Where the calibration of a subject goes; everything that can be refused is refused here.

    So it is asked before the runs. A file of the same model and grid will be replaced. Raises
    InvalidInput for a name that cannot be one, for a file of others, and for a folder that cannot
    be written into.
    """
    target = folder() / file_name(name or subject.default_name)
    if target.exists():
        old = load(target.name)
        if old.subject[:2] != subject[:2] or not same_grid(old.sigmas, subject.sigmas):
            raise InvalidInput(
                f"{target.name} holds the calibration of another model or grid: choose another name"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as e:
        raise Unavailable(
            f"nothing can be written into {CALIBRATION_FOLDER} in ComfyUI's output folder "
            f"({e.strerror}): make room, or allow it"
        ) from e
    return target


def save(calibration: Calibration, name: str = "") -> str:
    """Write a calibration under ``name``, or its default name; returns the name of the file.

    Raises InvalidInput as ``place_for`` does.
    """
    target = place_for(calibration.subject, name)
    draft = target.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(calibration.to_json())
            file.flush()
            os.fsync(file.fileno())  # before it takes the place of the old one
        draft.replace(target)
        _sync_folder(target.parent)
    except OSError as e:
        raise Unavailable(f"{target.name} cannot be written ({e.strerror}): make room") from e
    finally:
        draft.unlink(missing_ok=True)
    return target.name


def _sync_folder(path: Path) -> None:
    """Make a file's new name last; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(name: str) -> Calibration:
    """Read a calibration. Raises InvalidInput for a file that is missing, damaged or another."""
    if name not in names():
        shown = name[:80] if name.isprintable() else repr(name)[:80]
        raise InvalidInput(
            f"{shown} is not in ComfyUI's output/{CALIBRATION_FOLDER}: {ADVICE}, or press R to "
            "refresh the list"
        )
    try:
        return Calibration.from_json(_read_text(folder() / name))
    except UNREADABLE as e:
        raise InvalidInput(
            f"{name} is no calibration, or damaged ({str(e)[:80]}): delete it and {ADVICE}"
        ) from e


def _read_text(path: Path) -> str:
    """The text of a file that can be one of ours by its size."""
    if path.stat().st_size > MOST_BYTES:
        raise InvalidInput("it is too large")
    return path.read_text("utf-8")
