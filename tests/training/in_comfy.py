"""ComfyUI opened in this process as the trainer opens it, and what tests inside it share."""

import atexit
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.host import tiny
from tests.host.server import PACK
from tests.inside import COMFY, OWN_PYTHON
from training.networks.comfy.host import open_host

torch.set_num_threads(1)
HOST = open_host(COMFY, torch.device("cpu"))
WITH_SERVER = "server" in sys.modules
NEW = HOST.version >= (0, 4)
WORK = Path(tempfile.mkdtemp(prefix="in_comfy_"))
atexit.register(shutil.rmtree, WORK, ignore_errors=True)
MODELS = WORK / "models"
"""The tiny models of ``tests/host/tiny.py``, once a test has asked for ``tiny_models``."""


@pytest.fixture(scope="session")
def tiny_models() -> Path:
    tiny.write(MODELS)
    return MODELS


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[None]:
    """While a module's tests run: stand-ins for text encoders, small Flux and Qwen files read."""
    places = [
        (HOST.sd, "load_clip"),
        (HOST.sd, "load_checkpoint_guess_config"),
        (HOST.sd.VAE, "decode"),
        (HOST.detection, "detect_unet_config"),
    ]
    before = [getattr(owner, name) for owner, name in places]
    sys.modules.pop("tests.host.test_nodes", None)
    importlib.import_module("tests.host.test_nodes")  # which puts them there
    yield
    for (owner, name), value in zip(places, before, strict=True):
        setattr(owner, name, value)


def run_outside(*arguments: object) -> None:
    """Run a Python module of this repository by its own interpreter, which has more packages."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    python = Path(os.environ.get(OWN_PYTHON, PACK / ".venv" / inside))
    if not python.exists():
        pytest.skip(f"there is no {python}: run python dev.py test once, or set {OWN_PYTHON}")
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(a) for a in (python, "-m", *arguments)]
    done = subprocess.run(command, cwd=PACK, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def refused(function, *words: str, kind: type[Exception] = ValueError) -> None:
    """In one sentence that has these words."""
    with pytest.raises(kind) as caught:
        function()
    told = str(caught.value)
    assert "\n" not in told and all(word in told for word in words), told


def close(found: torch.Tensor, exact: torch.Tensor, tolerance: float, what: str = "") -> float:
    """Their difference, as a part of the second."""
    error = float((found.double() - exact.double()).norm() / exact.double().norm())
    assert error < tolerance, f"{what} differs by {error:.2e}"
    return error
