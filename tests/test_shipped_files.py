"""The files beside the nodes, checked without a host: workflows, help pages, translations."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
LOCALES = {path.parent.name: path for path in (ROOT / "locales").glob("*/nodeDefs.json")}
WORDS = {language: json.loads(path.read_text("utf-8")) for language, path in LOCALES.items()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_links_meet_the_slots_that_they_name(path: Path) -> None:
    graph = json.loads(path.read_text("utf-8"))
    by_id = {node["id"]: node for node in graph["nodes"]}
    assert len(by_id) == len(graph["nodes"]) and graph["last_node_id"] >= max(by_id)
    for link, source, out, target, slot, kind in graph["links"]:
        given, taken = by_id[source]["outputs"][out], by_id[target]["inputs"][slot]
        assert link in given["links"] and taken["link"] == link
        assert kind == given["type"] and taken["type"] in (kind, "*")
    named = {link for node in graph["nodes"] for end in node["inputs"] if (link := end.get("link"))}
    assert named == {link[0] for link in graph["links"]}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_has_a_thumbnail_and_says_what_it_shows(path: Path) -> None:
    assert path.with_suffix(".jpg").read_bytes().startswith(b"\xff\xd8\xff")
    nodes = json.loads(path.read_text("utf-8"))["nodes"]
    notes = [n["widgets_values"][0] for n in nodes if n["type"] in ("Note", "MarkdownNote")]
    assert notes and all(len(note) > 100 for note in notes)


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
