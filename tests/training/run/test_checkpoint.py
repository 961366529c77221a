"""Files are written whole or not at all, and say what they are."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.latent import pixels
from sv_core.models.sit import SiTConfig
from sv_core.models.sit_file import from_checkpoint
from training import files
from training.config.load import dump
from training.data.dataset import load as load_data
from training.engine.distributed import Processes
from training.networks.sit import build, load
from training.run import checkpoint
from training.run.folder import RunFolder
from training.run.loop import train
from training.run.state import TrainState

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def saved(tiny) -> Path:
    """The folder of a run of three steps."""
    train(replace(tiny, optim=replace(tiny.optim, steps=3)))
    return Path(tiny.run.out)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_checkpoint_rebuilds_the_averaged_network(tiny, saved):
    state, metadata = files.read_weights(RunFolder(saved).weights(3))
    model, latent = from_checkpoint(state, metadata)
    assert latent == pixels(1)
    assert model.config == SiTConfig(8, 4, 1, 16, 1, 2, num_classes=10)
    ema = RunFolder(saved).read_state()["averages"][0]
    assert model.state_dict().keys() - ema.keys() == {"pos_embed"}  # which is not trained
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in ema.items())
    assert metadata["step"] == "3" and "steps = 3" in metadata["training_config"]
    assert metadata["modelspec.architecture"] == "sit" and "digits" in metadata["modelspec.title"]
    assert json.loads(metadata["sit"])["num_heads"] == 2


def test_training_can_start_from_a_checkpoint(tiny, saved):
    path = RunFolder(saved).weights(3)
    config = type(tiny.model)(checkpoint=str(path))
    backbone = build(config, load_data(tiny.data), seed=1)
    ema = RunFolder(saved).read_state()["averages"][0]
    assert all(torch.equal(v, backbone.model.state_dict()[k]) for k, v in ema.items())


@pytest.mark.parametrize("fails", ["write", "fsync"])
@pytest.mark.parametrize("name", ["weights", "state"])
def test_a_full_disk_costs_nothing_that_was_saved(tiny, saved, monkeypatch, fails, name):
    before = contents(saved)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails == "write":
        monkeypatch.setattr(files._Watched, "write", _failing_after(64))
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*: the disk is full.*intact") as caught:
        if name == "weights":
            path = RunFolder(saved).weights(3)
            files.save_weights(path, {"a": torch.ones(1000)}, {})
        else:
            RunFolder(saved).states.write_state({"step": 3, "a": torch.ones(1000)})
    assert "\n" not in str(caught.value)
    assert contents(saved) == before  # no temporary file either


def _failing_after(limit: int):
    """A write that finds the disk full after so many bytes."""

    def write(self, data):
        if self.file.tell() + len(data) > limit:
            self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.error
        return self.file.write(data)

    return write


def test_a_real_limit_on_file_size_stops_the_run_in_words(tiny, saved):
    resource = pytest.importorskip("resource")
    before = {k: v for k, v in contents(saved).items() if k.endswith((".pt", ".safetensors"))}
    limit = RunFolder(saved).states.state(3).stat().st_size // 2

    def restrict():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    child = subprocess.run(
        [sys.executable, "-m", "training.finetune", str(saved / "config.toml"), "--resume",
         "--set", "optim.steps=6"],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=restrict, timeout=120,
    )  # fmt: skip
    assert child.returncode == 2
    words = child.stderr.splitlines()[-1]
    assert words.startswith("error: could not write") and "the disk is full" in words
    after = contents(saved)
    assert all(after[k] == v for k, v in before.items())
    assert not list(saved.glob(".*.partial"))


def test_a_folder_that_cannot_be_one(tiny, with_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write into .*run\.out"):
        train(with_run(tiny, out=str(tmp_path / "file" / "run")))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_checkpoint(saved, tmp_path, suffix, share):
    whole = RunFolder(saved).weights(3) if suffix != ".pt" else RunFolder(saved).states.state(3)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InvalidInput, match="damaged or cut short") as caught:
        load(cut)
    assert "\n" not in str(caught.value)


def test_no_path_of_this_machine_travels_with_the_weights(tiny, tmp_path):
    run = replace(tiny.run, out=str(tmp_path / "secret" / "run"), vae="C:\\secret\\vae.safetensors")
    data = replace(tiny.data, cache="/home/secret/cache/")
    config = checkpoint.shareable(replace(tiny, run=run, data=data))
    assert "secret" not in dump(config)
    assert (config.run.out, config.run.vae) == ("run", "vae.safetensors")
    assert config.data.cache == "cache" and config.model.checkpoint is None
    paths = [k for s in vars(config).values() for k, v in vars(s).items() if isinstance(v, str)]
    assert paths  # and those of the file itself:
    short = replace(tiny, optim=replace(tiny.optim, steps=1))
    outcome = train(replace(short, run=replace(tiny.run, out=str(tmp_path / "secret" / "run"))))
    assert "secret" not in files.read_weights(outcome.weights)[1]["training_config"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: s["model"].popitem(), r"model\..* is not there"),
        (lambda s: s.update(model={}), r"model\..* is not there"),
        (lambda s: s.update(averages=[]), "is not one of this run"),
        (lambda s: s["averages"][0].update(x=torch.ones(1)), r"averages\.x is \(1,\)"),
        (
            lambda s: s["model"].update({k: torch.ones(1) for k in s["model"]}),
            r"is \(1,\), and the",
        ),
        (lambda s: s["bank"].update(items=torch.ones(1)), r"bank\.items is \(1,\)"),
        (lambda s: s.update(optimizer={}), "is not one of this run"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.ones(1)), "exp_avg is"),
        (lambda s: s["optimizer"].update(param_groups=[]), "of another network"),
        (lambda s: s["optimizer"]["state"].update({999: {}}), "is not one of this run"),
        (lambda s: s.update(step="3"), "step or data"),
        (lambda s: s.update(data=None), "step or data"),
    ],
)
def test_a_state_with_other_tensors_is_refused_and_never_broadcast(tiny, saved, damage, words):
    folder = RunFolder(saved)
    tree = folder.read_state()
    damage(tree)
    manifest = folder.states.verify(3)
    tree_step = {**tree, "step": 3}
    folder.states.write_manifest(replace(manifest, state=folder.states.write_state(tree_step)))
    if tree["step"] != 3:
        with pytest.raises(InvalidInput, match=words):
            checkpoint.require_fitting(tiny, _state(tiny), tree)
        return
    longer = replace(tiny, optim=replace(tiny.optim, steps=4))
    with pytest.raises(InvalidInput, match=words) as caught:
        train(longer, resume=True)
    assert "\n" not in str(caught.value)


def _state(config) -> TrainState:
    return TrainState(config, load_data(config.data), Processes(config.run))
