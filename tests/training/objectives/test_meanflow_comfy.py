"""MeanFlow on ComfyUI's networks, from training to its nodes.

The trainer, and the pack as ComfyUI loads it, are in this process.
"""

import asyncio
import json
from importlib import import_module
from pathlib import Path

import comfy.sample
import comfy.samplers
import folder_paths
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nodes
from sv_core.meanflow import exact_derivative
from sv_core.models.interval import PREFIX, IntervalEmbedder, time_embedding, to_file
from tests.host import tiny
from tests.host.server import PACK
from tests.host.torchrun_data import write_cache
from tests.training.in_comfy import HOST, WORK, close, refused
from tests.training.toml_files import configure
from training import files, finetune, lora
from training.config.load import load
from training.data import dataset
from training.engine.distributed import Processes
from training.networks.comfy import load as comfy_load
from training.networks.comfy import self_check
from training.networks.comfy.load import with_interval
from training.run import preview
from training.run.folder import RunFolder
from training.run.state import TrainState

pytestmark = [pytest.mark.inside, pytest.mark.slow]

OUT = WORK / "intervals"
OUT.mkdir()
LORA = {"rank": 4}
RUNS = {"sd3": LORA, "flux": LORA, "wan": None}
STEPS = {"sd3": 8, "flux": 4, "wan": 4}
"""Two LoRAs and all the weights."""
CPU = torch.device("cpu")
STEP, T_STEP = 2.0**-6, 2.0**-12  # some of Wan is float32, also in float64

NETWORKS: dict = {}


def write_run(out: Path, family: str) -> None:
    """A cache, and the configuration of a short run on it."""
    write_cache(out / f"{family}_cache", family)
    lora = RUNS[family]
    configure(
        out / f"{family}.toml",
        comfy={"checkpoint": str(out / f"{family}.safetensors"), "folder": str(HOST.folder)},
        data={"cache": str(out / f"{family}_cache"), "batch_size": 4},
        objective={"kind": "meanflow"},
        meanflow={"equal": 0.25, "beta": 0.5, "guidance": 1.5},
        optim={"steps": STEPS[family], "lr": 1e-2, "ema": 0.5},
        run={"out": str(out / f"{family}_run"), "device": "cpu", "report_every": 4},
        **({"lora": lora} if lora else {}),
    )


@pytest.fixture(scope="module", autouse=True)
def runs(stand_ins):
    """Caches, configurations and models; the pack in ComfyUI, which finds what the runs leave."""
    for family in RUNS:
        write_run(OUT, family)
    for family, config in tiny.STARTS.items():
        weights = tiny.diffusion_model(config, seed=1, gain=0.7)
        save_file(weights, OUT / f"{family}.safetensors")
    for kind in ("loras", "diffusion_models"):
        folder_paths.add_model_folder_path(kind, str(OUT), is_default=True)
    assert asyncio.run(nodes.load_custom_node(str(PACK)))
    with pytest.MonkeyPatch.context() as patch:
        # What is drawn is not the matter here; the families' derivatives have tests of their own.
        patch.setattr(preview, "SHEETS", ((float("inf"), (2, 1, 2)),))
        patch.setattr(self_check, "self_check", lambda backbone, host: None)
        yield


def part_of_the_pack(name):
    return import_module(f".nodes.{name}", str(PACK).replace(".", "_x_"))


def network(family):
    """A family's small file as the trainer loads it, to be asked what it is."""
    if family not in NETWORKS:
        NETWORKS[family] = comfy_load.load(OUT / f"{family}.safetensors", HOST)
    return NETWORKS[family]


def small(family, dtype=torch.float32):
    return self_check.tiny(network(family), HOST, dtype)


