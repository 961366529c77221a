"""The files beside the nodes, checked without a host: workflows, help pages, translations."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
LOCALES = {path.parent.name: path for path in (ROOT / "locales").glob("*/nodeDefs.json")}
WORDS = {language: json.loads(path.read_text("utf-8")) for language, path in LOCALES.items()}


FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
EDGES = (-10, -20)
"""What stands for a subgraph's own inputs and outputs."""


def scopes(path: Path) -> list[dict]:
    """The graph of a file and its subgraphs, the graph's links by name as theirs are."""
    graph = json.loads(path.read_text("utf-8"))
    graph["links"] = [dict(zip(FIELDS, link, strict=True)) for link in graph["links"]]
    return [graph, *graph.get("definitions", {}).get("subgraphs", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_links_meet_the_slots_that_they_name(path: Path) -> None:
    for scope in scopes(path):
        by_id = {node["id"]: node for node in scope["nodes"]}
        assert len(by_id) == len(scope["nodes"])
        last = scope["state"]["lastNodeId"] if "state" in scope else scope["last_node_id"]
        assert last >= max(by_id)
        for link in scope["links"]:
            if link["origin_id"] in EDGES:
                given = scope["inputs"][link["origin_slot"]]
                assert link["id"] in given["linkIds"]
            else:
                given = by_id[link["origin_id"]]["outputs"][link["origin_slot"]]
                assert link["id"] in given["links"]
            if link["target_id"] in EDGES:
                assert link["id"] in scope["outputs"][link["target_slot"]]["linkIds"]
            else:
                taken = by_id[link["target_id"]]["inputs"][link["target_slot"]]
                assert taken["link"] == link["id"]
                kinds, wanted = (set(end["type"].split(",")) for end in (given, taken))
                assert kinds & wanted or "*" in kinds | wanted
        ends = (end for node in scope["nodes"] for end in node.get("inputs", []))
        named = {end["link"] for end in ends if end.get("link") is not None}
        into_nodes = {x["id"] for x in scope["links"] if x["target_id"] not in EDGES}
        assert named == into_nodes


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_fewer_calls_stands_between_a_model_and_what_samples_it(path: Path) -> None:
    for scope in scopes(path):
        by_id = {node["id"]: node for node in scope["nodes"]}
        for node in scope["nodes"]:
            if node["type"] == "FewerCalls":
                onward = [x for x in scope["links"] if x["origin_id"] == node["id"]]
                takers = {by_id[x["target_id"]]["type"] for x in onward}
                assert node["inputs"][0]["link"] and takers
                assert takers <= {"KSampler", "KSamplerAdvanced", "BasicGuider", "CFGGuider"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_has_a_thumbnail_and_says_what_it_shows(path: Path) -> None:
    assert path.with_suffix(".jpg").read_bytes().startswith(b"\xff\xd8\xff")
    nodes = json.loads(path.read_text("utf-8"))["nodes"]
    notes = [n["widgets_values"][0] for n in nodes if n["type"] in ("Note", "MarkdownNote")]
    assert any(len(note) > 250 for note in notes)


def test_languages_translate_the_same_things() -> None:
    def shape(words: dict) -> dict:
        return {k: shape(v) if isinstance(v, dict) else bool(v) for k, v in words.items()}

    assert WORDS.keys() >= {"en", "zh"}
    assert all(shape(words) == shape(WORDS["en"]) for words in WORDS.values())


@pytest.mark.parametrize("node", WORDS["en"])
def test_help_pages_exist_and_name_every_input(node: str) -> None:
    pages = {"en": ROOT / f"web/docs/{node}.md", "zh": ROOT / f"web/docs/{node}/zh.md"}
    for language, path in pages.items():
        text = path.read_text("utf-8")
        for entry in WORDS[language][node]["inputs"].values():
            assert f"**{entry['name']}**" in text, (language, entry["name"])
