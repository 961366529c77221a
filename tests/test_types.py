"""The type checker finds nothing: in all of it, and in nodes/ with each ComfyUI that is found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.networks.comfy.folder import find_all

ROOT = Path(__file__).resolve().parents[1]


def diagnostics(folder: Path, config: dict) -> list[dict]:
    """What the checker says of the tree, by pyproject.toml's settings and these beside them."""
    project = folder / "pyrightconfig.json"
    project.write_text(json.dumps({"extends": (ROOT / "pyproject.toml").as_posix()} | config))
    command = [sys.executable, "-m", "basedpyright", "--outputjson"]
    command += ["--project", str(project), "--pythonpath", sys.executable]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode in (0, 1), run.stdout + run.stderr  # 1: there are errors
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(list((ROOT / "nodes").rglob("*.py")))
    return report["generalDiagnostics"]


def lines(found: list[dict]) -> str:
    return "\n".join(
        f"{d['file']}:{d['range']['start']['line'] + 1}: {d['message']} ({d.get('rule')})"
        for d in found
    )


def errors(found: list[dict]) -> list[dict]:
    return [d for d in found if d["severity"] == "error"]


def test_everything_without_a_host(tmp_path: Path) -> None:
    wrong = errors(diagnostics(tmp_path, {}))
    assert not wrong, lines(wrong)


@pytest.mark.comfy
@pytest.mark.parametrize("host", find_all(), ids=lambda host: host.name)
def test_nodes_with_the_sources_of_a_host(tmp_path: Path, host: Path) -> None:
    config = {"extraPaths": [host.as_posix()], "reportMissingImports": "warning"}
    config["include"] = [(ROOT / "nodes").as_posix()]  # nothing else imports the host's modules
    found = diagnostics(tmp_path, config)
    unknown = [d for d in found if d["message"].startswith('Import "comfy')]
    assert not unknown, lines(unknown)
    wrong = errors(found)
    assert not wrong, lines(wrong)
