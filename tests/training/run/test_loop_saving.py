"""Saving as a service: whose folder it is, when a run saves, and what cannot end it."""

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput
from training import files
from training.cli import LOG
from training.lock import alone
from training.run import loop
from training.run.folder import RunFolder
from training.run.generations import Manifest
from training.run.loop import train
from training.run.step import Learner


@pytest.fixture
def short(tiny):
    """Five steps, saved at the end."""
    run = replace(tiny.run, save_every=0, validate_every=0)
    return replace(tiny, optim=replace(tiny.optim, steps=5), run=run)


@pytest.fixture
def at_step(monkeypatch):
    """Do something at the beginning of a step."""

    def plant(step, function):
        real = Learner.compute

        def compute(self, batch, number, report):
            if number == step:
                function()
            return real(self, batch, number, report)

        monkeypatch.setattr(Learner, "compute", compute)

    return plant


def states(config) -> list[int]:
    return RunFolder(Path(config.run.out)).states.steps()


def weights(config) -> list[str]:
    return sorted(p.name for p in Path(config.run.out).glob("weights-*"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_in_the_folder_is_refused(short, with_run, resume):
    train(short)
    longer = replace(short, optim=replace(short.optim, steps=6))
    before = sorted(Path(short.run.out).rglob("*"))
    with alone(Path(short.run.out), "another run"):
        with pytest.raises(InvalidInput, match="another run is at work in"):
            train(longer, resume)
        assert sorted(Path(short.run.out).rglob("*")) == before
    assert train(longer, resume=True).finished  # and afterwards it is free


def test_a_run_holds_its_folder_to_its_end(short, at_step):
    def try_another():
        with pytest.raises(InvalidInput, match="another run is at work"):
            train(replace(short, run=replace(short.run)))
        caught.append(1)

    caught: list[int] = []
    at_step(3, try_another)
    assert train(short).finished and caught


def test_a_lagging_run_never_puts_a_newer_one_back(short, at_step):
    """Where a disk knows no locks."""
    folder = RunFolder(Path(short.run.out))

    def another_saves():
        digest = folder.states.write_state({"step": 600})
        folder.states.write_manifest(Manifest(600, digest, ""))

    at_step(4, another_saves)
    with pytest.raises(InvalidInput, match=r"another run has written step 600 .*stops here"):
        train(short)
    assert states(short) == [600] and not weights(short)


def test_a_full_disk_is_waited_for(short, monkeypatch, capsys):
    """At the weights, the state and the manifest: each is tried again, nothing is written twice."""
    monkeypatch.setattr(files, "PAUSE", 0.01)
    real, failed = os.replace, []

    def replaced(source, target):
        kind = Path(target).name[:6] + Path(target).suffix
        if kind[:5] in ("weigh", "state") and failed.count(kind) < 2:
            failed.append(kind)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    assert train(short).finished
    told = [x for x in capsys.readouterr().err.splitlines() if "waiting for room" in x]
    assert len(told) == 3 and len(failed) == 6
    assert states(short) == [5] and not list(Path(short.run.out).glob(".*.partial"))
    RunFolder(Path(short.run.out)).states.verify(5)


@pytest.mark.skipif(os.name == "nt", reason="Windows has two of these signals")
@pytest.mark.parametrize("name", loop.SIGNALS)
def test_a_scheduler_s_signals_save_and_end_the_run(short, at_step, name):
    before = signal.getsignal(getattr(signal, name))
    at_step(3, lambda: os.kill(os.getpid(), getattr(signal, name)))
    outcome = train(short)
    assert (outcome.step, outcome.finished) == (3, False)
    assert states(short) == [3] and outcome.weights.exists()
    assert signal.getsignal(getattr(signal, name)) == before
    assert train(short, resume=True).finished


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_under_nohup_a_closed_terminal_ends_nothing(short, at_step):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert train(short).finished
    finally:
        signal.signal(signal.SIGHUP, before)


def test_time_saves_the_state_alone(short, with_run):
    config = with_run(short, save_minutes=1e-9)
    train(config)
    assert states(config) == [5, 4] and weights(config) == ["weights-000005.safetensors"]
    folder = RunFolder(Path(config.run.out))
    assert not folder.states.verify(4).weights and folder.states.verify(5).weights
    config = with_run(short, save_minutes=0.0, out=f"{config.run.out} never")
    train(config)
    assert states(config) == [5]


def test_the_last_weights_are_kept_with_their_averages(short, with_run):
    config = with_run(short, save_every=1, keep_last=2)
    config = replace(config, optim=replace(config.optim, ema=(0.9, 0.5)))
    train(config)
    steps = [f"weights-00000{n}{s}.safetensors" for n in (4, 5) for s in ("", "-ema0.5")]
    assert weights(config) == sorted(steps)
    train(with_run(config, keep_last=0, out=f"{config.run.out} all"))
    assert len(weights(with_run(config, out=f"{config.run.out} all"))) == 10


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), OSError(28, "full"), KeyError("ours")]
)
def test_what_fails_in_a_preview_costs_the_preview(short, with_run, monkeypatch, capsys, error):
    """The state is saved before it; the traceback is in the folder."""
    found = []

    def write(self, backbone, path):
        found.append(states(short))
        raise error

    monkeypatch.setattr(loop.Preview, "write", write)
    config = with_run(short, preview_every=2, save_every=2)
    assert train(config).finished and found == [[2], [4, 2], [5, 4]]
    told = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: the preview")]
    assert len(told) == 3 and "the run goes on" in told[0]
    assert (Path(config.run.out) / LOG).read_text().count(type(error).__name__) >= 3


def test_what_fails_in_a_chart_costs_the_chart(short, charts, monkeypatch, capsys):
    def broken(folder):
        raise RuntimeError("no font")

    monkeypatch.setattr(loop, "write_bins", broken)
    assert train(short).finished
    assert "warning: the chart could not be made (no font)" in capsys.readouterr().err
