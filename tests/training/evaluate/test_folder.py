"""A report's folder: it belongs to one question, and holds whole files only."""

import pytest

from sv_core.errors import InvalidInput
from training.evaluate.folder import ReportFolder, run_name


def test_it_belongs_to_what_was_asked(tmp_path):
    folder = ReportFolder(tmp_path / "a/report")
    assert folder.begin({"seeds": [1], "workflow": "x"}) is False
    assert folder.begin({"seeds": [1], "workflow": "x"}) is True
    with pytest.raises(InvalidInput, match=r"something else \(seeds differ\): choose another"):
        folder.begin({"seeds": [2], "workflow": "x"})


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InvalidInput, match="not empty and holds no report"):
        ReportFolder(tmp_path).begin({})
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_records_and_pictures_come_back(tmp_path):
    folder, name = ReportFolder(tmp_path), run_name(3, 7, "ours_50")
    assert name == "00003_7_ours_50" and folder.run(name) is None
    folder.keep_run(name, {"calls": 3})
    folder.keep_picture(name, 0, b"png")
    assert folder.run(name) == {"calls": 3}
    assert [p.read_bytes() for p in folder.pictures(name)] == [b"png"]
    folder.drop_pictures(name)
    assert folder.pictures(name) == []
    folder.keep_trials({"EasyCache": {"0.1": 4}})
    assert folder.trials() == {"EasyCache": {"0.1": 4}}


def test_a_damaged_file_is_named(tmp_path):
    folder = ReportFolder(tmp_path)
    folder.keep_run("x", {})
    (tmp_path / "runs/x.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"x\.json cannot be read .*: delete it"):
        folder.run("x")
