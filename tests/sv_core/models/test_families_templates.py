"""The families' records beside the official workflows, as ComfyUI installs them."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sv_core.models import families
from sv_core.models.family import Family
from tests.inside import HOSTS

pytestmark = pytest.mark.comfy
SILENT = (2, 4)
"""Modes of nodes that do not run: muted and bypassed."""
WIDGETS = {  # node -> what its widgets are, in their order
    "KSampler": ("", "", "steps", "cfg", "sampler", "scheduler"),
    "KSamplerAdvanced": ("", "", "", "steps", "cfg", "sampler", "scheduler"),
    "KSamplerSelect": ("sampler",),
    "BasicScheduler": ("scheduler", "steps"),
    "Flux2Scheduler": ("steps",),
    "LTXVScheduler": ("steps",),
    "SamplerCustom": ("", "", "", "cfg"),
    "CFGGuider": ("cfg",),
    "DualCFGGuider": ("cfg",),
    "ModelSamplingSD3": ("shift",),
    "ModelSamplingAuraFlow": ("shift",),
    # A switch chooses between numbers for the model and for the model with a LoRA that distils.
    "PrimitiveInt": ("steps",),
    "PrimitiveFloat": ("cfg",),
}


class Said(NamedTuple):
    """What the nodes of a workflow hold."""

    steps: set[int]
    cfg: set[float]
    sampler: set[str]
    scheduler: set[str]
    shift: set[float]


@cache
def template(name: str) -> Path | None:
    """The file of an official workflow in the newest ComfyUI found."""
    found = [
        file
        for host in HOSTS
        for file in (host.folder / ".venv").glob(
            f"lib/python*/site-packages/comfyui_workflow_templates*/templates/{name}.json"
        )
    ]
    return found[0] if found else None


def nodes_of(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """All that run, also inside subgraphs."""
    parts = [graph, *graph.get("definitions", {}).get("subgraphs", [])]
    return [n for part in parts for n in part["nodes"] if n.get("mode") not in SILENT]


def read(graph: dict[str, Any]) -> Said:
    said = Said(set(), set(), set(), set(), set())
    for node in nodes_of(graph):
        values = node.get("widgets_values") or ()
        for kind, value in zip(WIDGETS.get(node["type"], ()), values, strict=False):
            if kind:
                getattr(said, kind).add(round(value, 3) if kind == "shift" else value)
    return said


@pytest.mark.parametrize("family", families.having("template"), ids=lambda f: f.name)
def test_a_record_says_what_the_official_workflow_says(family: Family) -> None:
    record = family.template
    assert record is not None
    file = template(record.file)
    if file is None:
        pytest.skip(f"no ComfyUI found has the template {record.file}")
    said = read(json.loads(file.read_text("utf-8")))
    assert record.steps in said.steps
    assert record.cfg in (said.cfg or {1.0})
    assert record.sampler in said.sampler
    assert record.scheduler in (said.scheduler or {None})
    assert {record.shift} <= (said.shift or {None})


def test_the_templates_of_our_workflows_are_those_of_the_records() -> None:
    root = Path(__file__).resolve().parents[3]
    made = {
        json.loads(file.read_text("utf-8")).get("extra", {}).get("made_from", "").split(".json")[0]
        for file in (root / "workflows").glob("*.json")
    } - {""}
    named = {f.template.file for f in families.having("template") if f.template is not None}
    others = {"image_qwen_image_edit", "video_wan2_2_14B_i2v"}  # of families that have another
    assert made - named == others
