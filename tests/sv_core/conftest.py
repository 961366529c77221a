"""Fixtures of the core's tests: seeded randomness and the official code's own numbers."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
# golden.* is cut from the full file so that a clone has it: the notes and the numbers no test uses
# are left out, and of the single steps, which act on each number alone, a 2x2 corner is kept.
COPIES = {
    "carried": HERE / "golden",
    "full": HERE.parents[2] / "shared" / "golden" / "stable_velocity",
}


class Golden(NamedTuple):
    """What the official Stable Velocity code prints (commit 10d61e3): an index and its arrays.

    The index's ``tau`` is two things: a step's end (our r) and a weight's split.
    """

    index: dict[str, list[dict]]
    arrays: dict[str, np.ndarray]

    def tensors(self, key: str, *names: str) -> list[Tensor]:
        return [torch.from_numpy(self.arrays[f"{key}_{name}"]) for name in names]


@pytest.fixture(
    scope="session", params=[name for name, p in COPIES.items() if p.with_suffix(".npz").exists()]
)
def golden(request) -> Golden:
    path = COPIES[request.param]
    with np.load(path.with_suffix(".npz")) as arrays:
        return Golden(json.loads(path.with_suffix(".json").read_text()), dict(arrays))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The tensors here are too small to share: two threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
