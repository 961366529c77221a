"""A run's folder: where each file is, whose run it is, and its metrics after a crash."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput, Unavailable
from training.config.load import dump
from training.run.folder import Metrics, RunFolder


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.make()
    return made


def test_files_of_different_moments_never_share_a_name(folder):
    names = [folder.weights(step, decay) for step in (5, 50) for decay in (None, 0.9, 0.99)]
    names += [folder.bank(step, process) for step in (5, 50) for process in (1, 2)]
    names += [folder.preview(5), folder.preview(50), folder.state, folder.config, folder.metrics]
    assert len(set(names)) == len(names)
    assert all(folder.out in path.parents for path in names)


def test_the_last_weights_are_those_of_the_latest_step(folder):
    assert folder.last_weights() is None
    for step in (999, 10_000, 5):
        folder.weights(step).touch()
    assert folder.last_weights() == folder.weights(10_000)


def test_a_folder_is_of_the_very_configuration_that_it_holds(folder, tiny):
    assert not folder.is_of(tiny)
    folder.config.write_text(dump(tiny), "utf-8")
    assert folder.is_of(tiny)
    assert not folder.is_of(replace(tiny, optim=replace(tiny.optim, lr=1e-3)))


def test_what_a_kill_left_half_written_is_cleared_and_the_rest_stays(folder):
    folder.write_state({"step": 3})
    half = folder.state.with_name(f".{folder.state.name}.partial")
    half.write_bytes(b"half")
    folder.make()
    assert not half.exists() and folder.read_state() == {"step": 3}


def test_a_state_comes_back_to_the_bit(folder):
    state = {"step": 7, "model": {"a": torch.randn(3, dtype=torch.bfloat16)}, "bank": {}}
    folder.write_state(state)
    found = folder.read_state()
    assert found["step"] == 7 and torch.equal(found["model"]["a"], state["model"]["a"])
    folder.state.unlink()
    with pytest.raises(InvalidInput, match="nothing to resume"):
        folder.read_state()


def test_a_folder_that_cannot_be_one_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"cannot write into .*run\.out"):
        RunFolder(tmp_path / "file" / "run").make()


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("tail", ["", '{"step": 6, "lo', '{"step": 5}\n{"st'])
def test_metrics_go_on_after_the_state_s_step(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0)
    for step in range(1, 6):
        metrics.add({"step": step, "loss": step / 3})
    metrics.close()
    path.write_text(path.read_text() + tail)
    metrics = Metrics(path, 3)
    assert steps(path) == [1, 2, 3]
    metrics.add({"step": 4, "loss": 0.5})
    assert steps(path) == [1, 2, 3, 4], "a kill now would lose the line"
    metrics.sync()
    metrics.close()
    assert json.loads(path.read_text().splitlines()[1])["loss"] == 2 / 3
    Metrics(path, 0).close()
    assert steps(path) == []  # a new run
