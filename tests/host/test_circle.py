"""From pictures to training to ComfyUI and back, for each family, in each ComfyUI; no download."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sv_core.models.families import latents
from tests.host import circle
from tests.host.server import Host, Server
from tests.inside import HOSTS, MISSING
from tests.training.toml_files import configure
from training.data import digits
from training.data.cache import LatentCache

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
STEPS = 200
VAES = {"sd3": "sd3", "flux": "flux", "qwen_image": "qwen_image", "wan": "wan21"}
TEXTS = {"flux": ("clip_l", "t5xxl"), "qwen_image": ("qwen_2.5_vl_7b",), "wan": ("umt5_xxl",)}
DIGITS_TEXT = "digits_text.safetensors"


class Assets(NamedTuple):
    """A folder of model files, and one of latent caches, both by family."""

    models: Path
    caches: Path


def prepare(assets: Assets, family: str, text: list[Path], data: Path, comfy: Path) -> list:
    said = {
        "vae": assets.models / f"{family}_vae.safetensors",
        "family": VAES[family],
        "text": f"[{', '.join(repr(str(t)) for t in text)}]",
        "template": circle.CAPTION,
        "size": 64,
        "frames": 9,
        "comfy": comfy,
    }
    name = f"{family}_{data.name.removeprefix('moving_')}"
    keys = [part for key, value in said.items() for part in ("--set", f"{key}={value}")]
    return ["training.prepare", data, assets.caches / name, *keys]


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """Models of random weights and prepared caches, made in the first host; all can read them."""
    if not HOSTS:
        pytest.skip(MISSING)
    base = tmp_path_factory.mktemp("circle")
    made = Assets(base / "models", base / "caches")
    for folder in made:
        folder.mkdir()
    train, _ = digits.load()
    few = train.labels < 2  # of ten classes the pictures at a run's end would cost more than it
    for name, images in (("upright", train.images), ("turned", circle.turned(train.images))):
        circle.write_pictures(base / name, images[:150], train.labels[:150])
        circle.write_pictures(base / "few" / name, images[few][:32], train.labels[few][:32])
        circle.write_videos(base / f"moving_{name}", images[few][:16], train.labels[few][:16])
    starts = []
    for family, vae in VAES.items():
        file = made.models / f"{family}_vae.safetensors"
        save_file(circle.autoencoder(latents(vae)), file)
        whole = [file] if family == "sd3" else []  # a checkpoint that holds its VAE
        starts.append(["start", family, made.models / f"{family}.safetensors", *whole])
    comfy = HOSTS[0].folder
    sd3 = [circle.text_encoder(made.models / DIGITS_TEXT, "clip_l", circle.TEXT_SIZES)]
    work: list[list] = [[], starts]
    for number, name in enumerate(("upright", "turned")):
        work[number].append(prepare(made, "sd3", sd3, base / name, comfy))
        for family, kinds in TEXTS.items():
            text = [circle.text_encoder(made.models / f"{k}.safetensors", k) for k in kinds]
            data = base / (f"moving_{name}" if family == "wan" else f"few/{name}")
            work[number].append(prepare(made, family, text, data, comfy))
    variables = circle.environment(base / "packages")
    runs = [
        circle.inside(HOSTS[0], steps, variables, base / f"prepare{number}.log")
        for number, steps in enumerate(work)
    ]
    for run in runs:
        run.wait()
    return made


class Trained(NamedTuple):
    """The runs' folders; of each family there is NAME_full and NAME_lora."""

    runs: Path

    def weights(self, name: str) -> Path:
        (file,) = (self.runs / name).glob("weights-*.safetensors")
        return file


