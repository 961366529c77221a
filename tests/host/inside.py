"""Checks that need the host's own interpreter: python inside.py PACK RESULTS, in its folder.

Every ``check_*`` raises AssertionError or returns; the results go to a JSON file, which
``test_inside.py`` reads. The network is a flow whose exact velocity is known: data N(0, SPREAD^2).
"""

import asyncio
import json
import logging
import math
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

PACK, RESULTS = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, os.getcwd())

import comfy.options  # noqa: E402  before the arguments, as the host's main does
from comfy.cli_args import args  # noqa: E402

args.cpu = True
logging.disable(logging.WARNING)

import comfy.model_patcher  # noqa: E402
import comfy.model_sampling  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy_config.config_parser  # noqa: E402, F401  the host's share of loading the first pack
import torch  # noqa: E402
from comfy_extras.nodes_custom_sampler import BasicScheduler  # noqa: E402
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete  # noqa: E402

import nodes  # noqa: E402

torch.set_num_threads(1)
KNOWN_MODULES = set(sys.modules)
BEGAN = time.process_time()
assert asyncio.run(nodes.load_custom_node(str(PACK)))
LOADING = time.process_time() - BEGAN

NAME = str(PACK).replace(".", "_x_")
host = import_module(".nodes.host", NAME)
host_model = import_module(".nodes.host_model", NAME)
sampling = import_module(".nodes.sampling", NAME)
latent = import_module(".sv_core.latent", NAME)
sit = import_module(".sv_core.models.sit", NAME)
Scheduler = nodes.NODE_CLASS_MAPPINGS["RegimeSplitScheduler"]
SPREAD, SHAPE = 0.5, (24, 4, 16, 16)


class ExactFlow(torch.nn.Module):
    """v = (x - E[x0 | x]) / t for data N(0, SPREAD^2), in a SiT's place."""

    def __init__(self, config):
        super().__init__()
        self.config, self.blocks = config, []
        self.pos_embed = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, **options):
        t = t.view(-1, *[1] * (x.ndim - 1))
        data, noise = ((1 - t) * SPREAD) ** 2, t**2
        return (x - x * (1 - t) * SPREAD**2 / (data + noise)) / t


def make_model(shift=3.0):
    model = host_model.SiTModel(
        ExactFlow(sit.SiTConfig(input_size=16, num_classes=3)), latent.SD_VAE, shift
    )
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


MODEL = make_model()
GRID = host.host_grid(MODEL, "simple", 30, 1.0)


def stable(base="euler", split=0.85, noise=0.0):
    return host.make_sampler(sampling.sample_stable_vs, base, split=split, noise=noise)


def sample(sampler, sigmas, seed=1, shape=SHAPE, model=MODEL, callback=None, mask=None):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    positive, negative = (host_model.conditioning_from_classes(c) for c in ([0], None))
    return comfy.sample.sample_custom(
        model, noise, 1.0, sampler, sigmas, positive, negative, torch.zeros(shape),
        callback=callback, disable_pbar=True, seed=seed, noise_mask=mask,
    )  # fmt: skip


def complaint(action):
    try:
        action()
    except ValueError as e:
        return str(e)
    raise AssertionError("nothing was refused")


def check_pack_loads_quickly_and_brings_no_heavy_module():
    new = {m.split(".")[0] for m in sys.modules.keys() - KNOWN_MODULES if not m.startswith(NAME)}
    assert not new & {"scipy", "matplotlib", "sklearn", "pandas", "accelerate", "diffusers"}, new
    assert LOADING < 0.2, f"{LOADING:.3f} s"


def check_grid_is_the_host_s_own_for_every_scheduler():
    for name in comfy.samplers.SCHEDULER_NAMES:
        for steps, denoise in ((1, 1.0), (7, 1.0), (30, 1.0), (30, 0.3), (9, 0.75), (20, 0.0)):
            theirs = BasicScheduler().get_sigmas(MODEL, name, steps, denoise)[0]
            if theirs.isfinite().all():
                ours = host.host_grid(MODEL, name, steps, denoise)
                assert torch.equal(ours, theirs), (name, steps, denoise)
            else:
                words = complaint(lambda: host.host_grid(MODEL, name, steps, denoise))  # noqa: B023
                assert name in words and "more steps" in words


def check_scheduler_splits_after_slicing():
    sigmas, high, low, calls, report = Scheduler.execute(
        MODEL, "simple", 30, 1.0, 0.85, 9, "flow_match"
    ).args
    assert calls == len(sigmas) - 1 == 20 and "10 saved" in report, report
    assert (len(high), len(low)) == (12, 10) and high[-1] == low[0] and low[-1] == 0
    assert (high[:-1] >= 0.85).all() and (low < 0.85).all()
    sigmas, high, low, calls, report = Scheduler.execute(
        MODEL, "simple", 30, 0.3, 0.85, 9, "flow_match"
    ).args
    assert sigmas[0] == BasicScheduler().get_sigmas(MODEL, "simple", 30, 0.3)[0][0] < 0.85
    assert calls == 9 and len(high) == 1 and torch.equal(low, sigmas), report


def check_scheduler_says_where_nothing_is_saved():
    for steps, denoise, low_steps, calls in ((1, 1.0, 9, 1), (20, 0.0, 9, 0), (30, 1.0, 19, 30)):
        out = Scheduler.execute(MODEL, "simple", steps, denoise, 0.85, low_steps, "flow_match").args
        assert out[3] == calls and ("nothing" in out[4]), out[4]
        assert len(out[0]) == (calls + 1 if calls else 0)


