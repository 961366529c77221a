"""The folders that the benchmarks' scripts read."""

import json
import re

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.pretended import Pretended
from training.evaluate.folder import ReportFolder, run_name
from training.evaluate.layouts import COMPBENCH, GENEVAL, require_layout, write_layout
from training.evaluate.prompts import Prompt

LINES = [{"tag": "a", "prompt": "x"}, {"tag": "b", "prompt": "y", "include": [1]}]
ASKED = [Prompt(line["prompt"], line["tag"], line) for line in LINES]


def some_runs(path):
    """Runs of two prompts, two seeds; the last is not finished."""
    made, comfy = ReportFolder(path), Pretended()
    comfy.value = 5
    for prompt in (0, 1):
        for seed in (1, 2):
            name = run_name(prompt, seed, "original")
            for frame in range(3):
                made.keep_picture(name, frame, comfy.picture({"filename": str(frame)}))
            if (prompt, seed) != (1, 2):
                made.keep_run(name, {})
    return made


def read_as_geneval(root):
    """As its evaluate_images.py walks: folders of digits, metadata, numbered pictures."""
    found = {}
    for sub in sorted(root.iterdir()):
        assert sub.is_dir() and sub.name.isdigit()
        line = json.loads((sub / "metadata.jsonl").read_text())
        names = sorted(p.name for p in (sub / "samples").iterdir() if re.match(r"\d+\.png", p.name))
        found[sub.name] = line, names
    return found


def test_geneval(tmp_path):
    root = write_layout(GENEVAL, some_runs(tmp_path), ASKED, [1, 2], ["original"], 16)
    assert read_as_geneval(root / "original") == {
        "00000": (LINES[0], ["0000.png", "0001.png"]), "00001": (LINES[1], ["0000.png"]),
    }  # fmt: skip


def test_what_does_not_fit_is_said_before_the_first_run():
    with pytest.raises(InvalidInput, match=r"needs its prompts/evaluation_metadata\.jsonl"):
        require_layout(GENEVAL, [Prompt("x")], False)
    with pytest.raises(InvalidInput, match="judges videos"):
        require_layout(COMPBENCH, [Prompt("x")], False)
    require_layout(None, [Prompt("x")], False)
    require_layout(GENEVAL, ASKED, False)
