"""A run's saved states: the newest and the one before it, each with a manifest that proves it.

    state-000500.pt      everything that resuming needs
    state-000500.json    BLAKE2 of that file, the weights' checksums, the configuration, and how
                         long metrics.jsonl was; with a checksum of its own

A manifest is written last: a state without one was cut short by a kill, and is none.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sv_core.errors import InvalidInput

from ..files import fingerprint, write_atomically

KEPT = 2
LETTERS = 32
_NAME = re.compile(r"state-(\d{6,})\.json")


@dataclass(frozen=True)
class Manifest:
    """What was saved at a step. ``metrics`` is (bytes, BLAKE2) of metrics.jsonl at that moment."""

    step: int
    state: str
    config: str
    weights: dict[str, str] = field(default_factory=dict)
    metrics: tuple[int, str] | None = None


class Generations:
    """The states in a run's folder."""

    def __init__(self, out: Path):
        self.out = out

    def state(self, step: int) -> Path:
        """The path of the state of a step."""
        return self.out / f"state-{step:06d}.pt"

    def manifest(self, step: int) -> Path:
        """The path of its manifest."""
        return self.state(step).with_suffix(".json")

    def steps(self) -> list[int]:
        """The steps that there are states of, the newest first."""
        names = (_NAME.fullmatch(path.name) for path in self.out.glob("state-*.json"))
        return sorted((int(match[1]) for match in names if match), reverse=True)

    def write_state(self, tree: Mapping[str, Any]) -> str:
        """Write the state of ``tree["step"]``; returns its BLAKE2. Raises Unavailable."""
        digest = hashlib.blake2b(digest_size=LETTERS // 2)

        def write(file: Any) -> None:
            stream: Any = _Digesting(file, digest)
            torch.save(dict(tree), stream)

        write_atomically(self.state(tree["step"]), write)
        return digest.hexdigest()

    def write_manifest(self, manifest: Manifest) -> None:
        """Raises Unavailable, in one sentence."""
        facts = json.loads(json.dumps(asdict(manifest)))
        text = json.dumps(facts | {"checksum": _checksum(facts)}, indent=1)
        write_atomically(self.manifest(manifest.step), lambda file: file.write(text.encode()))

    def read_manifest(self, step: int) -> Manifest:
        """Raises InvalidInput, in one sentence, when it is damaged."""
        path = self.manifest(step)
        try:
            facts = json.loads(path.read_text("utf-8"))
            checksum = facts.pop("checksum")
            if checksum != _checksum(facts) or facts["step"] != step:
                raise InvalidInput(f"{path.name} is damaged")
            facts["metrics"] = facts["metrics"] and tuple(facts["metrics"])
            return Manifest(**facts)
        except (
            KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError,
            RecursionError,
        ) as e:  # fmt: skip
            raise InvalidInput(f"{path.name} is damaged") from e

    def verify(self, step: int) -> Manifest:
        """The manifest of a state that is as it was written. Raises InvalidInput when it is not."""
        manifest, path = self.read_manifest(step), self.state(step)
        if not path.exists():
            raise InvalidInput(f"{path.name} is missing")
        if fingerprint(path, LETTERS) != manifest.state:
            raise InvalidInput(f"{path.name} is damaged")
        return manifest

    def prune(self) -> None:
        """Delete all but the newest states. What cannot be deleted is in nobody's way."""
        keep = self.steps()[:KEPT]
        for path in [*self.out.glob("state-*.json"), *self.out.glob("state-*.pt")]:
            if path not in [self.manifest(s) for s in keep] + [self.state(s) for s in keep]:
                with contextlib.suppress(OSError):
                    path.unlink()

    def set_aside(self, step: int) -> None:
        """Rename a damaged state, which is then no state any more."""
        for path in (self.manifest(step), self.state(step)):
            with contextlib.suppress(OSError):
                path.replace(path.with_name(f"damaged-{path.name}"))


class _Digesting:
    """A file of which all that is written is hashed."""

    def __init__(self, file: Any, digest: Any):
        self._file, self._digest = file, digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _checksum(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=LETTERS // 2).hexdigest()
