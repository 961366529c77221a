"""Calibration files: whom they fit, where they lie, what is refused."""

import tempfile
from pathlib import Path

import folder_paths
import pytest
import torch

from tests.nodes.loaded_pack import GRID, complaint, flow, make_model
from tests.nodes.moded_flow import (
    MODES,
    Sampler,
    calibration_file,
    grid_of,
    make_modes,
    recorded,
)

pytestmark = pytest.mark.inside


def test_calibrations_of_others_are_refused_in_words():
    found = recorded(runs=1)
    for model in (MODES, make_modes(3)):  # the weights' values do not count
        assert found.nodes_for(model, GRID, 10) == found.nodes[10]
    wide = make_model()
    wide.model.diffusion_model.extra = torch.nn.Linear(3, 4)
    assert "weights have other shapes" in complaint(lambda: found.nodes_for(wide, GRID, 10))
    other = make_model()
    other.model.__class__ = type("Flux", (type(other.model),), {})
    assert "of the class SiTModel, this is Flux" in complaint(
        lambda: found.nodes_for(other, GRID, 10)
    )
    for grid, words in (
        (flow.host_grid(make_model(5.0), "simple", 30, 1.0), "30 other noise levels"),
        (grid_of(20), "a grid of 30 steps, SIGMAS has 20"),
        (grid_of(30, 0.5), "30 other noise levels"),
    ):
        assert words in complaint(lambda: found.nodes_for(MODES, grid, 10))  # noqa: B023
    assert "choose 6 to 20" in complaint(lambda: found.nodes_for(MODES, GRID, 5))
    assert "connect StableVS Calibration Loader" in complaint(
        lambda: Sampler.execute("euler", 0.85, 0.0, mode="calibrated")
    )


def test_calibration_files_stay_where_they_belong():
    before = folder_paths.get_output_directory()
    with tempfile.TemporaryDirectory() as out:
        folder_paths.set_output_directory(out)
        try:
            found = recorded(runs=1)
            name = calibration_file.save(found)
            assert calibration_file.load(name) == found and calibration_file.names() == [name]
            text = (Path(out) / "stable_velocity" / name).read_text("utf-8")
            assert "0 " in text and len(text) < 4000 and str(Path.home()) not in text
            assert calibration_file.save(found) == name  # the same model and grid are replaced
            for evil in ("../../evil", "/etc/x", "..", "a/../../b\\c", "C:\\x", "\0"):
                try:
                    made = calibration_file.save(found, evil)
                except ValueError as e:
                    assert "no name for a file" in str(e)
                else:
                    assert (Path(out) / "stable_velocity" / made).is_file()
            inside = {p.parent for p in Path(out).rglob("*") if p.is_file()}
            assert inside == {Path(out) / "stable_velocity"}
            assert "is not in" in complaint(
                lambda: calibration_file.load("../stable_velocity/" + name)
            )
            other = recorded(grid_of(20), runs=1)
            calibration_file.save(found, "mine")
            assert "another model or grid" in complaint(
                lambda: calibration_file.save(other, "mine")
            )
            assert calibration_file.load("mine.json") == found
            for bad in ("", "{}", "[]", "null", text[:300], text.replace("0 ", "7 "), "\x00"):
                (Path(out) / "stable_velocity" / "bad.json").write_text(bad)
                words = complaint(lambda: calibration_file.load("bad.json"))
                assert "no calibration, or damaged" in words and len(words) < 300, words
        finally:
            folder_paths.set_output_directory(before)