def config(
    trained: Trained, assets: Assets, host: Host, family: str, lora: int | None = None, **optim
) -> Path:
    """The configuration of the full run on upright digits, or of a LoRA on turned ones."""
    kind, data = ("lora", "turned") if lora else ("full", "upright")
    checkpoint = assets.models / f"{family}.safetensors"
    if lora:  # written when that run has ended
        steps = STEPS if family != "sd3" else FULL["steps"]
        checkpoint = trained.runs / f"{family}_full/weights-{steps:06d}.safetensors"
    sections = {
        "comfy": {"checkpoint": str(checkpoint), "folder": str(host.folder)},
        "data": {"cache": str(assets.caches / f"{family}_{data}"), "held_out": 0.0},
        "optim": {"schedule": "cosine", "warmup": 20} | optim,
        "run": {"out": str(trained.runs / f"{family}_{kind}"), "device": "cpu"},
    }
    sections["data"]["batch_size"] = 32 if family == "sd3" else 8
    if lora:
        sections["lora"] = {"rank": lora}
    return configure(trained.runs / f"{family}_{kind}.toml", **sections)


FULL = {"steps": 600, "lr": 4e-3, "ema": 0.99}
LORA = {"steps": 300, "lr": 4e-3, "ema": 0.98}
SHORT = {"steps": STEPS, "ema": 0.9}