def check_split_pieces_sampled_in_two_stages_equal_one_run():
    sigmas, high, low, *_ = Scheduler.execute(MODEL, "simple", 30, 1.0, 0.85, 9, "unipc").args
    whole = sample(stable(), sigmas)
    first = sample(stable(), high)
    positive = host_model.conditioning_from_classes([0])
    second = comfy.sample.sample_custom(
        MODEL, torch.zeros(SHAPE), 1.0, stable(), low, positive, positive, first,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert (whole - second).abs().max() < 2e-5 * whole.abs().max()


def check_noise_free_steps_equal_the_host_s_euler():
    for sigmas in (GRID, GRID[15:], GRID[:5], GRID[-2:]):
        theirs = sample(comfy.samplers.sampler_object("euler"), sigmas)
        worst = (sample(stable(), sigmas) - theirs).abs().max() / theirs.abs().max()
        assert worst < 2e-6, f"{worst:.1e} on {len(sigmas)} nodes"


def check_every_base_is_the_host_s_sampler_above_the_split():
    for name in host.sampler_names():
        theirs = sample(comfy.samplers.sampler_object(name), GRID[:8].clone())
        assert torch.equal(sample(stable(name), GRID[:8]), theirs), name


def check_every_base_reaches_the_noise_level_where_our_steps_begin():
    # The exact standard deviation at the first low node, for samplers that add no noise.
    for name in host.sampler_names():
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
    for name in host.sampler_names():
        steps = []
        out = sample(stable(name), sigmas, callback=lambda i, x0, x, n: steps.append((i, n)))  # noqa: B023
        assert steps == [(i, 20) for i in range(20)], (name, steps)
        assert torch.equal(sigmas, before), name
        assert abs(float(out.std()) * latent.SD_VAE.scale / SPREAD - 1) < 0.25, (name, out.std())


def check_unfit_samplers_are_refused_with_the_reason():
    for name in host.UNFIT_SAMPLERS.keys() & set(comfy.samplers.SAMPLER_NAMES):
        assert name not in host.sampler_names()
        assert host.UNFIT_SAMPLERS[name] in complaint(lambda: host.require_fit_sampler(name))  # noqa: B023
    assert "no sampler" in complaint(lambda: host.require_fit_sampler("eulr"))


def check_noise_is_seeded_and_keeps_the_noise_level():
    # Fresh noise of the whole share forgets eps_hat; on exact Gaussian data the law stays.
    fine = host.host_grid(make_model(1.0), "simple", 100, 1.0)
    first, again = (sample(stable(split=0.99, noise=0.5), fine, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample(stable(split=0.99), fine, seed=3))
    state = torch.random.get_rng_state()
    sample(stable(noise=0.5), GRID)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": MODEL})()
    drawn = host.seeded_noise(denoiser, {"seed": 3})(torch.zeros(SHAPE))
    initial = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    assert abs(float((drawn * initial).mean())) < 0.05, "the initial noise came back"


def check_noise_follows_the_model_s_scale():
    model = MODEL.clone()

    class Loud(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        noise_scale = 2.0

    model.add_object_patch("model_sampling", Loud())
    denoiser = type("D", (), {})()
    denoiser.inner_model = type("G", (), {"model_patcher": model})()
    model.get_model_object("model_sampling").noise_scale = 2.0
    drawn = host.seeded_noise(denoiser, {"seed": 3})(torch.zeros(SHAPE))
    assert abs(float(drawn.std()) - 2) < 0.05


def check_any_rank_and_no_callback():
    for shape in ((2, 3, 5), (1, 4, 3, 8, 8), (2, 1, 40)):

        class Denoiser:
            inner_model = type("G", (), {"model_patcher": MODEL})()

            def __call__(self, x, sigma, **options):
                assert sigma.shape == x.shape[:1]
                return torch.zeros_like(x) + 0.25  # the data is one point

        x = torch.randn(shape)
        out = sampling.sample_stable_vs(Denoiser(), x, GRID, disable=True)
        assert out.shape == x.shape and (out - 0.25).abs().max() < 1e-6


def check_inpainting_keeps_what_is_masked():
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[..., 8:] = 1
    out = sample(stable(), GRID, mask=mask)
    assert out[..., :8].abs().max() < 1e-6 and out[..., 8:].std() > 0.1


def check_bad_sigmas_are_refused_in_words():
    run = sampling.sample_stable_vs
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
    words = complaint(lambda: host_model.classes_from_conditioning(torch.zeros(1, 77, 768), 10))
    assert "not on text" in words
    assert host_model.classes_from_conditioning(torch.zeros(1, 1, 1), 10).tolist() == [10]


def check_previews_show_pixels_and_the_sd_vae_s_latents():
    import latent_preview

    for spec, channels in ((latent.pixels(1), 1), (latent.pixels(3), 3), (latent.SD_VAE, 4)):
        form = host_model.SpecLatentFormat(spec)
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
    model = host_model.SiTModel(sit.SiT(config), latent.SD_VAE, 3.0)
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(model, {})
    assert "diffusion_model.blocks.0.attn.qkv" in keys


def main():
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            began = time.perf_counter()
            try:
                check()
                results[name.removeprefix("check_")] = None
            except Exception:
                results[name.removeprefix("check_")] = traceback.format_exc(limit=-3)
            print(f"{time.perf_counter() - began:7.2f} s  {name}", file=sys.stderr)
    RESULTS.write_text(json.dumps(results))


main()
