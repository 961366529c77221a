"""The workflows' API twins, and graphs of the paper's sampler, in running servers.

Tiny models of the families stand in for the official files.
"""

import itertools
import json
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.host.server import PACK, Server
from tests.host.tiny import shrink

pytestmark = pytest.mark.comfy
HERE = Path(__file__).parent
TWINS = {p.stem: p for p in sorted((HERE / "workflows").glob("*.json"))}
ENDS = ("SaveImage", "SaveImageAdvanced", "SaveVideo", "PreviewAny", "RegimePlot", "FidelityReport")
EULER = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
NUMBERS = itertools.count()


def twin(name: str) -> dict:
    """The API-format twin of workflows/NAME.json, at a size for a CPU."""
    return shrink(json.loads(TWINS[name].read_text("utf-8")))


def paper_graph(name: str) -> dict:
    """A graph of the paper's sampler on a model's own grid."""
    return shrink(json.loads((HERE / f"paper_graphs/{name}.json").read_text("utf-8")))


def require_nodes(server: Server, prompt: dict) -> None:
    """Skip where the host is older than a node of the official template."""
    lacking = {n["class_type"] for n in prompt.values()} - server.get("/object_info").keys()
    if lacking:
        pytest.skip(f"{server.host.name} has no {', '.join(sorted(lacking))}")


def find(prompt: dict, kind: str) -> str:
    """The id of the first node of a class."""
    return next(k for k, v in prompt.items() if v["class_type"] == kind)


def latent(server: Server, prompt: dict, node: str) -> torch.Tensor:
    """What a node's first output holds, after the prompt has run up to it."""
    prompt = {k: v for k, v in deepcopy(prompt).items() if v["class_type"] not in ENDS}
    prefix = f"latent{next(NUMBERS)}"
    prompt["900"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [node, 0], "filename_prefix": prefix},
    }
    server.run(prompt)
    (file,) = (server.base / "output").glob(f"{prefix}_*.latent")
    return load_file(file)["latent_tensor"]


def last_sampler(prompt: dict) -> str:
    """The node whose latent is decoded, which samples or takes a video from its sound."""
    kinds = {node["class_type"] for node in prompt.values()}
    decode = "VAEDecode" if "VAEDecode" in kinds else "VAEDecodeTiled"
    return prompt[find(prompt, decode)]["inputs"]["samples"][0]


def with_euler(prompt: dict) -> dict:
    """ComfyUI's own euler in place of our sampler, on the same SIGMAS."""
    prompt = deepcopy(prompt)
    prompt[find(prompt, "StableVSSampler")] = EULER
    return prompt


def with_base_euler(prompt: dict) -> dict:
    prompt = deepcopy(prompt)
    prompt[find(prompt, "StableVSSampler")]["inputs"]["base"] = "euler"
    return prompt


def assert_near(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    assert a.shape == b.shape and a.isfinite().all() and 0.1 < a.std() < 10
    worst = float((a - b).abs().max() / b.abs().max())
    assert worst < tolerance, f"{worst:.1e}"


def test_every_workflow_has_a_twin() -> None:
    assert TWINS.keys() | {"digits"} == {p.stem for p in (PACK / "workflows").glob("*.json")}


FEWER = {  # what each run of the sampler says of its calls
    "ab_compare": ["10 of 20"],
    "emoji": ["15 of 30"],
    "flux1_dev": ["10 of 20"],
    "sd35_large": ["10 of 20"],
    "qwen_image": ["10 of 20"],
    "qwen_image_edit": ["10 of 20"],
    "flux2_dev": ["10 of 20"],
    "z_image": ["12 of 25"],
    "anima": ["15 of 30"],
    "ltx2_t2v": ["10 of 20"],
    "wan22_14b_t2v": ["5 of 10", "5 of 10"],
    "wan22_14b_i2v": ["5 of 10", "5 of 10"],
    "wan22_14b_t2v_paper": ["4 of 9", "10 of 21"],
    "wan22_5b": ["10 of 20"],
}
CALLS = {
    "flux1_dev": "20 model calls instead of 30",
    "sd35_large": "20 model calls instead of 30",
    "wan22_14b_t2v": "24 model calls instead of 30",
    "wan22_5b": "27 model calls instead of 30",
    "img2img": "14 model calls instead of 30",
    # Qwen-Image's own grid at the tests' 128 x 128.
    "qwen_image": "16 model calls instead of 30",
}


def paper_sampling(name: str) -> dict:
    return twin(name) if name == "img2img" else paper_graph(name)


def assert_pictures(server: Server, outputs: dict) -> None:
    made = [o for o in outputs.values() if "images" in o]
    assert made
    for file in server.pictures(made[-1]):
        assert file.stat().st_size > 500
        if file.suffix == ".png":
            assert np.asarray(Image.open(file)).std() > 5, "a flat picture"


@pytest.mark.parametrize("name", sorted(TWINS))
def test_twin_runs(server: Server, name: str) -> None:
    prompt = twin(name)
    require_nodes(server, prompt)
    before = len(server.log)
    assert_pictures(server, server.run(prompt))
    told = re.findall(r"Fewer Calls: (\d+ of \d+) calls", server.log[before:])
    assert told == FEWER.get(name, [])


def with_share(prompt: dict, share: float) -> dict:
    """Every Fewer Calls of it at that share, by both forms of the node's inputs."""
    prompt = deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] == "FewerCalls":
            node["inputs"] |= {"calls": "share", "calls.share": share, "share": share}
    return prompt