def embedded(one, std=0.3):
    """With an embedder of random weights, the same in any dtype."""
    one = with_interval(one, 0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in one.embedder.parameters():
            p.add_(std * torch.randn(p.shape, generator=generator))
    one.embedder.to(next(one.model.parameters()).dtype)
    return one


def points(one):
    """(x, r, t, cond, a direction like x): rows of two texts, one of them with r = t."""
    x, t, cond, direction = self_check.sample(one)
    return x, t * torch.tensor([0.25, 1.0, 0.5], dtype=t.dtype), t, cond, direction


@torch.no_grad()
def test_a_new_embedder_changes_no_bit_and_no_key():
    for family in tiny.STARTS:
        plain, one = small(family), with_interval(small(family), 0)
        x, r, t, cond, _ = points(plain)
        v = plain.velocity(x, t, cond)
        assert one.interval and not plain.interval and plain.sidecar() is None
        for way in (one, one.on(one.model.forward)):
            assert torch.equal(way.velocity(x, t, cond), v), family
            assert torch.equal(way.average_velocity(x, r, t, cond), v), family
        assert {p.dtype for p in one.embedder.parameters()} == {torch.float32}
        added = set(one.model.state_dict()) - set(plain.model.state_dict())
        assert added == set(one.sidecar()[0]), added
        real = with_interval(comfy_load.load(OUT / f"{family}.safetensors", HOST), 0)
        assert not any(PREFIX in key for key in real.weights())
        assert set(real.weights()) == set(load_file(real.file.path)), family


@torch.no_grad()
def test_every_row_is_told_its_own_interval():
    for family in tiny.STARTS:
        one = embedded(small(family))
        x, r, t, cond, _ = points(one)
        u = one.average_velocity(x, r, t, cond)
        rows = [one.average_velocity(*(a[i : i + 1] for a in (x, r, t, cond))) for i in range(3)]
        close(u, torch.cat(rows), 1e-5, family)
        assert torch.equal(one.on(one.model.forward).average_velocity(x, r, t, cond), u), family
        v = one.velocity(x, t, cond)
        assert torch.equal(v, one.average_velocity(x, t, t, cond))
        close(v[1], u[1], 1e-5, family)  # of the row with r = t
        moved = [float((u[i] - v[i]).norm() / v[i].norm()) for i in (0, 2)]
        assert min(moved) > 1e-2, (family, moved)
        heard = []
        one.embedder.register_forward_pre_hook(lambda m, args, heard=heard: heard.append(args[0]))
        one.average_velocity(x, r, t, cond)
        assert torch.equal(torch.cat(heard), (t - r)[[0, 2, 1]]), heard  # by texts
        assert not time_embedding(one.model, one.family.name)._forward_hooks, "a hook stayed"


def test_derivatives_equal_differences():
    for family in tiny.STARTS:
        single, double = embedded(small(family)), embedded(small(family, torch.float64))
        x, r, t, cond, direction = points(double)
        for what, (dx, dr, dt), step, tolerance in (
            ("x", (direction, 0.0, 0.0), STEP, 1e-4),
            ("r", (0 * x, 1.0, 0.0), STEP, 5e-4),
            ("the tangent", (direction, 0.0, 1.0), T_STEP, 5e-4),
        ):

            def along(h, dx=dx, dr=dr, dt=dt, one=double, at=(x, r, t), cond=cond):
                x, r, t = at
                return one.average_velocity(x + h * dx, r + h * dr, t + h * dt, cond)

            with torch.no_grad():
                coarse, fine = ((along(h) - along(-h)) / (2 * h) for h in (step, step / 2))
            exact = (4 * fine - coarse) / 3

            def u(*at, one=single, cond=cond):
                return one.average_velocity(*at, cond)

            at, dx = [a.float() for a in (x, r, t)], dx.float()
            with torch.no_grad(), single.forward_mode():
                ones = torch.ones_like(at[2])
                _, found = torch.func.jvp(u, tuple(at), (dx, dr * ones, dt * ones))
                close(found, exact, tolerance, f"{family} along {what}")
                if what == "the tangent":
                    close(exact_derivative(u, *at, dx, 1.0), found, 1e-6, family)


def test_an_embedder_is_trained_beside_a_lora_and_whole_networks():
    for family in tiny.STARTS:
        for how in ("lora", "full"):
            one = small(family)
            if how == "lora":  # with a pattern that would fit the embedder
                lora.inject(one.model, 2, targets=["*"])
            else:
                one.unfreeze()
            one = with_interval(one, 0)
            x, r, t, cond, direction = points(one)
            (one.average_velocity(x, r, t, cond) * direction).sum().backward()
            names = {n for n, p in one.model.named_parameters() if p.requires_grad}
            own = {f"{PREFIX}mlp.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
            assert own < names, (family, how)
            if how == "lora":
                assert all(".lora." in name for name in names - own)
                assert not any(PREFIX in name for name in lora.state_dict(one.model))
            assert all(p.grad is not None for p in one.embedder.parameters()), (family, how)
            assert one.embedder.mlp[2].weight.grad.abs().max() > 0
            ignored = set(one.model._ddp_params_and_buffers_to_ignore)
            assert f"{PREFIX}omega" in ignored and not ignored & names


def run(family, *overrides, resume=False):
    """python -m training.finetune; the step's weights."""
    arguments = [str(OUT / f"{family}.toml")]
    for said in overrides:
        arguments += ["--set", said]
    assert finetune.main([*arguments, *["--resume"] * resume]) == 0, family
    config = load(OUT / f"{family}.toml", overrides)
    return RunFolder(Path(config.run.out)).weights(config.optim.steps)


def taken_up(family, *overrides, resume=True):
    """A run's state: as it was saved, or as a run begins."""
    config = load(OUT / f"{family}.toml", overrides)
    made = TrainState(config, dataset.load(config.data), Processes(config.run))
    if resume:
        RunFolder(Path(config.run.out)).open(config, made, resume=True)
    return made


def noisy(family, seed=5):
    frames = (3,) if family == "wan" else ()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 16, *frames, 4, 4, generator=generator)


def in_the_host(model, x, r, t, entry):
    """u(x, r, t) as a sampler hears it from the host's MODEL; r None asks for the velocity."""
    heard = []

    def ask(denoiser, _, sigmas, extra_args=None, callback=None, disable=None):
        arguments = extra_args
        if r is not None:
            with_end = part_of_the_pack("host.average_velocity").with_interval_end
            arguments = with_end(extra_args, torch.tensor(r))
        velocity = part_of_the_pack("host.flow").velocity_from_denoiser(denoiser, arguments)
        heard.append(velocity(x, torch.tensor(t)))
        return x

    extra = {"guidance": 1.0}
    if "pooled" in entry:
        extra["pooled_output"] = entry["pooled"][None]
    conds = [[entry["context"][None], extra]]
    comfy.sample.sample_custom(
        model, x, 1.0, comfy.samplers.KSAMPLER(ask), torch.tensor([t, 0.0]), conds, conds,
        torch.zeros_like(x), disable_pbar=True, seed=0,
    )  # fmt: skip
    return heard[0]


def loaded(family, weights):
    """The MODEL by the loader nodes: before MeanFlow Loader, and behind it."""
    name, full = f"{family}_run/{weights.name}", family == "wan"
    model = nodes.UNETLoader().load_unet(name if full else f"{family}.safetensors", "default")[0]
    if not full:
        model = nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 1.0)[0]
    embedder = f"{family}_run/{files.interval_path(weights).name}"
    loader = nodes.NODE_CLASS_MAPPINGS["MeanFlowLoader"]
    assert loader.validate_inputs(embedder) is True
    return model, loader.execute(model, embedder).args[0]


