"""A measurement from its first run to its last, interrupted and resumed."""

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.pretended import Pretended, work
from tests.training.evaluate.small import INFO
from training.evaluate.measure import Row, add_up, expected_calls, run_all, run_row, settle
from training.evaluate.methods import Rival, list_methods

EASY = Rival("EasyCache", "reuse_threshold")


def methods_of(made, shares=(0.5,), rivals=(EASY,)):
    return list_methods(made.bed, shares, list(rivals), 100)


def test_everything_is_tuned_to_the_calls_of_ours(tmp_path):
    made = work(tmp_path)
    settled, notes, own = settle(made, methods_of(made, (0.5, 0.25)), 12)
    assert own == 20 and notes == []
    settings = {m.key: m.settings for m in settled}
    assert settings["steps_50"] == {"ratio": 0.5} and settings["steps_25"] == {"ratio": 0.25}
    run_all(made, settled, own)
    calls = {r["method"]: r["calls"] for row in made.rows(settled) if (r := run_row(made, row))}
    assert calls == {
        "original": 20, "converged": 100, "ours_50": 10, "ours_25": 5, "steps_50": 10,
        "steps_25": 5, "EasyCache_50": 10, "EasyCache_25": 5,
    }  # fmt: skip


def test_nearness_is_measured_to_the_original_and_to_the_converged_run(tmp_path):
    made = work(tmp_path)
    settled, _, own = settle(made, methods_of(made), 12)
    run_all(made, settled, own)
    ours = next(m for m in settled if m.key == "ours_50")
    for prompt in (0, 1):  # the first is run before the others
        record = run_row(made, Row(prompt, 1, ours))
        # 400 / 10 against 400 / 20 and 400 / 100 grey levels
        assert record["to_original"]["psnr"] == pytest.approx(22.11, abs=0.01)
        assert record["to_converged"]["psnr"] == pytest.approx(17.01, abs=0.01)


def test_broken_off_it_goes_on_without_doing_anything_twice(tmp_path):
    made = work(tmp_path, Pretended(breaks=9))
    with pytest.raises(InvalidInput):
        settled, _, own = settle(made, methods_of(made), 12)
        run_all(made, settled, own)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "report/runs").iterdir()}
    again = work(tmp_path)
    settled, _, own = settle(again, methods_of(again), 12)
    run_all(again, settled, own)
    assert {p: p.stat().st_mtime_ns for p in files} == files and files
    whole = work(tmp_path / "other")
    settled, _, own = settle(whole, methods_of(whole), 12)
    run_all(whole, settled, own)
    assert len(made.comfy.runs) + len(again.comfy.runs) == len(whole.comfy.runs)
    before = len(again.comfy.runs)
    settled, _, own = settle(again, methods_of(again), 12)
    run_all(again, settled, own)
    assert len(again.comfy.runs) == before


def test_half_a_run_counts_as_none(tmp_path):
    made = work(tmp_path)
    row = next(made.rows(methods_of(made)))
    made.folder.keep_picture(row.name, 7, b"left by a run that was killed")
    run_row(made, row)
    assert [p.name for p in made.folder.pictures(row.name)] == ["00000.png"]


def test_a_rival_that_fails_is_left_out_and_anything_else_ends_it(tmp_path):
    made = work(tmp_path, Pretended(failing=["EasyCache"]))
    settled, notes, own = settle(made, methods_of(made), 12)
    assert "EasyCache" in notes[0] and "out of memory" in notes[0]
    assert run_all(made, settled, own) == {}
    broken = work(tmp_path / "b", Pretended(failing=["FewerCalls"]))
    with pytest.raises(InvalidInput, match="out of memory"):
        settle(broken, methods_of(broken), 12)


class Lazy(Pretended):
    """Neither ours nor the rival changes anything."""

    def calls_of(self, kinds, steps):
        return steps


def test_what_changes_nothing_is_left_out_and_that_is_said(tmp_path):
    made = work(tmp_path, Lazy())
    settled, notes, _ = settle(made, methods_of(made), 12)
    assert [m.key for m in settled] == ["original", "converged"]
    assert "Fewer Calls leaves this run as it is" in notes[0]

    class Useless(Pretended):
        def calls_of(self, kinds, steps):
            return steps if "EasyCache" in kinds else super().calls_of(kinds, steps)

    made = work(tmp_path / "b", Useless())
    settled, notes, _ = settle(made, methods_of(made, (0.5, 0.25)), 3)
    assert "EasyCache_50" not in [m.key for m in settled]
    assert notes == ["EasyCache: left out, it makes 20 of 20 calls whatever reuse_threshold is"]


def test_the_samplers_of_a_run_are_added_up(tmp_path):
    one = dict.fromkeys(
        ("calls", "evaluations", "cond", "uncond", "seconds", "sampling_seconds"), 2
    )
    outputs = {"CallReport_5_model": {"counts": [one]}, "CallReport_8_model": {"counts": [one]}}
    assert add_up({**outputs, "other": {"images": []}})["calls"] == 4
    methods = methods_of(work(tmp_path))
    assert [expected_calls(m, 20) for m in methods[:3]] == [20, 100, 10]
    assert "EasyCache" in INFO
