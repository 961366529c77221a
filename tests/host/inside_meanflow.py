"""Checks of MeanFlow in the host's own interpreter: PACK RESULTS, in its folder.

Every ``check_*`` raises AssertionError or returns; ``test_meanflow.py`` reads the results.
"""

import json
import sys
import tempfile
import traceback
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from inside_host import MODEL, NAME, complaint, latent, sit, sit_model

import comfy.model_detection  # isort: skip  after inside_host, which starts the host
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import folder_paths
import tiny
import torch
from comfy.ldm.flux.model import FluxParams
from comfy_extras.nodes_custom_sampler import BasicScheduler
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from safetensors.torch import save_file

import nodes

average_velocity = import_module(".nodes.host.average_velocity", NAME)
jump_sampler = import_module(".nodes.samplers.jumps", NAME)
interval = import_module(".sv_core.models.interval", NAME)
core = import_module(".sv_core.meanflow", NAME)
Sampler, Loader = (nodes.NODE_CLASS_MAPPINGS[f"MeanFlow{n}"] for n in ("Sampler", "Loader"))
EULER = comfy.samplers.sampler_object("euler")
CONFIG = sit.SiTConfig(8, 4, 3, 64, 2, 2, num_classes=5, interval=True)
CPU = torch.device("cpu")
SHAPE = (4, 3, 8, 8)
CLASSES = torch.arange(4)


def stirred(module, seed=0, std=0.15):
    """All weights random, so that everything matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(std * torch.randn(p.shape, generator=generator))
    return module.eval()


def patched(net):
    return comfy.model_patcher.ModelPatcher(
        sit_model.SiTModel(net, latent.pixels(3), 3.0), CPU, CPU
    )


NET = stirred(sit.SiT(CONFIG))
TWIN = stirred(sit.SiT(CONFIG))  # of the same weights, which the host has never seen
TWIN.load_state_dict(NET.state_dict())
MEANFLOW = patched(NET)
GRID = BasicScheduler().get_sigmas(MEANFLOW, "simple", 30, 1.0)[0]


def jumps(calls):
    return Sampler.execute(calls).args[0]


def sample(sampler, sigmas=GRID, model=MEANFLOW, cfg=1.0, image=None, **options):
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    positive = sit_model.conditioning_from_classes(CLASSES.tolist())
    negative = sit_model.conditioning_from_classes(None)
    image = torch.full(SHAPE, 0.5) if image is None else image  # 0 to the network
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, image,
        disable_pbar=True, seed=1, **options,
    )  # fmt: skip


def the_core_s(sigmas, x=None, cfg=1.0):
    """The same samples from the mathematics alone."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) if x is None else x

    def u(x, r, t):
        r, t = r.expand(len(x)), t.expand(len(x))
        null = torch.full((len(x),), CONFIG.num_classes)
        cond = TWIN(x, t, CLASSES, r)
        return cond if cfg == 1 else TWIN(x, t, null, r) * (1 - cfg) + cond * cfg

    with torch.no_grad():
        return latent.pixels(3).from_model(core.sample_meanflow(u, x, sigmas))


def near(a, b, tolerance=1e-5):
    worst = (a - b).abs().max() / b.abs().max()
    assert a.shape == b.shape and b.std() > 0.1 and worst < tolerance, f"{worst:.1e}"


def check_samples_are_the_mathematics_in_any_number_of_calls():
    for calls in range(1, 9):
        near(sample(jumps(calls)), the_core_s(jump_sampler.jump_sigmas(GRID, calls)))
    assert torch.allclose(jump_sampler.jump_sigmas(GRID, 4), torch.linspace(1, 0, 5))
    part = GRID[10:21]
    even = torch.linspace(float(part[0]), float(part[-1]), 3)
    assert torch.allclose(jump_sampler.jump_sigmas(part, 2), even)
    assert jump_sampler.jump_sigmas(part, 2)[[0, -1]].equal(part[[0, -1]])
    for own in (GRID[:5], GRID[:1]):  # as many steps as calls, or none
        assert torch.equal(jump_sampler.jump_sigmas(own, 4), own)
    one, two = sample(jumps(1)), sample(jumps(2))
    assert (one - two).abs().max() > 0.05, "the interval does not matter here"


