"""Killed at any moment and taken up again, a run ends where an undisturbed one ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput
from training.config.load import dump
from training.data.format import CacheFolder
from training.files import read_weights
from training.run.folder import RunFolder
from training.run.loop import train

ROOT = Path(__file__).resolve().parents[3]

# Trains; at the ATth call of os.NAME on a file that is called LIKE, the process kills itself.
CHILD = """
import os, signal, sys
from pathlib import Path
from training.config.load import load
from training.run.loop import train

config, resume, name, like, at = sys.argv[1:]
real, seen = getattr(os, name), []

def deadly(what, *rest):
    file = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
    seen.extend([1] if like in file else [])
    if like in file and len(seen) == int(at):
        if isinstance(what, int):
            os.ftruncate(what, os.fstat(what).st_size // 2)  # what a kill within write leaves
        os.kill(os.getpid(), signal.SIGKILL)
    return real(what, *rest)

setattr(os, name, deadly)
train(load(Path(config)), resume == "resume")
"""


def start(config: Path, *moment: str) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(config), *moment]
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE)


def steps_of(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def same(a: object, b: object) -> bool:
    """Equal, bit for bit, through dicts and lists of tensors."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds files through /proc")
def test_forty_steps_equal_forty_steps_killed_three_times(aligned, with_run, tmp_path):
    """With bank, two averages, optimiser, two projectors, data order and noise."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(with_run(aligned, out=str(whole)))
    config = tmp_path / "config.toml"
    config.write_text(dump(with_run(aligned, out=str(killed))))

    # Within the write of the second state (step 14): the first one is what is left.
    child = start(config, "begin", "fsync", "state-000014.pt", "1")
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert RunFolder(killed).read_state()["step"] == 7
    assert list(killed.glob(".*.partial"))

    # Between the weights of step 14 and their state: the weights are there, the state is old.
    child = start(config, "resume", "replace", ".state-000014.pt", "1")
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert RunFolder(killed).read_state()["step"] == 7 and RunFolder(killed).weights(14).exists()

    # At whatever moment: a killer that does not look.
    child = start(config, "resume", "fsync", "never", "1")
    while (killed / "metrics.jsonl").read_text().count("\n") < 20 and child.poll() is None:
        time.sleep(0.003)
    child.kill()
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert 14 <= RunFolder(killed).read_state()["step"] < 40

    outcome = train(with_run(aligned, out=str(killed)), resume=True)
    assert outcome.finished and not list(killed.glob(".*.partial"))
    state = RunFolder(killed).read_state()
    assert same(state, RunFolder(whole).read_state())
    assert state["bank"]["total"].sum() == 2 * 40 * 8 and state["projectors"]
    assert len(state["averages"]) == 2
    for step in (7, 14, 21, 28, 35, 40):
        for decay in (None, 0.5):
            paths = (RunFolder(out).weights(step, decay) for out in (killed, whole))
            ours, theirs = (read_weights(path)[0] for path in paths)
            assert same(ours, theirs), step
    assert steps_of(killed) == steps_of(whole) == list(range(1, 41))
    for a, b in zip(
        (killed / "metrics.jsonl").read_text().splitlines(),
        (whole / "metrics.jsonl").read_text().splitlines(),
        strict=True,
    ):
        a, b = json.loads(a), json.loads(b)
        assert {k: v for k, v in a.items() if k != "samples_per_s"} == {
            k: v for k, v in b.items() if k != "samples_per_s"
        }


def test_metrics_drop_what_lies_beyond_the_state_and_a_half_line(tiny, tmp_path):
    train(replace(tiny, optim=replace(tiny.optim, steps=10)))
    metrics = Path(tiny.run.out) / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 11, "loss": 9}\n{"step": 12, "lo')
    train(replace(tiny, optim=replace(tiny.optim, steps=12)), resume=True)
    assert steps_of(Path(tiny.run.out)) == list(range(1, 13))
    assert '"loss": 9' not in metrics.read_text()


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(tiny):
    with pytest.raises(InvalidInput, match="nothing to resume"):
        train(tiny, resume=True)
    train(replace(tiny, optim=replace(tiny.optim, steps=3)))
    with pytest.raises(InvalidInput, match=r"already holds a run.*--resume.*run\.out"):
        train(tiny)
    with pytest.raises(InvalidInput, match=r"past optim\.steps"):
        train(replace(tiny, optim=replace(tiny.optim, steps=2)), resume=True)


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("model", {"depth": 2}, r"model\.depth = 1, this config says 2"),
        ("data", {"batch_size": 4}, r"data\.batch_size = 8"),
        ("objective", {"kind": "cfm"}, r"objective\.kind = stablevm"),
        ("run", {"seed": 5}, r"run\.seed = 0"),
        ("optim", {"ema": (0.5,)}, r"optim\.ema = \(0\.9,\)"),
        ("align", {"split": 0.5}, r"align\.split = 0\.7"),
    ],
)
def test_resuming_another_run_is_refused(tiny, section, change, words):
    train(replace(tiny, optim=replace(tiny.optim, steps=1)))
    other = replace(tiny, **{section: replace(getattr(tiny, section), **change)})
    with pytest.raises(InvalidInput, match=words):
        train(other, resume=True)


def test_resuming_with_another_cache_is_refused(aligned, add_features, tmp_path):
    config = replace(aligned, optim=replace(aligned.optim, steps=2))
    train(config)
    moved = tmp_path / "moved"
    shutil.copytree(aligned.data.cache, moved)
    further = replace(
        config,
        data=replace(config.data, cache=str(moved)),
        optim=replace(config.optim, steps=3),
    )
    assert train(further, resume=True).finished  # the same cache elsewhere
    add_features(moved, "two", 5, fingerprint="another")
    with pytest.raises(InvalidInput, match=r"learnt from other data \(another two than") as caught:
        train(further, resume=True)
    assert "\n" not in str(caught.value)
    CacheFolder.open(moved).update(held_out=[0] * 60)
    add_features(moved, "two", 5)
    with pytest.raises(InvalidInput, match=r"another pictures than"):
        train(further, resume=True)


def test_a_state_of_an_older_version_is_refused(tiny):
    """One with another format, and one as it was called before there were two of them."""
    train(replace(tiny, optim=replace(tiny.optim, steps=1)))
    folder = RunFolder(Path(tiny.run.out))
    tree = folder.read_state()
    del tree["format"]
    manifest = folder.states.verify(1)
    folder.states.write_manifest(replace(manifest, state=folder.states.write_state(tree)))
    with pytest.raises(InvalidInput, match="older version"):
        train(tiny, resume=True)
    folder.states.manifest(1).unlink()
    folder.states.state(1).rename(folder.out / "state.pt")
    with pytest.raises(InvalidInput, match="older version"):
        train(tiny, resume=True)
    with pytest.raises(InvalidInput, match="already holds a run"):
        train(tiny)


def test_ctrl_c_saves_and_says_how_to_go_on(tiny, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(dump(replace(tiny, optim=replace(tiny.optim, steps=10**6))))
    child = subprocess.Popen(
        [sys.executable, "-m", "training.finetune", str(config)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = Path(tiny.run.out) / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    said, error = child.communicate(timeout=60)
    assert child.returncode == 130 and "--resume" in said and "Traceback" not in error
    state = RunFolder(Path(tiny.run.out)).read_state()
    assert f"step {state['step']} " in said
    assert RunFolder(Path(tiny.run.out)).weights(state["step"]).exists()
    assert steps_of(Path(tiny.run.out))[-1] == state["step"]
