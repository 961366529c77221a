"""Make the files of workflows/ that put Fewer Calls into a model's official template.

    python docs/workflows/build.py TEMPLATES

TEMPLATES is the folder ``templates`` of the package comfyui_workflow_templates_json (MIT licence,
workflows/LICENSE-templates), as ComfyUI installs it. Each file that is written is that
template with the node before its samplers, a note in English and Chinese, and nothing else; what
a `remake` changes is said there. Beside each file lies its card, a .jpg.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cards import Card, draw_card
from notes import note_of

OUT = Path(__file__).resolve().parents[2] / "workflows"
SIZE = (340, 230)
"""Of the node after a run, with four lines of text below its widgets."""
NOTE_SIZE = (440, 720)
TITLE = 40
"""Height of a node's title, above its position."""
GAP = 30
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Workflow:
    """One file of this folder and the template that it is made from."""

    name: str
    template: str
    title: str
    samplers: tuple[int, ...]
    """The nodes whose ``model`` comes from Fewer Calls."""
    steps: int
    calls: int
    setting: str
    """What else the template says of sampling, for the card."""
    hue: int
    remake: Callable[[dict], None] = lambda graph: None


def scopes(graph: dict) -> list[dict]:
    """The graph itself and its subgraphs: everything that has nodes and links of its own."""
    return [graph, *graph.get("definitions", {}).get("subgraphs", [])]


FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


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


def fewer_calls(number: int, place: list[float], into: int, out: int) -> dict:
    """The node as the page saves it, with its default: half of the calls."""
    return {
        "id": number,
        "type": "FewerCalls",
        "pos": place,
        "size": list(SIZE),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [port("model", "MODEL") | {"link": into}],
        "outputs": [port("model", "MODEL") | {"links": [out]}],
        "properties": {"Node name for S&R": "FewerCalls", "cnr_id": "stable-velocity"},
        "widgets_values": ["share", 0.5],
        "color": "#233",
        "bgcolor": "#355",
    }


def put_before(graph: dict, sampler: int) -> int:
    """A Fewer Calls between a sampling node and the model that it had; its number."""
    scope, consumer = find_node(graph, sampler)
    slot = next(i for i in consumer["inputs"] if i["name"] == "model")
    links = links_of(scope)
    link = next(link for link in links if link["id"] == slot["link"])
    number, out = new_node_id(graph), new_link_id(graph)
    x, y = pair(consumer["pos"])
    above = pair(find_node(graph, link["origin_id"])[1]["pos"])[1]
    place = free_place(scope, (x - SIZE[0] - GAP, min(above, y)), SIZE)
    links.append(
        link | {"id": out, "origin_id": number, "origin_slot": 0}  # onward, where it went before
    )
    link.update(target_id=number, target_slot=0)
    slot["link"] = out
    scope["nodes"].append(fewer_calls(number, place, link["id"], out))
    set_links(scope, links)
    return number


def add_note(graph: dict, title: str, text: str) -> None:
    """Our words, left of everything."""
    left = min(box_of(n)[0] for n in graph["nodes"])
    top = min(pair(n["pos"])[1] for n in graph["nodes"])
    graph["nodes"].append(
        {
            "id": new_node_id(graph),
            "type": "MarkdownNote",
            "title": title,
            "pos": [left - NOTE_SIZE[0] - 2 * GAP, top],
            "size": list(NOTE_SIZE),
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "properties": {},
            "widgets_values": [text],
            "color": "#222",
            "bgcolor": "#000",
        }
    )


def set_widget(graph: dict, number: int, index: int, value: object) -> None:
    find_node(graph, number)[1]["widgets_values"][index] = value


def keep_seed(graph: dict) -> None:
    """A seed that stays: two runs differ by what one changes."""
    for scope in scopes(graph):
        for node in scope["nodes"]:
            values = node.get("widgets_values")
            if isinstance(values, list):
                node["widgets_values"] = ["fixed" if v == "randomize" else v for v in values]


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


def as_in_the_paper(graph: dict) -> None:
    """Wan's own setting: shift 3, guidance 4 and 3, uni_pc, 30 steps, without the Lightning LoRA.

    At shift 3 the 9th of 30 `simple` steps is exactly noise level 0.875, where the experts change.
    """
    lightning, switches = {83, 85, 117, 118, 119, 129}, {120, 121, 122, 123, 124, 116}
    drop_nodes(graph, lightning | switches)
    connect(graph, 75, 82, "model")
    connect(graph, 76, 86, "model")
    for sampler, guidance in ((81, 4.0), (78, 3.0)):
        connect(graph, 114, sampler, "steps")
        set_widget(graph, sampler, 4, guidance)
        set_widget(graph, sampler, 5, "uni_pc")
    connect(graph, 115, 81, "end_at_step")
    connect(graph, 115, 78, "start_at_step")
    connect(graph, 114, 78, "end_at_step")
    for shift in (82, 86):
        set_widget(graph, shift, 0, 3.0)
    set_widget(graph, 114, 0, 30)
    set_widget(graph, 115, 0, 9)


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


