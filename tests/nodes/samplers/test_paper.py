"""Checks that need the host's own interpreter: python inside.py PACK RESULTS, in its folder.

Every ``check_*``, here and in ``inside_grids.py``, raises AssertionError or returns; the results go
to a JSON file, which ``test_inside.py`` reads.
"""

import json
import math
import sys
import time
import traceback
from pathlib import Path

from inside_host import (
    GRID,
    KNOWN_MODULES,
    LOADING,
    MODEL,
    NAME,
    SHAPE,
    SPREAD,
    Scheduler,
    complaint,
    flow,
    latent,
    make_model,
    paper,
    sample,
    sit,
    sit_model,
    stable,
)

import inside_grids  # isort: skip  after inside_host, which starts the host
import comfy.model_sampling  # isort: skip
import comfy.samplers
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete


def check_pack_loads_quickly_and_brings_no_heavy_module():
    new = {m.split(".")[0] for m in sys.modules.keys() - KNOWN_MODULES if not m.startswith(NAME)}
    assert not new & {"scipy", "matplotlib", "sklearn", "pandas", "accelerate", "diffusers"}, new
    assert LOADING < 0.2, f"{LOADING:.3f} s"


def check_noise_free_steps_equal_the_host_s_euler():
    for sigmas in (GRID, GRID[15:], GRID[:5], GRID[-2:]):
        theirs = sample(comfy.samplers.sampler_object("euler"), sigmas)
        worst = (sample(stable(), sigmas) - theirs).abs().max() / theirs.abs().max()
        assert worst < 2e-6, f"{worst:.1e} on {len(sigmas)} nodes"


def check_every_base_is_the_host_s_sampler_above_the_split():
    for name in flow.sampler_names():
        theirs = sample(comfy.samplers.sampler_object(name), GRID[:8].clone())
        assert torch.equal(sample(stable(name), GRID[:8]), theirs), name


def check_every_base_reaches_the_noise_level_where_our_steps_begin():
    # The exact standard deviation at the first low node, for samplers that add no noise.
    for name in flow.sampler_names():
        if any(word in name for word in ("ancestral", "sde", "lcm", "seeds", "sa_solver")):
            continue
        for begin, end in ((0, 2), (10, 12), (0, 3), (0, 12)):
            sigmas, s = GRID[begin:end].clone(), float(GRID[end - 1])
            x = sample(stable(name), sigmas) * latent.SD_VAE.scale * (1 - s)
            start = float(GRID[begin])
            exact = math.sqrt(((1 - s) * SPREAD) ** 2 + s**2)
            if begin:  # pure noise of sigma alone was the start, there is no data in it
                exact *= start / math.sqrt(((1 - start) * SPREAD) ** 2 + start**2)
            assert abs(float(x.std()) / exact - 1) < 0.01, (name, begin, end, float(x.std()), exact)


def check_every_base_runs_the_whole_grid_and_reports_each_step_once():
    sigmas = Scheduler.execute(MODEL, "simple", 30, 1.0, 0.85, 9, "flow_match").args[0]
    before = sigmas.clone()
    for name in flow.sampler_names():
        steps = []
        out = sample(stable(name), sigmas, callback=lambda i, x0, x, n: steps.append((i, n)))  # noqa: B023
        assert steps == [(i, 20) for i in range(20)], (name, steps)
        assert torch.equal(sigmas, before), name
        assert abs(float(out.std()) * latent.SD_VAE.scale / SPREAD - 1) < 0.25, (name, out.std())


def check_unfit_samplers_are_refused_with_the_reason():
    for name in flow.UNFIT_SAMPLERS.keys() & set(comfy.samplers.SAMPLER_NAMES):
        assert name not in flow.sampler_names()
        assert flow.UNFIT_SAMPLERS[name] in complaint(lambda: flow.require_fit_sampler(name))  # noqa: B023
    assert "no sampler" in complaint(lambda: flow.require_fit_sampler("eulr"))


