"""Tests that need ComfyUI in their own process: each ComfyUI's own Python runs them.

A file that says ``pytest.mark.inside`` is plain pytest. Started in a ComfyUI's folder, pytest runs
these files and no others:

    cd ComfyUI
    PYTHONPATH=PACK/out/for_hosts .venv/bin/python -m pytest PACK/tests/nodes

Started anywhere else, it hands them to every ComfyUI that is found, all files of one folder of
``tests`` to one process, since ComfyUI takes seconds to import; each test is reported by its name.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.server import PACK, Host, find_hosts

TESTS = PACK / "tests"
LENT = PACK / "out" / "for_hosts"
MISSING = (
    "no ComfyUI found, so nothing was tested inside one: set COMFYUI_PATH to the folder that holds "
    "its main.py"
)
OWN_PYTHON = "STABLE_VELOCITY_PYTHON"
"""The environment variable that names this repository's own interpreter to tests inside."""
_BORROWED = (
    *("pytest", "pluggy", "iniconfig", "packaging", "pygments"),
    *("exceptiongroup", "tomli", "typing_extensions"),  # what pytest needs more in Python 3.10
    "accelerate",
)
_WHOLE_RUN = 1200.0  # seconds


def comfy_of_this_process() -> Path | None:
    """The ComfyUI in whose folder this process was started."""
    here = Path.cwd()
    return here if (here / "main.py").is_file() and (here / "comfy").is_dir() else None


COMFY = comfy_of_this_process()
HOSTS = [] if COMFY else find_hosts()


def is_inside(path: Path) -> bool:
    """Whether a test file says that it runs inside ComfyUI; read, because it cannot be imported."""
    return "pytest.mark.inside" in path.read_text("utf-8") and path.name.startswith("test_")


def lend() -> Path:
    """A folder with links to packages in plain Python that a ComfyUI's Python may lack.

    Nothing compiled is lent to another interpreter, and nothing is installed in its environment.
    """
    LENT.mkdir(parents=True, exist_ok=True)
    for name in _BORROWED:
        try:
            files = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed by a Python like this one
        for part in {Path(file).parts[0] for file in files.files or ()} - {"..", "__pycache__"}:
            _link(LENT / part, Path(str(files.locate_file(part))))
    return LENT


def _link(place: Path, target: Path) -> None:
    if place.is_symlink() and place.readlink() == target:
        return
    made = place.with_name(f"{place.name}.{os.getpid()}")
    made.symlink_to(target)
    made.replace(place)  # whole for others that do the same now


class InsideFile(pytest.File):
    """A file whose tests run inside every ComfyUI: an item for each."""

    def collect(self) -> Iterator[pytest.Item]:
        for host in HOSTS or [None]:
            name = host.name if host else "no ComfyUI"
            item = InsideItem.from_parent(self, name=name, host=host)
            item.add_marker("comfy")
            item.add_marker("inside")
            yield item


class InsideItem(pytest.Item):
    """All tests of a file in one ComfyUI."""

    def __init__(self, *, host: Host | None, **options):
        super().__init__(**options)
        self.host = host

    def runtest(self) -> None:
        pytest.skip(MISSING)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.nodeid

    @property
    def folder(self) -> str:
        return self.path.relative_to(TESTS).parts[0]

    def run(self) -> None:
        """Report what ComfyUI's pytest reported of this file, as if it had happened here."""
        reports = [self._named(report) for report in _run_of(self).reports_of(self)]
        self.session.testscollected += len({report.nodeid for report in reports}) - 1
        for report in reports:
            if report.when == "setup":
                self.ihook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
            self.ihook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                self.ihook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)

    def _named(self, report: pytest.TestReport) -> pytest.TestReport:
        file, _, test = report.nodeid.partition("::")
        report.nodeid = "::".join(filter(None, (file, self.name, test)))
        return report


class _Run:
    """What one ComfyUI's pytest reported of files of one folder."""

    def __init__(self, host: Host, files: list[Path], config: pytest.Config):
        self._config = config
        command = [host.python, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
        command += ["--continue-on-collection-errors", *(str(file) for file in files)]
        if config.option.keyword:
            command += ["-k", config.option.keyword]
        if config.option.slow:
            command.append("--slow")
        shown = config.option.capture == "no"
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder) / "reports.jsonl"
            done = subprocess.run(
                [*command, "--reports", said, *["-s"] * shown],
                cwd=host.folder,
                env=_environment(),
                stdout=None if shown else subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_WHOLE_RUN,
            )
            lines = said.read_text("utf-8").splitlines() if said.exists() else []
        self._reports = [json.loads(line) for line in lines]
        self._broken = None
        if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, 5):
            end = (done.stdout or "")[-4000:]
            self._broken = f"pytest in {host.folder} ended with {done.returncode}:\n{end}"

    def reports_of(self, item: InsideItem) -> list[pytest.TestReport]:
        """Those of the item's file, and a failed one if something kept its tests from running."""
        file = item.nodeid.split("::")[0]
        found = []
        for data in self._reports:
            if data["nodeid"].split("::")[0] == file:
                report = self._config.hook.pytest_report_from_serializable(
                    config=self._config, data=data
                )
                if isinstance(report.longrepr, list):
                    report.longrepr = tuple(report.longrepr)  # of a skipped test: JSON has lists
                found.append(report)
        failures = [_failed(r.nodeid, r.longrepr) for r in found if r.when == "collect"]
        if self._broken or not (found or self._config.option.keyword):
            failures.append(_failed(file, self._broken or "ComfyUI's pytest reported no test"))
        return [r for r in found if r.when != "collect"] + failures


def _failed(nodeid: str, reason: object) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid, (nodeid, 0, nodeid), {}, "failed", reason, "setup"  # pyright: ignore
    )  # fmt: skip


def _environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(lend()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",  # the networks are too small for more
        OWN_PYTHON: sys.executable,
    }


_RUNS = pytest.StashKey[dict[tuple[str, str], _Run]]()


def _run_of(item: InsideItem) -> _Run:
    """The run of its host and folder; the first that asks starts it."""
    runs = item.session.stash.setdefault(_RUNS, {})
    key = item.name, item.folder
    if key not in runs:
        items = [i for i in item.session.items if isinstance(i, InsideItem)]
        files = [i.path for i in items if (i.name, i.folder) == key]
        assert item.host is not None
        runs[key] = _Run(item.host, files, item.config)
    return runs[key]


class Reports:
    """Inside: writes every report into a file, for the pytest outside."""

    def __init__(self, path: Path, config: pytest.Config):
        self._config, self._file = config, path.open("w", encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report)

    def _write(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        hook = self._config.hook.pytest_report_to_serializable
        data = hook(config=self._config, report=report)
        print(json.dumps(data, default=str), file=self._file, flush=True)
