"""What a folder holds: classes, captions and their variants, repeats, masks, videos."""

import os
import sys

import pytest
from PIL import Image

from training.caching.listing import scan


def test_layouts(tmp_path):
    for path in ("train/n02/b.png", "train/n01/x/a.png", "val/n02/c.png", "train/loose.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / path)
    (tmp_path / "train" / "n01" / "._a.png").write_bytes(b"the system's")
    listing = scan(tmp_path)
    assert listing.layout == "classes" and listing.conditions == ["n01", "n02"]
    found = [(p.path, p.condition, p.held_out) for p in listing.pictures]
    assert found == [
        ("train/n01/x/a.png", "n01", False),
        ("train/n02/b.png", "n02", False),
        ("val/n02/c.png", "n02", True),
    ]
    assert listing.aside == {"train/loose.png": "it lies in no class folder"}

    (tmp_path / "train" / "n02" / "b.txt").write_text(" a bee\n", encoding="utf-8")
    listing = scan(tmp_path)
    assert listing.layout == "captions" and listing.conditions == ["a bee"]
    assert len(listing.aside) == 3 and "no .txt caption" in listing.aside["val/n02/c.png"]


def write(root, path, text=None, size=(8, 8)):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        Image.new("L", size).save(file)
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_captions_that_cannot_be_used_are_said(tmp_path):
    texts = {
        "good": "a cat", "bom": b"\xef\xbb\xbfa dog", "latin": b"caf\xe9", "empty": " \n",
        "utf16": "a cat".encode("utf-16"), "no mark": "a cat".encode("utf-16-le"),
    }  # fmt: skip
    for name, text in texts.items():
        write(tmp_path, f"{name}.png")
        write(tmp_path, f"{name}.txt", text)
    write(tmp_path, "none.png")
    listing = scan(tmp_path)
    assert listing.conditions == ["a cat", "a dog"]
    assert listing.aside.pop("none.png") == "it has no .txt caption"
    assert listing.aside.pop("empty.png") == "its caption empty.txt is empty"
    assert set(listing.aside) == {"latin.png", "utf16.png", "no mark.png"}
    assert all("is not UTF-8 text: save it as UTF-8" in why for why in listing.aside.values())


def test_repeats_masks_and_videos(tmp_path):
    for path in ("10_cat/a.png", "10_cat/a.mask.png", "dog/b.png", "0_off/c.png"):
        write(tmp_path, path)
    write(tmp_path, "dog/d.gif")
    write(tmp_path, "dog/e.mp4", "")
    for k in range(3):
        write(tmp_path, f"dog/f.frames/{k}.png")
    listing = scan(tmp_path, repeats=True, masks=True, videos=True)
    assert listing.conditions == ["cat", "dog"]
    assert [(p.path, p.repeats, p.mask) for p in listing.pictures] == [
        ("10_cat/a.png", 10, "10_cat/a.mask.png"),
        ("dog/b.png", 1, None),
        ("dog/d.gif", 1, None),
        ("dog/e.mp4", 1, None),
        ("dog/f.frames", 1, None),
    ]
    assert "counts 0 times" in listing.aside["0_off/c.png"]
    plain = scan(tmp_path)
    assert plain.conditions == ["0_off", "10_cat", "dog"]
    assert "only family=Wan2.2 14B and Wan2.2 5B take" in plain.aside["dog/e.mp4"]
    assert "10_cat/a.mask.png" in [p.path for p in plain.pictures]
    mask = tmp_path / "10_cat/a.mask.png"
    mask.write_bytes(mask.read_bytes() + b" ")  # a mask that changes is a picture that changes
    assert scan(tmp_path, repeats=True, masks=True).pictures[0].size != listing.pictures[0].size


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
def test_a_link_to_a_picture_that_is_gone_is_set_aside(tmp_path):
    write(tmp_path, "cat/a.png")
    (tmp_path / "cat" / "b.png").symlink_to(tmp_path / "gone.png")
    listing = scan(tmp_path)
    assert [p.path for p in listing.pictures] == ["cat/a.png"]
    assert listing.aside == {"cat/b.png": "it cannot be read (No such file or directory)"}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
def test_links_in_a_circle_make_no_copies(tmp_path):
    """To the folder itself, to one above it, and to each other; a link elsewhere is followed."""
    write(tmp_path / "root", "cat/a.png")
    write(tmp_path / "other", "b.png")
    for name, to in {"cat/me": "cat", "cat/up": ".", "x": "cat", "dog": "../other"}.items():
        (tmp_path / "root" / name).symlink_to(tmp_path / "root" / to, target_is_directory=True)
    (tmp_path / "other" / "back").symlink_to(tmp_path / "root", target_is_directory=True)
    found = [p.path for p in scan(tmp_path / "root").pictures]
    assert found == ["cat/a.png", "dog/b.png", "x/a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf_8_is_set_aside(tmp_path):
    write(tmp_path, "cat/a.png")
    (tmp_path / os.fsdecode(b"cat/l\xf6we.png")).write_bytes(b"")
    (tmp_path / os.fsdecode(b"k\xe4tzchen")).mkdir()
    (tmp_path / os.fsdecode(b"k\xe4tzchen/b.png")).write_bytes(b"")
    listing = scan(tmp_path)
    assert [p.path for p in listing.pictures] == ["cat/a.png"] and listing.conditions == ["cat"]
    names = ["cat/l\\xf6we.png", "k\\xe4tzchen/b.png"]
    assert listing.aside == dict.fromkeys(names, "its name is not UTF-8: give it another one")
