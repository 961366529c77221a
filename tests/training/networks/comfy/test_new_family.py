"""A ninth family by its record and a tiny file alone: it trains, samples and has a preset.

The trainer, and the pack as ComfyUI loads it, are in this process; each gets the record, that of
``tests/host/new_family.py``, in its copy of the tuple of records.
"""

import asyncio
import json
from functools import cache
from importlib import import_module

import comfy.model_detection
import comfy.sample
import execution
import folder_paths
import pytest
import torch
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams
from PIL import Image
from safetensors.torch import load_file, save_file

import nodes
from sv_core.models import families
from sv_core.models.interval import IntervalEmbedder
from tests.host import new_family as new
from tests.host import tiny
from tests.host.server import PACK
from tests.training.in_comfy import HOST, WORK
from tests.training.toml_files import configure
from training import finetune, prepare
from training.data.cache import LatentCache
from training.engine import memory
from training.networks.comfy import load as comfy_load
from training.run import preview

pytestmark = pytest.mark.inside

OUT = WORK / "new_family"
OUT.mkdir()
MODEL, RUN = OUT / "hunyuan.safetensors", OUT / "run"
SHAPE = (1, 16, 2, 8, 8)
TEXT = (5, 4096, 768)
"""Tokens, their width and the pooled vector's, of the stand-in for the text encoders."""


@pytest.fixture(scope="module", autouse=True)
def added(stand_ins):
    """The one door: the record, in each of the two copies of the core that are in this process."""
    for kind in ("loras", "diffusion_models"):
        folder_paths.add_model_folder_path(kind, str(OUT), is_default=True)
    assert asyncio.run(nodes.load_custom_node(str(PACK)))
    with pytest.MonkeyPatch.context() as patch:
        for copy in (families, of_the_pack("sv_core.models.families")):
            others = [f for f in copy.FAMILIES if f.name != new.HUNYUAN_VIDEO.name]
            patch.setattr(copy, "FAMILIES", (*others, new.HUNYUAN_VIDEO))
        # What is drawn is not the matter here.
        patch.setattr(preview, "SHEETS", ((float("inf"), (2, 1, 2)),))
        yield


def of_the_pack(name):
    return import_module(f".{name}", str(PACK).replace(".", "_x_"))


def node(name):
    return nodes.NODE_CLASS_MAPPINGS[name]


def scheduled(model, preset):
    """The outputs of the scheduler node."""
    return node("RegimeSplitScheduler").execute(model, preset=preset).args


def config(**sizes):
    """A configuration of the network, as this version of ComfyUI has them."""
    known = HunyuanVideoParams.__dataclass_fields__
    return new.HUNYUAN | {k: v for k, v in new.NEWER.items() if k in known} | sizes


def write_videos():
    """Four videos of five frames, in folders of two classes."""
    draw = torch.Generator().manual_seed(0)
    for number in range(4):
        place = OUT / f"videos/{number % 2}/{number}.frames"
        place.mkdir(parents=True)
        for frame, grey in enumerate(torch.randint(256, (5, 64, 64), generator=draw).byte()):
            Image.fromarray(grey.numpy()).save(place / f"{frame}.png")


def write_encoders():
    """A tiny VAE, and stand-ins for text encoders that have nothing but their signs."""
    save_file(tiny.autoencoder(16, 7, 0.6), OUT / "vae.safetensors")
    for encoder in new.HUNYUAN_VIDEO.text.usable:
        sign = {encoder.sign: torch.zeros(encoder.size, 1, dtype=torch.uint8)}
        save_file(sign | {"stand_in": torch.tensor(TEXT)}, OUT / f"{encoder.name}.safetensors")


@cache
def prepared():
    """python -m training.prepare: the cache."""
    write_videos()
    write_encoders()
    text = [str(OUT / f"{e.name}.safetensors") for e in new.HUNYUAN_VIDEO.text.usable]
    said = ["family=hunyuanvideo", f"vae={OUT / 'vae.safetensors'}", f"text={text}"]
    said += ["size=64", "frames=5", f"comfy={HOST.folder}", "device=cpu"]
    words = [word for value in said for word in ("--set", value)]
    assert prepare.main([str(OUT / "videos"), str(OUT / "cache"), *words]) == 0
    return LatentCache(OUT / "cache")


@cache
def trained():
    """python -m training.finetune: the LoRA's file."""
    prepared()
    configure(
        OUT / "run.toml",
        comfy={"checkpoint": str(MODEL), "folder": str(HOST.folder)},
        data={"cache": str(OUT / "cache"), "batch_size": 4, "held_out": 0.0},
        lora={"rank": 4},
        optim={"steps": 4, "lr": 1e-2, "ema": 0.5},
        run={"out": str(RUN), "device": "cpu", "report_every": 1},
    )
    save_file(tiny.diffusion_model(config(), seed=1, gain=0.7), MODEL)
    assert finetune.main([str(OUT / "run.toml")]) == 0
    return max(RUN.glob("weights-*.safetensors"))