def beside_itself(graph: dict) -> None:
    """SD 3.5's template twice from one seed, A as it is and B for Fewer Calls, and a report."""
    sampler, decode = (find_node(graph, n)[1] for n in (3, 8))
    sampler["title"], decode["title"] = "A: the template", "Picture A"
    second = add_node(graph, sampler, [864, 720], title="B: with Fewer Calls")
    picture = add_node(graph, decode, [1200, 720], title="Picture B")
    for source, name in ((4, "model"), (16, "positive"), (40, "negative"), (53, "latent_image")):
        connect(graph, source, second, name)
    connect(graph, second, picture, "samples")
    connect(graph, 4, picture, "vae", 2)
    compared = add_node(graph, REPORT, [1480, 96])
    connect(graph, 8, compared, "reference")
    connect(graph, picture, compared, "candidate")
    scores = add_node(graph, SCORES, [1480, 660], title="Scores")
    connect(graph, compared, scores, "source", 4)
    disconnect(graph, 9, "images")
    connect(graph, compared, 9, "images")
    find_node(graph, 9)[1].update(pos=[2420, 96], widgets_values=["stable_velocity/ab_compare"])


REPORT = blank(
    "FidelityReport", [900, 480], {"reference": "IMAGE", "candidate": "IMAGE"},
    {"comparison": "IMAGE", "difference": "IMAGE", "psnr": "FLOAT", "ssim": "FLOAT",
     "report": "STRING"}, [0.0],
)  # fmt: skip
SCORES = blank("PreviewAny", [900, 200], {"source": "*"}, {"STRING": "STRING"}, [])


DOWN: dict[str, dict[int, int]] = {
    "ab_compare": {54: 30},
    "sd35_large": {54: 30},
    "wan22_5b": {58: 70},
    "ltx2_t2v": {82: -8, 62: 65, 68: -25, 106: -10, 83: 10, 1: -20},
    "qwen_image_edit": {3: 50, 97: 50},
}
"""How far nodes are moved that in the template lie on one another, at the sizes they have now."""


WORKFLOWS = (
    Workflow("flux1_dev", "flux_dev_full_text_to_image", "Flux.1 dev", (50,), 20, 10,
             "euler, simple, guidance 3.5", 265),
    Workflow("flux2_dev", "image_flux2", "Flux.2 dev", (22,), 20, 10,
             "euler, Flux2Scheduler, guidance 4", 290),
    Workflow("sd35_large", "sd3.5_simple_example", "SD 3.5 Large", (3,), 20, 10,
             "euler, sgm_uniform, cfg 4.01", 20),
    Workflow("qwen_image", "image_qwen_image", "Qwen-Image", (3,), 20, 10,
             "euler, simple, cfg 4, shift 3.1", 165),
    Workflow("qwen_image_edit", "image_qwen_image_edit", "Qwen-Image-Edit", (3,), 20, 10,
             "euler, simple, cfg 2.5, shift 3", 145),
    Workflow("z_image", "image_z_image", "Z-Image", (69,), 25, 12,
             "res_multistep, simple, cfg 4, shift 3", 45),
    Workflow("wan22_14b_t2v", "video_wan2_2_14B_t2v", "Wan2.2 14B text to video", (81, 78), 20, 10,
             "euler, simple, cfg 3.5, shift 5", 210),
    Workflow("wan22_14b_i2v", "video_wan2_2_14B_i2v", "Wan2.2 14B image to video", (86, 85), 20, 10,
             "euler, simple, cfg 3.5, shift 5", 190),
    Workflow("wan22_14b_t2v_paper", "video_wan2_2_14B_t2v", "Wan2.2 14B, the paper's setting",
             (81, 78), 30, 14, "uni_pc, simple, cfg 4 and 3, shift 3", 235, as_in_the_paper),
    Workflow("wan22_5b", "video_wan2_2_5B_ti2v", "Wan2.2 5B", (3,), 20, 10,
             "uni_pc, simple, cfg 5, shift 8", 225),
    Workflow("ltx2_t2v", "video_ltx2_t2v", "LTX-2 text to video", (47,), 20, 10,
             "euler_ancestral, LTXVScheduler, cfg 4", 0),
    Workflow("anima", "image_anima_base_v1", "Anima", (76,), 30, 15,
             "euler, simple, cfg 4", 325),
    Workflow("ab_compare", "sd3.5_simple_example", "SD 3.5: A/B", (55,), 20, 10,
             "SD 3.5 Large, one seed, Fidelity Report", 75, beside_itself),
)  # fmt: skip


def build(workflow: Workflow, templates: Path) -> dict:
    """The graph of one file."""
    source = templates / f"{workflow.template}.json"
    graph = json.loads(source.read_text("utf-8"))
    for number, down in DOWN.get(workflow.name, {}).items():
        node = find_node(graph, number)[1]
        x, y = pair(node["pos"])
        node["pos"] = [x, y + down]
    workflow.remake(graph)
    keep_seed(graph)
    for sampler in workflow.samplers:
        put_before(graph, sampler)
    add_note(graph, workflow.title, note_of(workflow))
    # Without a stored view the page shows the whole graph.
    graph["extra"] = {"made_from": f"{source.name} of comfyui-workflow-templates (MIT licence)"}
    return graph


def main() -> int:
    templates = Path(sys.argv[1]) if len(sys.argv) == 2 else None
    if templates is None or not templates.is_dir():
        print(__doc__.strip(), file=sys.stderr)
        return 2
    for workflow in WORKFLOWS:
        text = json.dumps(build(workflow, templates), ensure_ascii=False, indent=1)
        (OUT / f"{workflow.name}.json").write_text(text + "\n", "utf-8")
        card = Card(workflow.title, workflow.steps, workflow.calls, workflow.setting, workflow.hue)
        draw_card(card).save(OUT / f"{workflow.name}.jpg", quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main())
