"""A real ComfyUI per checkout that is found, once per session; without one, skips that say so."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from sv_core.models.sit import with_interval
from sv_core.models.sit_file import from_checkpoint, to_metadata
from tests.host.server import Host, Server, furnish, write_tiny_models
from tests.inside import HOSTS, MISSING
from training.files import read_weights

HERE = Path(__file__).parent


@pytest.fixture(scope="session", params=HOSTS or [None], ids=lambda h: h.name if h else "none")
def comfy(request: pytest.FixtureRequest) -> Host:
    """Each ComfyUI checkout."""
    if request.param is None:
        pytest.skip(MISSING)
    return request.param


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random models of all the families, as a models folder; every host writes the same bytes."""
    folder = tmp_path_factory.mktemp("tiny") / "models"
    write_tiny_models(HOSTS[0], folder)
    return folder


def write_meanflow_start(digits_checkpoint: Path, folder: Path) -> None:
    """digits_meanflow.safetensors as MeanFlow's training starts: its jumps are Euler's steps."""
    model, latent = from_checkpoint(*read_weights(digits_checkpoint))
    model = with_interval(model)
    tensors, metadata = model.state_dict(), to_metadata(model.config, latent)
    save_file(tensors, folder / "digits_meanflow.safetensors", metadata)


@pytest.fixture(scope="session")
def server(
    comfy: Host,
    digits_checkpoint: Path,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A running server of that checkout that has the pack, the digits model and tiny others."""
    base = tmp_path_factory.mktemp(comfy.name, numbered=True)
    models = furnish(base, comfy, tiny_models)
    shutil.copy2(digits_checkpoint, models / "digits_sit.safetensors")
    write_meanflow_start(digits_checkpoint, models)
    running = Server(comfy, base)
    yield running
    running.stop()


@pytest.fixture
def digits() -> dict:
    """The API-format twin of workflows/digits.json, to change at will."""
    return json.loads((HERE / "digits_api.json").read_text())
