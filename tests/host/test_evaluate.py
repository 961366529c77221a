"""``python -m training.evaluate graph`` with real servers, and conversion beside the real page."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sv_core.errors import InvalidInput
from tests.host.server import PACK, Server
from tests.host.test_page import CHROMIUM
from tests.host.test_workflows import TWINS, require_nodes, twin
from training.evaluate.bed import make_bed
from training.evaluate.command import main
from training.evaluate.convert import is_link, to_prompt
from training.evaluate.graph import SAMPLERS

pytestmark = pytest.mark.comfy
PAGE_ONLY = {"compare_view", "audioUI", "refresh", "audio", "image"}
"""Inputs that only widgets of the page itself fill, which the nodes do not read."""


@pytest.fixture(scope="module")
def info(server: Server) -> dict:
    return server.get("/object_info")


def templates(server: Server) -> Iterator[tuple[str, dict]]:
    """The host's official templates, but for those of paid services."""
    packages = server.host.folder.glob(".venv/lib/python3*/site-packages/comfyui_workflow_templ*")
    for path in sorted(p for package in packages for p in package.rglob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        if not path.stem.startswith("api_") and isinstance(data, dict) and "nodes" in data:
            yield path.stem, data


def kinds_of(data: dict) -> set[str]:
    inside = (data.get("definitions") or {}).get("subgraphs", [])
    return {node["type"] for scope in (data, *inside) for node in scope["nodes"]}


@pytest.mark.parametrize("name", TWINS)
def test_a_workflow_becomes_the_prompt_that_the_page_makes(server, info, name: str) -> None:
    """tests/host/test_page.py holds that the twins are what the page makes."""
    wanted = json.loads(TWINS[name].read_text("utf-8"))
    require_nodes(server, wanted)
    made = to_prompt(json.loads((PACK / f"workflows/{name}.json").read_text("utf-8")), info)
    made = {k: v for k, v in made.items() if k in wanted or v["class_type"] in info}
    assert made.keys() == wanted.keys()
    for node, what in wanted.items():
        got = made[node]["inputs"]
        assert {k: got.get(k) for k in what["inputs"] if k in got} == {
            k: v for k, v in what["inputs"].items() if k in got
        }
        assert what["inputs"].keys() - got.keys() <= unknown(info, what), node


def unknown(info: dict, what: dict) -> set[str]:
    """Inputs of a twin that an older host does not have."""
    parts = info[what["class_type"]]["input"]
    known = {name for part in ("required", "optional") for name in parts.get(part) or {}}
    return {name for name in what["inputs"] if name.split(".")[0] not in known or "." in name}


def test_every_official_template_is_converted_and_measured_or_says_why_not(server, info) -> None:
    """Most that sample with a known sampler can be measured; the others are one sentence."""
    measured, reasons = 0, []
    for name, data in templates(server):
        to_prompt(data, info)
        if not kinds_of(data) & set(SAMPLERS):
            continue
        try:
            bed = make_bed(data, info)
        except InvalidInput as e:
            reasons.append(f"{name}: {e}")
        else:
            assert bed.models and bed.texts and bed.seeds, name
            measured += 1
    assert measured > 3 * len(reasons), reasons
    assert all("\n" not in reason for reason in reasons)


def structure(prompt: dict, info: dict) -> list[int]:
    """What the output nodes need, whatever the ids: the page renumbers nodes of subgraphs."""
    found: dict[str, int] = {}

    def number(node: str) -> int:
        what = prompt.get(node)
        if what is None or what.get("class_type") not in info:
            return 0
        if node not in found:
            values = [(k, value(v)) for k, v in sorted(what["inputs"].items()) if keeps(what, k)]
            found[node] = hash((what["class_type"], tuple(values)))
        return found[node]

    def value(v: Any) -> Any:
        if is_link(v):
            return number(v[0]), v[1]
        return json.dumps(float(v) if type(v) in (int, float) else v)

    def keeps(what: dict, name: str) -> bool:
        return name not in PAGE_ONLY or is_link(what["inputs"][name])

    ends = [k for k, v in prompt.items() if info.get(v.get("class_type"), {}).get("output_node")]
    return sorted(number(k) for k in ends)


@pytest.mark.slow
def test_every_official_template_becomes_what_the_real_page_makes_of_it(server, info) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    others = []
    with sync_api.sync_playwright() as playwright:
        if CHROMIUM is None:
            pytest.skip("no chromium found (set CHROMIUM)")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_function("window.app && window.app.vueAppReady", timeout=90_000)
        for name, data in templates(server):
            page.evaluate("graph => app.loadGraphData(graph)", data)
            wanted = page.evaluate("async () => (await app.graphToPrompt()).output")
            if structure(wanted, info) != structure(to_prompt(data, info), info):
                others.append(name)
    assert others == []


@pytest.fixture
def asked(server: Server, tmp_path: Path) -> list[str]:
    """A command that measures the tiny SD3.5 in few steps, on two prompts."""
    prompt = twin("sd35_large")
    require_nodes(server, prompt)
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 10
    (tmp_path / "flow.json").write_text(json.dumps(prompt))
    (tmp_path / "words.txt").write_text("a red apple\na rocket\n")
    return [
        *("graph", str(tmp_path / "flow.json"), str(tmp_path / "words.txt")),
        *("--out", str(tmp_path / "report"), "--comfy", server.url, "--seeds", "3"),
        *("--shares", "1/2", "--converged", "20", "--tries", "1"),
    ]


def killed_after(runs: int, folder: Path, command: list[str]) -> None:
    """Run the command, and kill it once so many runs are finished."""
    process = subprocess.Popen([sys.executable, "-m", "training.evaluate", *command], cwd=PACK)
    end = time.monotonic() + 60
    while len(list(folder.glob("runs/*.json"))) < runs and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_measurement_is_killed_and_goes_on(server: Server, asked: list[str], tmp_path) -> None:
    out, saved = tmp_path / "report", sorted((server.base / "output").rglob("*"))
    killed_after(2, out, asked)
    first = {p: p.stat().st_mtime_ns for p in out.glob("runs/*.json")}
    assert first and not (out / "report.json").exists()
    assert main(asked) == 0
    assert {p: p.stat().st_mtime_ns for p in first} == first
    report = json.loads((out / "report.json").read_text())
    assert len(report["rows"]) == report["planned_runs"] >= 2 * 5
    assert sorted((server.base / "output").rglob("*")) == saved, "the user's folder is untouched"
    calls = {r["method"]: (r["calls"], r["cond"], r["uncond"]) for r in report["rows"]}
    assert calls["original"] == (10, 10, 10) and calls["converged"] == (20, 20, 20)
    assert calls["ours_50"] == calls["steps_50"] == (5, 5, 5)
    for row in report["rows"]:
        if row["method"] == "ours_50":
            assert 0 < row["seconds"] <= row["sampling_seconds"] <= row["wall_seconds"]
            assert 10 < row["to_original"]["psnr"] < 100
    assert (out / "index.html").stat().st_size > 20_000
