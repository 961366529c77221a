"""Make the files of workflows/ that put Fewer Calls into a model's official template.

    python docs/workflows/build.py TEMPLATES

TEMPLATES is the folder ``templates`` of the package comfyui_workflow_templates_json (MIT licence,
workflows/LICENSE-templates), as ComfyUI installs it. Each file that is written is that template,
with the node before its samplers, a note in English and Chinese, seeds that stay, and nodes that
lay on one another moved apart. What else changes is said in the function under ``remake``. Beside
each file lies its card, a .jpg.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cards import Card, draw_card, drawn_by_emoji
from graph import (
    GAP,
    add_node,
    blank,
    box_of,
    connect,
    disconnect,
    drop_empty_groups,
    drop_nodes,
    find_node,
    free_place,
    links_of,
    new_link_id,
    new_node_id,
    pair,
    port,
    scopes,
    set_links,
    set_widget,
)
from notes import note_of

OUT = Path(__file__).resolve().parents[2] / "workflows"
SIZE = (340, 230)
"""Of the node after a run, with four lines of text below its widgets."""
NOTE_SIZE = (440, 720)


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
    note: str = "template"
    """Of notes.WORDS, what the note says."""


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


def keep_seed(graph: dict) -> None:
    """A seed that stays: two runs differ by what one changes."""
    for scope in scopes(graph):
        for node in scope["nodes"]:
            values = node.get("widgets_values")
            if isinstance(values, list):
                node["widgets_values"] = ["fixed" if v == "randomize" else v for v in values]


def as_in_the_paper(graph: dict) -> None:
    """Wan's own setting: shift 3, guidance 4 and 3, uni_pc, 30 steps, without the Lightning LoRA.

    At shift 3 the 9th of 30 `simple` steps is exactly noise level 0.875, where the experts change.
    """
    lightning, switches = {83, 85, 117, 118, 119, 129}, {120, 121, 122, 123, 124, 116}
    drop_nodes(graph, lightning | switches)
    drop_empty_groups(graph)
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


def emoji(graph: dict) -> None:
    """The picture model of models/emoji in place of SD 3.5: four pictures of 64 x 64 of a word."""
    graph["nodes"] = [n for n in graph["nodes"] if n["type"] != "MarkdownNote"]
    set_widget(graph, 4, 0, "emoji.ckpt")
    set_widget(graph, 16, 0, "red apple")
    find_node(graph, 53)[1]["widgets_values"] = [64, 64, 4]
    find_node(graph, 3)[1]["widgets_values"] = [42, "fixed", 30, 3, "euler", "simple", 1]
    find_node(graph, 9)[1].update(size=[480, 540], widgets_values=["stable_velocity/emoji"])


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
    Workflow("emoji", "sd3.5_simple_example", "Emoji: type a word", (3,), 30, 15,
             "a model of 14 MB, in seconds on a CPU", 130, emoji, "emoji"),
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
        pictures = drawn_by_emoji() if workflow.name == "emoji" else []
        draw_card(card, pictures).save(OUT / f"{workflow.name}.jpg", quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main())
