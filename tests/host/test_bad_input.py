"""What the commands say of bad input, in each host; the checks are in ``inside_bad_input.py``."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.host.circle import environment
from tests.host.server import PACK, Host

INSIDE = Path(__file__).parent / "inside_bad_input.py"
CHECKS = re.findall(r"^def check_(\w+)", INSIDE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def found(comfy: Host, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the checks found in that host: check -> complaint or None."""
    out = tmp_path_factory.mktemp(f"bad_input_{comfy.name}")
    done = subprocess.run(
        [comfy.python, INSIDE, comfy.folder, out],
        cwd=PACK,
        env=environment(out / "packages"),
        capture_output=True,
        text=True,
        timeout=200,  # nothing is to wait for anything
    )
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stderr)
    return json.loads((out / "results.json").read_text())


@pytest.mark.comfy
@pytest.mark.parametrize("name", CHECKS)
def test_bad_input_inside(found: dict, name: str) -> None:
    assert found[name] is None, found[name]