def test_what_a_run_leaves_is_in_the_host_what_it_was_in_the_trainer():
    for family in RUNS:
        weights = run(family)
        made = taken_up(family)
        x, texts = noisy(family), made.dataset.text
        without, model = loaded(family, weights)
        with made.averaged() as backbone, torch.no_grad():
            for r, t, k in ((0.0, 1.0, 0), (0.25, 0.75, 1), (0.5, 0.5, made.null)):
                cond, (rs, ts) = torch.tensor([k, k]), (torch.full((2,), v) for v in (r, t))
                trained = backbone.average_velocity(x, rs, ts, cond)
                u = in_the_host(model, x, r, t, texts[k])
                close(u, trained, 5e-6, f"{family} from {t} to {r}")
                if r == t:
                    close(in_the_host(model, x, None, t, texts[k]), trained, 5e-6, family)
                else:  # it has learnt something, in which the embedder has its share
                    base = network(family).reading(texts).velocity(x, ts, cond)
                    bare = in_the_host(without, x, None, t, texts[k])
                    for other in (base, bare):
                        moved = float((other - trained).norm() / trained.norm())
                        assert moved > 1e-3, (family, moved)


def test_the_embedder_s_file_says_what_it_is():
    for family in RUNS:
        weights = RunFolder(OUT / f"{family}_run").weights(4 if family != "sd3" else 8)
        with safe_open(files.interval_path(weights), framework="pt") as file:
            said, keys = file.metadata(), set(file.keys())
        with safe_open(weights, framework="pt") as file:
            main_said, main_keys = file.metadata(), set(file.keys())
        assert all(key.startswith(PREFIX) for key in keys) and len(keys) == 4
        assert not any(PREFIX in key for key in main_keys)
        preset = network(family).family.name
        assert json.loads(said["interval_embedder"])["family"] == preset
        assert said["modelspec.architecture"].endswith("/interval-embedder")
        assert main_said["modelspec.prediction_type"] == "average velocity"
        assert {k: said[k] for k in ("step", "training_config")} == {
            k: main_said[k] for k in ("step", "training_config")
        }
        assert "ss_network_dim" not in said
        assert ("ss_network_dim" in main_said) == (family != "wan")


