"""python -m training.prepare refuses in one sentence what it cannot do, and changes nothing."""

import pytest
from PIL import Image

from tests.training.picture_files import contents, write_digits
from training.prepare import configure, main


def test_refusals_are_one_sentence_and_change_nothing(tmp_path, capsys, monkeypatch):
    root, cache = write_digits(tmp_path / "digits", 20), tmp_path / "cache"
    small = ["size=8", "channels=1"]

    def refused(*settings, images=root, out=cache):
        before = contents(out) if out.is_dir() else None
        arguments = [x for s in settings for x in ("--set", s)]
        assert main([str(images), str(out), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        assert (contents(out) if out.is_dir() else None) == before
        return said

    assert "there is no folder" in refused(images=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused(images=tmp_path / "empty")
    assert "unknown config key 'sise'" in refused("sise=8")
    assert "size must be a whole number" in refused("size=big")
    assert "give both, such as vae=FILE and family=SD" in refused("vae=x.safetensors")
    assert "must be a multiple of 8 pixels" in refused("size=12", "vae=x", "family=sd")
    assert "cannot read" in refused("size=16", "vae=x", "family=sd")
    assert "name a new or an empty folder" in refused(*small, out=root)
    (tmp_path / "file").write_text("")
    assert "cannot write into" in refused(*small, out=tmp_path / "file" / "cache")

    assert main([str(root), str(cache), "--set", small[0], "--set", small[1]]) == 0
    capsys.readouterr()
    assert "other settings (size = 8, now 16)" in refused("size=16", "channels=1")
    assert "other settings (channels = 1, now 3)" in refused("size=8")
    new = root / "0" / "new.png"
    Image.new("L", (8, 8)).save(new)
    assert "1 new, 0 gone, 0 changed (such as 0/new.png)" in refused(*small)
    new.unlink()
    changed = next(root.rglob("*.png"))
    Image.new("L", (8, 8), 77).save(changed)
    assert "0 new, 0 gone, 1 changed" in refused(*small)
    changed.unlink()
    assert "0 new, 1 gone, 0 changed" in refused(*small)


def test_a_number_that_is_no_choice_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown channels 2 \(have: 1, 3\)"):
        configure(["channels=2"])