def check_each_call_is_told_its_own_interval_and_later_runs_none():
    seen, calls = [], []
    before = sample(EULER)
    hook = NET.register_forward_pre_hook(
        lambda module, args, options: seen.append((float(args[1][0]), options.get("r"))),
        with_kwargs=True,
    )
    report = lambda i, x0, x, n: calls.append((i, n))  # noqa: E731
    sample(jumps(3), callback=report)
    told = [(round(t, 5), round(float(r[0]), 5)) for t, r in seen]
    grid = [round(s, 5) for s in jump_sampler.jump_sigmas(GRID, 3).tolist()]
    assert told == list(pairwise(grid)), told
    assert calls == [(0, 3), (1, 3), (2, 3)]
    seen.clear()
    after = sample(EULER)
    hook.remove()
    assert all(r is None for _, r in seen) and len(seen) == 30
    assert torch.equal(before, after)
    assert average_velocity.LEADS_TO not in MEANFLOW.model_options["transformer_options"]


def check_the_arguments_of_a_call_stay_the_caller_s():
    given = {"model_options": {"transformer_options": {"a": 1}, "b": 2}, "seed": 3}
    called = average_velocity.leading_to(given, torch.tensor(0.25))
    assert average_velocity.led_to(called["model_options"]["transformer_options"]) == 0.25
    assert called["seed"] == 3 and called["model_options"]["b"] == 2
    assert given == {"model_options": {"transformer_options": {"a": 1}, "b": 2}, "seed": 3}
    assert average_velocity.led_to(
        average_velocity.leading_to({}, 0.5)["model_options"]["transformer_options"]
    )


def check_cfg_guides_the_average_velocity_as_the_host_guides_any():
    near(sample(jumps(2), cfg=2.5), the_core_s(jump_sampler.jump_sigmas(GRID, 2), cfg=2.5), 1e-4)
    assert (sample(jumps(2), cfg=2.5) - sample(jumps(2))).abs().max() > 0.1


def check_image_to_image_begins_at_the_host_s_noise():
    sigmas = BasicScheduler().get_sigmas(MEANFLOW, "simple", 30, 0.4)[0]
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    start = (1 - sigmas[0]) * latent.pixels(3).to_model(image) + sigmas[0] * noise
    for calls in (1, 3):
        expected = the_core_s(jump_sampler.jump_sigmas(sigmas, calls), start)
        near(sample(jumps(calls), sigmas, image=image), expected)


def check_two_samplers_in_a_row_are_one():
    first, second = GRID[:16], GRID[15:]
    half = sample(jumps(1), first)
    whole = the_core_s(GRID[[0, 15, 30]])
    nothing = torch.zeros(SHAPE)
    positive = sit_model.conditioning_from_classes(CLASSES.tolist())
    out = comfy.sample.sample_custom(
        MEANFLOW, nothing, 1.0, jumps(1), second, positive, positive, half,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    near(out, whole, 1e-4)


def check_inpainting_keeps_what_is_masked():
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(SHAPE[0], 1, 8, 8)
    mask[..., 4:] = 1
    for calls in (1, 4):
        out = sample(jumps(calls), image=image, noise_mask=mask)
        assert (out - image)[..., :4].abs().max() < 1e-5
        assert (out - image)[..., 4:].abs().max() > 0.1


def check_a_converted_checkpoint_is_the_plain_model_for_every_sampler():
    plain = stirred(sit.SiT(sit.SiTConfig(8, 4, 3, 64, 2, 2, num_classes=5)))
    start = patched(sit.with_interval(plain))
    for name in ("euler", "heun", "dpmpp_2m", "uni_pc", "res_multistep"):
        sampler = comfy.samplers.sampler_object(name)
        theirs = sample(sampler, GRID[::3].clone(), patched(plain))
        assert torch.equal(sample(sampler, GRID[::3].clone(), start), theirs), name
    for calls in (1, 8):  # and its jumps are Euler's steps
        sigmas = jump_sampler.jump_sigmas(GRID, calls)
        near(sample(jumps(calls), GRID, start), sample(EULER, sigmas, patched(plain)))


def check_times_in_other_units_mean_the_same():
    other = ModelSamplingSD3().patch(MEANFLOW, 3.0)[0]  # counts in thousands
    near(sample(jumps(3), model=other), sample(jumps(3)), 1e-4)


def check_other_models_are_refused_in_words():
    plain = patched(stirred(sit.SiT(sit.SiTConfig(8, 4, 3, 64, 2, 2, num_classes=5))))
    for model in (plain, FAMILIES["SD3.5"]):
        assert not average_velocity.has_average_velocity(model)
        words = complaint(lambda: average_velocity.require_average_velocity(model))  # noqa: B023
        assert "knows no average velocity" in words
    assert "knows no average velocity" in complaint(lambda: sample(jumps(1), model=plain))
    eps = ModelSamplingDiscrete().patch(MEANFLOW, "eps", False)[0]
    assert "needs a flow-matching model" in complaint(lambda: sample(jumps(1), model=eps))
    assert "descend" in complaint(lambda: sample(jumps(2), GRID.flip(0)))


# The families of ComfyUI, tiny.

WIDTHS = {"SD3.5": (4096, 2048), "Flux": (4096, 768), "Qwen-Image": (3584, 768)}
LATENTS = {
    "SD3.5": (2, 16, 8, 8),
    "Flux": (2, 16, 8, 8),
    "Qwen-Image": (2, 16, 1, 8, 8),
    "Wan2.2": (2, 16, 2, 8, 8),
    "Wan2.2 5B": (2, 48, 2, 8, 8),
}


def family_model(config):
    """The host's own class with random weights, a MODEL."""
    if config is tiny.FLUX and "txt_ids_dims" in FluxParams.__dataclass_fields__:
        config = config | {"txt_ids_dims": []}
    made = comfy.model_detection.model_config_from_unet_config(dict(config), {})
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, device=CPU)
    with torch.no_grad():
        for name, p in model.diffusion_model.named_parameters():
            p.copy_(tiny.fill(name, p, 0, 0.6))
    return comfy.model_patcher.ModelPatcher(model.eval(), CPU, CPU)