def without_node(prompt: dict) -> dict:
    """The official template: each Fewer Calls' model goes past it."""
    prompt = deepcopy(prompt)
    past = {k: v["inputs"]["model"] for k, v in prompt.items() if v["class_type"] == "FewerCalls"}
    for node in prompt.values():
        if (link := node["inputs"].get("model")) and link[0] in past:
            node["inputs"]["model"] = past[link[0]]
    return {k: v for k, v in prompt.items() if k not in past}


@pytest.mark.parametrize("name", sorted(FEWER.keys() - {"ab_compare"}))
def test_the_official_template_with_and_without_the_node(server: Server, name: str) -> None:
    prompt = twin(name)
    require_nodes(server, prompt)
    node = last_sampler(prompt)
    official = latent(server, without_node(prompt), node)
    assert torch.equal(latent(server, with_share(prompt, 1.0), node), official)
    half = latent(server, prompt, node)
    # Random weights make a rough velocity: trained ones come far nearer.
    assert 0 < (half - official).std() < 0.5 * official.std()


def test_the_picture_that_is_edited_reaches_the_network(server: Server) -> None:
    prompt = twin("qwen_image_edit")
    require_nodes(server, prompt)
    node = last_sampler(prompt)
    edited = latent(server, prompt, node)
    for encoder in prompt.values():
        if encoder["class_type"] == "TextEncodeQwenImageEdit":
            encoder["inputs"].pop("vae")
    assert not torch.equal(latent(server, prompt, node), edited)


@pytest.mark.parametrize("name", CALLS)
def test_the_paper_s_sampler_says_its_calls(server: Server, name: str) -> None:
    outputs = server.run(paper_sampling(name))
    assert_pictures(server, outputs)
    assert CALLS[name] in json.dumps(outputs), outputs
    if name == "wan22_14b_t2v":
        assert "boundary 0.875: 12 calls of the high-noise expert, 12 of" in json.dumps(outputs)


@pytest.mark.parametrize("name", CALLS)
def test_noise_0_equals_euler_on_the_same_sigmas(server: Server, name: str) -> None:
    prompt = with_base_euler(paper_sampling(name))
    ours, theirs = (latent(server, p, last_sampler(p)) for p in (prompt, with_euler(prompt)))
    assert_near(ours, theirs, 2e-6)
    assert ours.ndim == (5 if name.startswith(("wan", "qwen")) else 4)


def test_ksampler_s_15_calls_of_30_steps_are_near_to_them(server: Server) -> None:
    prompt = twin("ksampler")
    node = find(prompt, "KSampler")
    assert prompt[node]["inputs"]["sampler_name"] == "stable_vs"
    assert prompt[node]["inputs"]["steps"] == 30

    def made(name: str, steps: int, denoise: float) -> torch.Tensor:
        prompt[node]["inputs"] |= {"sampler_name": name, "steps": steps, "denoise": denoise}
        return latent(server, prompt, node)

    for denoise in (1.0, 0.6):
        base = made("euler", 30, denoise)
        errors = [(made(*s, denoise) - base).std() for s in (("stable_vs", 30), ("euler", 15))]
        # Random weights turn anywhere, most at high noise, where the list's end takes calls from:
        # what trained networks gain, and exact flows, stands in benchmarks/RESULTS.md.
        assert 0 < errors[0] < 1.5 * errors[1], [float(e) for e in errors]
    assert_near(made("stable_vs", 8, 1.0), made("euler", 8, 1.0), 2e-6)


