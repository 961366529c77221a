"""The options of a step: precision, recomputing, compiling, optimisers, trackers."""

import functools
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from sv_core.errors import InvalidInput
from training.config.load import dump
from training.config.schema import OptimConfig, RunConfig
from training.data import batches
from training.data import dataset as datasets
from training.engine import optim
from training.engine.compile import adapt
from training.engine.distributed import Processes
from training.engine.optim import build_averages, build_optimizer
from training.finetune import main
from training.objectives.build import build_objective
from training.run import reports
from training.run.folder import RunFolder
from training.run.loop import train
from training.run.state import TrainState
from training.run.step import Learner


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps one precision per process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


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


@pytest.mark.parametrize(
    ("name", "package"), [("adamw_8bit", "bitsandbytes"), ("schedule_free", "schedulefree")]
)
def test_a_missing_optimiser_is_said(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidInput, match=f"needs the package {package}.*or use adamw") as caught:
        build_optimizer(nn.Linear(1, 1).parameters(), OptimConfig(optimizer=name))
    assert "\n" not in str(caught.value)


class ScheduleFreeSGD(torch.optim.Optimizer):
    """Schedule-free in its plainest form, after the paper's equations: the library's stand-in.

    z <- z - lr g;  x <- (1 - 1/n) x + z / n;  y = (1 - b) z + b x.
    """

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.999), "n": 0})
        self.x = {}

    def train(self):
        pass

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["n"] += 1
            for y in group["params"]:
                z = self.state[y].setdefault("z", y.clone())
                x = self.x.setdefault(y, y.clone())
                z.sub_(group["lr"] * y.grad)
                x.lerp_(z, 1 / group["n"])
                y.copy_(0.1 * z + 0.9 * x)


def test_the_schedule_free_average_is_the_x_of_the_paper(monkeypatch):
    library = types.SimpleNamespace(AdamWScheduleFree=ScheduleFreeSGD)
    monkeypatch.setattr(optim, "_library", lambda name, optimizer: library)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    config = OptimConfig(optimizer="schedule_free", lr=0.1)
    optimizer = build_optimizer(model.parameters(), config)
    (average,) = build_averages(list(model.parameters()), config, optimizer)
    for n in range(1, 6):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        average.update(n)
        for p, mean in zip(model.parameters(), average.tensors, strict=True):
            torch.testing.assert_close(mean, optimizer.x[p], rtol=1e-5, atol=1e-6)
            assert n == 1 or not torch.allclose(mean, p)


def test_the_real_schedule_free_optimiser_resumes_exactly(tiny, tmp_path):
    pytest.importorskip("schedulefree")
    config = replace(
        tiny,
        optim=replace(tiny.optim, optimizer="schedule_free", schedule="constant", steps=8),
        run=replace(tiny.run, save_every=4),
    )
    whole = replace(config, run=replace(config.run, out=str(tmp_path / "whole")))
    train(whole)
    train(replace(config, optim=replace(config.optim, steps=4)))
    train(config, resume=True)
    one, other = (
        (Path(c.run.out) / "weights-000008.safetensors").read_bytes()[-4000:]
        for c in (whole, config)
    )
    assert one == other


def test_trackers_get_every_number_under_a_name(tiny, monkeypatch):
    seen, opened, closed = [], [], []

    class Run:
        def log(self, values, step):
            seen.append((step, values))

        def finish(self):
            closed.append(True)

    def init(**options):
        opened.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    config = replace(
        tiny,
        optim=replace(tiny.optim, steps=2),
        run=replace(tiny.run, trackers=("wandb",), validate_every=1),
    )
    train(config)
    lines = (Path(config.run.out) / "metrics.jsonl").read_text().splitlines()
    assert [step for step, _ in seen] == [1, 2] and closed == [True]
    for (_, values), line in zip(seen, lines, strict=True):
        record = json.loads(line)
        assert values["loss"] == record["loss"]
        assert values["val_loss_bins/3"] == record["val_loss_bins"][3]
        assert all(isinstance(v, int | float) for v in values.values())
    # Resumed, it is the same run again.
    train(replace(config, optim=replace(config.optim, steps=3)), resume=True)
    assert opened[0]["id"] == opened[1]["id"] and [step for step, _ in seen] == [1, 2, 3]


def test_tensorboard_writes_into_the_run_and_takes_back_what_a_crash_undid(tiny, monkeypatch):
    made = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            made.append((name, value, step))

        def close(self):
            made.append("closed")

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    folder = RunFolder(Path(tiny.run.out))
    (tracker,) = reports.open_trackers(["tensorboard"], folder, 7)
    tracker.add({"step": 8, "loss": 1.0, "stable": {"changed": [None, 0.5]}})
    tracker.close()
    assert made == [(tiny.run.out, 8), ("loss", 1.0, 8), ("stable/changed/1", 0.5, 8), "closed"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_tracker_is_said_before_the_work(tiny, monkeypatch, name):
    monkeypatch.setitem(sys.modules, reports.MODULES[name], None)
    config = replace(tiny, run=replace(tiny.run, trackers=(name,)))
    with pytest.raises(InvalidInput, match=f"names {name}, which is not installed.*pip install"):
        train(config)
    assert not Path(tiny.run.out).exists()


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


def test_a_compiler_that_fails_is_said(tiny, tmp_path, monkeypatch, capsys):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=no_compiler))
    file = tmp_path / "config.toml"
    file.write_text(dump(replace(tiny, run=replace(tiny.run, compile=True))))
    assert main([str(file)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: run.compile failed (") and "no C++ compiler found" in said