def check_noise_is_seeded_and_keeps_the_noise_level():
    # Fresh noise of the whole share forgets eps_hat; on exact Gaussian data the law stays.
    fine = flow.host_grid(make_model(1.0), "simple", 100, 1.0)
    first, again = (sample(stable(split=0.99, noise=0.5), fine, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample(stable(split=0.99), fine, seed=3))
    state = torch.random.get_rng_state()
    sample(stable(noise=0.5), GRID)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": MODEL})()
    drawn = flow.seeded_noise(denoiser, {"seed": 3})(torch.zeros(SHAPE))
    initial = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    assert abs(float((drawn * initial).mean())) < 0.05, "the initial noise came back"


def check_noise_is_drawn_on_the_cpu_for_every_device_and_dtype():
    # The meta device stands for any other: what is drawn there cannot depend on it.
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": MODEL})()
    drawn, original = [], torch.randn

    def watched(*args, **options):
        drawn.append(original(*args, **options))
        assert options["generator"].device.type == "cpu", "drawn by a device's own generator"
        return drawn[-1]

    torch.randn = watched
    try:
        for x in (
            torch.zeros(2, 4, 8, 8),
            torch.zeros(2, 4, 8, 8, dtype=torch.float16),
            torch.zeros(2, 4, 8, 8, device="meta"),
        ):
            noise = flow.seeded_noise(denoiser, {"seed": 7})(x)
            assert (noise.device, noise.dtype) == (x.device, x.dtype)
    finally:
        torch.randn = original
    assert all(torch.equal(d, drawn[0]) and d.device.type == "cpu" for d in drawn)
    assert all(d.dtype == torch.float32 for d in drawn) and len(drawn) == 3


def check_noise_follows_the_model_s_scale():
    model = MODEL.clone()

    class Loud(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        noise_scale = 2.0

    model.add_object_patch("model_sampling", Loud())
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": model})()
    model.get_model_object("model_sampling").noise_scale = 2.0
    drawn = flow.seeded_noise(denoiser, {"seed": 3})(torch.zeros(SHAPE))
    assert abs(float(drawn.std()) - 2) < 0.05


def check_any_rank_and_no_callback():
    for shape in ((2, 3, 5), (1, 4, 3, 8, 8), (2, 1, 40)):

        class Denoiser:
            inner_model = type("G", (), {"model_patcher": MODEL})()

            def __call__(self, x, sigma, **options):
                assert sigma.shape == x.shape[:1]
                return torch.zeros_like(x) + 0.25  # the data is one point

        x = torch.randn(shape)
        out = paper.sample_stable_vs(Denoiser(), x, GRID, disable=True)
        assert out.shape == x.shape and (out - 0.25).abs().max() < 1e-6


def check_inpainting_keeps_what_is_masked():
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[..., 8:] = 1
    out = sample(stable(), GRID, mask=mask)
    assert out[..., :8].abs().max() < 1e-6 and out[..., 8:].std() > 0.1


def check_bad_sigmas_are_refused_in_words():
    run = paper.sample_stable_vs
    assert "SIGMAS is empty" in complaint(lambda: run(None, torch.zeros(1), torch.zeros(0)))
    for bad in ([0.0, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0], [1.0, float("nan"), 0.0]):
        assert "descend" in complaint(lambda: sample(stable(), torch.tensor(bad)))  # noqa: B023


def check_other_kinds_of_model_are_refused_in_words():
    for kind in ("eps", "v_prediction", "x0"):
        other = ModelSamplingDiscrete().patch(MODEL, kind, False)[0]
        for refusal in (
            complaint(lambda: sample(stable(), GRID, model=other)),  # noqa: B023
            complaint(
                lambda: Scheduler.execute(other, "simple", 30, 1.0, 0.85, 9, "unipc")  # noqa: B023
            ),
        ):
            assert "needs a flow-matching model" in refusal and kind.upper() in refusal, refusal


def check_text_conditioning_is_refused_in_words():
    words = complaint(lambda: sit_model.classes_from_conditioning(torch.zeros(1, 77, 768), 10))
    assert "not on text" in words
    assert sit_model.classes_from_conditioning(torch.zeros(1, 1, 1), 10).tolist() == [10]


def check_previews_show_pixels_and_the_sd_vae_s_latents():
    import latent_preview

    for spec, channels in ((latent.pixels(1), 1), (latent.pixels(3), 3), (latent.SD_VAE, 4)):
        form = sit_model.SpecLatentFormat(spec)
        previewer = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors)
        black = previewer.decode_latent_to_preview(torch.full((1, channels, 8, 8), -1.0))
        assert black.size == (8, 8)
        image = torch.rand(2, channels, 8, 8)
        assert torch.allclose(form.process_out(form.process_in(image)), image, atol=1e-6)
        if spec.kind == "pixels":
            white = previewer.decode_latent_to_preview(
                form.process_in(torch.ones(1, channels, 8, 8))
            )
            assert black.getpixel((0, 0)) == (0, 0, 0) and white.getpixel((0, 0)) == (255,) * 3


def check_lora_finds_the_published_parameter_names():
    config = sit.SiTConfig(input_size=8, hidden_size=32, depth=1, num_heads=2, num_classes=3)
    model = sit_model.SiTModel(sit.SiT(config), latent.SD_VAE, 3.0)
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(model, {})
    assert "diffusion_model.blocks.0.attn.qkv" in keys


def main():
    results = {}
    for name, check in [*vars(inside_grids).items(), *globals().items()]:
        if name.startswith("check_"):
            began = time.perf_counter()
            try:
                check()
                results[name.removeprefix("check_")] = None
            except Exception:
                results[name.removeprefix("check_")] = traceback.format_exc(limit=-3)
            print(f"{time.perf_counter() - began:7.2f} s  {name}", file=sys.stderr)
    Path(sys.argv[2]).write_text(json.dumps(results))


main()
