"""The plot is read back from its pixels; the comparison is held against sv_core."""

import importlib
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from sv_core.fidelity import psnr, ssim
from sv_core.schedules import regime_split, shift, uniform_grid
from training.networks.comfy.folder import find_all, python_of

ROOT = Path(__file__).parents[3]
HOSTS = find_all()


def host_free(name: str) -> types.ModuleType:
    """A module of nodes/ that needs no host, without the package's own __init__, which does."""
    for package, folder in (("pack", ROOT), ("pack.nodes", ROOT / "nodes")):
        module = sys.modules.setdefault(package, types.ModuleType(package))
        module.__path__ = [str(folder)]
    return importlib.import_module(f"pack.nodes.{name}")


canvas, grid = host_free("plots.canvas"), host_free("plots.grid")
comparison = host_free("plots.comparison")
NATIVE = shift(uniform_grid(30), 3.0)
USED = regime_split(NATIVE, 0.85, 9)


def pixels(plot: torch.Tensor, colour: str) -> np.ndarray:
    """Where the plot has exactly this colour, inside the axes; the first dot overlaps the left."""
    wanted = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    mask = ((plot * 255).round() == wanted).all(-1)
    mask[canvas.BOTTOM + 10 :] = False
    mask[:, canvas.RIGHT :] = False
    return mask.numpy()


def read_nodes(plot: torch.Tensor, colour: str, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """(calls so far, sigma) of every mark of one colour, from the marks' centres."""
    labels, count = ndimage.label(pixels(plot, colour), np.ones((3, 3)))
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, count + 1))) + 0.5
    centres = centres[np.argsort(centres[:, 1])]
    call = (centres[:, 1] - canvas.LEFT) / (canvas.RIGHT - canvas.LEFT) * calls
    return call, 1 - (centres[:, 0] - canvas.TOP) / (canvas.BOTTOM - canvas.TOP)


def test_used_nodes_can_be_read_off_the_plot():
    plot = grid.plot_grids(NATIVE, USED, 0.85, 0.0)
    call, sigma = read_nodes(plot, canvas.USED, 30)
    assert np.abs(call - np.arange(20)).max() < 1 / 25.6  # a pixel
    assert np.abs(sigma - USED[:-1].numpy()).max() < 1 / 484


def test_native_nodes_can_be_read_off_the_plot():
    two = NATIVE[[0, -1]]  # so that no dot covers a ring
    plot = grid.plot_grids(NATIVE, two, 0.85, 0.0)
    call, sigma = read_nodes(plot, canvas.NATIVE, 30)
    assert np.abs(call - np.arange(30)).max() < 1 / 25.6
    assert np.abs(sigma - NATIVE[:-1].numpy()).max() < 1 / 484


@pytest.mark.parametrize("split, boundary", [(0.85, 0.0), (0.6, 0.875), (0.85, 0.9)])
def test_split_and_boundary_lie_where_they_should(split, boundary):
    plot = grid.plot_grids(NATIVE, USED, split, boundary)
    for colour, level in ((canvas.SPLIT, split), (canvas.BOUNDARY, boundary)):
        rows = np.flatnonzero(pixels(plot, colour).sum(1) > 300)
        if level:
            sigma = 1 - (rows.mean() + 0.5 - canvas.TOP) / (canvas.BOTTOM - canvas.TOP)
            assert abs(sigma - level) < 1 / 484
        else:
            assert len(rows) == 0


def test_counts_are_the_papers():
    assert grid.count_calls(NATIVE, 0.85, 0.0) == {"high-variance": 11, "low-variance": 19}
    assert grid.count_calls(USED, 0.85, 0.0) == {"high-variance": 11, "low-variance": 9}


def test_at_the_boundary_the_low_noise_expert_takes_over():
    ts = torch.tensor([1.0, 0.95, 0.875, 0.5, 0.0])
    calls = grid.count_calls(ts, 0.85, 0.875)
    assert (calls["high-noise expert"], calls["low-noise expert"]) == (2, 2)
    assert (calls["high-variance"], calls["low-variance"]) == (3, 1)


@pytest.mark.parametrize("end", range(2, 31))
@pytest.mark.parametrize("start", [0, 9, 20])
def test_counts_add_up_on_parts_of_a_grid(start, end):
    if start + 1 < end:
        part = NATIVE[start:end]
        calls = grid.count_calls(part, 0.85, 0.9)
        assert min(calls.values()) >= 0
        assert calls["high-variance"] + calls["low-variance"] == len(part) - 1
        assert calls["high-noise expert"] + calls["low-noise expert"] == len(part) - 1


def test_the_saving_is_said_in_words():
    assert grid.describe_grids(NATIVE, USED, 0.85, 0.0).splitlines() == [
        "20 model calls in place of 30: 10 saved",
        "high-variance: 11 of 11 calls",
        "low-variance: 9 of 19 calls",
    ]
    steep = shift(uniform_grid(30), 12.0)
    same = regime_split(steep, 0.85, 9)
    assert "nothing saved" in grid.describe_grids(steep, same, 0.85, 0.0)
    assert "10 more" in grid.describe_grids(USED, NATIVE, 0.85, 0.0)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 24, 20, 3, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def test_scores_are_those_of_the_core(pair):
    a, b = (t.movedim(-1, 1) for t in pair)
    scores = comparison.score(*pair)
    assert scores.psnr == pytest.approx(psnr(a, b).tolist(), abs=1e-4)
    assert scores.ssim == pytest.approx(ssim(a, b).tolist(), abs=1e-5)
    assert scores.ssim_all == pytest.approx(float(ssim(a, b).mean()), abs=1e-5)
    as_one = (t.permute(1, 2, 0, 3).reshape(1, 3, 24, -1) for t in (a, b))
    assert scores.psnr_all == pytest.approx(float(psnr(*as_one)), abs=1e-4)
    assert scores.largest == float((a - b).abs().max())


