"""Real ComfyUI servers for tests: find checkouts, start one, queue prompts, read the answers."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from training.networks.comfy.folder import find_all, python_of

PACK = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
NAME = "stable-velocity"
PICTURES = (
    "image_flux2_input_image.png",
    "image_qwen_image_edit_input_image.png",
    "video_wan2_2_14B_i2v_input_image.jpg",
)
"""What the workflows load beside the host's own example."""
FLAGS = ("--cpu", "--disable-api-nodes", "--preview-method", "latent2rgb")


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout and the interpreter that runs it."""

    folder: Path
    python: Path

    @property
    def name(self) -> str:
        return self.folder.name


def find_hosts() -> list[Host]:
    """Every ComfyUI that dev.py finds, with its own interpreter."""
    return [Host(folder, python_of(folder)) for folder in find_all()]


def write_tiny_models(host: Host, folder: Path, source: Path = HERE) -> None:
    """Random models of all the families, as a models folder; every host writes the same bytes."""
    subprocess.run(
        [host.python, source / "tiny.py", folder],
        cwd=host.folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )


def furnish(base: Path, host: Host, tiny_models: Path, source: Path = HERE) -> Path:
    """Give a server's folder tiny models, the emoji model, the test nodes and a picture to load.

    Returns where its diffusion models lie. ``source`` is the folder of the test nodes.
    """
    for file in tiny_models.rglob("*.safetensors"):
        place = base / "models" / file.relative_to(tiny_models)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    (base / "models/checkpoints/emoji.ckpt").symlink_to(PACK / "models/emoji.ckpt")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes/test_nodes").symlink_to(source / "test_nodes", target_is_directory=True)
    (base / "input").mkdir()
    example = host.folder / "input/example.png"
    shutil.copy2(example, base / "input" / example.name)
    small = Image.open(example).resize((128, 128))  # whose latent a CPU samples in a second
    for name in PICTURES:
        small.convert("RGB").save(base / "input" / name)
    return base / "models/diffusion_models"


class PromptError(Exception):
    """What the server said about a prompt that it refused or could not finish."""


class Server:
    """One running ComfyUI with the pack, in a folder of its own; the checkout stays untouched.

    ``pack`` may be another checkout of this repository than the one that asks.
    """

    def __init__(self, host: Host, base: Path, start: float = 120.0, pack: Path = PACK):
        self.host, self.base = host, base
        for folder in ("custom_nodes", "models/diffusion_models", "input", "output", "temp"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / NAME).symlink_to(pack, target_is_directory=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log_file = base / "server.log"
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    host.python, "main.py", *FLAGS, "--port", str(port),
                    "--base-directory", base, "--database-url", "sqlite:///:memory:",
                ],
                cwd=host.folder, stdout=log, stderr=subprocess.STDOUT,
                env=os.environ | {
                    "OMP_NUM_THREADS": "1",  # the networks are too small for more
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
            )  # fmt: skip
        try:
            self.wait_for(self._answers, start, "the server to start")
        except BaseException:
            self.stop()
            raise
        self.startup_log = self.log

    @property
    def log(self) -> str:
        """What the server has printed, without colours and levels."""
        return re.sub(r"\x1b\[\d+m|\[INFO\]", "", self.log_file.read_text(errors="replace"))

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            if lacks := re.search(r"No module named '(\w+)'", self.log):
                raise RuntimeError(
                    f"{self.host.folder} lacks the Python package {lacks[1]}: install it with "
                    f"{self.host.python} -m pip install {lacks[1]}"
                )
            raise RuntimeError(f"ComfyUI stopped while starting:\n{self.log[-4000:]}")
        try:
            self.get("/system_stats")
        except (urllib.error.URLError, OSError):
            return False
        return True

    @staticmethod
    def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """The first true value of ``condition``, asked ten times a second."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            time.sleep(0.1)
        return value

    def request(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, data, headers), timeout=60
        ) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def queue(self, prompt: dict) -> str:
        """Queue an API-format prompt; a refused one raises PromptError with every reason."""
        body = {"prompt": prompt, "client_id": uuid.uuid4().hex}
        try:
            answer = json.loads(self.request("/prompt", body))
        except urllib.error.HTTPError as e:
            answer = json.loads(e.read())
        # With another output that is in order the host runs that one, and answers 200.
        reasons = [
            f"{error['message']}: {error['details']}"
            for node in (answer.get("node_errors") or {}).values()
            for error in node["errors"]
        ]
        if reasons or "prompt_id" not in answer:
            raise PromptError("\n".join(reasons or [str(answer["error"])]))
        return answer["prompt_id"]

    def finished(self, prompt_id: str, seconds: float = 120.0) -> dict:
        """The prompt's history entry, whatever became of it."""
        return self.wait_for(
            lambda: self.get(f"/history/{prompt_id}").get(prompt_id), seconds, "the prompt"
        )

    def run(self, prompt: dict, seconds: float = 120.0) -> dict:
        """Outputs by node id; a prompt that fails raises PromptError with the node's message."""
        entry = self.finished(self.queue(prompt), seconds)
        if entry["status"]["status_str"] != "success":
            told = [m[1] for m in entry["status"]["messages"] if m[0] == "execution_error"]
            raise PromptError(told[0]["exception_message"] if told else str(entry["status"]))
        return entry["outputs"]

    def pictures(self, output: dict) -> list[Path]:
        """The files that a SaveImage wrote."""
        return [self.base / p["type"] / p["subfolder"] / p["filename"] for p in output["images"]]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