FAMILIES = {
    "SD3.5": family_model(tiny.SD35),
    "Flux": family_model(tiny.FLUX),
    "Qwen-Image": family_model(tiny.QWEN),
    "Wan2.2": family_model(tiny.WAN_14B),
    "Wan2.2 5B": family_model(tiny.WAN_5B),
}


def family_of(name):
    return name.removesuffix(" 5B")


def time_part(name):
    network = FAMILIES[name].model.diffusion_model
    return interval.time_embedding(network, family_of(name))


def embedder_for(name, seed=None):
    module = interval.IntervalEmbedder(interval.width(time_part(name)), 32)
    return module.eval() if seed is None else stirred(module, seed, 0.3)


def sample_family(name, sampler, model=None, cfg=1.0, steps=4, **options):
    generator = torch.Generator().manual_seed(3)
    width, pooled = WIDTHS.get(name, (4096, 768))
    conds = [
        [[torch.randn(1, 6, width, generator=generator),
          {"pooled_output": torch.randn(1, pooled, generator=generator)}]]
        for _ in range(2)
    ]  # fmt: skip
    model = model or FAMILIES[name]
    noise = torch.randn(LATENTS[name], generator=generator)
    sigmas = BasicScheduler().get_sigmas(model, "simple", steps, 1.0)[0]
    image = options.pop("image", torch.zeros(LATENTS[name]))
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, *conds, image, disable_pbar=True, seed=1, **options
    )


def check_a_zero_embedder_changes_no_bit():
    for name in FAMILIES:
        model = average_velocity.attach(FAMILIES[name], embedder_for(name), family_of(name))
        for cfg in (1.0, 3.0):
            theirs = sample_family(name, EULER, cfg=cfg)
            assert theirs.std() > 0.05 and theirs.isfinite().all()
            assert torch.equal(sample_family(name, EULER, model, cfg), theirs), name
            near(sample_family(name, jumps(4), model, cfg), theirs, 1e-4)


