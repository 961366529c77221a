"""What a run reports: its charts, and every number to whoever tracks it."""

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from sv_core.errors import InvalidInput, Unavailable
from training.run import reports
from training.run.folder import RunFolder
from training.run.loop import train
from training.run.reports import pooled, write_bins


def test_bins_are_pooled_by_their_samples(tmp_path):
    first = {"count": [1, 3] + [0] * 6, "changed": [1.0, 0.0] + [None] * 6}
    second = {"count": [3, 0] + [0] * 6, "changed": [0.0, None] + [None] * 6}
    reports = [{"stable": first}, {"step": 2}, {"stable": second}]
    assert pooled(reports, "changed") == [0.25, 0.0] + [None] * 6
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    write_bins(RunFolder(tmp_path))
    assert not (tmp_path / "bins.png").exists()  # nothing to draw


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
    watchers = reports.Watchers(["tensorboard"], folder, 7)
    watchers.add({"step": 8, "loss": 1.0, "stable": {"changed": [None, 0.5]}})
    watchers.close()
    assert made == [(tiny.run.out, 8), ("loss", 1.0, 8), ("stable/changed/1", 0.5, 8), "closed"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_tracker_is_said_before_the_work(tiny, monkeypatch, name):
    monkeypatch.setitem(sys.modules, reports.MODULES[name], None)
    config = replace(tiny, run=replace(tiny.run, trackers=(name,)))
    with pytest.raises(InvalidInput, match=f"names {name}, which is not installed.*pip install"):
        train(config)
    assert not Path(tiny.run.out).exists()


def test_a_tracker_s_network_is_no_defect_of_ours_and_ends_no_run(tiny, monkeypatch, capsys):
    """It breaks at the beginning: one sentence before the first step; later: a warning, once."""

    class Run:
        def log(self, *_, **__):
            raise ConnectionError("the server is gone\nwith a long story")

        def finish(self):
            raise AssertionError("nobody asks one that is gone")

    def unreachable(**_):
        raise TimeoutError("no answer")

    config = replace(tiny, run=replace(tiny.run, trackers=("wandb",)))
    config = replace(config, optim=replace(config.optim, steps=4))
    module = types.SimpleNamespace(init=unreachable)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(Unavailable, match=r"wandb could not begin \(no answer\): .*leave it out"):
        train(config)
    monkeypatch.setattr(module, "init", lambda **_: Run())
    assert train(config).finished
    told = [x for x in capsys.readouterr().err.splitlines() if "wandb" in x]
    assert (
        len(told) == 1 and "warning: wandb gets no more of this run (the server is gone)" in told[0]
    )