def test_ksampler_advanced_in_two_parts_equals_one(server: Server) -> None:
    prompt = twin("ksampler")
    node = find(prompt, "KSampler")
    inputs = prompt[node]["inputs"]
    inputs |= {"steps": 14, "sampler_name": "euler"}
    whole = latent(server, prompt, node)
    inputs["sampler_name"] = "stable_vs"  # which calls at every step of parts of 8 or fewer
    inputs |= {"noise_seed": inputs.pop("seed"), "add_noise": "enable", "start_at_step": 0}
    inputs |= {"end_at_step": 8, "return_with_leftover_noise": "enable"}
    del inputs["denoise"]
    prompt[node]["class_type"] = "KSamplerAdvanced"
    prompt["901"] = deepcopy(prompt[node])
    prompt["901"]["inputs"] |= {
        "add_noise": "disable", "start_at_step": 8, "end_at_step": 10000,
        "return_with_leftover_noise": "disable", "latent_image": [node, 0],
    }  # fmt: skip
    assert_near(latent(server, prompt, "901"), whole, 2e-5)


def test_batches_hold_the_single_pictures(server: Server) -> None:
    prompt = paper_graph("sd35_large")
    prompt[find(prompt, "EmptySD3LatentImage")]["inputs"]["batch_size"] = 2
    pair = latent(server, prompt, last_sampler(prompt))
    plain = with_euler(prompt)
    assert len(pair) == 2 and (pair[0] - pair[1]).abs().max() > 0.1
    assert_near(pair, latent(server, plain, last_sampler(plain)), 2e-6)


def in_two_stages(prompt: dict, first: int, second: int) -> tuple[dict, str]:
    """SamplerCustom twice, the second time with noise disabled, on two parts of the grid."""
    prompt = deepcopy(prompt)
    node, grid = find(prompt, "SamplerCustom"), find(prompt, "RegimeSplitScheduler")
    again = deepcopy(prompt[node])
    prompt[node]["inputs"]["sigmas"] = [grid, first]
    again["inputs"] |= {"sigmas": [grid, second], "add_noise": False, "latent_image": [node, 0]}
    prompt["901"] = again
    return prompt, "901"


@pytest.mark.parametrize("name", ["sd35_large", "flux1_dev", "wan22_5b"])
def test_two_stages_equal_one_run(server: Server, name: str) -> None:
    prompt = with_base_euler(paper_graph(name))
    prompt[find(prompt, "RegimeSplitScheduler")]["inputs"]["boundary"] = 0.9
    whole = latent(server, prompt, last_sampler(prompt))
    for first, second in ((1, 2), (5, 6)):  # above and below the split; the two experts
        parts, end = in_two_stages(prompt, first, second)
        assert_near(latent(server, parts, end), whole, 2e-5)


def test_two_stages_with_the_disable_noise_node(server: Server) -> None:
    prompt = paper_graph("ab_compare")
    grid = find(prompt, "RegimeSplitScheduler")
    node = next(
        k for k, v in prompt.items()
        if v["class_type"] == "SamplerCustomAdvanced" and v["inputs"]["sigmas"][0] == grid
    )  # fmt: skip
    whole = latent(server, prompt, node)
    again = deepcopy(prompt[node])
    prompt[node]["inputs"]["sigmas"] = [grid, 1]
    prompt["901"] = {"class_type": "DisableNoise", "inputs": {}}
    again["inputs"] |= {"sigmas": [grid, 2], "noise": ["901", 0], "latent_image": [node, 0]}
    prompt["902"] = again
    assert_near(latent(server, prompt, "902"), whole, 2e-5)


