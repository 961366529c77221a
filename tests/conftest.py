"""Fixtures for every test, and what is done with those that run inside ComfyUI (``inside.py``)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inside import COMFY, MISSING, InsideFile, InsideItem, Reports, is_inside

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "out" / "demo" / "digits_sit.safetensors"
SOURCES = ("sv_core", "training")

if COMFY:  # its nodes.py goes before our folder of that name
    elsewhere = [p for p in sys.path if p not in (str(COMFY), str(ROOT))]
    sys.path[:] = [str(COMFY), *elsewhere, str(ROOT)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also the trainings inside ComfyUI")
    parser.addoption("--reports", type=Path, help="write every report into this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.reports:
        config.pluginmanager.register(Reports(config.option.reports, config))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Inside ComfyUI only what is for it."""
    if COMFY is None:
        return None
    files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    return None if any(map(is_inside, files)) else True


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> InsideFile | None:
    if COMFY is None and is_inside(module_path):
        return InsideFile.from_parent(parent, path=module_path)
    return None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    """Leave -k to the pytest inside; have trainings in real hosts, which take minutes, wait."""
    inside = [item for item in items if isinstance(item, InsideItem)]
    items[:] = [item for item in items if not isinstance(item, InsideItem)]
    if not config.option.slow:
        skip = pytest.mark.skip(reason="takes minutes: python dev.py test -m comfy --slow")
        for item in items:
            marks = {mark.name for mark in item.iter_markers()}
            if "slow" in marks and marks & {"comfy", "inside"}:
                item.add_marker(skip)
    yield
    config.pluginmanager.get_plugin("mark").deselect_by_mark(inside, config)
    items += inside


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if isinstance(item, InsideItem) and item.host:
        item.run()
        return True
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if any(MISSING in str(report.longrepr) for report in skipped):
        terminalreporter.section("ComfyUI tests skipped", red=True, bold=True)
        terminalreporter.write_line(MISSING)


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
