"""Bad input to training.finetune and training.prepare, as far as it takes ComfyUI to tell.

Text encoders are stand-ins. Whatever is refused is refused by the commands' own ``main``, in one
sentence, with exit code 2, and no file that was there before has changed.
"""

import contextlib
import io
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sv_core.models.families import latents
from tests.host import tiny, torchrun_data
from tests.training.in_comfy import HOST, WORK
from training import finetune, prepare
from training.data.format import CacheFolder
from training.networks.comfy import load as comfy_load
from training.networks.comfy import self_check
from training.run import step

pytestmark = pytest.mark.inside

NEW = []
FOLDER = WORK / "bad_input"
_MANIFEST = r"state-\d+\.json"


@pytest.fixture(autouse=True)
def no_self_check(monkeypatch):
    """It has its own tests, and takes longer than all this."""
    monkeypatch.setattr(self_check, "self_check", lambda backbone, host: None)


def model(family):
    return FOLDER / f"{family}.safetensors"


def contents():
    return {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}


def said(main, arguments):
    """(exit code, what is left of stderr without progress bars)."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(a) for a in arguments])
    lines = error.getvalue().replace("\r", "\n").splitlines()
    bars = ("train:", "prepare:", "text:", "note:")
    return code, [line for line in lines if line.strip() and not line.startswith(bars)]


def refused(main, arguments, *words):
    """By one sentence, with no file changed; a run that goes on adds to its metrics."""
    before = contents()
    code, lines = said(main, arguments)
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert code == 2, code
    assert all(word in lines[0] for word in words), lines[0]
    now = contents()
    if "--resume" in arguments:  # both hold the configuration that the run goes on with
        holders = {"config.toml", *(p.name for p in before if re.fullmatch(_MANIFEST, p.name))}
        before = {path: data for path, data in before.items() if path.name not in holders}
        now = {path: data[: len(before.get(path, data))] for path, data in now.items()}
    changed = [str(path) for path, data in before.items() if now.get(path) != data]
    assert not changed, f"changed: {changed}"
    print(f"        {lines[0]}")


def settings(**values):
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def train(*words, family="sd3", checkpoint=None, cache=None, resume=False, **values):
    """Refused by training.finetune; ``values`` are keys with __ for the dot."""
    chosen = {
        "comfy.checkpoint": checkpoint or model(family),
        "comfy.folder": HOST.folder,
        "data.cache": cache or FOLDER / f"{family}_cache",
        "data.batch_size": 4,
        "optim.steps": 2,
        "run.out": FOLDER / "run",
        "run.device": "cpu",
    } | {key.replace("__", "."): value for key, value in values.items()}
    arguments = [FOLDER / "empty.toml", *settings(**chosen), *["--resume"] * resume]
    if words:
        return refused(finetune.main, arguments, *words)
    code, lines = said(finetune.main, arguments)
    assert code == 0, lines
    return None


def make(*words, pictures=None, out=None, **values):
    """Refused by training.prepare; without ``out`` for a new cache."""
    NEW.append(FOLDER / f"new{len(NEW)}")
    chosen = {
        "family": "flux",
        "vae": FOLDER / "vae.safetensors",
        "text": f"['{FOLDER / 'clip_l.safetensors'}', '{FOLDER / 't5xxl.safetensors'}']",
        "size": 32,
        "comfy": HOST.folder,
    } | values
    chosen = {key: value for key, value in chosen.items() if value is not None}
    arguments = [pictures or FOLDER / "pictures", out or NEW[-1], *settings(**chosen)]
    refused(prepare.main, arguments, *words)


def variant(name, change, family="sd3"):
    """Another file of a family's model."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        save_file(change(load_file(model(family))), path)
    return path


