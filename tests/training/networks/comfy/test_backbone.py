"""ComfyUI's networks as backbones: their velocities, texts, tokens, and what is trained."""

import time
import warnings
from collections import Counter
from dataclasses import replace

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch

from tests.training.in_comfy import HOST, close
from tests.training.networks.comfy.tiny_backbones import FILES, OUT, backbone, small, texts_for
from training.networks.comfy import self_check

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


def sampled(one, sigma, entry, shape):
    """(x, denoised) of the host's own sampling at one noise level."""

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


def test_velocity_is_that_of_the_host_s_own_sampling():
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


def test_rows_of_different_texts_equal_one_by_one():
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


def test_idle_passes_take_part_in_the_backward_pass():
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


def test_two_processes_with_unequal_texts_have_the_gradients_of_one():
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


def test_watched_tokens_are_the_picture_s_in_row_major_order():
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


def test_watched_tokens_carry_gradients_under_recomputation():
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


def test_full_training_leaves_out_what_gets_no_gradient():
    for name in FILES:
        one = small(name)
        assert not any(p.requires_grad for p in one.model.parameters())
        idle = one.unfreeze()
        trained = {n for n, p in one.model.named_parameters() if p.requires_grad}
        x, t, cond, direction = self_check.sample(one)
        (one.velocity(x, t, cond) * direction).sum().backward()
        reached = {n for n, p in one.model.named_parameters() if p.grad is not None}
        assert trained == reached and len(idle) == (6 if name == "qwen" else 0), (name, idle)
