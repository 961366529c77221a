"""MeanFlow in the real host's server."""

import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sv_core.models.interval import IntervalEmbedder, to_file
from tests.host.server import NAME, PromptError, Server
from tests.host.test_server import EULER, changed, images
from tests.host.test_workflows import (
    assert_near,
    find,
    last_sampler,
    latent,
    paper_graph,
    with_euler,
)
from training.demo.recogniser import Recogniser

pytestmark = pytest.mark.comfy
HERE = Path(__file__).parent


@pytest.fixture
def one_call() -> dict:
    """The API-format twin of workflows/digits_one_call.json, to change at will."""
    return json.loads((HERE / "workflows/digits_one_call.json").read_text("utf-8"))


def test_the_workflow_makes_one_call(server: Server, one_call: dict) -> None:
    outputs = server.run(one_call)
    assert len(outputs["8"]["images"]) == 10
    server.wait_for(lambda: "MeanFlow: 1 calls at 1 0" in server.log, 10, "the line in the log")
    assert "digits_one_call" in server.get("/workflow_templates")[NAME]


def test_a_start_s_jumps_are_euler_s_steps(server: Server, one_call: dict, digits: dict) -> None:
    """Before MeanFlow trains it, the converted network is the flow that it was."""
    many = changed(one_call, n4_calls=8, n2_copies=10, n5_noise_seed=7, n8_images=["6", 0])
    made = images(server, many)
    shifted = changed(many, n1_shift=1.0, n3_steps=8)  # simple at shift 1: the same equal steps
    shifted["4"] = EULER
    plain = changed(shifted, n1_checkpoint="digits_sit.safetensors")
    for prompt in (shifted, plain):
        assert (images(server, prompt) - made).abs().max() <= 1 / 255
    judge, labels = Recogniser(), torch.arange(10).repeat(10)
    assert judge.share(made, labels) >= 0.85


BAD = {
    "a plain SiT": ({"n1_checkpoint": "digits_sit.safetensors"}, "knows no average velocity"),
    "no calls": ({"n4_calls": 0}, "calls"),
    "too many calls": ({"n4_calls": 9}, "calls"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(server: Server, one_call: dict, case: str) -> None:
    changes, words = BAD[case]
    with pytest.raises(PromptError, match=re.escape(words)) as told:
        server.run(changed(one_call, **changes))
    assert "Traceback" not in str(told.value) and len(str(told.value)) < 400


def test_nothing_of_a_jump_reaches_the_next_prompts(server: Server, one_call: dict) -> None:
    plain = changed(one_call, n3_steps=12, n8_images=["6", 0])
    plain["4"] = EULER
    before = images(server, plain)
    for calls in (1, 3):
        images(server, changed(one_call, n4_calls=calls))
    assert torch.equal(images(server, changed(plain, n8_filename_prefix="again")), before)


def write_embedder(server: Server, width: int, seed: int | None) -> str:
    embedder = IntervalEmbedder(width)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in embedder.parameters():
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    file = server.base / f"models/loras/interval_{seed}.safetensors"
    file.parent.mkdir(exist_ok=True)
    tensors, metadata = to_file(embedder, "SD3.5")
    save_file(tensors, file, metadata)
    return file.name


def with_jumps(prompt: dict, embedder: str, sampler: dict) -> dict:
    """A workflow's prompt behind MeanFlow Loader, and another sampler."""
    prompt = deepcopy(prompt)
    node = last_sampler(prompt)
    prompt["950"] = {
        "class_type": "MeanFlowLoader",
        "inputs": {"model": prompt[node]["inputs"]["model"], "embedder": embedder},
    }
    prompt[node]["inputs"]["model"] = ["950", 0]
    prompt[find(prompt, "StableVSSampler")] = sampler
    return prompt


def test_a_host_s_model_jumps_behind_its_embedder(server: Server) -> None:
    prompt = paper_graph("sd35_large")
    grid = find(prompt, "RegimeSplitScheduler")
    prompt[grid] = {
        "class_type": "BasicScheduler",
        "inputs": prompt[grid]["inputs"] | {"scheduler": "simple", "steps": 4, "denoise": 1.0},
    }
    for name in ("preset", "split", "low_steps", "boundary", "rule", "latent"):
        prompt[grid]["inputs"].pop(name, None)
    node, jumps = last_sampler(prompt), {"class_type": "MeanFlowSampler", "inputs": {"calls": 4}}
    euler = with_euler(prompt)
    plain = latent(server, euler, node)
    nothing, trained = (write_embedder(server, 128, seed) for seed in (None, 1))
    assert torch.equal(latent(server, with_jumps(prompt, nothing, EULER), node), plain)
    assert_near(latent(server, with_jumps(prompt, nothing, jumps), node), plain, 1e-4)
    jumped = latent(server, with_jumps(prompt, trained, jumps), node)
    assert (jumped - plain).abs().max() > 0.01 * plain.abs().max()
    assert torch.equal(latent(server, euler, node), plain), "something stayed"
    prompt[find(prompt, "StableVSSampler")] = jumps
    with pytest.raises(PromptError, match="knows no average velocity"):
        latent(server, prompt, node)


def test_an_embedder_that_is_missing_is_said_before_anything_runs(server: Server) -> None:
    prompt = with_jumps(paper_graph("sd35_large"), "gone.safetensors", EULER)
    with pytest.raises(PromptError, match=r"gone\.safetensors"):
        server.run(prompt)
