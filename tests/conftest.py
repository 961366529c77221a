"""Fixtures for every test. The oracles of the mathematics are in ``sv_core/conftest.py``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "out" / "demo" / "digits_sit.safetensors"
SOURCES = ("sv_core", "training")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also the trainings inside ComfyUI")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Trainings in real hosts take some minutes for each, so they wait to be asked for."""
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="takes minutes: python dev.py test tests/host --slow")
    for item in items:
        if {"comfy", "slow"} <= {mark.name for mark in item.iter_markers()}:
            item.add_marker(skip)


def newest_source() -> float:
    """When what the checkpoint depends on was last changed."""
    files = (f for folder in SOURCES for f in (ROOT / folder).rglob("*") if f.suffix != ".pyc")
    return max(f.stat().st_mtime for f in files if f.is_file())


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits_sit.safetensors, trained as the demo does: the demo's own file if it is fresh.

    DIGITS_CHECKPOINT names another file, for a quick run of the tests.
    """
    named = os.environ.get("DIGITS_CHECKPOINT")
    if named:
        return Path(named)
    if DEMO.exists() and DEMO.stat().st_mtime > newest_source():
        return DEMO
    run = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-m", "training.finetune", "training/configs/digits.toml"]
    subprocess.run([*command, "--set", f'run.out="{run.as_posix()}"'], cwd=ROOT, check=True)
    weights = max(run.glob("*.safetensors"), key=lambda f: f.stat().st_mtime)
    return Path(shutil.copy2(weights, run / DEMO.name))
