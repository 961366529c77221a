"""Checks of grids, presets, experts and drop-downs inside the host; run by ``inside.py``."""

import asyncio
import contextlib
import logging
import math
import tempfile
from pathlib import Path

from inside_host import (
    GRID,
    MODEL,
    PACK,
    SHAPE,
    Scheduler,
    complaint,
    dropdowns,
    flow,
    make_model,
    sample,
    sit_model,
    stable,
)

import comfy.model_base  # isort: skip  after inside_host, which starts the host
import comfy.samplers
import torch
from comfy_extras import nodes_model_advanced
from comfy_extras.nodes_custom_sampler import BasicScheduler

import nodes

Sigmas = nodes.NODE_CLASS_MAPPINGS["RegimeSplitSigmas"]


def check_grid_is_the_host_s_own_for_every_scheduler_and_shift_node():
    advanced = nodes_model_advanced
    models = {
        "no node": MODEL,
        "SD3": advanced.ModelSamplingSD3().patch(MODEL, 5.0)[0],
        "AuraFlow": advanced.ModelSamplingAuraFlow().patch_aura(MODEL, 1.73)[0],
        "Flux": advanced.ModelSamplingFlux().patch(MODEL, 1.15, 0.5, 1024, 768)[0],
    }
    shapes = ((1, 1.0), (7, 1.0), (30, 1.0), (30, 0.3), (9, 0.75), (20, 0.0))
    for kind, model in models.items():
        for name in comfy.samplers.SCHEDULER_NAMES:
            for steps, denoise in shapes:
                theirs = BasicScheduler().get_sigmas(model, name, steps, denoise)[0]
                if theirs.isfinite().all():
                    ours = flow.host_grid(model, name, steps, denoise)
                    assert torch.equal(ours, theirs), (kind, name, steps, denoise)
                else:
                    words = complaint(lambda: flow.host_grid(model, name, steps, denoise))  # noqa: B023
                    assert name in words and "more steps" in words
    assert len({float(flow.host_grid(m, "simple", 30, 1.0)[15]) for m in models.values()}) == 4


