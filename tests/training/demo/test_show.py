"""The demo compares what it says: the calls, the same noise, and how near the pictures are."""

from types import SimpleNamespace

import pytest
from torch import nn

from sv_core.latent import pixels
from training.demo import show
from training.demo.recogniser import Recogniser


@pytest.fixture(scope="module")
def rows():
    """Of the exact flow of data at one grey, 0 in model space: v = x / t."""
    flow = SimpleNamespace(
        model=nn.Linear(1, 1),
        latent=pixels(1),
        velocity=lambda x, t, cond: x / t.view(-1, 1, 1, 1),
    )
    return show.compare(flow)


def test_each_way_calls_as_often_as_it_is_said_to(rows):
    assert [(row.name, len(row.called)) for row in rows] == [
        ("Euler, 30 steps", 30),
        ("Paper's grid", 20),
        ("Euler, 20 steps", 20),
        ("Forecast", show.FORECAST_CALLS),
    ]
    native = rows[0].called
    assert native[0] == 1 and native == sorted(native, reverse=True)
    for row in (rows[1], rows[3]):  # they keep nodes of the native grid above the split
        above = [t for t in row.called if t > show.SPLIT]
        assert all(min(abs(t - s) for s in native) < 1e-6 for t in above)


def test_a_straight_flow_comes_to_the_same_pictures_every_way(rows):
    for row in rows:
        assert row.images.shape == (100, 1, 8, 8)
        assert (row.images - 0.5).abs().max() < 1e-5, row.name
        assert show.nearness(row, rows[0]) > 80


def test_the_table_says_calls_nearness_and_how_many_were_recognised(rows):
    judge = Recogniser()
    lines = show.table(rows, judge).splitlines()
    grey = rows[0]._replace(images=rows[0].images * 0 + 0.5)
    share = f"{100 * judge.share(grey.images, show.labels()):.0f} %"
    assert [line.split()[-2:] for line in lines[1:5]] == [share.split()] * 4
    assert f"{100 * judge.accuracy:.1f} %" in lines[5]
    darker = rows[2]._replace(images=rows[2].images - 0.1)
    line = show.table([rows[0], darker], judge).splitlines()[2]
    assert "20.0 dB" in line  # of an error of 0.1 everywhere


def test_classes_are_ten_of_each_in_order():
    assert show.labels().tolist() == [n // 10 for n in range(100)]