def loaded(lora=True):
    """The MODEL by the host's own loader nodes."""
    weights = trained()
    model = nodes.UNETLoader().load_unet(MODEL.name, "default")[0]
    if lora:
        name = weights.relative_to(OUT).as_posix()
        model = nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 1.0)[0]
    return model


def sampled(model):
    """A video's latent by our scheduler and our sampler, and how many calls that took."""
    sigmas, *_, calls, report = scheduled(model, "auto")[:5]
    steps = []
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 7, 4096, generator=torch.Generator().manual_seed(1))
    conds = [[text, {"pooled_output": torch.ones(1, 768), "guidance": 6.0}]]
    sampler = node("StableVSSampler").execute("euler", 0.85, 0.0).args[0]
    latent = comfy.sample.sample_custom(
        model, noise, 1.0, sampler, sigmas, conds, conds,
        torch.zeros(SHAPE), callback=lambda i, *_: steps.append(i), disable_pbar=True, seed=0,
    )  # fmt: skip
    assert "preset auto, HunyuanVideo: scheduler simple, 30 steps" in report, report
    assert steps == list(range(calls)) and 20 < calls < 30, (steps, calls)
    return latent


def test_its_videos_become_a_cache_of_its_latents_and_texts():
    made = prepared()
    assert made.latent == new.HUNYUAN_VIDEO.latent
    assert made.shape == (16, 2, 8, 8) and made.index.text is not None


def test_it_trains_through_its_own_self_check():
    weights = load_file(trained())
    moved = [float(x.abs().max()) for name, x in weights.items() if "lora_B" in name]
    assert len(moved) >= 8 and sum(x > 0 for x in moved) >= 8, moved
    rows = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) >= 2 and all(0 < loss < 10 for loss in losses), losses


def test_the_trainer_s_network_is_known_by_its_record():
    trained()
    one = comfy_load.load(MODEL, HOST)
    assert one.family is new.HUNYUAN_VIDEO and one.span == (0, 1)
    assert (one.width, one.latent_rank, one.shift, len(one.blocks)) == (128, 5, 7, 2)
    assert one.latent.kind == "hunyuanvideo"
    assert one.metadata()["modelspec.architecture"] == "hunyuan-video"


def test_the_host_samples_it_with_our_sampler_and_its_lora():
    plain, learnt = sampled(loaded(lora=False)), sampled(loaded())
    assert plain.isfinite().all() and plain.shape == SHAPE
    assert float((plain - learnt).norm() / plain.norm()) > 1e-4


def test_it_appears_in_the_presets():
    (preset,) = [i for i in node("RegimeSplitScheduler").define_schema().inputs if i.id == "preset"]
    assert preset.options[:7] == [
        *("auto", "Flux", "SD3.5", "Qwen-Image", "Wan2.2 14B", "Wan2.2 5B", "HunyuanVideo"),
    ]
    assert preset.options[-1] == "manual"
    named, auto = (scheduled(loaded(), preset) for preset in ("HunyuanVideo", "auto"))
    assert torch.equal(named[0], auto[0])


def test_an_interval_s_embedder_goes_behind_it():
    velocities = of_the_pack("nodes.host.average_velocity")
    model = velocities.attach(loaded(), IntervalEmbedder(128), "HunyuanVideo")
    assert velocities.has_average_velocity(model)
    assert torch.equal(sampled(model), sampled(loaded())), "a new one changes nothing"


def test_its_size_is_that_of_the_published_network():
    sizes = dict(hidden_size=3072, num_heads=24, depth=20, depth_single_blocks=40)
    made = comfy.model_detection.model_config_from_unet_config(config(**sizes), {})
    made.set_inference_dtype(torch.float32, None)
    network = made.get_model({}, device="meta").diffusion_model
    blocks = [*network.double_blocks, *network.single_blocks]
    assert memory.network_of(network, blocks, 3072, 4) == new.HUNYUAN_VIDEO.size
    assert memory.main(["HunyuanVideo"]) == 0


def checked(preset):
    """What the host says of a prompt before it runs: (is it right, why not)."""
    prompt = {
        "1": {"class_type": "UNETLoader",
              "inputs": {"unet_name": MODEL.name, "weight_dtype": "default"}},
        "2": {"class_type": "RegimeSplitScheduler",
              "inputs": {"model": ["1", 0], "preset": preset}},
    }  # fmt: skip
    right, errors, _ = asyncio.run(execution.validate_inputs("a prompt", prompt, "2", {}))
    return right, json.dumps(errors)


def test_a_workflow_of_before_keeps_its_preset():
    model = loaded()
    for preset in ("Wan2.2", "Wan2.2 5B", "HunyuanVideo", "auto", "manual"):
        right, why = checked(preset)
        assert right, (preset, why)
    right, why = checked("Wan3")
    assert not right and "there is no preset 'Wan3': choose auto, Flux, SD3.5" in why, why
    before, now = (scheduled(model, preset) for preset in ("Wan2.2", "Wan2.2 14B"))
    assert torch.equal(before[0], now[0]) and before[4] == now[4]
    assert "preset Wan2.2 14B: scheduler simple" in now[4] and "rule unipc" in now[4]