def test_each_expert_does_its_own_part(server: Server) -> None:
    prompt = with_base_euler(paper_graph("wan22_14b_t2v"))
    low = last_sampler(prompt)
    high = prompt[low]["inputs"]["latent_image"][0]
    both = latent(server, prompt, low)
    prompt[low]["inputs"]["model"] = prompt[high]["inputs"]["model"]
    one = latent(server, prompt, low)
    assert (one - both).abs().max() > 0.01 * both.abs().max(), "the low-noise expert did nothing"
    prompt[high]["inputs"]["sigmas"] = [find(prompt, "RegimeSplitScheduler"), 0]
    assert_near(latent(server, prompt, high), one, 2e-5)


def test_inpainting_keeps_what_the_mask_leaves(server: Server) -> None:
    prompt = twin("img2img")
    encode, node = find(prompt, "VAEEncode"), last_sampler(prompt)
    prompt["901"] = {
        "class_type": "SolidMask", "inputs": {"value": 0.0, "width": 128, "height": 128},
    }  # fmt: skip
    prompt["902"] = {
        "class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 128},
    }  # fmt: skip
    prompt["903"] = {
        "class_type": "MaskComposite",
        "inputs": {
            "destination": ["901", 0], "source": ["902", 0], "x": 64, "y": 0, "operation": "add",
        },
    }  # fmt: skip
    prompt["904"] = {
        "class_type": "SetLatentNoiseMask",
        "inputs": {"samples": [encode, 0], "mask": ["903", 0]},
    }
    prompt[node]["inputs"]["latent_image"] = ["904", 0]
    original, made = latent(server, prompt, encode), latent(server, prompt, node)
    moved = (made - original).abs().amax((0, 1, 2))  # by column
    third = len(moved) // 3
    assert moved[:third].max() < 1e-5 and moved[-third:].min() > 0.01
    plain = with_euler(prompt)
    assert_near(made, latent(server, plain, node), 2e-6)


def test_image_to_image_begins_at_the_host_s_noise(server: Server) -> None:
    prompt = twin("img2img")
    encode, node = find(prompt, "VAEEncode"), last_sampler(prompt)
    grid = prompt[find(prompt, "RegimeSplitScheduler")]["inputs"]
    original = latent(server, prompt, encode)
    moved = []
    for denoise in (0.1, 0.75):
        grid["denoise"] = denoise
        moved.append(float((latent(server, prompt, node) - original).square().mean().sqrt()))
    assert 0 < moved[0] < 0.5 * moved[1]


def test_noise_above_0_is_seeded(server: Server) -> None:
    prompt = paper_graph("sd35_large")
    node = last_sampler(prompt)
    made = []
    for noise, seed in ((0.3, 42), (0.3, 42), (0.3, 43), (0.0, 42)):
        prompt[find(prompt, "StableVSSampler")]["inputs"]["noise"] = noise
        prompt[node]["inputs"]["noise_seed"] = seed
        made.append(latent(server, prompt, node))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2]) and not torch.equal(made[0], made[3])


def test_sigmas_of_other_scheduler_nodes_are_split(server: Server) -> None:
    everything = server.get("/object_info")
    makers = {
        "LTXVScheduler": {
            "steps": 30, "max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1,
        },
        "Flux2Scheduler": {"steps": 30, "width": 1024, "height": 1024},
    }  # fmt: skip
    for kind in makers.keys() & everything.keys():
        prompt = {
            "1": {"class_type": kind, "inputs": makers[kind]},
            "2": {"class_type": "RegimeSplitSigmas", "inputs": {"sigmas": ["1", 0]}},
            "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 4]}},
            "4": {"class_type": "RegimePlot", "inputs": {
                "native": ["2", 7], "used": ["2", 0], "split": 0.85, "boundary": 0.0,
            }},
        }  # fmt: skip
        outputs = server.run(prompt)
        assert "model calls instead of 30" in json.dumps(outputs["3"]), outputs["3"]
        assert outputs["4"]["images"]


def test_shift_12_says_that_nothing_is_saved(server: Server) -> None:
    prompt = paper_graph("wan22_5b")
    prompt[find(prompt, "ModelSamplingSD3")]["inputs"]["shift"] = 12.0
    outputs = server.run(prompt)
    assert "30 model calls (21 at or above 0.85, 9 below): nothing is saved" in json.dumps(outputs)