def test_resuming_is_exact():
    half = f"run.out={OUT / 'half'}"
    run("sd3", half, "optim.steps=4")
    resumed, whole = run("sd3", half, resume=True), OUT / "sd3_run" / "weights-000008.safetensors"
    for one, other in ((whole, resumed), *[map(files.interval_path, (whole, resumed))]):
        a, b = load_file(one), load_file(other)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), other
    records = [
        [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
        for folder in (whole.parent, resumed.parent)
    ]
    assert [r["loss"] for r in records[0]] == [r["loss"] for r in records[1]]
    last = records[0][-1]
    assert last["val_one_call"] > 0 and "trace" in last["meanflow"], last


def test_a_run_goes_on_with_the_embedder_beside_its_start():
    weights = OUT / "sd3_run" / "weights-000008.safetensors"
    x, cond = noisy("sd3"), torch.tensor([0, 1])
    r, t = torch.tensor([0.0, 0.25]), torch.tensor([1.0, 0.75])
    with taken_up("sd3").averaged() as backbone, torch.no_grad():
        ended = backbone.average_velocity(x, r, t, cond)
    begun = taken_up("sd3", f"lora.checkpoint={weights}", resume=False)
    with torch.no_grad():
        assert torch.equal(begun.backbone.average_velocity(x, r, t, cond), ended)
    other = OUT / "other.safetensors"
    place = files.interval_path(other)
    save_file(load_file(weights), other)
    for embedder, family, words in (
        (IntervalEmbedder(48), "SD3.5", "is 48 wide, the model 128"),
        (IntervalEmbedder(128), "Flux", "is for Flux, the model is SD3.5"),
    ):
        tensors, said = to_file(embedder, family)
        save_file(tensors, place, said)
        refused(
            lambda: taken_up("sd3", f"lora.checkpoint={other}", resume=False), str(place), words
        )
    save_file({"a": torch.zeros(1)}, place)
    refused(
        lambda: taken_up("sd3", f"lora.checkpoint={other}", resume=False),
        str(place), "is not an interval embedder",
    )  # fmt: skip