@pytest.fixture(scope="module")
def trained(comfy: Host, assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What python -m training.finetune made in that host's own Python."""
    made = Trained(tmp_path_factory.mktemp(f"trained_{comfy.name}"))
    variables = circle.environment(made.runs / "packages")
    short = [
        ["training.finetune", config(made, assets, comfy, family, lora, lr=lr, **SHORT)]
        for family in TEXTS
        for lora, lr in ((None, 2e-3), (8, 5e-3))
    ]
    others = circle.inside(comfy, short, variables, made.runs / "others.log")
    try:
        for lora, optim in ((None, FULL), (16, LORA)):
            file = config(made, assets, comfy, "sd3", lora, **optim)
            log = made.runs / f"{file.stem}.log"
            circle.Run(comfy, ("-m", "training.finetune", file), variables, log).wait()
    except BaseException:
        others.stop()
        raise
    others.wait()
    return made


@pytest.fixture(scope="module")
def circled(server: Server, trained: Trained, assets: Assets) -> Iterator[Server]:
    """The server with the files of the circle: a checkpoint, a text encoder, models, LoRAs."""
    places = {assets.models / DIGITS_TEXT: "text_encoders"}
    for family in VAES:
        places[trained.weights(f"{family}_lora")] = "loras"
        places[trained.weights(f"{family}_full")] = (
            "checkpoints" if family == "sd3" else "diffusion_models"
        )
    for file, kind in places.items():
        name = file.name if kind == "text_encoders" else f"circle_{file.parent.name}.safetensors"
        place = server.base / "models" / kind / name
        place.parent.mkdir(exist_ok=True)
        shutil.copy2(file, place)
    shutil.copy2(assets.models / "sd3_vae.safetensors", server.base / "models/vae")
    yield server


@pytest.fixture(scope="module")
def judge() -> circle.Judge:
    judge = circle.Judge()
    assert judge.accuracy > 0.98
    return judge


def pictures(server: Server, lora: float | None = None) -> torch.Tensor:
    """The hundred digits that the server wrote, ten of each class in order, as (100, 1, 8, 8)."""
    chosen = None if lora is None else ("circle_sd3_lora.safetensors", lora)
    prompt = circle.digits_prompt("circle_sd3_full.safetensors", DIGITS_TEXT, chosen)
    outputs = server.run(prompt, 300)
    files = [f for digit in range(10) for f in server.pictures(outputs[f"save {digit}"])]
    return circle.cells(files)


LABELS = torch.arange(10).repeat_interleave(10)


def test_the_autoencoder_gives_back_a_picture_of_cells(circled: Server) -> None:
    _, held_out = digits.load()
    (picture,) = circle.enlarged(held_out.images[:1])
    picture.convert("RGB").save(circled.base / "input/cells.png")
    prompt = {
        "picture": circle.node("LoadImage", image="cells.png"),
        "vae": circle.node("VAELoader", vae_name="sd3_vae.safetensors"),
        "encode": circle.node("VAEEncode", pixels=["picture", 0], vae=["vae", 0]),
        "latent": circle.node("SaveLatent", samples=["encode", 0], filename_prefix="cells"),
        "decode": circle.node("VAEDecode", samples=["encode", 0], vae=["vae", 0]),
        "save": circle.node("SaveImage", images=["decode", 0], filename_prefix="cells"),
    }
    outputs = circled.run(prompt)
    (file,) = (circled.base / "output").glob("cells_*.latent")
    latent = latents("sd3").to_model(load_file(file)["latent_tensor"])
    wanted = (2 * held_out.images[:1] - 1).expand(1, 16, 8, 8)
    torch.testing.assert_close(latent, wanted, atol=1e-2, rtol=0)
    (back,) = circled.pictures(outputs["save"])
    off = np.asarray(Image.open(back).convert("L"), int) - np.asarray(picture, int)
    assert abs(off).max() <= 2  # of 255


@pytest.mark.parametrize("family", VAES)
@pytest.mark.parametrize("name", ["upright", "turned"])
def test_the_caches_hold_the_digits(assets: Assets, family: str, name: str) -> None:
    train, _ = digits.load()
    if family != "sd3":
        train = digits.Split(*(x[train.labels < 2] for x in train))
    cache = LatentCache(assets.caches / f"{family}_{name}")
    for i in range(0, len(cache), 5):
        x, label, _ = cache[i]
        number = int(Path(cache.index.paths[i]).stem)
        assert cache.conditions[label] == str(int(train.labels[number]))
        image = train.images[number][None]
        image = circle.turned(image) if name == "turned" else image
        # Frames 0, 4 and 8 of a film, which moves by a cell in two.
        frames = [image.roll(2 * k, 3) for k in range(3)] if family == "wan" else [image]
        wanted = 2 * torch.stack(frames, 2) - 1  # (1, 1, f, 8, 8)
        x = cache.latent.to_model(x[None])
        wanted = (wanted if x.ndim == 5 else wanted[:, :, 0]).expand_as(x)
        torch.testing.assert_close(x, wanted, atol=1e-2, rtol=0)


def test_the_checkpoint_makes_recognisable_digits(circled: Server, judge: circle.Judge) -> None:
    share = judge.share(pictures(circled), LABELS)
    assert share >= 0.9, f"{share:.2f} of the digits were recognised"


def test_the_lora_turns_pictures_at_strength_1_and_not_at_0(
    circled: Server, judge: circle.Judge
) -> None:
    seen = judge.classes(pictures(circled, 1.0))
    assert (seen >= 10).double().mean() >= 0.9, "they did not turn"
    assert (seen == LABELS + 10).double().mean() >= 0.85, "they turned, but are no digits any more"
    assert torch.equal(pictures(circled, 0.0), pictures(circled))


@pytest.mark.parametrize("family", VAES)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_loss_falls(trained: Trained, family: str, kind: str) -> None:
    losses = circle.losses(trained.runs / f"{family}_{kind}")
    assert len(losses) >= STEPS
    first, last = losses[:20].mean(), losses[-20:].mean()
    assert last < 0.85 * first, f"{first:.3f} -> {last:.3f}"


@pytest.mark.parametrize("family", TEXTS)
def test_a_lora_of_each_family_loads(circled: Server, trained: Trained, family: str) -> None:
    model, lora = (f"circle_{family}_{kind}.safetensors" for kind in ("full", "lora"))
    latents = []
    for number, chosen in enumerate((None, (lora, 0.0), (lora, 1.0))):
        prefix = f"circle_{family}_{number}"
        circled.run(circle.family_prompt(family, model, chosen, prefix))
        (file,) = (circled.base / "output").glob(f"{prefix}_*.latent")
        latents.append(load_file(file)["latent_tensor"])
    base, none, whole = latents
    assert base.isfinite().all() and torch.equal(none, base)
    assert (whole - base).abs().max() > 0.05 * base.abs().max()
    assert "lora key not loaded" not in circled.log
    with safe_open(trained.weights(f"{family}_lora"), framework="pt") as file:
        assert file.metadata()["modelspec.architecture"].endswith("/lora")
