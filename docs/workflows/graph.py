"""A saved graph of ComfyUI's page, changed: its nodes, links, subgraphs and free places."""

import json

TITLE = 40
"""Height of a node's title, above its position."""
GAP = 30
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""
FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def scopes(graph: dict) -> list[dict]:
    """The graph itself and its subgraphs: everything that has nodes and links of its own."""
    return [graph, *graph.get("definitions", {}).get("subgraphs", [])]


def links_of(scope: dict) -> list[dict]:
    """Its links, by name; a graph stores them as rows and a subgraph by name."""
    rows = scope["links"]
    return [r if isinstance(r, dict) else dict(zip(FIELDS, r, strict=True)) for r in rows]


def set_links(scope: dict, links: list[dict]) -> None:
    rows = "state" not in scope
    scope["links"] = [[link[f] for f in FIELDS] for link in links] if rows else links


def find_node(graph: dict, number: int) -> tuple[dict, dict]:
    """(scope, node) of a node's number, which templates use once in all their scopes."""
    return next((s, n) for s in scopes(graph) for n in s["nodes"] if n["id"] == number)


def new_node_id(graph: dict) -> int:
    number = max(n["id"] for s in scopes(graph) for n in s["nodes"]) + 1
    graph["last_node_id"] = max(number, graph.get("last_node_id", 0))
    for scope in scopes(graph)[1:]:
        scope["state"]["lastNodeId"] = max(number, scope["state"]["lastNodeId"])
    return number


def new_link_id(graph: dict) -> int:
    number = max(link["id"] for s in scopes(graph) for link in links_of(s)) + 1
    graph["last_link_id"] = max(number, graph.get("last_link_id", 0))
    for scope in scopes(graph)[1:]:
        scope["state"]["lastLinkId"] = max(number, scope["state"]["lastLinkId"])
    return number


def pair(value: list | dict) -> tuple[float, float]:
    """A position or a size, which older files keep by index."""
    x, y = (value["0"], value["1"]) if isinstance(value, dict) else value
    return x, y


def box_of(node: dict) -> Box:
    (x, y), (width, height) = pair(node["pos"]), pair(node["size"])
    return x, y - TITLE, x + width, y + height


def overlap(a: Box, b: Box, gap: float = 0) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def free_place(scope: dict, near: tuple[float, float], size: tuple[int, int]) -> list[float]:
    """Where a node of that size lies on no other, as near to a point as a grid of 10 allows."""
    taken = [box_of(n) for n in scope["nodes"]]

    def is_free(x: float, y: float) -> bool:
        box = (x, y - TITLE, x + size[0], y + size[1])
        return not any(overlap(box, other, GAP) for other in taken)

    steps = sorted(
        ((i * 10, j * 10) for i in range(-150, 151) for j in range(-150, 151)),
        key=lambda d: d[0] ** 2 + d[1] ** 2,
    )
    return next([near[0] + i, near[1] + j] for i, j in steps if is_free(near[0] + i, near[1] + j))


def port(name: str, kind: str) -> dict:
    return {"name": name, "type": kind}


def set_widget(graph: dict, number: int, index: int, value: object) -> None:
    find_node(graph, number)[1]["widgets_values"][index] = value


def drop_nodes(graph: dict, numbers: set[int]) -> None:
    """Remove nodes of a subgraph, their links, and the inputs of it that led only there."""
    scope, _ = find_node(graph, min(numbers))
    links = [x for x in links_of(scope) if not {x["origin_id"], x["target_id"]} & numbers]
    alive = {x["id"] for x in links}
    scope["nodes"] = [n for n in scope["nodes"] if n["id"] not in numbers]
    for node in scope["nodes"]:
        for end in node.get("outputs", []):
            end["links"] = [i for i in end.get("links") or [] if i in alive]
        for end in node.get("inputs", []):
            end["link"] = end.get("link") if end.get("link") in alive else None
    kept = []
    for old, end in enumerate(scope["inputs"]):
        end["linkIds"] = [i for i in end["linkIds"] if i in alive]
        if not end["linkIds"]:
            continue
        for link in links:
            if (link["origin_id"], link["origin_slot"]) == (-10, old):
                link["origin_slot"] = len(kept)
        kept.append(end)
    scope["inputs"] = kept
    set_links(scope, links)
    drop_ports(graph, scope, {str(n) for n in numbers})


def drop_ports(graph: dict, scope: dict, numbers: set[str]) -> None:
    """The same on the node that stands for the subgraph."""
    names = {end["name"] for end in scope["inputs"]}
    for node in graph["nodes"]:
        if node["type"] == scope["id"]:
            node["inputs"] = [end for end in node["inputs"] if end["name"] in names]
            shown = node["properties"]["proxyWidgets"]
            node["properties"]["proxyWidgets"] = [w for w in shown if w[0] not in numbers]


def connect(graph: dict, source: int, target: int, name: str, output_slot: int = 0) -> None:
    """A link from a node's output to an input."""
    scope, taker = find_node(graph, target)
    slot = next(i for i, end in enumerate(taker["inputs"]) if end["name"] == name)
    output = find_node(graph, source)[1]["outputs"][output_slot]
    number = new_link_id(graph)
    output["links"] = [*(output.get("links") or []), number]
    taker["inputs"][slot]["link"] = number
    ends = (number, source, output_slot, target, slot, output["type"])
    set_links(scope, [*links_of(scope), dict(zip(FIELDS, ends, strict=True))])


def add_node(graph: dict, like: dict, pos: list[int], **changes: object) -> int:
    """Add a node like another, without links; its number."""
    node = json.loads(json.dumps(like)) | {"id": new_node_id(graph), "pos": pos, "order": 0}
    for end in node["inputs"]:
        end["link"] = None
    for end in node["outputs"]:
        end["links"] = []
    graph["nodes"].append(node | changes)
    return node["id"]


def disconnect(graph: dict, target: int, name: str) -> None:
    scope, taker = find_node(graph, target)
    end = next(end for end in taker["inputs"] if end["name"] == name)
    gone, end["link"] = end["link"], None
    for node in scope["nodes"]:
        for output in node["outputs"]:
            output["links"] = [i for i in output["links"] or [] if i != gone]
    set_links(scope, [link for link in links_of(scope) if link["id"] != gone])


def blank(kind: str, size: list[int], inputs: dict, outputs: dict, widgets: list) -> dict:
    """A node as the page saves it."""
    return {
        "type": kind, "size": size, "flags": {}, "mode": 0,
        "inputs": [port(*item) for item in inputs.items()],
        "outputs": [port(*item) for item in outputs.items()],
        "properties": {"Node name for S&R": kind}, "widgets_values": widgets,
    }  # fmt: skip


def drop_empty_groups(graph: dict) -> None:
    """Remove the frames that hold no node any more."""
    for scope in scopes(graph):
        boxes = [box_of(node) for node in scope["nodes"]]
        scope["groups"] = [g for g in scope["groups"] if any(_is_in(b, g) for b in boxes)]


def _is_in(box: Box, group: dict) -> bool:
    x, y, width, height = group["bounding"]
    return overlap(box, (x, y, x + width, y + height))
