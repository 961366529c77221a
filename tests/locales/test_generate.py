"""locales/en is what the script makes of the nodes, in each ComfyUI that is found."""

import os
import subprocess
from pathlib import Path

import pytest

from training.networks.comfy.folder import find_all, python_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.comfy
@pytest.mark.parametrize("host", find_all(), ids=lambda host: host.name)
def test_the_english_texts_are_those_of_the_nodes(host: Path) -> None:
    run = subprocess.run(
        [python_of(host), ROOT / "locales/generate.py", "--check"],
        cwd=host,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