@contextlib.contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def exhausted(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee\nmore")


def test_a_checkpoint_of_no_known_family():
    words = ("is no flow model that this ComfyUI knows", "Flux, SD3.5, Qwen-Image, Wan2.2 14B or")
    noise = FOLDER / "noise.safetensors"
    save_file({f"layer{i}.weight": torch.zeros(3, 3) for i in range(9)}, noise)
    lora = FOLDER / "lora.safetensors"
    name = "diffusion_model.blocks.0.attn.qkv.lora_{}.weight"
    save_file({name.format(side): torch.zeros(4, 4) for side in "AB"}, lora)
    for path in (noise, lora, FOLDER / "vae.safetensors", FOLDER / "clip_l.safetensors"):
        train(str(path), *words, checkpoint=path)

    class AuraFlow:
        model_sampling = HOST.sampling.CONST()
        manual_cast_dtype = None

    one = type("Patcher", (), {"model": AuraFlow()})()
    with replaced(HOST.sd, "load_diffusion_model_state_dict", lambda *a, **k: one):
        train("of the kind that ComfyUI calls AuraFlow", "use one of Flux, SD3.5, Qwen-Image, Wan")


def test_a_file_that_is_none():
    train("there is no checkpoint", checkpoint=FOLDER / "nothing.safetensors")
    train("there is no checkpoint", checkpoint=FOLDER / "pictures")
    page = FOLDER / "page.safetensors"
    page.write_text("<html><body>401 Unauthorized</body></html>")
    train(str(page), "damaged or cut short", checkpoint=page)
    cut = FOLDER / "cut.safetensors"
    cut.write_bytes(model("sd3").read_bytes()[:-1000])
    train(str(cut), "damaged or cut short", checkpoint=cut)
    other = FOLDER / "model.gguf"
    other.write_bytes(b"GGUF")
    train("neither .safetensors nor .pt", checkpoint=other)
    partly = variant("partly", lambda s: {k: v for k, v in s.items() if "final" not in k})
    train(str(partly), "damaged or cut short", checkpoint=partly)


def test_a_cache_that_does_not_fit():
    train("is no latent cache", "training.prepare", cache=FOLDER / "nothing")
    train("width 64", "has 4096", "prepare the cache", cache=FOLDER / "wide_text")
    train("takes context text of width 64", "SD3.5's text encoders", cache=FOLDER / "wan_cache")
    train(
        "is for sd3 latents",
        "prepare one with the network's own VAE",
        cache=FOLDER / "flux_latents",
    )
    train("holds no text", "--set text=FILE", cache=FOLDER / "mute")
    train("is not finished", "training.prepare", cache=FOLDER / "unfinished")
    train("cannot be read", "training.prepare again", cache=FOLDER / "cut_text")


def test_settings_that_do_not_fit_the_network():
    train("no layer fits", "there are for example", lora__rank=4, lora__targets="to_q")
    eight = variant("eight", lambda s: {k: v.to(torch.float8_e4m3fn) for k, v in s.items()})
    train("8 bits", "lora.rank", checkpoint=eight)
    half = variant("half", lambda s: {k: v.half() for k, v in s.items()})
    train("fp16", "comfy.dtype", checkpoint=half)
    train("is for files of Wan2.2 14B", comfy__expert="high")
    train(
        "offload_blocks", "2 blocks", lora__rank=4, comfy__offload_blocks=9, run__recompute="true"
    )
    train("cannot be shared", "multiple of 3", optim__accumulate=3)
    train("take the file of this model", lora__rank=4, lora__checkpoint=FOLDER / "lora.safetensors")
    train("nothing to resume", "leave out --resume", resume=True, run__out=FOLDER / "fresh")


def test_files_of_prepare_that_are_missing_or_others():
    clip, t5 = (f"'{FOLDER / name}.safetensors'" for name in ("clip_l", "t5xxl"))
    missing = FOLDER / "missing.safetensors"
    make("cannot read", str(missing), vae=missing)
    make(str(FOLDER / "noise.safetensors"), "no VAE that this ComfyUI knows",
         vae=FOLDER / "noise.safetensors")  # fmt: skip
    make("channels", "family Wan2.2 5B", vae=FOLDER / "vae.safetensors", family="wan22", size=32,
         text=None)  # fmt: skip
    make("there is no file", str(missing), text=f"[{clip}, '{missing}']")
    make("takes one file each of CLIP-L and T5-XXL", text=f"[{clip}]")
    make("takes one file each", text=f"[{clip}, {t5}, {clip}]")
    make("family Wan2.2 14B takes UMT5-XXL", text=f"[{t5}]", family="wan21")
    make("no text encoder that is known here", text=f"['{FOLDER / 'vae.safetensors'}', {t5}]")
    make("there is no folder", pictures=FOLDER / "nowhere")
    make("holds no pictures", pictures=FOLDER / "sd3_cache")


def test_a_finished_cache_stays_so_when_text_cannot_be_added():
    cache, out = FOLDER / "kept cache", FOLDER / "out"
    code, lines = said(prepare.main, [FOLDER / "pictures", cache, *settings(
        family="flux", vae=FOLDER / "vae.safetensors", size=32, comfy=HOST.folder)])  # fmt: skip
    assert code == 0, lines
    make("is not a ComfyUI folder", out=cache, comfy=out)
    make("there is no file", out=cache, text=f"['{out}']")
    make("begun with other settings", "size = 32, now 64", out=cache, size=64)


def test_a_full_gpu_says_what_to_set():
    full = "the GPU's memory is full: "
    with replaced(step.Learner, "compute", exhausted):
        train(full + "set run.recompute = true, or raise optim.accumulate (it is 1), or set "
              "optim.optimizer = adamw_8bit, or train a LoRA by lora.rank, or lower "
              "data.batch_size (it is 4)", family="wan", run__out=FOLDER / "full 1")  # fmt: skip
        train(full + "raise comfy.offload_blocks (it is 0), or lower data.batch_size",
              family="wan", lora__rank=4, run__recompute="true", optim__accumulate=4,
              run__out=FOLDER / "full 2")  # fmt: skip
    with replaced(comfy_load, "_build", exhausted):
        train(full, "set run.recompute", family="wan", run__out=FOLDER / "full 3")
    with replaced(HOST.sd, "load_clip", exhausted):
        make(full + "lower batch (it is 16)")


def test_nan_names_the_file_or_the_learning_rate():
    def spoil(state):
        name = next(k for k in state if k.endswith("proj.weight") and state[k].ndim == 2)
        state[name].view(-1)[5] = torch.nan
        return state

    nan = variant("nan", spoil)
    train(str(nan), "proj.weight", "not finite", checkpoint=nan, run__out=FOLDER / "nan run")
    train(str(nan), "not finite", checkpoint=nan, lora__rank=4, run__out=FOLDER / "nan lora")
    good = {"run__out": FOLDER / "kept", "family": "wan"}
    train(**good)
    train("step", "last good checkpoint", "Try a lower optim.lr", resume=True, optim__lr=1e30,
          optim__steps=9, optim__clip="inf", **good)  # fmt: skip
    train(resume=True, optim__steps=3, **good)


@pytest.fixture(scope="module", autouse=True)
def files(stand_ins):
    """Good files, of which most tests need one."""
    FOLDER.mkdir()
    (FOLDER / "empty.toml").touch()
    for family in ("sd3", "wan"):
        tiny.start(family, str(model(family)))
        torchrun_data.write_cache(FOLDER / f"{family}_cache", family)
    torchrun_data.WIDTHS["sd3"] = (4096, 2048)
    torchrun_data.write_cache(FOLDER / "wide_text", "sd3")
    torchrun_data.WIDTHS["sd3"] = (64, 64)
    for name in ("mute", "unfinished", "cut_text", "flux_latents"):
        torchrun_data.write_cache(FOLDER / name, "sd3")
    CacheFolder.open(FOLDER / "mute").update(text=None)
    CacheFolder.open(FOLDER / "flux_latents").update(latent=latents("flux"))
    CacheFolder.open(FOLDER / "unfinished").update(complete=False)
    text = FOLDER / "cut_text/text-00000.safetensors"
    text.write_bytes(text.read_bytes()[:-9])
    save_file(tiny.autoencoder(16, 7, 0.6), FOLDER / "vae.safetensors")
    for name, key, size in (
        ("clip_l", "text_model.encoder.layers.11.mlp.fc1.weight", 3072),
        ("t5xxl", "encoder.block.23.layer.1.DenseReluDense.wi_1.weight", 10240),
    ):
        tensors = {key: torch.zeros(size, 1, dtype=torch.uint8), "stand_in": torch.tensor((0,))}
        save_file(tensors, FOLDER / f"{name}.safetensors")
    for number in range(2):
        place = FOLDER / "pictures" / str(number)
        place.mkdir(parents=True)
        Image.new("RGB", (32, 32), (90 * number, 40, 60)).save(place / "0.png")
