"""Calibration files from strangers, names of every kind, and writes that last."""

import json
import os
import time
from pathlib import Path

import folder_paths
import pytest

from tests.nodes.loaded_pack import complaint
from tests.nodes.moded_flow import calibration_file, grid_of, recorded

pytestmark = pytest.mark.inside


@pytest.fixture
def folder(tmp_path):
    """The folder of calibrations within an output folder of the test's own."""
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path / calibration_file.CALIBRATION_FOLDER
    folder_paths.set_output_directory(before)


def found():
    return recorded(runs=1)


def refused(text: str, place: Path) -> str:
    place.mkdir(exist_ok=True)
    (place / "bad.json").write_text(text)
    began = time.perf_counter()
    words = complaint(lambda: calibration_file.load("bad.json"))
    assert time.perf_counter() - began < 2 and "\n" not in words and len(words) < 300
    return words


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": {"0": ""}},
        {"nodes": {"-1": ""}},
        {"nodes": {}},
        {"nodes": []},
        {"nodes": {"6": "0 1 2 3 4 99"}},
        {"sigmas": []},
        {"sigmas": [1.0, float("nan"), 0.0]},
        {"sigmas": [1000.0, 500.0, 0.0]},
        {"sigmas": [10**400, 0]},
        {"sigmas": "1 0"},
        {"drift": []},
        {"drift": [float("inf")] * 29},
        {"split": 7},
        {"split": "a"},
        {"split": float("nan")},
        {"model": 3},
        {"shapes": None},
        {"runs": "2"},
        {"seed": 0.5},
        {"checked": 99},
        {"further": 1},
        {"format": "another"},
    ],
    ids=str,
)
def test_what_no_run_can_have_given_is_refused(change, folder):
    text = json.dumps(json.loads(found().to_json()) | change)
    assert "no calibration, or damaged" in refused(text, folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "9" * 5000, " " * (2 << 20)])
def test_texts_that_are_no_calibration_are_refused_at_once(text, folder):
    assert "no calibration, or damaged" in refused(text, folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes among files")
def test_only_files_are_read(folder):
    folder.mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder / "nowhere.json").symlink_to(folder / "gone")
    (folder / "device.json").symlink_to("/dev/zero")
    assert calibration_file.names() == []
    for name in ("pipe", "folder", "nowhere", "device"):
        assert "is not in" in complaint(lambda: calibration_file.load(f"{name}.json"))  # noqa: B023


@pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "a\0b", "😀 b", "\n x"])
def test_every_name_becomes_one_that_a_file_can_have(name, folder):
    made = calibration_file.save(found(), name)
    assert len(made.encode()) < 100 and (folder / made).is_file() and "\0" not in made
    assert calibration_file.load(made) == found()


def test_a_write_lasts_before_it_takes_the_old_one_s_place(folder, monkeypatch):
    events, sync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda n: (events.append("sync"), sync(n))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append("replace"), replace(self, to))[1]
    )
    calibration_file.save(found(), "kept")
    wanted = ["sync", "replace"] + (["sync"] if os.name != "nt" else [])
    assert events == wanted
    assert [p.name for p in folder.iterdir()] == ["kept.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    calibration_file.save(found(), "kept")
    before = (folder / "kept.json").read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    words = complaint(lambda: calibration_file.save(found(), "kept"))
    assert "kept.json cannot be written (No space left on device)" in words
    assert [p.name for p in folder.iterdir()] == ["kept.json"]
    assert (folder / "kept.json").read_bytes() == before


def test_a_place_is_refused_before_anything_is_recorded(folder):
    subject = found().subject
    assert calibration_file.place_for(subject) == folder / f"{subject.default_name}.json"
    folder.rmdir()
    folder.write_text("a file in the folder's place")
    assert "nothing can be written" in complaint(lambda: calibration_file.place_for(subject))
    folder.unlink()
    calibration_file.save(recorded(grid_of(20), runs=1), "taken")
    words = complaint(lambda: calibration_file.place_for(subject, "taken"))
    assert "another model or grid" in words
