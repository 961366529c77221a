"""A workflow as ComfyUI's page saves it, as the prompt that its server takes.

The page does this in the browser (its ``graphToPrompt``). Subgraphs are opened, the nodes that only
the page knows are followed (reroutes, primitives, notes, Set and Get), muted nodes are left out and
bypassed ones passed by.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sv_core.errors import InvalidInput

from .widgets import read_widgets

MUTED, BYPASSED = 2, 4
INTO, OUT_OF = -10, -20
"""The ends of a subgraph's links that are its own inputs and outputs."""
NOTES = {"Note", "MarkdownNote"}
FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


@dataclass(frozen=True)
class Value:
    """A value that a link carries from a node of the page's own."""

    value: Any


@dataclass(frozen=True)
class Output:
    """An output of a node of the server's."""

    node: str
    slot: int


Source = Value | Output | None


@dataclass(frozen=True)
class Scope:
    """The graph itself, or one use of a subgraph in it."""

    nodes: dict[Any, dict]
    links: dict[Any, dict]
    definitions: dict[str, dict]
    info: dict[str, dict]
    prefix: str = ""
    """Before the ids of its nodes in the prompt: ``57:`` for what is in node 57."""
    use: "Use | None" = None


@dataclass(frozen=True)
class Use:
    """Where a subgraph stands."""

    outer: Scope
    node: dict
    definition: dict


def is_page_graph(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def is_prompt(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(n, dict) and "class_type" in n and "inputs" in n for n in data.values())
    )


def read_workflow(data: Any, info: dict[str, dict]) -> dict[str, dict]:
    """The prompt of a workflow in either form. ``info`` is the server's ``/object_info``.

    Raises InvalidInput for what is neither, and for what cannot be converted.
    """
    if isinstance(data, dict) and is_prompt(data.get("prompt")):
        data = data["prompt"]
    if is_prompt(data):
        return {
            str(k): {"class_type": n["class_type"], "inputs": dict(n["inputs"])}
            for k, n in data.items()
        }
    if is_page_graph(data):
        return to_prompt(data, info)
    raise InvalidInput(
        "this is no workflow of ComfyUI: save it with Workflow > Save, or Workflow > Export (API)"
    )


def _by_id(scope: dict) -> tuple[dict, dict]:
    links = (
        row if isinstance(row, dict) else dict(zip(FIELDS, row, strict=False))
        for row in scope.get("links") or ()
        if row
    )
    return {n["id"]: n for n in scope["nodes"]}, {link["id"]: link for link in links}


def _open(outer: Scope, node: dict) -> Scope:
    """The inside of a node that stands for a subgraph."""
    definition = outer.definitions[node["type"]]
    nodes, links = _by_id(definition)
    prefix = f"{outer.prefix}{node['id']}:"
    return Scope(nodes, links, outer.definitions, outer.info, prefix, Use(outer, node, definition))


def to_prompt(graph: dict, info: dict[str, dict]) -> dict[str, dict]:
    """Raises InvalidInput for group nodes, which the page itself has given up."""
    definitions = {s["id"]: s for s in (graph.get("definitions") or {}).get("subgraphs", ())}
    nodes, links = _by_id(graph)
    prompt: dict[str, dict] = {}
    for scope, node in _all_nodes(Scope(nodes, links, definitions, info)):
        prompt[f"{scope.prefix}{node['id']}"] = _convert(scope, node)
    return {k: _without_lost_links(n, prompt) for k, n in prompt.items()}


def _without_lost_links(node: dict, prompt: dict) -> dict:
    kept = {k: v for k, v in node["inputs"].items() if not is_link(v) or v[0] in prompt}
    return node | {"inputs": kept}


def is_link(value: Any) -> bool:
    """Whether an input of a prompt is a link: [node's id, number of its output]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def _all_nodes(scope: Scope) -> Iterator[tuple[Scope, dict]]:
    """Every node that runs, with its scope, those of subgraphs in their place."""
    for node in scope.nodes.values():
        kind = node["type"]
        if node.get("mode") in (MUTED, BYPASSED) or _is_the_page_s(kind):
            continue
        if kind in scope.definitions:
            yield from _all_nodes(_open(scope, node))
        elif kind.startswith(("workflow>", "workflow/")):
            raise InvalidInput(
                f"node {node['id']} is a group node ({kind.split('>')[-1]}): open the workflow in "
                f"ComfyUI, convert it to nodes or to a subgraph, and save it"
            )
        else:
            yield scope, node


def _is_the_page_s(kind: str) -> bool:
    return kind in NOTES | {"PrimitiveNode", "SetNode", "GetNode"} or _is_reroute(kind)


def _is_reroute(kind: str) -> bool:
    return kind in ("Reroute", "Reroute (rgthree)")


def _own_values(scope: Scope, node: dict) -> dict[str, Any]:
    """What a node's own widgets say."""
    saved = node.get("widgets_values")
    known = scope.info.get(node["type"])
    if known is None:  # judged later, and only if the picture needs it
        return dict(saved) if isinstance(saved, dict) else {}
    values = read_widgets(known, saved)
    if node["type"] == "CustomCombo" and isinstance(saved, list):  # its options are the page's
        values |= {"index": saved[1]} if len(saved) > 1 else {}
        values |= {f"option{i}": v for i, v in enumerate(saved[2:], 1)}
    return values