def check_scheduler_splits_after_slicing():
    sigmas, high, low, calls, report, *_ = Scheduler.execute(
        MODEL, "simple", 30, 1.0, 0.85, 9, "flow_match"
    ).args
    assert calls == len(sigmas) - 1 == 20 and "10 saved" in report, report
    assert (len(high), len(low)) == (12, 10) and high[-1] == low[0] and low[-1] == 0
    assert (high[:-1] >= 0.85).all() and (low < 0.85).all()
    sigmas, high, low, calls, report, *_ = Scheduler.execute(
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
    positive = sit_model.conditioning_from_classes([0])
    second = comfy.sample.sample_custom(
        MODEL, torch.zeros(SHAPE), 1.0, stable(), low, positive, positive, first,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert (whole - second).abs().max() < 2e-5 * whole.abs().max()


def of_class(name, shift=3.0):
    """The exact flow, but of one of the host's own model classes."""
    model = make_model(shift)
    model.model.__class__ = type(name, (type(model.model), getattr(comfy.model_base, name)), {})
    return model


def patched(model, shift):
    model = model.clone()
    model.add_object_patch("model_sampling", make_model(shift).get_model_object("model_sampling"))
    return model


def check_presets_are_the_papers():
    for preset, shift, scheduler, rule, calls in (
        ("Flux", math.exp(1.15), "simple", "flow_match", 20),
        ("SD3.5", 3.0, "normal", "flow_match", 20),
        ("Wan2.2 14B", 3.0, "simple", "unipc", 20),
        ("Wan2.2 14B", 5.0, "simple", "unipc", 24),
        ("Wan2.2 5B", 8.0, "simple", "unipc", 27),
    ):
        model = make_model(shift)
        ours = Scheduler.execute(model, preset=preset).args
        manual = Scheduler.execute(model, scheduler, 30, 1.0, 0.85, 9, rule).args
        assert torch.equal(ours[0], manual[0]) and ours[3] == calls, (preset, ours[3])
        assert f"preset {preset}: scheduler {scheduler}, 30 steps" in ours[4], ours[4]
        native = BasicScheduler().get_sigmas(model, scheduler, 30, 1.0)[0]
        assert torch.equal(ours[7], native)


def check_qwen_preset_is_the_papers_own_grid_at_any_size():
    calls = {}
    for side, latent in ((1024, None), (1024, 128), (1328, 166), (512, 64)):
        latent = latent and {"samples": torch.zeros(1, 16, latent, latent)}
        out = Scheduler.execute(make_model(1.15), preset="Qwen-Image", latent=latent).args
        assert "Qwen-Image's own grid" in out[4] and out[0][0] == 1
        assert abs(float(out[7][-2]) - 0.02) < 1e-6 and len(out[7]) == 31
        calls.setdefault(side, []).append(out[3])
        video = latent and {"samples": latent["samples"][:, :, None]}
        assert torch.equal(
            Scheduler.execute(MODEL, preset="Qwen-Image", latent=video).args[0], out[0]
        )
    assert calls == {1024: [17, 17], 1328: [18], 512: [16]}, calls
    nearby = Scheduler.execute(MODEL, preset="Qwen-Image", denoise=0.5).args
    assert len(nearby[7]) == 31 and nearby[0][0] < 0.8
    assert not len(Scheduler.execute(MODEL, preset="Qwen-Image", denoise=0.0).args[0])


def check_auto_reads_the_family_from_the_model():
    for name, preset in (
        ("Flux", "Flux"), ("SD3", "SD3.5"), ("QwenImage", "Qwen-Image"),
        ("WAN21", "Wan2.2 14B"), ("WAN22", "Wan2.2 5B"),
    ):  # fmt: skip
        model = of_class(name)
        auto, named = (Scheduler.execute(model, preset=p).args for p in ("auto", preset))
        assert torch.equal(auto[0], named[0]), name
        assert f"preset auto, {preset}: " in auto[4], auto[4]
    other = Scheduler.execute(MODEL, preset="auto").args
    assert "a model outside the paper: scheduler simple" in other[4] and other[3] == 20
    if hasattr(comfy.model_base, "Flux2"):
        flux2 = Scheduler.execute(of_class("Flux2"), preset="auto").args
        assert "outside the paper" in flux2[4]


def check_auto_follows_the_shift_of_a_node():
    qwen = patched(of_class("QwenImage", 1.15), 3.1)
    auto = Scheduler.execute(qwen, preset="auto").args
    manual = Scheduler.execute(qwen, "simple", 30, 1.0, 0.85, 9, "flow_match").args
    assert torch.equal(auto[0], manual[0]) and "with the shift of its node" in auto[4]
    for name, calls in (("Flux", 24), ("SD3", 23), ("WAN21", 24)):
        shifted = Scheduler.execute(patched(of_class(name), 5.0), preset="auto").args
        assert shifted[3] == calls, (name, shifted[4])


def check_presets_never_raise_and_say_what_they_kept():
    for shift in (12.0, 20.0, 40.0, 1000.0):
        for preset in ("auto", "Flux", "SD3.5", "Wan2.2"):
            out = Scheduler.execute(make_model(shift), preset=preset).args
            if (shift, preset) == (12.0, "SD3.5"):  # normal has one step more below the split
                assert out[3] == 29 and "1 saved" in out[4]
                continue
            assert out[3] == 30 and "nothing is saved" in out[4], out[4]
            low = len(out[2]) - 1
            assert low in (9, 0) or f"only {low} steps lie below" in out[4], out[4]
    for denoise in (0.01, 0.1, 0.5, 0.99):
        for preset in ("auto", "Flux", "SD3.5", "Wan2.2", "Qwen-Image"):
            out = Scheduler.execute(MODEL, preset=preset, denoise=denoise, boundary=0.9).args
            assert out[0][-1] == 0 and (out[0].diff() < 0).all()


def check_boundary_is_a_node_that_the_experts_share():
    for boundary in (0.875, 0.9, 0.3, 0.999):
        for shift in (3.0, 5.0, 8.0, 12.0):
            model = make_model(shift)
            plain = Scheduler.execute(model, preset="Wan2.2").args
            out = Scheduler.execute(model, preset="Wan2.2", boundary=boundary).args
            sigmas, first, second = out[0], out[5], out[6]
            assert out[3] == plain[3] and int((sigmas != plain[0]).sum()) <= 1
            assert first[-1] == second[0] == torch.tensor(boundary)
            assert torch.equal(torch.cat([first, second[1:]]), sigmas)
            told = f"boundary {boundary:g}: {len(first) - 1} calls of the high-noise expert, "
            assert told + f"{len(second) - 1} of the low" in out[4], out[4]
    one = Scheduler.execute(MODEL, preset="auto").args
    assert torch.equal(one[5], one[0]) and one[6].tolist() == [0.0] and "expert" not in one[4]
    late = Scheduler.execute(MODEL, preset="auto", denoise=0.5, boundary=0.875).args
    assert len(late[5]) == 1 and torch.equal(late[6], late[0])
    none = Scheduler.execute(MODEL, preset="auto", denoise=0.0, boundary=0.875).args
    assert not len(none[5]) and not len(none[6])
    words = complaint(lambda: Scheduler.execute(MODEL, preset="auto", boundary=1.0))
    assert "boundary must lie between 0" in words


def check_experts_in_two_stages_equal_one_run():
    out = Scheduler.execute(MODEL, preset="Wan2.2", boundary=0.875).args
    whole, first = sample(stable("euler"), out[0]), sample(stable("euler"), out[5])
    positive = sit_model.conditioning_from_classes([0])
    second = comfy.sample.sample_custom(
        MODEL, torch.zeros(SHAPE), 1.0, stable("euler"), out[6], positive, positive, first,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert (whole - second).abs().max() < 2e-5 * whole.abs().max()


def check_sigmas_node_does_the_same_to_any_grid():
    for shift in (1.0, 3.0, 8.0):
        model = make_model(shift)
        native = BasicScheduler().get_sigmas(model, "simple", 30, 1.0)[0]
        for boundary in (0.0, 0.875):
            for rule in ("flow_match", "unipc"):
                theirs = Scheduler.execute(
                    model, "simple", 30, 1.0, 0.85, 9, rule, boundary=boundary
                ).args
                ours = Sigmas.execute(native, 0.85, 9, rule, boundary).args
                for a, b in zip(ours, theirs, strict=True):
                    assert torch.equal(a, b) if torch.is_tensor(a) else a == b, (a, b)
    short = Sigmas.execute(GRID[-5:]).args
    assert short[3] == 4 and "only 4 steps lie below the split" in short[4]
    above = Sigmas.execute(GRID[:6]).args
    assert torch.equal(above[0], GRID[:6]) and "no step lies below" in above[4]
    assert not len(Sigmas.execute(torch.zeros(0)).args[0])
    assert "flow-matching" in complaint(lambda: Sigmas.execute(GRID * 14.6))
    assert "does not descend" in complaint(lambda: Sigmas.execute(GRID.flip(0)))


def ksampler(steps, denoise=1.0, sampler="stable_vs", scheduler="regime_split", **options):
    """The grid that the host's KSampler makes, and its result on the exact flow."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    positive, negative = (sit_model.conditioning_from_classes(c) for c in ([0], None))
    runner = comfy.samplers.KSampler(
        MODEL, steps, torch.device("cpu"), sampler, scheduler, denoise, MODEL.model_options
    )
    made = comfy.sample.sample(
        MODEL, noise, steps, 1.0, sampler, scheduler, positive, negative, torch.zeros(SHAPE),
        denoise=denoise, disable_pbar=True, seed=1, **options,
    )  # fmt: skip
    return runner.sigmas, made


def check_drop_downs_are_appended_once_and_in_place():
    samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    before = [*samplers], [*schedulers], dict(comfy.samplers.SCHEDULER_HANDLERS)
    for _ in range(2):
        dropdowns.register()
    assert ([*samplers], [*schedulers], comfy.samplers.SCHEDULER_HANDLERS) == before
    assert samplers.count("stable_vs") == 1 == schedulers.count("regime_split")
    assert samplers[-1] == "stable_vs" and schedulers[-1] == "regime_split"
    assert samplers is comfy.samplers.SAMPLER_NAMES and "stable_vs" in comfy.samplers.KSAMPLER_NAMES
    assert "stable_vs" not in flow.sampler_names() and "regime_split" not in flow.scheduler_names()
    assert "this sampler itself" in complaint(lambda: flow.require_fit_sampler("stable_vs"))


def check_drop_downs_survive_other_packs():
    # One that appended after us, one that put a new list in place of the host's.
    original = comfy.samplers.KSampler.SAMPLERS
    original.append("of_another_pack")
    comfy.samplers.KSampler.SAMPLERS = ["euler", "of_a_third"]
    try:
        dropdowns.register()
        assert comfy.samplers.KSampler.SAMPLERS == ["euler", "of_a_third", "stable_vs"]
        assert original[-2:] == ["stable_vs", "of_another_pack"]
    finally:
        comfy.samplers.KSampler.SAMPLERS = original
        original.remove("of_another_pack")


def check_ksampler_makes_exactly_its_steps():
    for steps in (1, 2, 5, 14, 20, 30):  # up to 14 steps stable_vs is euler
        sigmas, made = ksampler(steps, sampler="stable_vs" if steps <= 14 else "euler")
        assert len(sigmas) == steps + 1 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
        theirs = sample(comfy.samplers.sampler_object("euler"), sigmas)
        worst = (made - theirs).abs().max() / theirs.abs().max().clamp_min(1)  # one step makes 0
        assert worst < 2e-6, f"{worst:.1e} with {steps} steps"
    assert torch.equal(
        ksampler(20)[0], Scheduler.execute(MODEL, "simple", 30, 1.0, 0.85, 9, "flow_match").args[0]
    )


def check_ksampler_with_denoise_and_other_samplers():
    for denoise in (0.9, 0.75, 0.5, 0.2, 0.05):
        sigmas, made = ksampler(20, denoise)
        assert len(sigmas) == 21 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
        assert sigmas[0] < 1 and made.isfinite().all(), (denoise, sigmas[0])
        whole = dropdowns.regime_split_grid(
            MODEL.get_model_object("model_sampling"), int(20 / denoise)
        )
        assert torch.equal(sigmas, whole[-21:])
    for sampler in (
        "uni_pc",
        "dpm_2",
    ):  # the host adds one step and drops one
        sigmas, _ = ksampler(10, sampler=sampler)
        assert len(sigmas) == 11


def check_ksampler_start_and_end_steps():
    _, whole = ksampler(12)
    _, first = ksampler(12, last_step=5, force_full_denoise=False)
    positive, negative = (sit_model.conditioning_from_classes(c) for c in ([0], None))
    second = comfy.sample.sample(
        MODEL, torch.zeros(SHAPE), 12, 1.0, "stable_vs", "regime_split", positive, negative, first,
        disable_noise=True, start_step=5, disable_pbar=True, seed=1,
    )  # fmt: skip
    assert (whole - second).abs().max() < 2e-5 * whole.abs().max()


def check_drop_downs_refuse_other_models_in_words():
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    eps = ModelSamplingDiscrete().patch(MODEL, "eps", False)[0].get_model_object("model_sampling")
    words = complaint(lambda: comfy.samplers.calculate_sigmas(eps, "regime_split", 20))
    assert "needs a flow-matching model" in words


@contextlib.contextmanager
def without(owner, name):
    value = getattr(owner, name)
    delattr(owner, name)
    try:
        yield
    finally:
        setattr(owner, name, value)


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def check_nodes_load_in_a_host_whose_private_names_have_moved():
    import comfy.k_diffusion

    for owner, name, lost in (
        (comfy.samplers, "KSAMPLER_NAMES", "sampler stable_vs"),
        (comfy.samplers, "ksampler", "sampler stable_vs"),
        (comfy.samplers, "SCHEDULER_HANDLERS", "scheduler regime_split"),
        (comfy.samplers, "SchedulerHandler", "scheduler regime_split"),
    ):
        for node in ("StableVSSampler", "RegimeSplitScheduler", "RegimePlot"):
            del nodes.NODE_CLASS_MAPPINGS[node]
        heard = Lines()
        with tempfile.TemporaryDirectory() as folder, without(owner, name):
            place = Path(folder) / f"pack-without-{name}"
            place.symlink_to(PACK, target_is_directory=True)
            logging.disable(logging.NOTSET)
            logging.getLogger().addHandler(heard)
            try:
                assert asyncio.run(nodes.load_custom_node(str(place)))
            finally:
                logging.getLogger().removeHandler(heard)
                logging.disable(logging.WARNING)
        told = [line for line in heard.lines if "Stable Velocity" in line]
        assert len(told) == 1 and lost in told[0] and name in told[0], heard.lines
        for node in ("StableVSSampler", "RegimeSplitScheduler", "RegimePlot"):
            assert nodes.NODE_CLASS_MAPPINGS[node].GET_SCHEMA().inputs
