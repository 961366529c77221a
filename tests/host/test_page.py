"""The digits workflow in ComfyUI's real web page, in a real browser."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.server import NAME, PACK, Server

pytestmark = pytest.mark.comfy
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = PACK / "out" / "screenshots"
EVENTS = ("execution_success", "execution_error", "execution_interrupted", "progress", "b_preview")
COUNT_EVENTS = """names => {
    window.seen = Object.fromEntries(names.map(n => [n, []]));
    for (const n of names) app.api.addEventListener(n, e => window.seen[n].push(e.detail));
}"""


@pytest.fixture(scope="session")
def browser() -> Iterator:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="the web page was not tested: playwright is not installed"
    )
    if CHROMIUM is None:
        pytest.skip("the web page was not tested: no chromium found (set CHROMIUM)")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(server: Server, browser) -> Iterator:
    """ComfyUI's page, loaded, with ``page.complaints`` of the console."""
    server.request("/api/settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en"})
    opened = browser.new_page(viewport={"width": 1600, "height": 900})
    opened.complaints = []
    opened.on("console", lambda m: opened.complaints.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda e: opened.complaints.append(str(e)))
    opened.goto(server.url)
    opened.wait_for_function("window.app && window.app.vueAppReady", timeout=90_000)
    yield opened
    opened.close()


def ours(complaints: list[str]) -> list[str]:
    """Those that name the pack or its nodes."""
    words = (NAME, "SiT", "StableVS", "RegimeSplit", "digits")
    return [c for c in complaints if any(word in c for word in words)]


def test_digits_workflow_opens_and_runs(page, server: Server, digits: dict) -> None:
    workflow = json.loads((PACK / "workflows" / "digits.json").read_text())
    page.evaluate("graph => app.loadGraphData(graph)", workflow)
    missing = page.evaluate(
        "app.graph._nodes.filter(n => n.has_errors || !(n.type in LiteGraph.registered_node_types))"
        ".map(n => n.type)"
    )
    # Notes are drawn by the page itself.
    assert [m for m in missing if m not in ("Note", "MarkdownNote")] == []
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt.keys() == digits.keys()
    for node, wanted in digits.items():
        assert prompt[node]["class_type"] == wanted["class_type"]
        got = {name: prompt[node]["inputs"].get(name) for name in wanted["inputs"]}
        assert got == wanted["inputs"], f"the API twin differs in node {node}"
    page.evaluate(COUNT_EVENTS, EVENTS)
    page.evaluate("app.queuePrompt(0, 1)")
    page.wait_for_function(
        "seen.execution_success.length + seen.execution_error.length", timeout=120_000
    )
    page.wait_for_timeout(1500)  # the pictures arrive
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"digits-{server.host.name}.png")
    assert page.evaluate("seen.execution_error") == []
    steps = [p["value"] for p in page.evaluate("seen.progress") if p["max"] == 20]
    assert steps == list(range(1, 21))
    assert page.evaluate("seen.b_preview.length") >= 2
    assert ours(page.complaints) == []


def test_workflow_opens_from_the_templates_browser(page, server: Server) -> None:
    fetched = {}
    page.on("response", lambda r: fetched.update({r.url.split("?")[0]: r.status}))
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(NAME, exact=True).first.click(timeout=20_000)
    card = page.get_by_text("digits", exact=True).first
    card.wait_for(timeout=20_000)
    page.wait_for_timeout(1000)  # the thumbnails arrive
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"templates-{server.host.name}.png")
    assert fetched[f"{server.url}/api/workflow_templates/{NAME}/digits.jpg"] == 200
    card.click()
    page.wait_for_function("app.graph._nodes.some(n => n.type === 'StableVSSampler')")
    assert ours(page.complaints) == []


def test_help_page_shows(page, server: Server) -> None:
    path = Path("extensions") / NAME / "docs" / "StableVSSampler.md"
    text = page.evaluate("async path => (await fetch('/' + path)).text()", path.as_posix())
    assert "equals an Euler step" in text
