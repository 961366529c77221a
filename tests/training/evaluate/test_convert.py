"""Saved workflows as prompts. The real page is the judge in tests/host/test_evaluate.py."""

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.small import INFO, prompt
from training.evaluate.convert import read_workflow, to_prompt


def node(number, kind, inputs=(), values=(), outputs=("X",), mode=0, **more):
    """As the page saves it; ``inputs`` are (name, type, link, whether it is a widget's)."""
    ends = [
        {"name": n, "type": t, "link": k} | ({"widget": {"name": n}} if w else {})
        for n, t, k, w in inputs
    ]
    return {
        "id": number, "type": kind, "inputs": ends, "widgets_values": list(values), "mode": mode,
        "outputs": [{"type": t} for t in outputs],
    } | more  # fmt: skip


def link(*ends):
    """As a subgraph saves it; the graph itself saves rows."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(names, ends, strict=True))


def graph(nodes, links, subgraphs=()):
    return {"nodes": nodes, "links": links, "definitions": {"subgraphs": list(subgraphs)}}


def encode(number, clip, text="hi", link=None):
    ends = [("clip", "CLIP", clip, False), ("text", "STRING", link, True)]
    return node(number, "CLIPTextEncode", ends, [text], ["CONDITIONING"])


LOADER = node(1, "Loader", values=["a.safetensors"], outputs=["MODEL", "CLIP", "VAE"])


def test_links_and_values():
    made = to_prompt(graph([LOADER, encode(2, 10)], [[10, 1, 1, 2, 0, "CLIP"]]), INFO)
    assert made == {
        "1": {"class_type": "Loader", "inputs": {"name": "a.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "hi", "clip": ["1", 1]}},
    }


@pytest.mark.parametrize("kind", ["Reroute", "Reroute (rgthree)"])
def test_reroutes_are_followed(kind):
    reroute = node(3, kind, [("", "*", 10, False)], outputs=["*"])
    links = [[10, 1, 1, 3, 0, "*"], [11, 3, 0, 2, 0, "CLIP"]]
    made = to_prompt(graph([LOADER, reroute, encode(2, 11)], links), INFO)
    assert made["2"]["inputs"]["clip"] == ["1", 1] and "3" not in made


def test_a_primitive_gives_its_value():
    primitive = node(3, "PrimitiveNode", values=["from afar", "fixed"], outputs=["STRING"])
    links = [[10, 1, 1, 2, 0, "CLIP"], [11, 3, 0, 2, 1, "STRING"]]
    made = to_prompt(graph([LOADER, primitive, encode(2, 10, link=11)], links), INFO)
    assert made["2"]["inputs"]["text"] == "from afar" and "3" not in made


def test_set_and_get_are_one_wire():
    put = node(3, "SetNode", [("CLIP", "CLIP", 10, False)], ["c"], ["CLIP"])
    get = node(4, "GetNode", values=["c"], outputs=["CLIP"])
    links = [[10, 1, 1, 3, 0, "CLIP"], [11, 4, 0, 2, 0, "CLIP"]]
    made = to_prompt(graph([LOADER, put, get, encode(2, 11)], links), INFO)
    assert made["2"]["inputs"]["clip"] == ["1", 1] and made.keys() == {"1", "2"}


@pytest.mark.parametrize(("mode", "wanted"), [(4, ["1", 1]), (2, None)])
def test_bypassed_nodes_are_passed_by_and_muted_ones_are_gone(mode, wanted):
    ends = [("model", "MODEL", 12, False), ("clip", "CLIP", 10, False)]
    lora = node(3, "Lora", ends, outputs=["MODEL", "CLIP"], mode=mode)
    links = [[10, 1, 1, 3, 1, "CLIP"], [11, 3, 1, 2, 0, "CLIP"], [12, 1, 0, 3, 0, "MODEL"]]
    made = to_prompt(graph([LOADER, lora, encode(2, 11)], links), INFO)
    assert made["2"]["inputs"].get("clip") == wanted and "3" not in made


def test_notes_and_what_leads_to_nothing_are_left_out():
    note = node(3, "MarkdownNote", values=["text"])
    assert to_prompt(graph([note, encode(2, 99)], []), INFO) == {
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "hi"}}
    }


def subgraph(inner_text="inner"):
    """A subgraph with a CLIP and a text as inputs, and an encoder inside."""
    inside = [
        link(1, -10, 0, 8, 0, "CLIP"),
        link(2, -10, 1, 8, 1, "STRING"),
        link(3, 8, 0, -20, 0, "CONDITIONING"),
    ]  # fmt: skip
    return {
        "id": "sub", "name": "Sub", "nodes": [encode(8, 1, inner_text, 2)], "links": inside,
        "inputs": [{"name": "clip", "linkIds": [1]}, {"name": "words", "linkIds": [2]}],
        "outputs": [{"name": "out", "linkIds": [3]}],
    }  # fmt: skip


@pytest.mark.parametrize(("shown", "wanted"), [([], "inner"), (["shown"], "shown")])
def test_subgraphs_are_opened_and_show_their_own_values(shown, wanted):
    ends = [("clip", "CLIP", 10, False), ("words", "STRING", None, True)]
    use = node(5, "sub", ends, shown, ["CONDITIONING"])
    taker = node(6, "Taker", [("c", "CONDITIONING", 11, False)])
    links = [[10, 1, 1, 5, 0, "CLIP"], [11, 5, 0, 6, 0, "CONDITIONING"]]
    made = to_prompt(graph([LOADER, use, taker], links, [subgraph()]), INFO)
    assert made["5:8"]["inputs"] == {"text": wanted, "clip": ["1", 1]}
    assert made["6"]["inputs"]["c"] == ["5:8", 0] and "5" not in made


def test_a_subgraph_in_a_subgraph():
    outer = {
        "id": "outer", "name": "Outer",
        "nodes": [node(7, "sub", [("clip", "CLIP", 1, False), ("words", "STRING", None, True)],
                       ["deep"], ["CONDITIONING"])],
        "links": [
            link(1, -10, 0, 7, 0, "CLIP"),
            link(2, 7, 0, -20, 0, "X"),
        ],
        "inputs": [{"name": "clip", "linkIds": [1]}], "outputs": [{"name": "o", "linkIds": [2]}],
    }  # fmt: skip
    use = node(5, "outer", [("clip", "CLIP", 10, False)])
    taker = node(6, "Taker", [("c", "CONDITIONING", 11, False)])
    links = [[10, 1, 1, 5, 0, "CLIP"], [11, 5, 0, 6, 0, "CONDITIONING"]]
    made = to_prompt(graph([LOADER, use, taker], links, [subgraph(), outer]), INFO)
    assert made["5:7:8"]["inputs"] == {"text": "deep", "clip": ["1", 1]}
    assert made["6"]["inputs"]["c"] == ["5:7:8", 0]


def test_lists_are_marked_so_that_they_are_no_links():
    info = INFO | {"Curve": {"input": {"required": {"points": ["CURVE", {}]}}}}
    made = to_prompt(graph([node(1, "Curve", values=[["a", 1]])], []), info)
    assert made["1"]["inputs"]["points"] == {"__value__": ["a", 1]}


def test_prompts_pass_as_they_are_also_from_a_history():
    assert read_workflow(prompt(), INFO) == prompt()
    assert read_workflow({"prompt": prompt(), "client_id": "x"}, INFO) == prompt()


@pytest.mark.parametrize("data", [[], {}, {"a": 1}, "text", {"nodes": 3}])
def test_what_is_no_workflow_is_refused_in_one_sentence(data):
    with pytest.raises(InvalidInput, match="no workflow of ComfyUI: save it"):
        read_workflow(data, INFO)


def test_group_nodes_are_refused_with_what_to_do():
    with pytest.raises(InvalidInput, match=r"node 4 is a group node \(mine\).*convert it"):
        read_workflow(graph([node(4, "workflow>mine")], []), INFO)
