"""Pictures made in parts: joined they are the whole, and a folder is of one order only."""

import numpy as np
import pytest

from sv_core.errors import InvalidInput, Unavailable
from training.sampling import parts

ORDER = {"seed": 0, "steps": 4}


def write(out, number, n):
    made = np.random.default_rng(number).integers(0, 256, (n, 4, 5, 3), np.uint8)
    parts.write_part(out, number, made)
    return made


def test_joined_parts_are_the_whole_and_are_gone(tmp_path):
    whole = np.concatenate([write(tmp_path, 0, 3), write(tmp_path, 1, 3), write(tmp_path, 2, 1)])
    parts.join(tmp_path, 7, 3)
    with np.load(tmp_path / parts.NPZ, allow_pickle=False) as file:
        assert file.files == ["arr_0"] and (file["arr_0"] == whole).all()
        assert file["arr_0"].dtype == np.uint8
    assert [p.name for p in tmp_path.iterdir()] == [parts.NPZ]


def test_a_damaged_part_is_named_and_nothing_is_lost(tmp_path):
    write(tmp_path, 0, 3)
    write(tmp_path, 1, 3)
    path = parts.part_path(tmp_path, 1)
    whole = path.read_bytes()
    for damaged in (whole[:-7], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b""):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"part-000001\.npy cannot be read"):
            parts.read_part(tmp_path, 1)
    with pytest.raises(InvalidInput, match=r"part-000001\.npy cannot be read"):
        parts.join(tmp_path, 6, 2)
    assert not (tmp_path / parts.NPZ).exists() and all(
        parts.part_path(tmp_path, number).exists() for number in (0, 1)
    )


def test_a_folder_is_begun_once_and_taken_up_by_the_same_order_only(tmp_path):
    out = tmp_path / "a/b"
    parts.begin(out, ORDER)
    before = write(out, 0, 2)
    parts.begin(out, ORDER)
    assert (parts.read_part(out, 0) == before).all()
    with pytest.raises(InvalidInput, match="steps = 4, now it is 8"):
        parts.begin(out, ORDER | {"steps": 8})


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(InvalidInput, match="holds other files"):
        parts.begin(tmp_path, ORDER)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
    (tmp_path / parts.SETTINGS).write_text("{")
    with pytest.raises(InvalidInput, match="is damaged"):
        parts.begin(tmp_path, ORDER)
    with pytest.raises(Unavailable, match="cannot write"):
        parts.begin(tmp_path / "letter.txt/below", ORDER)
