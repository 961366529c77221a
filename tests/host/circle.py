"""What a whole circle needs, from pictures of digits through training to ComfyUI and back.

Nothing is downloaded. An autoencoder, written down and not trained, turns a cell of 8 x 8 pixels
into its mean grey and back, so that pictures of 64 x 64 carry exactly the built-in digits of 8 x 8.
Text encoders are stand-ins (the pack ``test_nodes``), of the widths that these files say. Training
runs in the host's own Python, which ``environment`` gives the packages that it lacks.
"""

import importlib.metadata
import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.svm import SVC
from torch import Tensor

from sv_core.latent import LatentSpec
from tests.host.server import PACK, Host
from training.data import digits

CELL = 8
CAPTION = "the digit {}"
TEXT_SIZES = (1, 64, 64)
"""Tokens, their width and the pooled vector's, of the text for the digits' SD3.5."""

# A tensor of each text encoder by which training.prepare knows it, with its first size.
_SIGNS = {
    "clip_l": ("text_model.encoder.layers.11.mlp.fc1.weight", 3072),
    "t5xxl": ("encoder.block.23.layer.1.DenseReluDense.wi_1.weight", 10240),
    "umt5_xxl": ("encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight", 1),
    "qwen_2.5_vl_7b": ("model.layers.27.self_attn.k_proj.bias", 512),
}
_PURE = ("accelerate",)
"""Packages that a host lacks, in plain Python: nothing compiled is lent to another interpreter."""
_LEFT_OUT = """
from training.run import reports

reports.write_bins = lambda out: None  # which needs matplotlib
"""
_SMALL = 1 / 64  # of the tanh at the decoder's door, which is straight to 1e-5 there


