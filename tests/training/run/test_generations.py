"""Two saved states, each proved by its manifest: what is damaged is noticed, never trained on."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput
from training.files import read_weights
from training.run.folder import RunFolder
from training.run.generations import Generations, Manifest
from training.run.loop import train


@pytest.fixture
def states(tmp_path) -> Generations:
    """States of the steps 3, 7 and 9, of which two are kept."""
    made = Generations(tmp_path)
    for step in (3, 7, 9):
        tree = {"step": step, "model": {"a": torch.randn(3, dtype=torch.bfloat16)}}
        made.write_manifest(Manifest(step, made.write_state(tree), "[run]", {"w": "00"}, (5, "ab")))
        made.prune()
    return made


def test_the_two_newest_states_are_kept_and_come_back_to_the_bit(states):
    assert states.steps() == [9, 7]
    assert sorted(p.name for p in states.out.iterdir()) == [
        "state-000007.json", "state-000007.pt", "state-000009.json", "state-000009.pt",
    ]  # fmt: skip
    manifest = states.verify(9)
    assert manifest.weights == {"w": "00"} and manifest.metrics == (5, "ab")
    tensors = [read_weights(states.state(9))[0]["model"]["a"] for _ in range(2)]
    assert torch.equal(*tensors) and tensors[0].dtype == torch.bfloat16


def test_every_flipped_bit_is_noticed(states):
    """In the state and in the manifest."""
    draw = random.Random(0)
    for path in (states.state(9), states.manifest(9)):
        whole = path.read_bytes()
        for place in draw.sample(range(8 * len(whole)), 200):
            data = bytearray(whole)
            data[place // 8] ^= 1 << place % 8
            path.write_bytes(data)
            with pytest.raises(InvalidInput, match=r"state-000009.* is damaged"):
                states.verify(9)
        path.write_bytes(whole)
    assert states.verify(9).step == 9


def test_a_state_without_a_manifest_is_none(states):
    states.manifest(9).unlink()
    assert states.steps() == [7]
    states.prune()
    assert not states.state(9).exists()


@pytest.fixture
def short(tiny):
    """Saves at the steps 4 and 6."""
    config = replace(tiny, optim=replace(tiny.optim, steps=6), run=replace(tiny.run, save_every=4))
    train(config)
    return config


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest"])
def test_a_damaged_state_costs_the_steps_since_the_one_before(short, capsys, damage):
    """It is said, and the run ends where an undisturbed one ends."""
    folder = RunFolder(Path(short.run.out))
    path = folder.states.manifest(6) if damage == "manifest" else folder.states.state(6)
    data, whole = bytearray(path.read_bytes()), folder.read_state()
    data[len(data) // 2] ^= 1
    path.write_bytes(data if damage != "cut" else data[: len(data) // 2])
    if damage == "gone":
        path.unlink()
    assert train(short, resume=True).finished
    told = [x for x in capsys.readouterr().err.splitlines() if x.startswith("note: state")]
    assert len(told) == 1 and path.name in told[0] and "step 4, the one before" in told[0]
    again = folder.read_state()
    assert all(torch.equal(again["model"][k], v) for k, v in whole["model"].items())
    assert folder.states.steps() == [6, 4]
    steps = [json.loads(x)["step"] for x in folder.metrics.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_without_a_whole_state_nothing_is_resumed(short):
    folder = RunFolder(Path(short.run.out))
    for step in folder.states.steps():
        folder.states.state(step).write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"no state in .* is whole .*weights as the checkpoint"):
        train(short, resume=True)


def test_a_changed_configuration_in_the_folder_is_named(short, capsys):
    folder = RunFolder(Path(short.run.out))
    folder.config.write_text(folder.config.read_text().replace("lr = 0.003", "lr = 0.9"))
    longer = replace(short, optim=replace(short.optim, steps=7))
    assert train(longer, resume=True).finished
    assert f"note: {folder.config} was changed" in capsys.readouterr().err
    assert folder.is_of(longer) and folder.states.verify(7).config == folder.config.read_text()


def test_what_a_kill_left_too_much_of_is_cleared_by_the_next_start(short, with_run):
    """Between the manifest of the last step and the clearing of older ones."""
    folder = RunFolder(Path(short.run.out))
    digest = folder.states.write_state({"step": 2})
    folder.states.write_manifest(Manifest(2, digest, ""))
    assert folder.states.steps() == [6, 4, 2] and len(list(folder.out.glob("weights-*"))) == 2
    assert train(with_run(short, keep_last=1), resume=True).finished
    assert folder.states.steps() == [6, 4]
    assert [p.name for p in folder.out.glob("weights-*")] == ["weights-000006.safetensors"]
