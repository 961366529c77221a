"""The pack in running ComfyUI servers: it loads, its nodes explain themselves, prompts run."""

import json
import re
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sv_core.latent import SD_VAE, pixels
from sv_core.models.sit import SiT, SiTConfig
from sv_core.models.sit_file import to_metadata
from tests.host.server import NAME, PACK, Host, PromptError, Server
from training.demo.recogniser import Recogniser

pytestmark = pytest.mark.comfy
LANGUAGES = ("en", "zh")
NODES = tuple(json.loads((PACK / "locales/en/nodeDefs.json").read_text("utf-8")))
EULER = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}


def native_grid(steps: int, denoise: float = 1.0) -> dict:
    inputs = {"model": ["1", 0], "scheduler": "simple", "steps": steps, "denoise": denoise}
    return {"class_type": "BasicScheduler", "inputs": inputs}


def changed(prompt: dict, **inputs: object) -> dict:
    """The prompt with ``n<node>_<input>`` set to other values."""
    prompt = deepcopy(prompt)
    for key, value in inputs.items():
        node, name = re.fullmatch(r"n(\d+)_(\w+)", key).groups()
        prompt[node]["inputs"][name] = value
    return prompt


def images(server: Server, prompt: dict) -> torch.Tensor:
    """What node 8 saved, grey in [0, 1]: (n, 1, h, w)."""
    files = server.pictures(server.run(prompt)["8"])
    made = np.stack([np.asarray(Image.open(f).convert("L")) for f in files])
    return torch.from_numpy(made)[:, None] / 255


def test_pack_loads_without_a_warning(server: Server) -> None:
    log = server.startup_log
    lines = [line for line in log.splitlines() if NAME in line]
    timing = re.compile(rf"\s*\d+\.\d+ seconds: .*{NAME}")
    assert lines and all(timing.match(line) for line in lines), lines
    assert "comfy_entrypoint" not in log and "IMPORT FAILED" not in log


def test_every_node_input_and_output_explains_itself(server: Server) -> None:
    everything = server.get("/object_info")
    ours = {k: v for k, v in everything.items() if v["python_module"] == f"custom_nodes.{NAME}"}
    assert ours.keys() == set(NODES)
    told, mute = 0, []
    for node, info in ours.items():
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        words = {name: spec[1].get("tooltip") for name, spec in inputs.items()}
        words |= dict(zip(info["output_name"], info["output_tooltips"], strict=True))
        words["description"] = info["description"]
        for name, text in words.items():
            if text and len(text) > (40 if name == "description" else 10):
                told += 1
            else:
                mute.append(f"{node}.{name}")
    assert not mute, f"{told} of {told + len(mute)} explain themselves, these do not: {mute}"
    assert told > 60


@pytest.mark.parametrize("node", NODES)
def test_translations_cover_every_input_and_output(server: Server, node: str) -> None:
    info = server.get(f"/object_info/{node}")[node]
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    for language in LANGUAGES:
        words = server.get("/i18n")[language]["nodeDefs"][node]
        assert words["display_name"] and words["description"]
        assert words["inputs"].keys() >= inputs.keys()
        # Its inputs differ with the host; test_fewer_calls.py holds their words.
        assert words["inputs"].keys() == inputs.keys() or node == "FewerCalls"
        assert len(words["outputs"]) == len(info["output"])
        for entry in (*words["inputs"].values(), *words["outputs"].values()):
            assert entry["name"] and entry["tooltip"]
    english = server.get("/i18n")["en"]["nodeDefs"][node]
    assert english["display_name"] == info["display_name"]
    assert english["description"] == info["description"]
    for name, spec in inputs.items():
        assert english["inputs"][name]["tooltip"] == spec[1]["tooltip"]
    assert [o["tooltip"] for o in english["outputs"].values()] == info["output_tooltips"]


@pytest.mark.parametrize("node", NODES)
def test_help_pages_are_where_the_page_asks_for_them(server: Server, node: str) -> None:
    for page in (f"{node}.md", f"{node}/zh.md"):
        text = server.request(f"/extensions/{NAME}/docs/{page}").decode()
        assert text.startswith("# ") and len(text) > 200


def test_workflows_and_thumbnails_are_in_the_templates_browser(server: Server) -> None:
    names = {path.stem for path in (PACK / "workflows").glob("*.json")}
    assert len(names) >= 9 and set(server.get("/workflow_templates")[NAME]) == names
    for name in names:
        served = f"/api/workflow_templates/{NAME}/{name}"
        assert server.get(f"{served}.json")["nodes"]
        assert server.request(f"{served}.jpg").startswith(b"\xff\xd8")


