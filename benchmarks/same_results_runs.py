"""A checkout's public commands, and what they leave behind: for ``same_results.py``.

Nothing of the checkout is imported here: modules may move, ``python -m training.finetune`` stays.
Every command runs in the checkout's root with one thread, without a GPU, and writes below OUT, the
same relative path in every checkout.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from .fingerprints import FAILED, Found, numbers, of_file, of_folder, without_column

OUT = Path("out/same_results")
GOLDEN = Path(__file__).with_name("golden_numbers.py")
START, CACHE, ENCODER = "stablevm", OUT / "cache", OUT / "encoder"
FEATURES = "dinov2-64"
DIGITS, MEANFLOW = (f"training/configs/{name}.toml" for name in ("digits", "digits_meanflow"))
DEFAULTS = f"{OUT}/defaults.toml"
"""An empty configuration, in which every key keeps its default."""

_STEPS = "optim.steps=40"
_FROM_START = (_STEPS, f"model.checkpoint={OUT / START}/weights-000100.safetensors")
_MEANFLOW = (MEANFLOW, *_FROM_START)
_ALIGNED = (DIGITS, _STEPS, f"data.cache={CACHE}", f"align.encoders={FEATURES}", "align.block=2")
RUNS: dict[str, tuple[str, ...]] = {
    START: (DIGITS, "optim.steps=100"),
    "cfm": (DIGITS, _STEPS, "objective.kind=cfm", "objective.timesteps=logit_normal"),
    "VA-REPA": (*_ALIGNED, "objective.kind=cfm", "align.hidden=64"),
    "stablevm + iREPA": (*_ALIGNED, "align.projector=conv", "align.gamma=0.6"),
    "meanflow": _MEANFLOW,
    "meanflow, variates": (*_MEANFLOW, "meanflow.beta=auto", "meanflow.velocity=conditional",
                           "meanflow.trace_weight=true", "meanflow.anchor=0.1"),
    "LoRA": (DEFAULTS, *_FROM_START, "lora.rank=4", "optim.lr=2e-3"),
    "in parts, bf16": (DIGITS, _STEPS, "optim.accumulate=2", "run.recompute=true",
                       "run.precision=bf16", "objective.bank_dtype=float16", "optim.ema=[0.9,0.5]"),
    "schedule-free": (DIGITS, _STEPS, "optim.optimizer=schedule_free",
                      "optim.schedule=constant"),
}  # fmt: skip
"""Name -> a configuration file and what is set in it."""

SAMPLERS = ("euler", "heun", "ode", "stable", "sde")


class CommandError(Exception):
    """What a command said before it failed."""


class Checkout:
    """A commit's files, and the commands that run there."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / OUT).mkdir(parents=True)
        (folder / DEFAULTS).touch()
        where = self.run(
            "-c", "import sv_core, training; print(sv_core.__file__, training.__file__)"
        )
        for file in where.split():
            if not Path(file).is_relative_to(folder):
                raise CommandError(f"{file} would be measured in place of {folder}")

    def run(self, *arguments: object) -> str:
        """What ``python ARGUMENTS`` prints. Raises CommandError, with its last words."""
        one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | one_thread | {
                "PYTHONPATH": str(self.folder),
                "PYTHONDONTWRITEBYTECODE": "1",
                "CUDA_VISIBLE_DEVICES": "",
            },
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )  # fmt: skip
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise CommandError(words[-1] if words else f"exit status {done.returncode}")
        return done.stdout

    def train(self, name: str) -> Path:
        """The folder of one of RUNS, trained when it is first asked for."""
        out = self.folder / OUT / name
        if not out.exists():
            config, *settings = RUNS[name]
            settings += [f"run.out={OUT / name}", "run.save_every=20", "run.validate_every=40"]
            settings += ["run.preview_every=40", "run.device=cpu"]
            sets = [part for setting in settings for part in ("--set", setting)]
            self.run("-m", "training.finetune", config, *sets)
        return out

    def weights(self, name: str) -> Path:
        """The last weights of one of RUNS."""
        return max(self.train(name).glob("weights-*[0-9].safetensors"))


def attempt(work: Callable[[], dict[str, Found]], name: str) -> dict[str, Found]:
    """What the work found by row, or one row that says how it failed."""
    print(f"  {name}", file=sys.stderr)
    try:
        return work()
    except (CommandError, OSError, ValueError, RuntimeError, subprocess.SubprocessError) as e:
        return {name: {FAILED: str(e)}}


