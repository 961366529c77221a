"""Forecasts in the real host's server.

``pytest -s`` prints the figures of the digits.
"""

import json
import math
import re
import uuid
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.host.server import NAME, PromptError, Server
from tests.host.test_server import EULER, LANGUAGES, changed, images, native_grid
from training.demo.recogniser import Recogniser

pytestmark = pytest.mark.comfy
HERE = Path(__file__).parent
NODES = ("StableVSSampler", "StableVSCalibrate", "StableVSCalibrationLoader")


@pytest.mark.parametrize("node", NODES)
def test_every_input_and_output_explains_itself_in_both_languages(
    server: Server, node: str
) -> None:
    info = server.get(f"/object_info/{node}")[node]
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    english, chinese = (server.get("/i18n")[lang]["nodeDefs"][node] for lang in LANGUAGES)
    assert english["display_name"] == info["display_name"]
    assert english["description"] == info["description"]
    for words in (english, chinese):
        assert words["display_name"] and words["description"]
        assert words["inputs"].keys() == inputs.keys()
        assert len(words["outputs"]) == len(info["output"])
        for entry in (*words["inputs"].values(), *words["outputs"].values()):
            assert entry["name"] and entry["tooltip"]
    for name, spec in inputs.items():
        assert english["inputs"][name]["tooltip"] == spec[1]["tooltip"]
    assert [o["tooltip"] for o in english["outputs"].values()] == info["output_tooltips"]
    for page in (f"{node}.md", f"{node}/zh.md"):
        text = server.request(f"/extensions/{NAME}/docs/{page}").decode()
        assert text.startswith("# ") and len(text) > 200


def forecast(prompt: dict, **settings: object) -> dict:
    """The digits prompt on its native 30 steps, with a mode of ours."""
    prompt = deepcopy(prompt)
    prompt["3"] = native_grid(30)
    prompt["4"]["inputs"] |= {"mode": "forecast"} | settings
    prompt.pop("9", None)
    return prompt


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over pictures of the 8-bit pictures' PSNR, in dB, at most 60."""
    mse = (a - b).square().flatten(1).mean(1).clamp_min(1e-6)
    return float(-10 * mse.log10().mean())


def pooled(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))


def test_14_calls_are_nearer_to_30_steps_than_the_paper_s_20(server: Server, digits: dict) -> None:
    many = changed(digits, n2_copies=10, n5_noise_seed=11, n8_images=["6", 0])
    reference = forecast(many)
    reference["4"] = EULER
    base = images(server, reference)
    judge, labels = Recogniser(), torch.arange(10).repeat(10)
    made = {"StableVS, 20 calls": images(server, many)}
    for n in (8, 10, 12, 14):
        made[f"forecast, {n} calls"] = images(server, forecast(many, calls=n))
    made["adaptive"] = images(server, forecast(many, mode="adaptive"))
    mean = {name: psnr(x, base) for name, x in made.items()}
    shares = {name: judge.share(x, labels) for name, x in made.items()} | {
        "euler, 30 calls": judge.share(base, labels)
    }
    for name, x in made.items():
        print(
            f"{server.host.name}: {name}: {mean[name]:.1f} dB (pooled {pooled(x, base):.1f}), "
            f"{shares[name]:.0%} recognised"
        )
    print(f"{server.host.name}: euler, 30 calls: {shares['euler, 30 calls']:.0%} recognised")
    ours, paper = "forecast, 14 calls", "StableVS, 20 calls"
    assert mean[ours] >= mean[paper] + 8
    assert pooled(made[ours], base) >= pooled(made[paper], base) + 8
    assert shares[ours] >= shares["euler, 30 calls"] - 0.01


def queue_as_the_page_does(server: Server, prompt: dict) -> list[Path]:
    """Queued with a workflow for the pictures' metadata; what node 8 saved."""
    body = {
        "prompt": prompt,
        "client_id": uuid.uuid4().hex,
        "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}},
    }
    prompt_id = json.loads(server.request("/prompt", body))["prompt_id"]
    entry = server.finished(prompt_id)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return server.pictures(entry["outputs"]["8"])


def noted(file: Path) -> list[dict]:
    text = Image.open(file).text
    json.loads(text["workflow"])
    json.loads(text["prompt"], parse_constant=lambda c: pytest.fail(f"{c} in the metadata"))
    return json.loads(text["stable_velocity"])


def test_pictures_hold_the_list_that_their_run_chose_and_it_is_replayed(
    server: Server, digits: dict
) -> None:
    queue = forecast(digits, mode="self-calibrating", calls=10)
    queue["4"]["inputs"]["solver"] = "ab2"  # a queue of its own
    lists = []
    for seed in (31, 32, 33):
        files = queue_as_the_page_does(server, changed(queue, n5_noise_seed=seed))
        (entry,) = noted(files[0])
        assert entry | {"nodes": ""} == {
            "node": "4", "mode": "self-calibrating", "solver": "ab2", "steps": 30, "nodes": "",
        }  # fmt: skip
        lists.append(entry["nodes"])
    assert lists[0] != lists[1] == lists[2] and all(len(s.split()) == 10 for s in lists)
    for seed, nodes in ((31, lists[0]), (33, lists[2])):
        same = changed(queue, n5_noise_seed=seed, n4_nodes=nodes)
        again = changed(forecast(digits, solver="ab2"), n5_noise_seed=seed, n4_nodes=nodes)
        for prompt in (same, again):
            replayed = images(server, prompt)
            assert torch.equal(replayed, images(server, same))
    first = queue_as_the_page_does(server, changed(queue, n5_noise_seed=34))
    (entry,) = noted(first[0])
    replay = changed(forecast(digits, solver="ab2", nodes=entry["nodes"]), n5_noise_seed=34)
    for a, b in zip(first, queue_as_the_page_does(server, replay), strict=True):
        assert Image.open(a).tobytes() == Image.open(b).tobytes()


