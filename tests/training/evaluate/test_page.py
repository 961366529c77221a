"""The page: one file, everything in it, nothing from a network."""

import re
from html.parser import HTMLParser

from tests.training.evaluate.pretended import Pretended, work
from tests.training.evaluate.test_measure import methods_of
from training.evaluate.measure import run_all, settle
from training.evaluate.page import embed, make_page
from training.evaluate.prompts import Prompt
from training.evaluate.report import collect


class Reader(HTMLParser):
    """Counts tags and collects what is linked."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.sources, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]


def made_page(tmp_path, **changes):
    made = work(tmp_path, **changes)
    settled, notes, own = settle(made, methods_of(made), 12)
    run_all(made, settled, own)
    report = collect(made, settled, {"workflow": "x.json"}, notes)
    return make_page(report, made.folder), report


def test_every_run_has_its_picture_and_its_row(tmp_path):
    page, report = made_page(tmp_path)
    found = Reader(page)
    assert found.tags.count("img") == found.tags.count("figure") == len(report["rows"]) == 20
    assert found.tags.count("table") == 2
    assert found.tags.count("tr") == 2 + len(report["summary"]) + len(report["rows"])
    assert not re.search(r"\{[a-z_]+\}", page.split("<body")[-1].split("<script>")[0][3000:])


def test_nothing_is_fetched(tmp_path):
    page, _ = made_page(tmp_path)
    assert all(s.startswith(("data:image/", "#")) for s in Reader(page).sources)
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)
    assert "prefers-color-scheme: dark" in page


def test_a_prompt_is_text_and_nothing_else(tmp_path):
    page, _ = made_page(tmp_path, prompts=[Prompt('<script>alert("x")</script>')])
    assert Reader(page).tags.count("script") == 1 and "&lt;script&gt;" in page


def test_a_video_shows_its_first_and_last_frame_and_each_frame_s_nearness(tmp_path):
    from dataclasses import replace

    made = work(tmp_path, Pretended(frames=3))
    video = replace(made.bed, picture=replace(made.bed.picture, is_video=True))
    page, report = made_page(tmp_path / "v", comfy=Pretended(frames=3), bed=video)
    found = Reader(page)
    assert found.tags.count("img") == 2 * len(report["rows"])
    assert "dB of each frame" in page and ">flicker<" in page


def test_small_pictures_keep_their_pixels_and_large_ones_are_made_smaller(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    Image.new("RGB", (1024, 768)).save(tmp_path / "large.png")
    assert "image/png" in embed(tmp_path / "small.png")
    assert "image/jpeg" in embed(tmp_path / "large.png")
    assert len(embed(tmp_path / "large.png")) < 20_000
