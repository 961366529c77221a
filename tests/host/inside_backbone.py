"""ComfyUI's networks as backbones, checked in that ComfyUI's own interpreter.

    PYTHON inside_backbone.py PACK COMFY MODELS OUT

writes into OUT/results.json, for each check, what is wrong or null. MODELS holds the tiny models of
``tiny.py``; other files are made of them in OUT. ``circle.environment`` gives the interpreter what
training needs and the host lacks.
"""

import json
import sys
import time
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

PACK, COMFY, MODELS, OUT = (Path(p) for p in sys.argv[1:])
sys.path[0] = str(PACK)  # in place of this folder

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from sv_core.models.families import (  # noqa: E402
    FLUX,
    QWEN_IMAGE,
    SD35,
    WAN22_5B,
    WAN22_14B,
)
from tests.host import tiny as tiny_files  # noqa: E402
from training.networks.comfy import backbone as comfy_backbone  # noqa: E402
from training.networks.comfy import (  # noqa: E402
    guard,
    self_check,
)
from training.networks.comfy import load as comfy_load  # noqa: E402
from training.networks.comfy.file import ModelFile  # noqa: E402
from training.networks.comfy.folder import find  # noqa: E402
from training.networks.comfy.host import open_host  # noqa: E402

torch.set_num_threads(1)
HOST = open_host(find(str(COMFY)), torch.device("cpu"))
NEW = HOST.version >= (0, 4)
DIFFUSION = MODELS / "diffusion_models"
WAN_FILE = DIFFUSION / "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
FILES = {
    "sd3": MODELS / "checkpoints/sd3.5_large_fp8_scaled.safetensors",
    "flux": DIFFUSION / "flux1-dev.safetensors",
    "qwen": DIFFUSION / "qwen_image_fp8_e4m3fn.safetensors",
    "wan": WAN_FILE,
    "wan 5B": DIFFUSION / "wan2.2_ti2v_5B_fp16.safetensors",
}
_LOADED = {}
STEP = 0.016


def backbone(name):
    """A family's tiny file, loaded once; older ComfyUI sees in every Flux file the full width."""
    if name not in _LOADED:
        if name == "flux" and not NEW:
            config = HOST.detection.model_config_from_unet_config(dict(tiny_files.FLUX), {})
            config.set_inference_dtype(torch.float32, None)
            base = config.get_model({}, "", device=torch.device("cpu"))
            self_check.fill(base.diffusion_model)
            file = ModelFile(FILES[name], "", {}, {}, {}, None, torch.float32)
            _LOADED[name] = comfy_backbone.wrap(base, FLUX, file, HOST, {})
        else:
            _LOADED[name] = comfy_load.load(FILES[name], HOST)
    return _LOADED[name]


def small(name, dtype=torch.float32, recompute=False):
    """A network of the family with two texts, by the classes of the host."""
    return self_check.tiny(backbone(name), HOST, dtype, recompute)


def refused(function, *words, kind=ValueError):
    try:
        function()
    except kind as e:
        said = str(e)
    else:
        raise AssertionError(f"not refused: {words}")
    assert "\n" not in said and all(w in said for w in words), said


def close(found, exact, tolerance, what=""):
    error = float((found.double() - exact.double()).norm() / exact.double().norm())
    assert error < tolerance, f"{what} differs by {error:.2e}"
    return error


@contextmanager
def without_guard():
    before = guard.OutOfPlace.__torch_function__
    guard.OutOfPlace.__torch_function__ = lambda _, f, t, a=(), k=None: f(*a, **(k or {}))
    try:
        yield
    finally:
        guard.OutOfPlace.__torch_function__ = before


