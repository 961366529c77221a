"""LoRA on each host's own networks; the checks are in ``inside_lora.py``. ``pytest -s`` prints."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.host.server import PACK, Host

pytestmark = pytest.mark.comfy
SCRIPT = Path(__file__).parent / "inside_lora.py"


@pytest.fixture(scope="module")
def found(comfy: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What the checks found in that checkout's own interpreter: check -> complaint or None."""
    out = tmp_path_factory.mktemp("lora")
    done = subprocess.run(
        [comfy.python, SCRIPT, PACK, out / "results.json", out],
        cwd=comfy.folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((out / "results.json").read_text())
    print(f"\n{comfy.name}")
    for label, figure in results["figures"].items():
        print(f"  {label}: {figure}")
    return results["checks"]


@pytest.mark.parametrize("name", re.findall(r"^def check_(\w+)", SCRIPT.read_text(), re.MULTILINE))
def test_inside(found: dict, name: str) -> None:
    assert found[name] is None, found[name]