def test_a_host_that_lacks_a_package_is_told_which(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import a_package_that_nobody_has")
    with pytest.raises(RuntimeError, match=r"lacks the Python package a_package_that_nobody_has: "):
        Server(Host(tmp_path, Path(sys.executable)), tmp_path / "base")


def test_digits_workflow_says_what_it_saves(server: Server, digits: dict) -> None:
    outputs = server.run(digits)
    assert len(outputs["8"]["images"]) == 10
    report = "20 model calls instead of 30 (11 at or above 0.85, 9 below): 10 saved."
    assert report in json.dumps(outputs["9"])


def test_digits_are_recognised_with_30_and_with_20_calls(server: Server, digits: dict) -> None:
    digits = changed(digits, n2_copies=10, n5_noise_seed=7, n8_images=["6", 0])
    ours = images(server, digits)
    digits["3"], digits["4"] = native_grid(30), EULER
    digits["9"]["inputs"]["source"] = ["3", 0]
    reference = images(server, digits)
    judge, labels = Recogniser(), torch.arange(10).repeat(10)
    shares = {"euler, 30 calls": reference, "StableVS, 20 calls": ours}
    for name, made in shares.items():
        assert made.shape == (100, 1, 8, 8)
        share = judge.share(made, labels)
        assert share >= 0.95, f"{name}: {share:.0%} recognised"
    assert (ours - reference).square().mean().sqrt() < 0.1


def test_noise_0_equals_the_host_s_euler(server: Server, digits: dict) -> None:
    ours = images(server, changed(digits, n5_noise_seed=1))
    digits["4"] = EULER
    assert (images(server, changed(digits, n5_noise_seed=1)) - ours).abs().max() <= 1 / 255


def test_model_sampling_nodes_mean_the_same_as_the_shift_input(
    server: Server, digits: dict
) -> None:
    plain = images(server, changed(digits, n1_shift=5.0))
    for kind in ("ModelSamplingSD3", "ModelSamplingAuraFlow"):
        patched = changed(digits, n3_model=["20", 0], n5_model=["20", 0])
        patched["20"] = {"class_type": kind, "inputs": {"model": ["1", 0], "shift": 5.0}}
        assert (images(server, patched) - plain).abs().max() <= 1 / 255, kind


def test_ksampler_and_empty_latent_image_work(server: Server, digits: dict) -> None:
    digits["5"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0], "seed": 5, "steps": 20, "cfg": 2.0, "sampler_name": "dpmpp_2m",
            "scheduler": "simple", "positive": ["2", 0], "negative": ["2", 1],
            "latent_image": ["21", 0], "denoise": 1.0,
        },
    }  # fmt: skip
    digits["21"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 10},
    }
    made = images(server, changed(digits, n7_width=8, n7_height=8))
    assert Recogniser().share(made, torch.arange(10)) >= 0.9


def test_image_to_image_stays_near_the_image(server: Server, digits: dict) -> None:
    first = changed(digits, n7_width=8, n7_height=8)
    again = deepcopy(first)
    again["22"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["6", 0], "vae": ["1", 1]}}
    for node, source in (("23", ["5", 0]), ("25", ["22", 0])):
        again[node] = deepcopy(first["5"])
        again[node]["inputs"] |= {"latent_image": source, "sigmas": ["24", 0], "noise_seed": 9}
    again["24"] = changed(first, n3_denoise=0.3)["3"]
    original = images(server, first)
    for node in ("23", "25"):  # from the latent, and from the picture encoded again
        again["26"] = {"class_type": "VAEDecode", "inputs": {"samples": [node, 0], "vae": ["1", 1]}}
        nearby = images(server, changed(again, n8_images=["26", 0]))
        distance = (nearby - original).square().mean().sqrt()
        assert 0.005 < distance < 0.2, float(distance)
    nothing = changed(again, n24_denoise=0.0, n8_images=["26", 0], n9_source=["24", 4])
    outputs = server.run(nothing)
    assert "denoise is 0" in json.dumps(outputs["9"])


def test_a_checkpoint_trained_further_is_loaded_again(server: Server, digits: dict) -> None:
    made = []
    for seed in (0, 1):
        path = server.base / "models/diffusion_models/again.safetensors"
        write_sit(path, seed, SiTConfig(**TINY))
        made.append(images(server, changed(digits, n1_checkpoint=path.name, n2_classes="0")))
    assert not torch.equal(*made)


def test_interrupt_works_within_a_step(server: Server, digits: dict) -> None:
    config = SiTConfig(
        input_size=32, patch_size=2, in_channels=4, hidden_size=128, depth=12, num_heads=2,
        num_classes=10,
    )  # fmt: skip
    write_sit(server.base / "models/diffusion_models/slow.safetensors", 0, config)
    slow = changed(digits, n1_checkpoint="slow.safetensors", n3_steps=1000, n2_copies=2)
    slow["6"] = {"class_type": "PreviewAny", "inputs": {"source": ["5", 0]}}
    del slow["7"], slow["8"]
    for seed in (1, 2):  # the second run has the model loaded
        began = time.monotonic()
        server.run(changed(slow, n3_steps=1, n5_noise_seed=seed))
        step = time.monotonic() - began
    prompt_id = server.queue(slow)
    server.wait_for(
        lambda: any(job[1] == prompt_id for job in server.get("/queue")["queue_running"]), 30, "it"
    )
    time.sleep(0.3 * step)
    began = time.monotonic()
    server.request("/interrupt", {})
    entry = server.finished(prompt_id)
    took = time.monotonic() - began
    assert any(m[0] == "execution_interrupted" for m in entry["status"]["messages"])
    assert took < 0.4 * step, f"{took:.2f} s, a step takes {step:.2f} s"