def _convert(scope: Scope, node: dict) -> dict:
    inputs = {k: _as_value(v) for k, v in _own_values(scope, node).items()}
    for end in node.get("inputs") or ():
        source = _follow(scope, end.get("link"))
        if isinstance(source, Output):
            inputs[end["name"]] = [source.node, source.slot]
        elif isinstance(source, Value):
            inputs[end["name"]] = _as_value(source.value)
    return {"class_type": node["type"], "inputs": inputs}


def _as_value(value: Any) -> Any:
    """A list is marked, so that the server does not take it for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _follow(scope: Scope, number: Any) -> Source:
    """Where a link really comes from; None where it comes from nothing that runs."""
    link = scope.links.get(number)
    if link is None:
        return None
    if link["origin_id"] == INTO:
        return _from_outside(scope, link["origin_slot"])
    node = scope.nodes.get(link["origin_id"])
    return None if node is None else _from_node(scope, node, link["origin_slot"])


def _from_outside(scope: Scope, slot: int) -> Source:
    """What a subgraph's input is given where the subgraph stands: a link, or its widget's value."""
    use = _use_of(scope)
    name = use.definition["inputs"][slot]["name"]
    end = next((e for e in use.node.get("inputs") or () if e["name"] == name), None)
    source = _follow(use.outer, end.get("link")) if end else None
    return source or _shown_value(scope, slot)


def _use_of(scope: Scope) -> Use:
    assert scope.use is not None, "only the inside of a subgraph has such links"
    return scope.use


def _shown_value(scope: Scope, slot: int) -> Value | None:
    """The value of the widget that a subgraph shows for one of its inputs."""
    use = _use_of(scope)
    saved = use.node.get("widgets_values")
    shown = [i for i in range(len(use.definition["inputs"])) if _widget_of(scope, i)]
    proxied = (use.node.get("properties") or {}).get("proxyWidgets")
    if slot in shown and isinstance(saved, list) and len(saved) == len(shown) and not proxied:
        return Value(saved[shown.index(slot)])
    return _widget_of(scope, slot)


def _widget_of(scope: Scope, slot: int) -> Value | None:
    """The own value of the first widget inside that a subgraph's input leads to."""
    for link in scope.links.values():
        if (link["origin_id"], link["origin_slot"]) == (INTO, slot):
            found = _widget_at(scope, scope.nodes.get(link["target_id"]), link["target_slot"])
            if found is not None:
                return found
    return None


def _widget_at(scope: Scope, node: dict | None, slot: int) -> Value | None:
    """The value of the widget that a node's input belongs to, if it does."""
    ends = node.get("inputs") or [] if node else []
    if node is None or slot >= len(ends) or not ends[slot].get("widget"):
        return None
    name = ends[slot]["name"]
    if node["type"] in scope.definitions:
        inside = _open(scope, node)
        names = [end["name"] for end in _use_of(inside).definition["inputs"]]
        return _shown_value(inside, names.index(name)) if name in names else None
    values = _own_values(scope, node)
    return Value(values[name]) if name in values else None


def _from_node(scope: Scope, node: dict, slot: int) -> Source:
    kind, mode = node["type"], node.get("mode")
    if mode == MUTED:
        return None
    if mode == BYPASSED:
        return _past(scope, node, slot)
    if _is_reroute(kind):
        return _follow(scope, _first_link(node))
    if kind == "PrimitiveNode":
        values = node.get("widgets_values") or [None]
        return Value(values[0])
    if kind == "GetNode":
        return _from_set_node(scope, node)
    if kind == "SetNode":
        return _follow(scope, _first_link(node))
    if kind in scope.definitions:
        return _from_inside(_open(scope, node), slot)
    return Output(f"{scope.prefix}{node['id']}", slot)


def _first_link(node: dict) -> Any:
    ends = node.get("inputs") or ()
    return ends[0].get("link") if ends else None


def _from_set_node(scope: Scope, node: dict) -> Source:
    name = (node.get("widgets_values") or [None])[0]
    for other in scope.nodes.values():
        if other["type"] == "SetNode" and (other.get("widgets_values") or [None])[0] == name:
            return _from_node(scope, other, 0)
    return None


def _from_inside(scope: Scope, slot: int) -> Source:
    """What leaves a subgraph by one of its outputs."""
    ends = [
        n for n, x in scope.links.items() if (x["target_id"], x["target_slot"]) == (OUT_OF, slot)
    ]
    named = _use_of(scope).definition["outputs"][slot].get("linkIds") or ()
    first = next((n for n in (*named, *ends) if n in ends), None)
    return _follow(scope, first)


def _past(scope: Scope, node: dict, slot: int) -> Source:
    """What a bypassed node's output is: its input of the same place and type, else of the type."""
    ends = node.get("inputs") or []
    kind = node["outputs"][slot]["type"]
    same = [e for e in ends[slot : slot + 1] if _fits(e, kind)]
    for end in same + [e for e in ends if _fits(e, kind)]:
        return _follow(scope, end.get("link"))
    return None


def _fits(end: dict, kind: str) -> bool:
    return end["type"] == kind or "*" in (end["type"], kind)