def autoencoder(latent: LatentSpec) -> dict[str, Tensor]:
    """A TAESD in closed form: x = 2 g - 1 in each channel of model space, g a cell's mean grey.

    Encoder: the grey, halved three times by 2 x 2 means. Decoder: the mean of the channels, three
    times doubled. Everything else of the network passes positive numbers on.
    """
    channels = latent.channels
    scale, shift = (
        torch.tensor(value if isinstance(value, tuple) else [value] * channels)
        for value in (latent.scale, latent.shift)
    )
    state = {"vae_scale": torch.tensor(_SMALL), "vae_shift": torch.tensor(0.0)}

    def conv(name: str, n_in: int, n_out: int, bias: bool = True) -> Tensor:
        state[f"{name}.weight"] = torch.zeros(n_out, n_in, 3, 3)
        if bias:
            state[f"{name}.bias"] = torch.zeros(n_out)
        return state[f"{name}.weight"]

    def blocks(part: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            for place in (0, 2, 4):
                conv(f"taesd_{part}.{number}.conv.{place}", 64, 64)

    conv("taesd_encoder.0", 3, 64)[0, :, 1, 1] = 1 / 3
    blocks("encoder", (1, 3, 4, 5, 7, 8, 9, 11, 12, 13))
    for number in (2, 6, 10):
        conv(f"taesd_encoder.{number}", 64, 64, bias=False)[0, 0, 1:, 1:] = 1 / 4
    conv("taesd_encoder.14", 64, channels)[:, 0, 1, 1] = 2 / scale * _SMALL
    state["taesd_encoder.14.bias"] += (shift - 1 / scale) * _SMALL

    conv("taesd_decoder.1", channels, 64)[0, :, 1, 1] = scale / (2 * channels * _SMALL)
    state["taesd_decoder.1.bias"][0] = 0.5 - (shift * scale).mean() / 2
    blocks("decoder", (3, 4, 5, 8, 9, 10, 13, 14, 15, 18))
    for number in (7, 12, 17):
        conv(f"taesd_decoder.{number}", 64, 64, bias=False)[0, 0, 1, 1] = 1
    conv("taesd_decoder.19", 64, 3)[:, 0, 1, 1] = 1
    return state


def text_encoder(path: Path, kind: str, sizes: tuple[int, int, int] | None = None) -> Path:
    """A file that stands for a text encoder; ``sizes`` None: those of the family's own."""
    key, size = _SIGNS[kind]
    stand_in = torch.tensor(sizes or (0,))
    save_file({key: torch.zeros(size, 1, dtype=torch.uint8), "stand_in": stand_in}, path)
    return path


def enlarged(images: Tensor) -> list[Image.Image]:
    """Pictures (n, 1, h, w) of [0, 1] with each cell as 8 x 8 pixels."""
    cells = np.kron((images[:, 0] * 255).round().byte().numpy(), np.ones((CELL, CELL), np.uint8))
    return [Image.fromarray(picture) for picture in cells]


def cells(files: Sequence[Path]) -> Tensor:
    """The mean grey of each cell of pictures -> (n, 1, h, w) of [0, 1]: the inverse."""
    grey = np.stack([np.asarray(Image.open(f).convert("L"), np.float32) for f in files]) / 255
    return torch.nn.functional.avg_pool2d(torch.from_numpy(grey)[:, None], CELL)


def turned(images: Tensor) -> Tensor:
    """By 90 degrees, against the clock."""
    return images.rot90(1, (2, 3))


def write_pictures(folder: Path, images: Tensor, labels: Tensor) -> None:
    """A folder per class."""
    for number, (picture, label) in enumerate(zip(enlarged(images), labels.tolist(), strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number:04d}.png")


def write_videos(folder: Path, images: Tensor, labels: Tensor, frames: int = 9) -> None:
    """A folder per class, of folders of frames: digits that move right, a cell in two frames."""
    moving = [enlarged(images.roll(frame // 2, dims=3)) for frame in range(frames)]
    for number, label in enumerate(labels.tolist()):
        place = folder / str(label) / f"{number:04d}.frames"
        place.mkdir(parents=True)
        for frame, pictures in enumerate(moving):
            pictures[number].save(place / f"{frame}.png")


class Judge:
    """A support vector machine that learnt the real digits, both upright and turned."""

    def __init__(self) -> None:
        train, held_out = digits.load()
        both = torch.cat([train.images, turned(train.images)])
        classes = torch.cat([train.labels, train.labels + 10])
        self._svc = SVC(gamma=0.001).fit(self._features(both), classes.numpy())
        self.accuracy = min(
            self.share(held_out.images, held_out.labels),
            self.share(turned(held_out.images), held_out.labels + 10),
        )
        """Its share of right answers on held-out real digits, the worse of the two kinds."""

    @staticmethod
    def _features(images: Tensor) -> np.ndarray:
        return (images * 16).flatten(1).double().numpy()

    def classes(self, images: Tensor) -> Tensor:
        """(n, 1, 8, 8) of [0, 1] -> (n,): 0 to 9 upright, 10 to 19 the same ones turned."""
        return torch.from_numpy(self._svc.predict(self._features(images)))

    def share(self, images: Tensor, classes: Tensor) -> float:
        return float((self.classes(images) == classes).double().mean())


def environment(folder: Path) -> dict[str, str]:
    """Variables under which a host's Python finds this pack's training, and what that lacks.

    ``folder`` is to be filled with links to this interpreter's packages. The charts at the end of a
    run are left out: what draws them is compiled.
    """
    folder.mkdir(parents=True)
    for name in _PURE:
        found = importlib.metadata.distribution(name)
        for part in {Path(file).parts[0] for file in found.files} - {"..", "__pycache__"}:
            (folder / part).symlink_to(found.locate_file(part))  # what it is, and what it holds
    (folder / "sitecustomize.py").write_text(_LEFT_OUT)  # run by every interpreter that starts
    return os.environ | {
        # The pack's root holds a folder called nodes, and must not hide the host's nodes.py.
        "PYTHONPATH": os.pathsep.join([str(folder), str(PACK)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",  # the networks are too small for more
    }


class Run:
    """A process in a host's own Python that is at work."""

    def __init__(
        self, host: Host, arguments: Sequence[object], variables: dict[str, str], log: Path
    ):
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [str(a) for a in (host.python, *arguments)],
                cwd=log.parent, env=variables, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait(self, seconds: float = 300.0) -> str:
        """What it printed. AssertionError, with that, when it failed."""
        try:
            code = self._process.wait(seconds)
        finally:
            self.stop()
        said = self.log.read_text(errors="replace")
        assert code == 0, said[-4000:]
        return said

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def inside(host: Host, steps: Sequence[Sequence[object]], variables: dict, log: Path) -> Run:
    """Steps of ``circle_host.py``, one after the other in one process of the host's."""
    script = Path(__file__).with_name("circle_host.py")
    said = [json.dumps([str(part) for part in step]) for step in steps]
    return Run(host, (script, host.folder, *said), variables, log)


def losses(run: Path) -> Tensor:
    """The velocity loss of each reported step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([row["loss"] for row in rows if "loss" in row])


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def sampled(model: str, text: Sequence, latent: str, seed: int, **options: object) -> dict:
    """KSampler on other nodes of a prompt: 12 steps of euler unless told otherwise."""
    positive, negative = text
    inputs = {"steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"} | options
    return node(
        "KSampler", model=[model, 0], positive=[positive, 0], negative=[negative, 0],
        latent_image=[latent, 0], seed=seed, denoise=1.0, **inputs,
    )  # fmt: skip


def digits_prompt(checkpoint: str, text: str, lora: tuple[str, float] | None = None) -> dict:
    """An API-format prompt for ten pictures of each digit, saved by nodes "save 0" to "save 9"."""
    prompt = {
        "loader": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "model": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "clip": node("CLIPLoader", clip_name=text, type="sd3"),
        "nothing": node("CLIPTextEncode", clip=["clip", 0], text=""),
        "empty": node("EmptySD3LatentImage", width=64, height=64, batch_size=10),
    }
    if lora:
        name, strength = lora
        prompt["model"] = node(
            "LoraLoaderModelOnly", model=["loader", 0], lora_name=name, strength_model=strength
        )
    for digit in range(10):
        caption = CAPTION.format(digit)
        prompt |= {
            f"text {digit}": node("CLIPTextEncode", clip=["clip", 0], text=caption),
            f"sample {digit}": sampled("model", (f"text {digit}", "nothing"), "empty", digit),
            f"decode {digit}": node("VAEDecode", samples=[f"sample {digit}", 0], vae=["loader", 2]),
            f"save {digit}": node("SaveImage", images=[f"decode {digit}", 0], filename_prefix="n"),
        }
    return prompt


def family_prompt(family: str, model: str, lora: tuple[str, float] | None, prefix: str) -> dict:
    """An API-format prompt for one small latent of a diffusion model, saved under ``prefix``."""
    video = {"width": 64, "height": 64, "batch_size": 1, "length": 9 if family == "wan" else 1}
    flux = node("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    prompt = {
        "loader": node("UNETLoader", unet_name=model, weight_dtype="default"),
        "text": node("TinyConditioning", family=family, text="a prompt"),
        "empty": flux if family == "flux" else node("EmptyHunyuanLatentVideo", **video),
        "sample": sampled(
            "lora" if lora else "loader", ("text", "text"), "empty", 0, steps=4, cfg=1.0
        ),
        "save": node("SaveLatent", samples=["sample", 0], filename_prefix=prefix),
    }
    if lora:
        name, strength = lora
        prompt["lora"] = node(
            "LoraLoaderModelOnly", model=["loader", 0], lora_name=name, strength_model=strength
        )
    return prompt
