"""The workflows in ComfyUI's real web page, in a real browser."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.server import NAME, PACK, Server
from tests.host.test_workflows import FEWER, require_nodes
from tests.host.tiny import SMALL

pytestmark = pytest.mark.comfy
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = PACK / "out" / "screenshots"
EVENTS = ("execution_success", "execution_error", "execution_interrupted", "progress", "b_preview")
TWINS = Path(__file__).parent / "workflows"
SHRINK = """small => {
    for (const scope of [app.graph, ...(app.graph.subgraphs?.values() ?? [])])
        for (const node of scope._nodes)
            for (const widget of node.widgets ?? [])
                if (widget.name in small) {
                    const least = Math.max(widget.options?.min ?? 0, small[widget.name]);
                    widget.value = Math.min(widget.value, least);
                }
}"""
SHOW_ALL = """() => {
    const nodes = app.canvas.graph._nodes;
    const boxes = nodes.map(n => [n.pos[0], n.pos[1] - 40, n.size[0], n.size[1] + 40]);
    const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]));
    const right = Math.max(...boxes.map(b => b[0] + b[2]));
    const bottom = Math.max(...boxes.map(b => b[1] + b[3]));
    const scale = Math.min(1450 / (right - left), 780 / (bottom - top));
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [80 / scale - left, 80 / scale - top];
    app.canvas.setDirty(true, true);
}"""
SHOW_EACH_SCOPE = """async () => {
    const root = app.rootGraph ?? app.graph, found = [];
    for (const scope of [root, ...(root.subgraphs?.values() ?? [])]) {
        app.canvas.setGraph(scope);
        await new Promise(done => setTimeout(done, 1000));  // the nodes take their sizes
        const boxes = scope._nodes.map(n => [n.type, ...n.boundingRect]);
        found.push(boxes.map(([type, ...box]) => ({type, box})));
    }
    app.canvas.setGraph(root);
    return found;
}"""
SHOW_ALL_OF = """number => {
    const root = app.rootGraph ?? app.graph;
    app.canvas.setGraph([root, ...(root.subgraphs?.values() ?? [])][number]);
}"""
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


@pytest.fixture(scope="session")
def opened(server: Server, browser) -> Iterator:
    """ComfyUI's page, loaded, with ``complaints`` of the console."""
    server.request("/api/settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en"})
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.complaints = []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.goto(server.url)
    page.wait_for_function("window.app && window.app.vueAppReady", timeout=90_000)
    assert ours(page.complaints) == []
    page.evaluate(COUNT_EVENTS, EVENTS)
    yield page
    page.close()


@pytest.fixture
def page(opened):
    """That page, with nothing heard yet."""
    opened.complaints.clear()
    opened.evaluate("for (const n in seen) seen[n] = []")
    return opened


def ours(complaints: list[str]) -> list[str]:
    """Those that name the pack or its nodes."""
    words = (NAME, "SiT", "StableVS", "RegimeSplit", "RegimePlot", "FidelityReport", "digits")
    return [c for c in complaints if any(word in c for word in words)]


def inputs_of(server: Server, kind: str) -> set[str]:
    """The inputs that this version of the host gives a node."""
    inputs = server.get(f"/object_info/{kind}")[kind]["input"]
    return {name for part in ("required", "optional") for name in inputs.get(part, {})}


def open_workflow(page, server: Server, name: str, twin: dict) -> None:
    """Load the UI file; every node is known, and the page makes the API twin of it."""
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text("utf-8"))
    page.evaluate("graph => app.loadGraphData(graph)", workflow)
    missing = page.evaluate(
        "[app.graph, ...(app.graph.subgraphs?.values() ?? [])].flatMap(g => g._nodes)"
        ".filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"
    )
    # Notes are drawn by the page itself.
    assert [m for m in missing if m not in ("Note", "MarkdownNote")] == []
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt.keys() == twin.keys(), "the API twin has other nodes"
    for node, wanted in twin.items():
        assert prompt[node]["class_type"] == wanted["class_type"]
        known = inputs_of(server, wanted["class_type"])
        inputs = {k: v for k, v in wanted["inputs"].items() if k in known}
        got = {k: prompt[node]["inputs"].get(k) for k in inputs}
        assert got == inputs, f"the API twin differs in node {node}"


def press_run(page, server: Server, name: str) -> None:
    """Queue what the page shows, wait for the end, keep a picture of the whole graph."""
    page.evaluate("app.queuePrompt(0, 1)")
    page.wait_for_function(
        "seen.execution_success.length + seen.execution_error.length", timeout=120_000
    )
    page.evaluate(SHOW_ALL)
    page.wait_for_timeout(1500)  # the pictures arrive
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{server.host.name}.png")
    assert page.evaluate("seen.execution_error") == []
    assert ours(page.complaints) == []


