"""Caches for ComfyUI's families; the checks are in ``inside_prepare.py``, run by each host."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from tests.host.server import PACK, Host
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig

pytestmark = pytest.mark.comfy
INSIDE = Path(__file__).parent / "inside_prepare.py"
CHECKS = re.findall(r"^def check_(\w+)", INSIDE.read_text(), re.MULTILINE)


def write_flux_vae(pictures: Path) -> None:
    """A VAE of Flux's own size and of random numbers, and the cache that diffusers makes by it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    path = pictures / "flux_vae.safetensors"
    save_file({k: v.half() for k, v in model.state_dict().items()}, path)
    config = PrepareConfig(family="flux", vae=str(path), size=32)
    prepare(pictures / "few", pictures / "flux", config)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Twenty digits of four classes, and Flux's VAE with what diffusers makes of them."""
    root = tmp_path_factory.mktemp("pictures")
    data = load_digits()
    for i in np.flatnonzero(data.target < 4)[:20]:
        path = root / "digits" / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        digit = Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8))
        digit.resize((32, 32), Image.Resampling.BICUBIC).save(path)
    shutil.copytree(root / "digits/0", root / "few/0")
    write_flux_vae(root)
    yield root
    (root / "flux_vae.safetensors").unlink()


@pytest.fixture(scope="module")
def found(
    comfy: Host, tiny_models: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """What the checks found in that host: check -> complaint or None."""
    out = tmp_path_factory.mktemp("caches")
    done = subprocess.run(
        [comfy.python, INSIDE, PACK, comfy.folder, pictures, tiny_models, out],
        cwd=out,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for large in ("clip_l", "part"):
        (out / f"{large}.safetensors").unlink()
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("name", CHECKS)
def test_prepare_inside(found: dict, name: str) -> None:
    said = found[name]
    if said and said.startswith("skipped: "):
        pytest.skip(said)
    assert said is None, said