def test_equal_pictures_are_called_identical(pair):
    a, b = pair[0], torch.cat([pair[0][:2], pair[1][2:]])
    scores = comparison.score(a, a)
    assert scores.psnr_all == math.inf
    report = comparison.report_scores(scores, 1.0, "20 x 24")
    assert report.count("identical (PSNR is infinite)") == 4
    assert "inf " not in report and "difference" not in report
    assert math.isfinite(comparison.score(a, b).psnr_all)


def test_pictures_too_small_for_ssim_are_said_to_be(pair):
    a, b = (t[:, :10] for t in pair)
    scores = comparison.score(a, b)
    assert scores.ssim is None and math.isnan(scores.ssim_all)
    report = comparison.report_scores(scores, 1.0, "20 x 10")
    assert "no SSIM: it needs 11 pixels a side, these pictures are 20 x 10" in report
    assert "nan" not in report
    assert comparison.score(*(t[:, :11] for t in pair)).ssim is not None


def test_gain_is_the_largest_power_of_two_that_does_not_clip():
    for largest in (1.0, 0.7, 0.5, 0.3, 0.02, 1 / 256):
        gain = comparison.choose_gain(largest)
        assert math.log2(gain).is_integer() and 0.5 < gain * largest <= 1
    assert comparison.choose_gain(1e-6) == 256
    assert comparison.choose_gain(0.0) == 1


def test_side_by_side_shows_the_pictures_unchanged(pair):
    a, b = (t.repeat(1, 20, 20, 1) for t in pair)  # wider than a panel: no zoom
    scores = comparison.score(a, b)
    difference = (a - b).abs() * 2
    sheet = comparison.side_by_side(a, b, difference, scores, 2.0)[:, comparison.CAPTION :]
    width = a.shape[2]
    step = width + comparison.GAP
    for i, picture in enumerate((a, b, difference)):
        assert torch.equal(sheet[:, :, i * step : i * step + width], picture)


def test_small_pictures_are_enlarged_by_whole_numbers(pair):
    shown = comparison.panel(pair[0][0])
    zoom = shown.shape[1] // 20
    assert shown.shape[1] >= comparison.PANEL and shown.shape[1] == 20 * zoom
    assert torch.equal(shown[zoom // 2 :: zoom, zoom // 2 :: zoom], pair[0][0])


IN_HOST = """
import asyncio, importlib, json, sys, types
from pathlib import Path
root, temp = sys.argv[1:]
sys.path.insert(0, ".")
from comfy.cli_args import args
args.cpu = True
import folder_paths, torch
folder_paths.set_temp_directory(temp)
pack = types.ModuleType("pack")
pack.__path__ = [root]
sys.modules["pack"] = pack
pictures = importlib.import_module("pack.nodes.reports")
grid = torch.linspace(1, 0, 31)
image = torch.rand(2, 16, 16, 3)
def words(node, *values):
    try:
        node.execute(*values)
    except ValueError as e:
        return str(e)
plot, fidelity = pictures.RegimePlot, pictures.FidelityReport
result = {
    "short": words(plot, grid[:1], grid, 0.85, 0.0),
    "eps": words(plot, grid * 14.6, grid, 0.85, 0.0),
    "rising": words(plot, grid, grid.flip(0), 0.85, 0.0),
    "split": words(plot, grid, grid, 1.0, 0.0),
    "batch": words(fidelity, image, image[:1], 0.0),
    "size": words(fidelity, image, image[:, :8], 0.0),
    "channels": words(fidelity, image, image[..., :1], 0.0),
    "nan": words(fidelity, image, image * float("nan"), 0.0),
}
result["plot"] = list(plot.execute(grid, grid[::3], 0.85, 0.0).args[0].shape)
output = fidelity.execute(image, image * 0.9, 0.0).args
result["clipped"] = float(output[1].max())
result["untold"] = [
    f"{node.__name__}.{thing.id}"
    for node in (plot, fidelity)
    for thing in (*node.define_schema().inputs, *node.define_schema().outputs)
    if not thing.tooltip
]
result["described"] = [bool(n.define_schema().description) for n in (plot, fidelity)]
result["helped"] = [
    (Path(root) / "web" / "docs" / f"{n.define_schema().node_id}.md").is_file()
    for n in (plot, fidelity)
]
print(json.dumps(result))
"""


@pytest.mark.comfy
@pytest.mark.skipif(not HOSTS, reason="no ComfyUI found; set COMFYUI_PATH")
@pytest.mark.parametrize("comfy", HOSTS, ids=lambda p: p.name)
def test_nodes_in_the_host(comfy, tmp_path):
    run = subprocess.run(
        [python_of(comfy), "-c", IN_HOST, ROOT, tmp_path],
        cwd=comfy,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert "at least two" in result["short"]
    assert "14.6" in result["eps"] and "flow-matching" in result["eps"]
    assert "descend" in result["rising"]
    assert "split must lie between 0 and 1" in result["split"]
    assert "2 pictures and candidate 1" in result["batch"]
    assert "16 x 16 pixels and candidate 16 x 8" in result["size"]
    assert "transparency" in result["channels"]
    assert "diverged" in result["nan"]
    assert result["plot"] == [1, 720, 1200, 3]
    assert 0.5 < result["clipped"] <= 1
    assert list(tmp_path.glob("*.png"))  # the preview, in the host's temp folder
    assert result["untold"] == []
    assert all(result["described"]) and all(result["helped"])
