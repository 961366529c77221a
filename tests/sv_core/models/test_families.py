"""sv_core.models.families: one record each, one spelling, and nothing else that lists families."""

import ast
import json
from pathlib import Path

import pytest

from sv_core.errors import InvalidInput
from sv_core.models import families
from sv_core.models.families import FAMILIES, Family, find

ROOT = Path(__file__).resolve().parents[3]
RECORDS = [ROOT / f"sv_core/models/{name}.py" for name in ("families", "further_families")]
EARLIER = {  # what files, workflows and configurations of version 0.1 hold
    "sd": "SD",
    "sdxl": "SDXL",
    "sd3": "SD3.5",
    "flux": "Flux",
    "qwen_image": "Qwen-Image",
    "wan21": "Wan2.2 14B",
    "wan22": "Wan2.2 5B",
    "sd3.5-large": "SD3.5",
    "flux-dev": "Flux",
    "qwen-image": "Qwen-Image",
    "wan2.2-14b": "Wan2.2 14B",
    "wan2.2-5b": "Wan2.2 5B",
    "Wan2.2": "Wan2.2 14B",
}
PAPER_GRAPHS = {
    "flux1_dev": "Flux",
    "sd35_large": "SD3.5",
    "qwen_image": "Qwen-Image",
    "wan22_14b_t2v": "Wan2.2 14B",
    "wan22_5b": "Wan2.2 5B",
}


@pytest.mark.parametrize(("word", "name"), EARLIER.items())
def test_every_spelling_of_before_still_means_its_family(word: str, name: str) -> None:
    assert families.spelled(word) == name == families.spelled(name)


def test_a_name_means_one_family() -> None:
    words = [word for family in FAMILIES for word in (family.name, *family.aliases)]
    both = {word for word in words if words.count(word) > 1}
    assert both == {"Wan2.2"}  # one preset and one kind of embedder for two models, before
    hosts = [host for family in FAMILIES if not family.where for host in family.hosts]
    assert len(hosts) == len(set(hosts))
    kinds = [family.latent.kind for family in families.having("latent")]
    assert len(kinds) == len(set(kinds)) and all(find(kind).latent.kind == kind for kind in kinds)


def test_unknown_names_are_none_or_refused_in_words() -> None:
    assert find(None) is find("pixels") is None and families.spelled("pixels") == "pixels"
    assert not families.has_frames("pixels") and not families.is_moving(None)
    for name in ("flix", "Flux.2", None):  # Flux.2 is known, but not its latents
        with pytest.raises(InvalidInput, match=r"unknown family .* \(have: SD, SDXL, Flux"):
            families.latents(name)


def test_a_model_of_comfyui_is_known_by_its_nearest_class() -> None:
    assert families.of_host(["WAN22", "WAN21", "BaseModel"]).name == "Wan2.2 5B"
    assert families.of_host(["WAN21_Vace", "WAN21", "BaseModel"]).name == "Wan VACE"
    assert families.of_host(["WAN21_New", "WAN21", "BaseModel"]).name == "Wan2.2 14B"
    assert families.of_host(["Chroma", "Flux", "BaseModel"]).name == "Chroma"
    assert families.of_host(["Flux2", "Flux", "BaseModel"]).sampling is None
    assert families.of_host(["SDXL", "BaseModel"]) is None


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "i2v", "dim": 5120}, "Wan2.1"),  # with CLIP's view of the first frame
        ({"model_type": "t2v", "dim": 1536}, "Wan2.1"),  # 1.3B
        ({"model_type": "t2v", "dim": 5120}, "Wan2.2 14B"),
        ({}, "Wan2.2 14B"),
        (None, "Wan2.2 14B"),
    ],
)
def test_one_class_of_comfyui_is_told_apart_by_its_configuration(config, name: str) -> None:
    assert families.of_host(["WAN21", "BaseModel"], config).name == name


def test_names_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert families.names("boundary") == families.names("boundary", " or ") == "Wan2.2 14B"
    monkeypatch.setattr(families, "FAMILIES", tuple(Family(n, stride=8) for n in "ABC"))
    assert families.names("stride", " and ") == "A, B and C"
    assert families.stride("B") == 8 and families.stride("D") == 4


@pytest.mark.parametrize(("graph", "name"), PAPER_GRAPHS.items())
def test_a_family_s_graph_of_the_paper_says_what_its_record_says(graph: str, name: str) -> None:
    nodes = json.loads((ROOT / f"tests/host/paper_graphs/{graph}.json").read_text("utf-8")).values()
    said = [(node["class_type"], node["inputs"]) for node in nodes]
    family, sampling = find(name), find(name).sampling
    for kind, inputs in said:
        if kind == "SamplerCustom":
            assert inputs["cfg"] == sampling.cfg
        elif kind == "ModelSamplingSD3":
            assert inputs["shift"] == sampling.shift
        elif kind == "StableVSSampler":
            assert (inputs["base"], inputs["split"]) == (sampling.sampler, sampling.split)
        elif kind == "RegimeSplitScheduler":
            assert inputs["preset"] in ("auto", name)
            assert inputs["boundary"] == (family.boundary or 0)
    assert {"SamplerCustom", "StableVSSampler", "RegimeSplitScheduler"} <= {
        kind for kind, _ in said
    }


def test_every_family_of_a_preset_has_its_graph_of_the_paper() -> None:
    assert {*PAPER_GRAPHS.values()} == {family.name for family in families.having("sampling")}


def test_no_other_file_names_a_family() -> None:
    words = {w for f in FAMILIES for w in (f.name, *f.aliases, *f.hosts)} - {"sd"}  # also a module
    for package in ("sv_core", "nodes", "training"):
        for path in (ROOT / package).rglob("*.py"):
            if path not in RECORDS:
                texts = [
                    getattr(n, "value", None) for n in ast.walk(ast.parse(path.read_text("utf-8")))
                ]
                assert not words.intersection(t for t in texts if isinstance(t, str)), path
