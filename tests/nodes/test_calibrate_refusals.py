"""Whatever Calibrate can refuse, it refuses before the model's first call."""

import folder_paths
import pytest
import torch

from tests.nodes.loaded_pack import GRID, complaint
from tests.nodes.moded_flow import BATCH, MODES, SEEN, calibrate, conditions, grid_of, planned, run

pytestmark = pytest.mark.inside


@pytest.fixture(autouse=True)
def output(tmp_path):
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


def attempt(**changes):
    given = {
        "sigmas": grid_of(8), "latent": BATCH, "model": MODES, "positive": conditions()[0],
        "cfg": 1.0, "runs": 1, "calls": 6, "first_seed": 0,
    }  # fmt: skip
    return calibrate.StableVSCalibrate.execute(**given | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../"}, "no name for a file"),
        ({"name": "\0"}, "no name for a file"),
        ({"sigmas": GRID * 1000}, "lie between 0 and 1"),
        ({"sigmas": GRID * float("nan")}, "not numbers"),
        ({"sigmas": torch.linspace(1, 0, 2001)}, "8 to 100 can be calibrated"),
        ({"first_seed": 2**70}, "a seed must lie between 0 and 2^64 - 1"),
        ({"first_seed": -1}, "a seed must lie between"),
        ({"runs": 10**9}, "runs must lie between 1 and 32"),
        ({"cfg": float("nan")}, "cfg must be 0 or more"),
        ({"latent": {}}, "latent holds no samples"),
        ({"latent": {"samples": torch.zeros(1, 4, 16, 16).long()}}, "latent holds no samples"),
        ({"latent": {"samples": torch.zeros(0, 4, 16, 16)}}, "latent is empty"),
    ],
    ids=str,
)
def test_before_the_first_call(changes, words):
    SEEN.clear()
    assert words in complaint(lambda: attempt(**changes)) and not SEEN


def test_a_folder_that_cannot_be_written_is_found_out_before_the_first_call(output):
    (output / "stable_velocity").write_text("a file in the folder's place")
    SEEN.clear()
    assert "nothing can be written" in complaint(attempt) and not SEEN


def test_the_last_seed_of_all_is_followed_by_the_first():
    assert attempt(first_seed=2**64 - 1, runs=2).args[0].runs == 2


def test_a_long_grid_calibrates_itself_in_words_before_the_first_call():
    SEEN.clear()
    sampler = planned(mode="self-calibrating")
    words = complaint(lambda: run(sampler, torch.linspace(1, 0, 2001)))
    assert "more than 100: choose fewer" in words and not SEEN