def losses(checkout: Checkout) -> dict[str, Found]:
    """The losses and files of each of RUNS, and the cache that two of them learn from."""
    found = attempt(lambda: {"cache": _prepare(checkout)}, "cache")
    for name in RUNS:

        def rows(name: str = name) -> dict[str, Found]:
            return _of_run(name, of_folder(checkout.train(name)))

        found |= attempt(rows, name)
    return found


def _of_run(name: str, files: Found) -> dict[str, Found]:
    """A run's row of losses and its row of everything else."""
    told = {key: value for key, value in files.items() if "metrics.jsonl" in key}
    rest = {key: value for key, value in files.items() if key not in told}
    return {f"{name}: losses": told, f"{name}: weights, pictures": rest}


def _prepare(checkout: Checkout) -> Found:
    """A cache of sixty digits with the features of a small DINOv2 of random weights."""
    pictures = OUT / "pictures"
    _write_digits(checkout.folder / pictures)
    _write_encoder(checkout.folder / ENCODER)
    settings = ("size=8", "channels=1", "shard=16", "flip=both", "patch_size=2", "device=cpu",
                f"encoder={ENCODER / 'model.safetensors'}")  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    checkout.run("-m", "training.prepare", pictures, CACHE, *sets)
    return of_folder(checkout.folder / CACHE)


def _write_digits(root: Path) -> None:
    data = load_digits()
    for i in range(60):
        path = root / ("val" if i % 10 == 9 else "train") / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8)).save(path)


def _write_encoder(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Dinov2Config(**sizes, image_size=56, patch_size=14)
    folder.mkdir()
    save_file(Dinov2Model(config).state_dict(), folder / "model.safetensors")


def samples(checkout: Checkout) -> dict[str, Found]:
    """Twenty pictures by each sampler of ``training.sample``."""

    def draw(name: str, run: str, *options: str) -> dict[str, Found]:
        weights, out = checkout.weights(run), OUT / f"samples {name}"
        many = ("--n", "20", "--batch", "10", "--device", "cpu")
        relative = weights.relative_to(checkout.folder)
        checkout.run("-m", "training.sample", relative, out, *many, *options)
        return {name: of_folder(checkout.folder / out)}

    found = {}
    for name in SAMPLERS:
        options = ("--sampler", name, "--shift", "3", "--steps", "30", "--guidance", "2")
        found |= attempt(lambda n=name, o=options: draw(n, START, *o), name)
    return found | attempt(lambda: draw("one call", "meanflow"), "one call")


def demo(checkout: Checkout) -> dict[str, Found]:
    """The demonstration's training, table (without seconds) and picture; the toy's tables."""

    def shown() -> dict[str, Found]:
        out = OUT / "demo"
        shows_emoji = (checkout.folder / "training/demo/emoji.py").exists()
        train = ["--train"] if shows_emoji else []  # before, the demo had nothing else
        printed = checkout.run("-m", "training.demo", "--out", out, *train).split("\n\n")
        (table,) = (part.strip("\n") for part in printed if "seconds" in part and "PSNR" in part)
        files = {_unhashed(k): v for k, v in of_folder(checkout.folder / out).items()}
        return {"table": {"numbers": without_column(table, "seconds").split("\n")}} | _of_run(
            "digits run", files
        )

    def toy() -> dict[str, Found]:
        printed = checkout.run("-m", "training.toy", OUT / "toy.png", "--quick")
        picture = of_file(checkout.folder / OUT / "toy.png")
        return {"toy": {"numbers of the tables": numbers(printed)} | picture}

    return attempt(shown, "digits run") | attempt(toy, "toy")


def _unhashed(name: str) -> str:
    """``run-1a2b3c4d/metrics.jsonl`` without the hash of the configuration."""
    first, slash, rest = name.partition("/")
    return f"run/{rest}" if slash and first.startswith("run-") else name


def golden(checkout: Checkout) -> dict[str, Found]:
    """The checkout's own tests against the official numbers, and outputs of public functions."""

    def tests() -> dict[str, Found]:
        chosen = ("tests/sv_core", "-k", "official or golden", "-q", "-p", "no:cacheprovider")
        last = checkout.run("-m", "pytest", *chosen).strip().splitlines()[-1]
        return {"official numbers": {"tests": last.partition(" in ")[0].split(", ")[0]}}

    def functions() -> dict[str, Found]:
        checkout.run(GOLDEN, OUT / "golden.npz")
        return {"public functions": of_file(checkout.folder / OUT / "golden.npz")}

    return attempt(tests, "official numbers") | attempt(functions, "public functions")
