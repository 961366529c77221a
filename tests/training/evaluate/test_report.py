"""The report's numbers, and the layout that others read."""

import json
from pathlib import Path

import pytest

from tests.training.evaluate.pretended import work
from tests.training.evaluate.test_measure import methods_of
from training.evaluate.measure import run_all, settle
from training.evaluate.report import collect

PAGE = Path(__file__).resolve().parents[3] / "docs/measure_your_model.md"


def made_report(tmp_path, **changes):
    made = work(tmp_path, **changes)
    settled, notes, own = settle(made, methods_of(made), 12)
    run_all(made, settled, own)
    return collect(made, settled, {"workflow": "x.json"}, notes), made


def test_means_over_prompts_and_seeds(tmp_path):
    report, _ = made_report(tmp_path)
    summary = {s["method"]: s for s in report["summary"]}
    assert summary["original"]["runs"] == 4 and report["planned_runs"] == len(report["rows"]) == 20
    ours = summary["ours_50"]
    assert (ours["calls"], ours["evaluations"], ours["seconds"]) == (10, 20, 1.0)
    assert ours["to_original"]["psnr"] == pytest.approx(22.11, abs=0.01)
    assert ours["to_original"]["psnr_worst"] == pytest.approx(22.11, abs=0.01)


def test_the_original_s_own_distance_to_the_converged_run_stands_beside(tmp_path):
    report, _ = made_report(tmp_path)
    rows = [r for r in report["rows"] if r["method"] == "original"]
    assert all(r["to_converged"]["psnr"] == pytest.approx(24.05, abs=0.01) for r in rows)


def test_half_a_measurement_is_reported_as_far_as_it_is(tmp_path):
    made = work(tmp_path)
    settled, notes, _ = settle(made, methods_of(made), 12)
    report = collect(made, settled, {"workflow": "x"}, notes)
    assert len(report["rows"]) == 3 < report["planned_runs"] and len(report["summary"]) == 3


def test_the_layout_is_json_and_every_key_of_it_is_documented(tmp_path):
    report, _ = made_report(tmp_path)
    json.dumps(report, allow_nan=False)
    text = PAGE.read_text("utf-8")
    keys = {*report, *report["rows"][0], *report["summary"][2], *report["methods"][0]}
    keys |= set(report["summary"][2]["to_original"])
    assert not {key for key in keys if f"`{key}`" not in text}
