"""T2V-CompBench's folders, in ComfyUI's Python, which has a writer of videos."""

import av
import pytest

from tests.training.evaluate.test_layouts import ASKED, some_runs
from training.evaluate.layouts import COMPBENCH, require_layout, write_layout

pytestmark = pytest.mark.inside


def test_t2v_compbench(tmp_path):
    folder = some_runs(tmp_path)
    require_layout(COMPBENCH, ASKED, True)
    root = write_layout(COMPBENCH, folder, ASKED, [1], ["original"], 12)
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.mp4"))
    assert files == ["original/a/0001.mp4", "original/b/0001.mp4"]
    with av.open(root / files[0]) as film:
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 12
    assert len(frames) == 3 and abs(frames[2].mean() - 7) < 3
    several = write_layout(COMPBENCH, folder, ASKED, [1, 2], ["original"], 12)
    assert (several / "original/seed_2/a/0001.mp4").is_file()
