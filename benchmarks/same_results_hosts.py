"""Workflows in real ComfyUI servers whose pack is a checkout: for ``same_results.py``.

The prompts, the tiny models and the test nodes are those of one commit for all checkouts, the older
one, so that a workflow which a user has saved must go on giving the same. What is compared: latents
before they are decoded, decoded pictures, what nodes draw, and the numbers of the texts they show.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.host.server import Host, PromptError, Server, find_hosts, furnish, write_tiny_models
from tests.host.tiny import shrink

from .fingerprints import FAILED, Found, numbers, of_file
from .same_results_runs import START, Checkout, attempt

NETWORKS = {"digits_sit.safetensors": START, "digits_meanflow.safetensors": "meanflow"}
"""The file that a workflow names -> which of the runs it is from."""


def workflows(checkout: Checkout, given: Path) -> dict[str, Found]:
    """All prompts of ``given``, a checkout's folder, in every ComfyUI that is found."""
    hosts, source = find_hosts(), given / "tests/host"
    if not hosts:
        return {
            "hosts": {FAILED: "no ComfyUI found: set COMFYUI_PATH to the folder of its main.py"}
        }
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary) / "models"
        write_tiny_models(hosts[0], models, source)
        for host in hosts:
            base = Path(temporary) / host.name

            def rows(host: Host = host, base: Path = base) -> dict[str, Found]:
                folder = furnish(base, host, models, source)
                for name, run in NETWORKS.items():
                    shutil.copy2(checkout.weights(run), folder / name)
                return _through(Server(host, base, pack=checkout.folder), _prompts(source))

            found |= attempt(rows, host.name)
    return found


def _prompts(source: Path) -> dict[str, dict]:
    """The API-format twins by name, at a size for a CPU."""
    files = [source / "digits_api.json", *sorted((source / "workflows").glob("*.json"))]
    return {f.stem.removesuffix("_api"): shrink(json.loads(f.read_text("utf-8"))) for f in files}


def _through(server: Server, prompts: dict[str, dict]) -> dict[str, Found]:
    """A row for each prompt; the server is stopped afterwards."""
    found = {}
    try:
        for name, prompt in prompts.items():
            print(f"    {name}", file=sys.stderr)
            row = f"{server.host.name}: {name}"
            try:
                found[row] = _results(server, _watched(prompt, name))
            except (PromptError, TimeoutError) as e:
                found[row] = {FAILED: str(e)}
    finally:
        server.stop()
    return found


def _watched(prompt: dict, name: str) -> dict:
    """The prompt with every decoded latent saved before and after it is decoded."""
    result = dict(prompt)
    for node, what in prompt.items():
        if what["class_type"] == "VAEDecode":
            before = {"samples": what["inputs"]["samples"], "filename_prefix": f"same_{name}"}
            after = {"images": [node, 0], "filename_prefix": f"same_{name}"}
            result[f"1{node:0>4}"] = {"class_type": "SaveLatent", "inputs": before}
            result[f"2{node:0>4}"] = {"class_type": "SaveImage", "inputs": after}
    return result


def _results(server: Server, prompt: dict) -> Found:
    """What the prompt's nodes gave out, by node and number."""
    found: Found = {}
    outputs = server.run(prompt, seconds=300)
    for node in sorted(outputs, key=int):
        label = f"{node} {prompt[node]['class_type']}"
        output = outputs[node]
        if texts := [text for text in output.get("text", ()) if isinstance(text, str)]:
            found[f"{label} numbers"] = [numbers(text) for text in texts]
        files = [*output.get("images", ()), *output.get("latents", ())]
        for number, file in enumerate(files, 1):
            path = server.base / file["type"] / file["subfolder"] / file["filename"]
            for name, value in of_file(path).items():
                found[f"{label} {number} {name}"] = value
    return found
