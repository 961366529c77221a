"""The options of a step: precision, recomputing, compiling, optimisers, trackers."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from sv_core.errors import InvalidInput
from training.config.schema import RunConfig
from training.data import batches
from training.data import dataset as datasets
from training.engine.compile import adapt
from training.engine.distributed import Processes
from training.objectives.build import build_objective
from training.run.loop import train
from training.run.state import TrainState
from training.run.step import Learner


def gradients(config, run: RunConfig) -> list[torch.Tensor]:
    """Of one batch, with every weight off its initial zero."""
    config = replace(config, run=run)
    dataset = datasets.load(config.data, config.align.encoders)
    state = TrainState(config, dataset, Processes(run))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in state.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    learner = Learner(config, state, build_objective(config.objective, state.backbone))
    losses, aligned, _ = learner.compute(batches.batch(dataset, config.data, 0, 1), 1, report=False)
    return [p.grad for p in state.parameters if p.grad is not None] + [losses, aligned]


def test_recomputing_and_compiling_change_nothing(aligned, monkeypatch):
    config = replace(aligned, model=replace(aligned.model, depth=3))
    plain = gradients(config, RunConfig(device="cpu"))
    # The compiler's front end decides what is computed; its back end needs a C++ compiler.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    for run in (
        RunConfig(device="cpu", recompute=True),
        RunConfig(device="cpu", compile=True),
        RunConfig(device="cpu", compile=True, recompute=True),
    ):
        for one, other in zip(plain, gradients(config, run), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_recomputing_keeps_no_activations_of_a_block():
    kept = []
    for recompute in (False, True):
        blocks = [nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8)) for _ in range(3)]
        adapt(blocks, RunConfig(recompute=recompute))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x
        ):
            x = torch.randn(5, 8, requires_grad=True)
            for block in blocks:
                x = block(x)
        kept.append(sum(size == 5 * 64 for size in sizes))
    assert kept[0] >= 6 and kept[1] == 0  # before and after each GELU


def test_bf16_is_near_fp32_and_keeps_weights_and_targets_exact(aligned):
    exact = gradients(aligned, RunConfig(device="cpu"))
    AcceleratorState._reset_state(True)
    near = gradients(aligned, RunConfig(device="cpu", precision="bf16"))
    assert all(g.dtype == torch.float32 for g in near)
    different = [not torch.equal(a, b) for a, b in zip(exact, near, strict=True)]
    assert any(different)
    for one, other in zip(exact, near, strict=True):
        assert (one - other).norm() <= 0.05 * one.norm() + 1e-3


def test_precision_is_checked_in_words():
    with pytest.raises(InvalidInput, match=r"run\.precision = fp16 needs a GPU"):
        Processes(RunConfig(device="cpu", precision="fp16"))
    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match=r"run\.device is cuda, but torch sees no such GPU"):
            Processes(RunConfig(device="cuda"))


def test_an_overflow_in_fp16_skips_the_step_and_too_many_end_the_run(tiny, monkeypatch):
    """What the scaler of a GPU does, played on the CPU."""
    overflows = {3, 4}
    real = Learner.update

    def update(self, step):
        if step in overflows:
            self.optimizer.zero_grad()
            return torch.tensor(float("inf")), True
        return real(self, step)

    monkeypatch.setattr(Learner, "update", update)
    config = replace(tiny, optim=replace(tiny.optim, steps=6))
    train(config)
    lines = (Path(config.run.out) / "metrics.jsonl").read_text().splitlines()
    norms = [json.loads(line)["grad_norm"] for line in lines]
    assert [n is None for n in norms] == [False, False, True, True, False, False]
    overflows.update(range(1, 100))
    endless = replace(tiny, optim=replace(tiny.optim, steps=99))
    endless = replace(endless, run=replace(tiny.run, out=tiny.run.out + "-endless"))
    with pytest.raises(FloatingPointError, match=r"the gradient is not a finite number at step 50"):
        train(endless)
