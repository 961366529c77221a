"""MeanFlow of ComfyUI's families; most checks are in ``inside_interval.py``, run by each host."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from sv_core.errors import InvalidInput
from tests.host.circle import configure, environment
from tests.host.server import Host
from tests.host.torchrun_data import write_cache
from training.config.load import load

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
INSIDE = Path(__file__).parent / "inside_interval.py"
CHECKS = re.findall(r"^def check_(\w+)", INSIDE.read_text(), re.MULTILINE)
LORA = {"rank": 4}
RUNS = {"sd3": LORA, "flux": LORA, "wan": None}
STEPS = {"sd3": 8, "flux": 4, "wan": 4}


def write_run(out: Path, family: str, folder: Path) -> None:
    """A cache, and the configuration of a short run on it."""
    write_cache(out / f"{family}_cache", family)
    lora = RUNS[family]
    configure(
        out / f"{family}.toml",
        comfy={"checkpoint": str(out / f"{family}.safetensors"), "folder": str(folder)},
        data={"cache": str(out / f"{family}_cache"), "batch_size": 4},
        objective={"kind": "meanflow"},
        meanflow={"equal": 0.25, "beta": 0.5, "guidance": 1.5},
        optim={"steps": STEPS[family], "lr": 1e-2, "ema": 0.5},
        run={"out": str(out / f"{family}_run"), "device": "cpu", "report_every": 4},
        **({"lora": lora} if lora else {}),
    )


@pytest.fixture(scope="module")
def found(comfy: Host, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the checks found in that host: check -> complaint or None."""
    out = tmp_path_factory.mktemp("intervals")
    for family in RUNS:
        write_run(out, family, comfy.folder)
    done = subprocess.run(
        [comfy.python, INSIDE, comfy.folder, out],
        cwd=out,
        env=environment(out / "packages"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stderr)
    return json.loads((out / "results.json").read_text())


@pytest.mark.comfy
@pytest.mark.parametrize("name", CHECKS)
def test_interval_inside(found: dict, name: str) -> None:
    assert found[name] is None, found[name]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.name=SiT-S/2", "lora.rank=4"], r"\[lora\] keeps frozen in a SiT"),
        (["comfy.checkpoint=a", "comfy.offload_blocks=3"], "offload_blocks = 3.*set it to 0"),
        (["comfy.checkpoint=a", "meanflow.derivative=difference"], "difference is too coarse"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(tmp_path: Path, overrides, words) -> None:
    path = configure(
        tmp_path / "run.toml", objective={"kind": "meanflow"}, data={"cache": "nowhere"}
    )
    with pytest.raises(InvalidInput, match=words) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    load(path, ["comfy.checkpoint=a", "lora.rank=4"])