def test_adaptive_pictures_of_one_seed_are_noted_every_time(server: Server, digits: dict) -> None:
    prompt = changed(forecast(digits, mode="adaptive"), n5_noise_seed=41)
    entries = [noted(queue_as_the_page_does(server, prompt)[0]) for _ in range(2)]
    assert entries[0] == entries[1] and len(entries[0]) == 1


def test_calibrate_save_load_and_sample(server: Server, digits: dict) -> None:
    prompt = forecast(digits)
    prompt["4"] = {
        "class_type": "StableVSCalibrate",
        "inputs": {
            "sigmas": ["3", 0], "latent": ["2", 2], "model": ["1", 0], "positive": ["2", 0],
            "negative": ["2", 1], "cfg": 2.0, "runs": 2, "calls": 10, "first_seed": 100,
            "name": "digits",
        },
    }  # fmt: skip
    record = {k: prompt[k] for k in "1234"}
    record["5"] = {"class_type": "PreviewAny", "inputs": {"source": ["4", 2]}}
    outputs = server.run(record)
    report = json.dumps(outputs["5"])
    assert "10 of 30 calls: 0 " in report and "stable_velocity/digits.json" in report
    assert outputs["4"]["images"]
    file = server.base / "output/stable_velocity/digits.json"
    saved = json.loads(file.read_text("utf-8"))
    assert saved["model"] == "SiTModel" and len(saved["nodes"]["10"].split()) == 10

    load = {"class_type": "StableVSCalibrationLoader", "inputs": {"calibration": "digits.json"}}
    many = changed(digits, n2_copies=5, n5_noise_seed=51, n8_images=["6", 0])
    ours = forecast(many, mode="calibrated", calls=10, calibration=["10", 0]) | {"10": load}
    reference = forecast(many)
    reference["4"] = EULER
    base = images(server, reference)
    calibrated, fixed = images(server, ours), images(server, forecast(many, calls=10))
    print(
        f"{server.host.name}: 10 calls: calibrated {psnr(calibrated, base):.1f} dB, "
        f"fixed {psnr(fixed, base):.1f} dB"
    )
    assert psnr(calibrated, base) > psnr(fixed, base)
    for changes, words in (
        ({"n3_scheduler": "beta"}, "30 other noise levels"),
        ({"n3_steps": 24}, "a grid of 30 steps, SIGMAS has 24"),
        ({"n4_calls": 5}, "choose 6 to 20"),
        ({"n10_calibration": "gone.json"}, "gone.json is not in"),
        ({"n10_calibration": "../../x.json"}, "is not in"),
    ):
        with pytest.raises(PromptError, match=re.escape(words)):
            server.run(changed(ours, **changes))


BAD = {
    "noise": ({"noise": 0.2}, "noise 0.2 is for mode paper"),
    "nodes that are none": ({"nodes": "0 a"}, "nodes must be whole numbers"),
    "nodes of another grid": ({"nodes": "0 30"}, "it belongs to another grid"),
    "nodes in mode paper": ({"mode": "paper", "nodes": "0 3"}, "choose mode forecast"),
    "no calibration": ({"mode": "calibrated"}, "mode calibrated needs a calibration"),
    "too few for the rule": ({"calls": 4, "rule": "guarded"}, "guarded rule needs at least"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(server: Server, digits: dict, case: str) -> None:
    settings, words = BAD[case]
    with pytest.raises(PromptError, match=re.escape(words)) as told:
        server.run(forecast(digits, **settings))
    assert "Traceback" not in str(told.value) and len(str(told.value)) < 400


def test_calls_are_told_in_the_log(server: Server, digits: dict) -> None:
    images(server, changed(forecast(digits, calls=13), n5_noise_seed=61))
    server.wait_for(lambda: "13 of 30 calls" in server.log, 10, "the line in the log")


def test_workflow_needs_14_calls(server: Server) -> None:
    prompt = json.loads((HERE / "workflows/digits_forecast.json").read_text("utf-8"))
    outputs = server.run(prompt)
    sampler = next(n for n in prompt.values() if n["class_type"] == "StableVSSampler")
    assert sampler["inputs"]["mode"] == "forecast" and sampler["inputs"]["calls"] == 14
    saved = next(k for k, n in prompt.items() if n["class_type"] == "SaveImage")
    assert len(outputs[saved]["images"]) == 10
    server.wait_for(lambda: "14 of 30 calls" in server.log, 10, "the line in the log")
    assert "digits_forecast" in server.get("/workflow_templates")[NAME]
