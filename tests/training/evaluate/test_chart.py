"""The chart's numbers and places."""

import xml.etree.ElementTree as ET

import pytest

from training.evaluate.chart import draw, families, ticks


def report(points):
    """points: {family: [(calls, dB)]}."""
    methods, summary = [], []
    for family, values in points.items():
        for i, (calls, near) in enumerate(values):
            key = f"{family}_{i}"
            methods.append({"key": key, "name": f"{family} {i}", "kind": "ours", "node": None})
            found = {"psnr": near} if near else {}
            summary.append({"method": key, "calls": calls, "to_original": found})
    return {"methods": methods, "summary": summary}


def test_lines_are_of_families_in_the_order_of_calls():
    found = families(
        report({"a": [(10, 40.0), (5, 30.0)], "b & c": [(10, 20.0)], "d": [(1, None)]})
    )
    assert found == {"a": [(5, 30.0), (10, 40.0)], "b & c": [(10, 20.0)]}


def test_nearer_is_higher_and_more_calls_are_farther_right():
    root = ET.fromstring(draw(report({"a & b": [(10, 40.0), (5, 30.0)]})))
    dots = [c for c in root.iter() if c.tag.endswith("circle")][:2]
    (x0, y0), (x1, y1) = ((float(d.get("cx")), float(d.get("cy"))) for d in dots)
    assert x0 < x1 and y0 > y1
    assert "a & b" in "".join(root.itertext())


@pytest.mark.parametrize(("low", "high"), [(8, 15), (12.8, 38.0), (7, 7), (0.01, 0.02)])
def test_ticks_are_round_and_enclose(low, high):
    found = ticks(low, high)
    assert found[0] <= low + 1e-9 and found[-1] >= high - 1e-9 and len(found) <= 8


def test_nothing_finished_is_said():
    assert "No run with fewer calls" in draw(report({}))