def test_digits_workflow_opens_and_runs(page, server: Server, digits: dict) -> None:
    open_workflow(page, server, "digits", digits)
    press_run(page, server, "digits")
    steps = [p["value"] for p in page.evaluate("seen.progress") if p["max"] == 20]
    assert steps == list(range(1, 21))
    assert page.evaluate("seen.b_preview.length") >= 2


def twin_for(server: Server, name: str) -> dict:
    prompt = json.loads((TWINS / f"{name}.json").read_text("utf-8"))
    require_nodes(server, prompt)
    return prompt


@pytest.mark.parametrize("name", sorted(p.stem for p in TWINS.glob("*.json")))
def test_workflow_opens_and_runs_on_tiny_models(page, server: Server, name: str) -> None:
    open_workflow(page, server, name, twin_for(server, name))
    page.evaluate(SHRINK, SMALL)
    press_run(page, server, name)


def overlaps(nodes: list[dict]) -> list[str]:
    """Pairs of nodes that lie on one another, as the page says where they are."""

    def apart(a: list[float], b: list[float]) -> bool:
        return any(a[i] + a[i + 2] <= b[i] or b[i] + b[i + 2] <= a[i] for i in (0, 1))

    return [
        f"{one['type']} on {other['type']}"
        for i, one in enumerate(nodes)
        for other in nodes[:i]
        if not apart(one["box"], other["box"])
    ]


def keep_pictures(page, name: str, scopes: int) -> None:
    """A screenshot of the graph and of each of its subgraphs."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for number in range(scopes):
        page.evaluate(SHOW_ALL_OF, number)
        page.wait_for_timeout(500)
        page.evaluate(SHOW_ALL)
        page.wait_for_timeout(500)
        page.screenshot(path=SCREENSHOTS / f"{name}-{number}.png")
    page.evaluate(SHOW_ALL_OF, 0)


@pytest.fixture(params=[False, True], ids=["canvas", "vue"])
def canvas_mode(request, opened) -> Iterator[str]:
    """Nodes drawn on the canvas, or as elements of the page."""
    set_mode = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    opened.evaluate(set_mode, request.param)
    yield "vue" if request.param else "canvas"
    opened.evaluate(set_mode, False)


@pytest.mark.slow  # every graph in two canvas modes: minutes
@pytest.mark.parametrize("name", sorted(FEWER))
def test_no_node_lies_on_another(page, server: Server, canvas_mode: str, name: str) -> None:
    open_workflow(page, server, name, twin_for(server, name))
    label = f"{name}-{server.host.name}-{canvas_mode}"
    for when in ("before", "after"):
        found = page.evaluate(SHOW_EACH_SCOPE)
        keep_pictures(page, f"{label}-{when}", len(found))
        assert all(n["box"][2] > 0 for nodes in found for n in nodes)
        assert [o for nodes in found for o in overlaps(nodes)] == [], when
        if when == "before":
            page.evaluate(SHRINK, SMALL)
            press_run(page, server, label)


def test_what_a_run_did_stands_on_the_node_in_an_open_subgraph(page, server: Server) -> None:
    if "ComfySwitchNode" not in server.get("/object_info"):
        pytest.skip("pages as old as 0.3.64's show no text on a node of a subgraph")
    open_workflow(page, server, "flux1_dev", twin_for(server, "flux1_dev"))
    page.evaluate(SHRINK, SMALL)
    page.evaluate(SHOW_ALL_OF, 1)
    press_run(page, server, "flux1_dev-open")
    texts = page.evaluate(
        "app.canvas.graph._nodes.find(n => n.type === 'FewerCalls').widgets.map(w => `${w.value}`)"
    )
    page.evaluate(SHOW_ALL_OF, 0)
    assert any("10 of 20 calls (10 saved)" in text for text in texts), texts


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


def test_widgets_that_a_preset_overrides_are_disabled(page) -> None:
    disabled = """name => {
        const node = app.graph._nodes.find(n => n.type === "RegimeSplitScheduler");
        const preset = node.widgets.find(w => w.name === "preset");
        if (name) { preset.value = name; preset.callback(name); }
        return node.widgets.filter(w => w.disabled).map(w => w.name);
    }"""
    overridden = ["scheduler", "steps", "split", "low_steps", "rule"]
    for workflow, of_file in (("img2img", overridden), ("digits", [])):
        graph = json.loads((PACK / "workflows" / f"{workflow}.json").read_text("utf-8"))
        page.evaluate("graph => app.loadGraphData(graph)", graph)
        assert page.evaluate(disabled, "") == of_file
        assert page.evaluate(disabled, "SD3.5") == overridden
        assert page.evaluate(disabled, "manual") == []
    assert ours(page.complaints) == []
