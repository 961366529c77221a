"""A ninth family through the one door: each host runs the tests in ``inside_new_family.py``."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.host import circle
from tests.host.new_family import HUNYUAN_VIDEO
from tests.host.server import PACK, Host
from training.data import digits

INSIDE = Path(__file__).parent / "inside_new_family.py"
TESTS = re.findall(r"^def (test_\w+)", INSIDE.read_text("utf-8"), re.MULTILINE)


def write_text_encoders(out: Path) -> None:
    """Stand-ins for a CLIP-L, which says no sizes, and for a language model, which comes first."""
    circle.text_encoder(out / "clip_l.safetensors", "clip_l", (5, 4096, 768))
    _, llama = HUNYUAN_VIDEO.text.usable
    sign = torch.zeros(llama.size, 1, dtype=torch.uint8)
    save_file({llama.sign: sign}, out / "llama.safetensors")


@pytest.fixture(scope="module")
def found(comfy: Host, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the tests found in that host: test -> complaint or None."""
    out = tmp_path_factory.mktemp("new_family")
    train, _ = digits.load()
    circle.write_videos(out / "videos", train.images[:8], train.labels[:8] % 2, frames=5)
    save_file(circle.autoencoder(HUNYUAN_VIDEO.latent), out / "vae.safetensors")
    write_text_encoders(out)
    circle.configure(
        out / "run.toml",
        comfy={"checkpoint": str(out / "hunyuan.safetensors"), "folder": str(comfy.folder)},
        data={"cache": str(out / "cache"), "batch_size": 4, "held_out": 0.0},
        lora={"rank": 4},
        optim={"steps": 4, "lr": 1e-2, "ema": 0.5},
        run={"out": str(out / "run"), "device": "cpu", "report_every": 1},
    )
    done = subprocess.run(
        [comfy.python, INSIDE, comfy.folder, out],
        cwd=out,
        env=circle.environment(out / "packages"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((out / "results.json").read_text())


@pytest.mark.comfy
@pytest.mark.parametrize("name", TESTS)
def test_inside(found: dict, name: str) -> None:
    assert found[name] is None, found[name]


def test_the_page_shows_this_very_code() -> None:
    code = (Path(__file__).parent / "new_family.py").read_text("utf-8")
    page = (PACK / "docs/adding_a_family.md").read_text("utf-8")
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    parts = re.split(r"^# .*\n\n", code, flags=re.MULTILINE)[1:3]
    assert [part.strip() for part in parts] == [part.strip() for part in shown[:2]]
