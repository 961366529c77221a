"""Prompts from our own file, from lines, and from the benchmarks' own files."""

from collections import Counter

import pytest

from sv_core.errors import InvalidInput
from training.evaluate.prompts import OWN, read_prompts


def test_ours_are_fifty_in_groups():
    found = read_prompts([OWN])
    assert len(found) == len({p.text for p in found}) == 50
    groups = Counter(p.group for p in found)
    assert {"text", "hands", "crowds", "counts", "textures", "portraits"} <= groups.keys()
    assert min(groups[g] for g in ("text", "hands", "counts", "portraits")) >= 6


def test_lines_and_limits(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a cat\n\n  a dog  \n# birds\na hawk\n", "utf-8")
    found = read_prompts([file])
    assert [(p.text, p.group) for p in found] == [
        ("a cat", "mine"), ("a dog", "mine"), ("a hawk", "birds"),
    ]  # fmt: skip
    assert len(read_prompts([file], 2)) == 2


def test_the_categories_of_t2v_compbench_are_its_files(tmp_path):
    for name in ("1_consistent_attr", "7_numeracy"):
        (tmp_path / f"{name}.txt").write_text("one\ntwo\n")
    found = read_prompts(sorted(tmp_path.iterdir()))
    assert [p.group for p in found] == ["consistent_attr"] * 2 + ["numeracy"] * 2


def test_geneval_s_metadata(tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text('{"tag": "colors", "include": [], "prompt": "a photo of a red bus"}\n')
    (found,) = read_prompts([file])
    assert (found.text, found.group) == ("a photo of a red bus", "colors")
    assert found.line["include"] == []
    file.write_text('{"tag": 1}\n')
    with pytest.raises(InvalidInput, match=r"line 1 of .* no JSON object with a prompt"):
        read_prompts([file])


def test_files_that_are_none(tmp_path):
    with pytest.raises(InvalidInput, match="there is no file of prompts"):
        read_prompts([tmp_path / "none.txt"])
    (tmp_path / "empty.txt").write_text("# only a group\n")
    with pytest.raises(InvalidInput, match="has no prompt"):
        read_prompts([tmp_path / "empty.txt"])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InvalidInput, match="save it as UTF-8"):
        read_prompts([tmp_path / "binary.txt"])
