"""The report nodes in ComfyUI: what they refuse, in words, and what they hand out."""

from importlib import import_module
from pathlib import Path

import folder_paths
import pytest
import torch

from tests.host.server import PACK
from tests.nodes.loaded_pack import NAME, complaint

pytestmark = pytest.mark.inside
reports = import_module(".nodes.reports", NAME)
PLOT, FIDELITY = reports.RegimePlot, reports.FidelityReport
NODES = pytest.mark.parametrize("node", (PLOT, FIDELITY), ids=lambda node: node.__name__)
GRID = torch.linspace(1, 0, 31)
IMAGE = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("native", "used", "split", "words"),
    [
        (GRID[:1], GRID, 0.85, ["at least 2"]),
        (GRID * 14.6, GRID, 0.85, ["14.6", "flow-matching"]),
        (GRID, GRID.flip(0), 0.85, ["descend"]),
        (GRID, GRID * float("nan"), 0.85, ["used", "not numbers"]),
        (GRID, GRID, 1.0, ["split must lie between 0 and 1"]),
    ],
)
def test_grids_that_are_none_are_refused_in_words(native, used, split, words):
    said = complaint(lambda: PLOT.execute(native, used, split, 0.0))
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("reference", "candidate", "words"),
    [
        (IMAGE, IMAGE[:1], "2 pictures and candidate 1"),
        (IMAGE, IMAGE[:, :8], "16 x 16 pixels and candidate 16 x 8"),
        (IMAGE, IMAGE[..., :1], "transparency"),
        (IMAGE, IMAGE * float("nan"), "diverged"),
        (IMAGE[0], IMAGE, "must be pictures"),
        (IMAGE[:0], IMAGE[:0], "must be pictures"),
        (*[torch.zeros(1).expand(300, 1024, 1024, 3)] * 2, "too many to compare at once"),
    ],
)
def test_pictures_that_are_no_pair_are_refused_in_words(reference, candidate, words):
    assert words in complaint(lambda: FIDELITY.execute(reference, candidate, 0.0))


def test_both_hand_out_pictures_and_show_them(tmp_path):
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    try:
        assert PLOT.execute(GRID, GRID[::3], 0.85, 0.0).args[0].shape == (1, 720, 1200, 3)
        clipped = FIDELITY.execute(IMAGE, IMAGE * 0.9, 0.0).args[1]
    finally:
        folder_paths.set_temp_directory(before)
    assert 0.5 < float(clipped.max()) <= 1
    assert list(tmp_path.glob("*.png"))


@NODES
def test_everything_explains_itself(node):
    schema = node.define_schema()
    assert schema.description
    assert not [thing.id for thing in (*schema.inputs, *schema.outputs) if not thing.tooltip]
    assert (Path(PACK) / "web/docs" / f"{schema.node_id}.md").is_file()