def sampled(one, sigma, entry, shape):
    """(x, denoised) of the host's own sampling at one noise level."""
    import comfy.model_patcher
    import comfy.sample
    import comfy.samplers

    seen = []

    def look(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        seen.extend((x, model(x, sigmas[0].expand(len(x)), **extra_args)))
        return x

    cpu = torch.device("cpu")
    extra = {"guidance": one.guidance}
    if "pooled" in entry:
        extra["pooled_output"] = entry["pooled"][None]
    conds = [[entry["context"][None], extra]]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    comfy.sample.sample_custom(
        comfy.model_patcher.ModelPatcher(one.base, cpu, cpu), noise, 1.0,
        comfy.samplers.KSAMPLER(look), torch.tensor([sigma, 0.0]), conds, conds,
        torch.randn(shape, generator=torch.Generator().manual_seed(4)), disable_pbar=True, seed=0,
    )  # fmt: skip
    return seen


def check_velocity_is_that_of_the_host_s_own_sampling():
    for name in FILES:
        one = self_check.tiny(backbone(name), HOST, torch.float32)
        real = backbone(name).reading(texts_for(backbone(name)))
        for candidate, sigma, guidance in ((one, 0.9, 1.0), (one, 0.2, 3.5), (real, 0.6, 1.0)):
            this = replace(candidate, guidance=guidance)
            frames = {"video": (3,), "one frame": (1,)}.get(one.family.kind, ())
            shape = (2, one.latent.channels, *frames, 4, 6)
            x, denoised = sampled(this, sigma, this.texts[1], shape)
            with torch.no_grad():
                v = this.velocity(x, torch.full((2,), sigma), torch.tensor([1, 1]))
            close(v, (x - denoised) / sigma, 1e-5, f"{name} at {sigma}")
            if one.family.kind == "one frame":  # which may be left out
                with torch.no_grad():
                    flat = this.velocity(x[:, :, 0], torch.full((2,), sigma), torch.tensor([1, 1]))
                assert torch.equal(flat, v[:, :, 0])


def texts_for(one):
    """Two texts of different lengths of the widths that a loaded network takes."""
    return self_check._Texts(one, torch.float32)


def check_latents_are_scaled_as_the_host_does_it():
    for name in FILES:
        one = backbone(name)
        frames = (2,) if one.family.frames else ()
        latent = torch.randn(2, one.latent.channels, *frames, 3, 3).double()
        x = one.base.process_latent_in(latent.clone())
        close(one.latent.to_model(latent), x, 1e-6, name)
        close(one.latent.from_model(x), one.base.process_latent_out(x.clone()), 1e-6, name)
    kinds = {n: (backbone(n).latent.kind, backbone(n).latent.downscale) for n in FILES}
    assert kinds == {
        "sd3": ("sd3", 8), "flux": ("flux", 8), "qwen": ("wan21", 8), "wan": ("wan21", 8),
        "wan 5B": ("wan22", 16),
    }, kinds  # fmt: skip


def check_what_each_family_is():
    for name, family, shift, width in (
        ("sd3", SD35, 3.0, 128), ("flux", FLUX, 3.158193, 128),
        ("qwen", QWEN_IMAGE, 3.158193, 3072),
        ("wan", WAN22_14B, 8.0, 128), ("wan 5B", WAN22_5B, 8.0, 128),
    ):  # fmt: skip
        one = backbone(name)
        assert (one.family, one.width, one.patch_size) == (family, width, 2), name
        assert abs(one.shift - shift) < 1e-5, (name, one.shift)
        assert one.latent_rank == (5 if family.frames else 4)
        assert one.metadata()["modelspec.architecture"] == family.name.replace("_", "-")
    low = DIFFUSION / "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
    assert backbone("wan").span == (0.875, 1.0) and comfy_load.load(low, HOST).span == (0.0, 0.875)
    assert backbone("wan 5B").span == (0.0, 1.0)
    assert comfy_load.load(low, HOST, expert="high").span == (0.875, 1.0)
    refused(
        lambda: comfy_load.load(FILES["qwen"], HOST, expert="low"), "comfy.expert", "Qwen-Image"
    )


def check_gradients_equal_float64_s_with_and_without_recomputation():
    for name in FILES:
        exact = self_check.gradients(small(name, torch.float64))
        for recompute in (False, True):
            found = self_check.gradients(small(name, recompute=recompute))
            assert found.keys() == exact.keys()
            worst, error = self_check.worst(found, exact)
            assert error < 1e-5, f"{name}, {worst}, recompute {recompute}: {error:.1e}"


def check_float64_s_gradient_is_that_of_differences():
    # Independent of autograd: along a random direction of all the weights together.
    for name in FILES:
        one = small(name, torch.float64)
        weights = dict(one.model.named_parameters())
        grads = self_check.gradients(one)
        generator = torch.Generator().manual_seed(5)
        along = {
            n: torch.randn(p.shape, generator=generator).to(p) * p.detach().std().clamp_min(0.1)
            for n, p in weights.items()
        }
        x, t, cond, direction = self_check.sample(one)
        start = {n: p.detach().clone() for n, p in weights.items()}

        def objective(h, one=one, w=weights, s=start, d=along, a=(x, t, cond), g=direction):
            with torch.no_grad():
                for n, p in w.items():
                    p.copy_(s[n] + h * d[n])
                return float((one.velocity(*a) * g).sum())

        d = [(objective(h) - objective(-h)) / (2 * h) for h in (STEP, STEP / 2)]
        exact = (4 * d[1] - d[0]) / 3
        found = float(sum((grads[n].double() * along[n].double()).sum() for n in grads))
        assert abs(found / exact - 1) < 1e-4, (name, found, exact)


def check_flux_goes_wrong_without_the_guard():
    tiny = {**FLUX.layout.tiny, "depth_single_blocks": 0}
    changed = replace(FLUX, layout=replace(FLUX.layout, tiny=tiny))
    double = replace(backbone("flux"), family=changed)
    exact = self_check.gradients(self_check.tiny(double, HOST, torch.float64))
    with without_guard():
        try:
            self_check.gradients(small("flux"))
        except RuntimeError as e:
            assert "modified by an inplace operation" in str(e), e
        else:
            raise AssertionError("stock Flux can be differentiated now: drop the guard")
        # Without single blocks, whose input autograd watches, recomputation hides it.
        silent = self_check.gradients(self_check.tiny(double, HOST, torch.float32, True))
        worst, error = self_check.worst(silent, exact)
        print(f"stock Flux: the gradient of {worst} is off by {error:.0%}", file=sys.stderr)
        assert error > 0.01, "stock Flux is right now: drop the guard"
        refused(
            lambda: self_check.self_check(backbone("flux"), HOST),
            "cannot be trained through", "Flux", "inplace operation",
        )  # fmt: skip
        for name in ("sd3", "qwen", "wan"):
            assert self_check.worst(
                self_check.gradients(small(name, recompute=True)),
                self_check.gradients(small(name, torch.float64)),
            )[1] < 1e-5, name  # fmt: skip


def check_the_guard_does_not_change_a_bit():
    for name in FILES:
        x, t, cond, _ = self_check.sample(small(name))
        with torch.no_grad():
            guarded = small(name).velocity(x, t, cond)
            with without_guard():
                assert torch.equal(small(name).velocity(x, t, cond), guarded), name


def check_forward_derivatives_equal_differences():
    for name in FILES:
        one = backbone(name)
        for what, error in self_check.tangent_errors(one, HOST).items():
            assert error < (1e-4 if what == "x" else 5e-4), (name, what, error)
        one = small(name, recompute=True)
        x, t, cond, direction = self_check.sample(one)
        with torch.no_grad(), one.forward_mode():
            v, whole = torch.func.jvp(
                lambda x, one=one, t=t, cond=cond: one.velocity(x, t, cond), (x,), (direction,)
            )
            guard.CHUNK, before = 2, guard.CHUNK
            try:
                _, parts = torch.func.jvp(
                    lambda x, one=one, t=t, cond=cond: one.velocity(x, t, cond), (x,), (direction,)
                )
            finally:
                guard.CHUNK = before
        close(parts, whole, 1e-5, f"{name} in parts")
        with torch.no_grad():
            close(one.velocity(x, t, cond), v, 1e-5, f"{name}'s value")
        assert all("checkpoint" in repr(b.forward) for b in one.blocks), "recomputation was lost"


def check_plain_attention_is_attention():
    from torch.nn.functional import scaled_dot_product_attention as fused

    g = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(2, 3, n, 8, generator=g) for n in (7, 5, 5))
    flat = [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
    shapes = {"none": None, "bool": torch.rand(2, 1, 7, 5, generator=g) > 0.3}
    shapes["bool"][..., 0] = True  # something is seen
    shapes["added"] = torch.randn(2, 7, 5, generator=g)
    shapes["of the keys"] = torch.randn(2, 1, 5, generator=g)
    for what, mask in shapes.items():
        exact = fused(q, k, v, mask if mask is None or mask.ndim == 4 else mask[:, None])
        joined = exact.transpose(1, 2).flatten(2)
        for chunk in (2, 512):
            guard.CHUNK, before = chunk, guard.CHUNK
            try:
                run = guard.plain_attention
                close(run(None, *flat, 3, mask=mask), joined, 1e-6, what)
                close(run(None, q, k, v, 3, mask=mask, skip_reshape=True), joined, 1e-6, what)
                kept = run(None, *flat, 3, mask=mask, skip_output_reshape=True)
                close(kept, exact, 1e-6, what)
            finally:
                guard.CHUNK = before


def check_self_check_sees_a_kernel_without_derivative():
    HOST.management.in_training = False  # as it is unless somebody says otherwise
    try:
        if NEW:
            refused(lambda: self_check.self_check(backbone("flux"), HOST), "Flux")
    finally:
        HOST.management.in_training = True
    for name in FILES:
        began = time.perf_counter()
        self_check.self_check(backbone(name), HOST)
        assert time.perf_counter() - began < 4, name


def check_rows_of_different_texts_equal_one_by_one():
    for name in FILES:
        one = small(name)
        generator = torch.Generator().manual_seed(7)
        x, t, _, _ = self_check.sample(one)
        x, t = torch.cat([x, x.flip(0)]), torch.cat([t, t.flip(0) * 0.9])
        cond = torch.randint(2, (6,), generator=generator)
        assert len(set(cond.tolist())) == 2
        calls = Counter()
        handle = one.model.register_forward_hook(lambda m, a, o, c=calls: c.update(n=1))
        with torch.no_grad(), one.watch(1) as tokens:
            together = one.velocity(x, t, cond)
            assert calls["n"] == 2, calls
            idle = replace(one, agree=lambda n: n + 1).velocity(x, t, cond)
            assert calls["n"] == 5, calls
            handle.remove()
            rows = [one.velocity(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(6)]
        close(together, torch.cat(rows), 1e-5, name)
        assert torch.equal(idle, together)
        assert len(tokens) == 8, len(tokens)
        close(tokens[0], torch.cat(tokens[2:]), 1e-5, f"{name}'s tokens")
        assert torch.equal(tokens[1], tokens[0])


def check_idle_passes_take_part_in_the_backward_pass():
    one = replace(small("qwen"), agree=lambda n: 4)
    entered = Counter()
    for block in one.blocks:
        block.register_full_backward_pre_hook(lambda m, o: entered.update(n=1))
    with warnings.catch_warnings():  # that such a hook sees no gradient of inputs
        warnings.simplefilter("ignore")
        found, exact = self_check.gradients(one), self_check.gradients(small("qwen"))
    assert entered["n"] == 4 * len(one.blocks), entered
    assert self_check.worst(found, exact)[1] < 1e-6


def spread(rank, out):
    """One of two processes: gradients of every family, more groups of texts here than there."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=2
    )
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    conds = [torch.tensor([0, 1, 0]), torch.tensor([1, 1, 1])]

    def largest(n):
        n = torch.tensor(n)
        torch.distributed.all_reduce(n, torch.distributed.ReduceOp.MAX)
        return int(n)

    for name in ("sd3", "flux", "qwen", "wan"):
        alone = small(name)
        alone.unfreeze()
        x, t, _, direction = self_check.sample(alone)
        for cond in conds:
            (alone.velocity(x, t, cond) * direction).sum().backward()
        exact = {n: p.grad for n, p in alone.model.named_parameters() if p.requires_grad}
        for way in ("DDP", "FSDP"):
            one = small(name, recompute=True)
            one.unfreeze()
            if way == "DDP":
                one = one.on(torch.nn.parallel.DistributedDataParallel(one.model))
            else:
                for module in (*one.blocks, one.model):
                    torch.distributed.fsdp.fully_shard(module, mesh=mesh)
                one = replace(one, agree=largest)
            with one.watch(1) as tokens:
                (one.velocity(x, t, conds[rank]) * direction).sum().backward()
            assert len(tokens) == 1 and len(tokens[0]) == len(x)
            grads = {
                n: p.grad.full_tensor() if way == "FSDP" else p.grad
                for n, p in one.base.diffusion_model.named_parameters()
                if p.requires_grad
            }
            worst, error = self_check.worst({n: 2 * g for n, g in grads.items()}, exact)
            assert error < 1e-5, f"{name} by {way}, {worst}: {error:.1e}"
    torch.distributed.destroy_process_group()


def check_two_processes_with_unequal_texts_have_the_gradients_of_one():
    import torch.distributed.fsdp

    out = OUT / "spread"
    out.mkdir()
    processes = torch.multiprocessing.start_processes(
        spread, (out,), nprocs=2, join=False, start_method="fork"
    )
    ends = time.monotonic() + 60
    while not processes.join(timeout=1):
        if time.monotonic() > ends:
            for process in processes.processes:
                process.kill()
            raise AssertionError("they wait for each other")


def check_watched_tokens_are_the_picture_s_in_row_major_order():
    for name in FILES:
        one = small(name)
        frames = {"video": (3,), "one frame": (1,)}.get(one.family.kind, ())
        x = torch.randn(1, one.latent.channels, *frames, 4, 6)
        t, cond = torch.tensor([0.5]), torch.tensor([1])
        cells = [(f, h, w) for f in range(*(frames or (1,))) for h in range(2) for w in range(3)]
        for number in range(1, len(one.blocks) + 1):
            with torch.no_grad(), one.watch(number) as tokens:
                one.velocity(x, t, cond)
                for f, h, w in cells:
                    y = x.clone()
                    where = (f,) if frames else ()
                    rows, columns = slice(2 * h, 2 * h + 2), slice(2 * w, 2 * w + 2)
                    y[(0, slice(None), *where, rows, columns)] += 1
                    one.velocity(y, t, cond)
            assert tokens[0].shape == (1, len(cells), one.width), (name, tokens[0].shape)
            moved = [int((z - tokens[0]).norm(dim=-1).argmax()) for z in tokens[1:]]
            assert moved == list(range(len(cells))), (name, number, moved)
        assert not one.live.watchers and not any(b._forward_hooks for b in one.blocks)


def check_watched_tokens_carry_gradients_under_recomputation():
    for name in ("flux", "wan"):
        grads = []
        for recompute in (False, True):
            one = small(name, recompute=recompute)
            one.model.requires_grad_(True)
            x, t, cond, _ = self_check.sample(one)
            with one.watch(1) as tokens:
                one.velocity(x, t, cond)
            (tokens[0] ** 2).sum().backward()
            grads.append({n: p.grad for n, p in one.model.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 5
        assert self_check.worst(grads[1], grads[0])[1] < 1e-5


def check_full_training_leaves_out_what_gets_no_gradient():
    for name in FILES:
        one = small(name)
        assert not any(p.requires_grad for p in one.model.parameters())
        idle = one.unfreeze()
        trained = {n for n, p in one.model.named_parameters() if p.requires_grad}
        x, t, cond, direction = self_check.sample(one)
        (one.velocity(x, t, cond) * direction).sum().backward()
        reached = {n for n, p in one.model.named_parameters() if p.grad is not None}
        assert trained == reached and len(idle) == (6 if name == "qwen" else 0), (name, idle)


def variant(source, name, change):
    """A file like another with changed tensors."""
    path = OUT / f"{name}.safetensors"
    if not path.exists():
        save_file(change(load_file(source)), path, metadata={"who": "the user"})
    return path


def stored(dtype):
    return lambda state: {
        k: v.to(dtype if v.ndim > 1 or dtype.itemsize > 1 else torch.bfloat16)
        for k, v in state.items()
    }


def scaled(style):
    def change(state):
        result = {}
        for k, v in state.items():
            if v.ndim == 2 and k.endswith("weight"):
                layer = k.removesuffix("weight")
                scale = v.float().abs().amax() / 448 * 1.5
                result[k] = (v.float() / scale).to(torch.float8_e4m3fn)
                said = {"old": "scale_weight", "new": "weight_scale", "unsaid": "scale_weight"}
                result[layer + said[style]] = scale
                if style == "new":
                    conf = json.dumps({"format": "float8_e4m3fn"}).encode()
                    result[layer + "comfy_quant"] = torch.tensor(list(conf), dtype=torch.uint8)
            else:
                result[k] = v
        if style == "old":
            result["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        return result

    return change


VARIANTS = {
    "bf16": stored(torch.bfloat16),
    "fp16": stored(torch.float16),
    "fp8": stored(torch.float8_e4m3fn),
    "scaled fp8": scaled("old"),
} | ({"new scaled fp8": scaled("new")} if NEW else {})
SOURCES = {"wan": WAN_FILE, "sd3": DIFFUSION / "sd3.5_large.safetensors"} | (
    {"flux": FILES["flux"]} if NEW else {}
)


def velocity_of(one):
    one = one.reading(texts_for(one))
    frames = (1,) if one.family.frames else ()
    shape = (2, one.latent.channels, *frames, 4, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        return one.velocity(x, torch.tensor([0.3, 0.8]), torch.tensor([0, 1]))


def plain_tensors(module):
    """What is in memory, also inside the host's quantised tensors."""
    for p in module.parameters():
        if hasattr(p, "__tensor_flatten__"):
            yield from (getattr(p, name) for name in p.__tensor_flatten__()[0])
        else:
            yield p


def check_every_way_of_storing_is_read():
    for name, source in SOURCES.items():
        exact = velocity_of(comfy_load.load(source, HOST))
        for how, change in VARIANTS.items():
            path = variant(source, f"{name} {how}", change)
            one = comfy_load.load(path, HOST)
            limit = {"bf16": 0.02, "fp16": 0.003}.get(how, 0.2)
            error = close(velocity_of(one), exact, limit, f"{name} in {how}")
            print(f"{name} in {how}: velocity off by {error:.1e}", file=sys.stderr)
            eight = "fp8" in how
            assert one.trainable == (not eight), (name, how)
            kept = sum(p.untyped_storage().nbytes() for p in plain_tensors(one.model))
            numbers = sum(p.numel() for p in one.model.parameters())
            assert kept < numbers * (1.7 if eight else 2.2), (name, how, kept / numbers)
            if eight:
                refused(one.unfreeze, "8 bits", "comfy.dtype")
                refused(one.weights, "8 bits")
                full = comfy_load.load(path, HOST, torch.float32)
                # ComfyUI keeps a plain fp8 file's norms and biases, too, in 8 bits; an older one
                # those biases of a scaled file.
                limit = 0.05 if how == "fp8" or not NEW else 1e-5
                close(velocity_of(full), velocity_of(one), limit, f"{name} in {how} multiplied out")
                assert full.trainable and full.unfreeze() == []


def check_quantisation_that_the_host_would_not_see_is_refused():
    for style in ("unsaid",) if NEW else ("unsaid", "new"):
        path = variant(WAN_FILE, f"{style} scales", scaled(style))
        refused(lambda p=path: comfy_load.load(p, HOST), "quantised", "comfy.dtype")
        exact, found = (comfy_load.load(p, HOST, torch.float32) for p in (WAN_FILE, path))
        close(velocity_of(found), velocity_of(exact), 0.2)
    four = variant(
        WAN_FILE, "four bits", lambda s: {k: v for k, v in scaled("old")(s).items()} | {
            "blocks.0.ffn.0.weight": torch.zeros(256, 64, dtype=torch.uint8)
        },
    )  # fmt: skip
    refused(lambda: comfy_load.load(four, HOST, torch.bfloat16), "cannot be undone", "comfy.dtype")


def saved(one, name):
    path = OUT / f"saved {name}.safetensors"
    tensors = {k: v.contiguous() for k, v in one.weights().items()}
    save_file(tensors, path, metadata=one.metadata())
    return path


def check_full_weights_come_back_as_the_file_had_them():
    for name, source in SOURCES.items():
        files = {how: variant(source, f"{name} {how}", c) for how, c in VARIANTS.items()}
        for how, path in {"fp32": source, **files}.items():
            one = comfy_load.load(path, HOST, torch.float32)
            before, after = load_file(path), load_file(saved(one, "as it was"))
            assert before.keys() == after.keys(), (name, how, before.keys() ^ after.keys())
            for key, value in before.items():
                assert after[key].dtype == value.dtype, (name, how, key)
                assert torch.equal(after[key].float(), value.float()), (name, how, key)
            # Trained, they come back with the file's own precision, also those that outgrew it.
            one.unfreeze()
            generator = torch.Generator().manual_seed(9)
            with torch.no_grad():
                for p in one.model.parameters():
                    p.add_(torch.randn(p.shape, generator=generator), alpha=3 * float(p.std()))
            changed = {n: p.detach() for n, p in one.model.named_parameters()}
            again = comfy_load.load(saved(one, f"{name} {how}"), HOST, torch.float32)
            error = max(
                float((p.detach() - changed[n]).abs().max() / changed[n].abs().max())
                for n, p in again.model.named_parameters()
            )
            limit = {"fp32": 2e-6, "bf16": 2**-8, "fp16": 2**-11}.get(how, 2**-4)
            print(f"{name} saved in {how}: weights off by {error:.1e}", file=sys.stderr)
            assert error <= limit, (name, how, error)
            v = velocity_of(comfy_load.load(OUT / f"saved {name} {how}.safetensors", HOST))
            close(v, velocity_of(again), 1e-5 if how == "fp32" else 0.3, f"{name} {how}")


def check_a_checkpoint_keeps_its_other_parts():
    path = FILES["sd3"]
    one = comfy_load.load(path, HOST)
    one.unfreeze()
    with torch.no_grad():
        for p in one.model.parameters():
            p.mul_(1.5)
    before, after = load_file(path), load_file(saved(one, "checkpoint"))
    assert before.keys() == after.keys()
    prefix = "model.diffusion_model."
    for key, value in before.items():
        changed = key.startswith(prefix) and not key.endswith("pos_embed")
        assert torch.equal(after[key], value * 1.5 if changed else value), key
    close(
        velocity_of(comfy_load.load(OUT / "saved checkpoint.safetensors", HOST)),
        velocity_of(one),
        2e-6,
    )
    gone = variant(path, "gone", lambda s: s)
    one = comfy_load.load(gone, HOST)
    gone.unlink()
    refused(one.weights, "cannot be read any more")


def check_flux_s_names_are_the_file_s():
    if not NEW:  # it does not rename them, and reads no small Flux file
        return
    one = comfy_load.load(FILES["flux"], HOST)
    renamed = {k: v for k, v in one.names.items() if k != v}
    assert renamed and all(k.endswith("_norm.scale") for k in renamed), renamed
    assert {k for k in one.weights() if k.endswith("_norm.scale")} == set(renamed)


def check_models_that_want_a_picture_are_refused():
    config = tiny_files.WAN | {"in_dim": 36, "out_dim": 16}
    state = tiny_files.diffusion_model(config, 4, 0.6)
    path = OUT / "wan2.2_i2v_high_noise.safetensors"
    save_file(state, path)
    refused(lambda: comfy_load.load(path, HOST), "given picture", "text-to-video", "Wan")


def check_texts_of_other_encoders_are_refused():
    wan, sd3 = backbone("wan"), backbone("sd3")
    refused(lambda: wan.reading(small("wan").texts), "context", "4096", "32", "Wan2.2 14B's text")
    entry = {"context": torch.zeros(3, 4096)}
    refused(lambda: sd3.reading([entry]), "pooled", "2048", "none", "SD3.5's text")
    one = replace(small("wan"), texts=None)
    refused(lambda: one.velocity(*self_check.sample(one)[:3]), "no texts", kind=RuntimeError)


def check_bad_files_are_refused_in_words():
    sit = OUT / "sit.safetensors"
    save_file({"blocks.0.attn.qkv.weight": torch.zeros(12, 4), "pos_embed": torch.zeros(4)}, sit)
    noise = OUT / "noise.safetensors"
    save_file({f"layer{i}": torch.zeros(3) for i in range(9)}, noise)
    for path in (sit, noise, MODELS / "vae/ae.safetensors"):
        refused(lambda p=path: comfy_load.load(p, HOST), str(path), "no flow model", "Qwen-Image")
    cut = OUT / "cut.safetensors"
    cut.write_bytes(WAN_FILE.read_bytes()[:-1000])
    refused(lambda: comfy_load.load(cut, HOST), str(cut), "damaged")
    refused(lambda: comfy_load.load(OUT / "none.safetensors", HOST), "there is no checkpoint")
    last = "blocks.0.ffn.2.bias"
    partly = variant(WAN_FILE, "partly", lambda s: {k: v for k, v in s.items() if k != last})
    refused(lambda: comfy_load.load(partly, HOST), "lacks 1 tensors", last, "damaged")


def check_another_family_is_refused_by_its_name():
    if not NEW:
        return  # its detection of the next file's kind came later
    config = tiny_files.FLUX | {"txt_ids_dims": []}
    made = HOST.detection.model_config_from_unet_config(config, {})
    made.set_inference_dtype(torch.float32, None)
    base = HOST.model_base.LongCatImage(made, device=torch.device("cpu"))
    before = HOST.sd.load_diffusion_model_state_dict
    HOST.sd.load_diffusion_model_state_dict = lambda *a, **k: type("P", (), {"model": base})()
    try:
        refused(lambda: comfy_load.load(WAN_FILE, HOST), "LongCatImage", "cannot be trained here")
    finally:
        HOST.sd.load_diffusion_model_state_dict = before


def check_one_process_opens_one_host_once():
    assert open_host(COMFY, torch.device("cpu")) is HOST
    refused(lambda: open_host(OUT, torch.device("cpu")), "one ComfyUI", str(COMFY))
    assert "server" not in sys.modules and HOST.management.in_training


def main():
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            began = time.perf_counter()
            try:
                check()
                results[name.removeprefix("check_")] = None
            except Exception:
                results[name.removeprefix("check_")] = traceback.format_exc(limit=-4)
            print(f"{time.perf_counter() - began:7.2f} s  {name}", file=sys.stderr)
    (OUT / "results.json").write_text(json.dumps(results))


main()