def check_the_embedder_hears_t_minus_r_behind_the_time_embedding():
    for name in FAMILIES:
        embedder, heard = embedder_for(name, 1), []
        embedder.register_forward_pre_hook(lambda m, args, heard=heard: heard.append(args[0]))
        model = average_velocity.attach(FAMILIES[name], embedder, family_of(name))
        without = sample_family(name, jumps(4), average_velocity.attach(
            FAMILIES[name], embedder_for(name), family_of(name)))  # fmt: skip
        plain = sample_family(name, EULER, model)
        assert torch.equal(torch.cat(heard), torch.zeros(sum(map(len, heard)))), name
        heard.clear()
        made = sample_family(name, jumps(2), model, cfg=2.0)
        assert (made - without).abs().max() > 1e-3, name
        sigmas = jump_sampler.jump_sigmas(
            BasicScheduler().get_sigmas(model, "simple", 4, 1.0)[0], 2
        )
        intervals = (sigmas[:-1] - sigmas[1:]).tolist()
        rows = [float(r) for batch in heard for r in batch]
        assert len(rows) in (8, 16) and {round(r, 4) for r in rows} == {
            round(i, 4) for i in intervals
        }, (name, rows)  # fmt: skip
        assert torch.equal(sample_family(name, EULER, model), plain), "something stayed"
        assert not time_part(name)._forward_hooks, "a hook stayed"
        assert not FAMILIES[name].model.diffusion_model._forward_pre_hooks


def check_given_frames_of_wan_5b_have_no_interval():
    embedder, heard = embedder_for("Wan2.2 5B", 1), []
    embedder.register_forward_pre_hook(lambda m, args: heard.append(args[0]))
    model = average_velocity.attach(FAMILIES["Wan2.2 5B"], embedder, "Wan2.2")
    mask = torch.ones(1, 1, 2, 8, 8)
    mask[:, :, 0] = 0  # the first frame is an image
    sample_family("Wan2.2 5B", jumps(1), model, noise_mask=mask)
    rows = heard[0].reshape(-1, 2)
    assert (rows[:, 0] == 0).all() and (rows[:, 1] > 0.99).all(), rows


def check_clones_keep_the_embedder_and_the_original_has_none():
    model = average_velocity.attach(FAMILIES["SD3.5"], embedder_for("SD3.5", 1), "SD3.5")
    assert average_velocity.has_average_velocity(model.clone())
    assert not average_velocity.has_average_velocity(FAMILIES["SD3.5"])
    shifted = ModelSamplingSD3().patch(model, 1.0)[0]
    assert average_velocity.has_average_velocity(shifted)
    assert sample_family("SD3.5", jumps(1), shifted).isfinite().all()
    again = average_velocity.attach(model, embedder_for("SD3.5"), "SD3.5")  # in its place
    near(sample_family("SD3.5", EULER, again), sample_family("SD3.5", EULER), 1e-7)
    managed = again.get_nested_additional_models()
    assert len(managed) == 1 and managed[0].model_size() > 0


def check_files_are_loaded_and_refused_in_words():
    folder = Path(tempfile.mkdtemp())
    folder_paths.add_model_folder_path("loras", str(folder))
    embedder = embedder_for("SD3.5", 4)
    tensors, metadata = interval.to_file(embedder, "SD3.5")
    save_file(tensors, folder / "good.safetensors", metadata)
    save_file(tensors, folder / "silent.safetensors")
    save_file({"a": torch.zeros(2)}, folder / "other.safetensors", metadata)
    cut = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(cut[: len(cut) // 2])
    model = Loader.execute(FAMILIES["SD3.5"], "good.safetensors").args[0]
    by_hand = average_velocity.attach(FAMILIES["SD3.5"], embedder, "SD3.5")
    assert torch.equal(
        sample_family("SD3.5", jumps(2), model), sample_family("SD3.5", jumps(2), by_hand)
    )
    for file, target, words in (
        ("silent", "SD3.5", "is not an interval embedder"),
        ("other", "SD3.5", "is not an interval embedder"),
        ("cut", "SD3.5", "it is truncated or of another format"),
        ("gone", "SD3.5", "is not in ComfyUI's models/loras"),
        ("good", "Flux", "this interval embedder is for SD3.5, the model is Flux"),
    ):
        name = f"{file}.safetensors"
        said = complaint(lambda: Loader.execute(FAMILIES[target], name))  # noqa: B023
        assert words in said and name in said, said
    for other in (MODEL, MEANFLOW):
        assert "goes behind Flux, SD3.5" in complaint(
            lambda: Loader.execute(other, "good.safetensors")  # noqa: B023
        )
    wide = interval.IntervalEmbedder(48)
    words = complaint(lambda: average_velocity.attach(FAMILIES["SD3.5"], wide, "SD3.5"))
    assert "is 48 wide, the model 128" in words


def main():
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                results[name.removeprefix("check_")] = None
            except Exception:
                results[name.removeprefix("check_")] = traceback.format_exc(limit=-3)
    Path(sys.argv[2]).write_text(json.dumps(results))


main()