TINY = {
    "input_size": 8, "patch_size": 4, "in_channels": 1, "hidden_size": 32, "depth": 1,
    "num_heads": 2, "num_classes": 10,
}  # fmt: skip


def write_sit(path: Path, seed: int, config: SiTConfig) -> None:
    """A SiT of random weights, its last layer included."""
    torch.manual_seed(seed)
    net = SiT(config)
    torch.nn.init.normal_(net.final_layer.linear.weight, std=0.1)
    spec = SD_VAE if config.in_channels == 4 else pixels(config.in_channels)
    save_file(net.state_dict(), path, metadata=to_metadata(config, spec))


BAD = {
    "missing checkpoint": ({"n1_checkpoint": "gone.safetensors"}, "gone.safetensors is not in"),
    "class out of range": ({"n2_classes": "0-10"}, "class 10 does not exist"),
    "not a class": ({"n2_classes": "cat"}, "'cat' is not a class"),
    "backward range": ({"n2_classes": "9-0"}, "write the smaller class first"),
    "split of 1": ({"n3_split": 1.0}, "split must lie between 0 and 1"),
    "split above 1": ({"n3_split": 1.7}, "split"),
    "sampler's split": ({"n4_split": 0.0}, "split must lie between 0 and 1"),
    "no low steps": ({"n3_low_steps": 0}, "low_steps must be at least 1"),
    "too many low steps": ({"n3_low_steps": 20}, "only 19 of the grid's 30 steps lie below"),
    "unfit base": ({"n4_base": "dpm_adaptive"}, "does not work with flow models"),
    "no base": ({"n4_base": "eulr"}, "no sampler 'eulr'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(server: Server, digits: dict, case: str) -> None:
    changes, words = BAD[case]
    with pytest.raises(PromptError, match=re.escape(words)) as told:
        server.run(changed(digits, **changes))
    assert "Traceback" not in str(told.value) and len(str(told.value)) < 400


def write_bad_files(folder: Path, digits_file: Path) -> None:
    data = digits_file.read_bytes()
    (folder / "truncated.safetensors").write_bytes(data[: len(data) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("<html>404 not found</html>")
    torch.save({"x": Path("code")}, folder / "code.pt")
    other = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}
    save_file(other, folder / "sd15.safetensors")
    save_file(
        {"double_blocks.0.img_attn.qkv.weight": torch.zeros(8, 8)}, folder / "flux.safetensors"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated.safetensors", "it is truncated or of another format"),
        ("empty.safetensors", "it is truncated or of another format"),
        ("text.safetensors", "it is truncated or of another format"),
        ("code.pt", "holds nothing but tensors"),
        ("sd15.safetensors", "not a SiT checkpoint"),
        ("flux.safetensors", "not a SiT checkpoint"),
    ],
)
def test_bad_checkpoints_get_one_sentence(
    server: Server, digits: dict, name: str, words: str
) -> None:
    folder = server.base / "models/diffusion_models"
    write_bad_files(folder, folder / "digits_sit.safetensors")
    with pytest.raises(PromptError, match=re.escape(words)) as told:
        server.run(changed(digits, n1_checkpoint=name))
    assert name in str(told.value) and len(str(told.value)) < 400


def test_wrong_latent_size_names_the_right_one(server: Server, digits: dict) -> None:
    digits["21"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 512, "height": 512, "batch_size": 1},
    }
    with pytest.raises(PromptError, match=r"makes latents of 8x8.*Empty Latent Image with 64x64"):
        server.run(changed(digits, n5_latent_image=["21", 0]))


def test_other_models_and_upturned_sigmas_are_refused(server: Server, digits: dict) -> None:
    eps = changed(digits, n5_model=["20", 0])
    eps["20"] = {
        "class_type": "ModelSamplingDiscrete",
        "inputs": {"model": ["1", 0], "sampling": "eps", "zsnr": False},
    }
    for prompt in (eps, changed(eps, n3_model=["20", 0])):
        with pytest.raises(PromptError, match=r"needs a flow-matching model.*EPS"):
            server.run(prompt)
    upturned = changed(digits, n5_sigmas=["20", 0])
    upturned["20"] = {"class_type": "FlipSigmas", "inputs": {"sigmas": ["3", 0]}}
    with pytest.raises(PromptError, match="SIGMAS does not descend"):
        server.run(upturned)


def test_a_latent_model_says_which_vae_it_wants(server: Server, digits: dict) -> None:
    config = SiTConfig(**TINY | {"in_channels": 4})
    write_sit(server.base / "models/diffusion_models/latents.safetensors", 0, config)
    with pytest.raises(PromptError, match=r"Stable Diffusion VAE.*Load VAE"):
        server.run(changed(digits, n1_checkpoint="latents.safetensors"))
