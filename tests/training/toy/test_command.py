"""The toys' command line: where the picture goes, what is quick, and its one sentence."""

import pytest

from sv_core.errors import InvalidInput
from training.toy.command import run_command


def command(arguments, run=lambda options: 0):
    return run_command(run, "training.toy", "A toy.", "toy.png", arguments)


def test_a_toy_gets_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def run(options):
        asked.append((str(options.picture), options.quick))
        return 7

    assert [command(a, run) for a in ([], ["b.png", "--quick"])] == [7, 7]
    assert asked == [("toy.png", False), ("b.png", True)]


@pytest.mark.parametrize("place", ["a.jpg", "nowhere/a.png"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(options):
        raise AssertionError("it began")

    with pytest.raises(SystemExit) as caught:
        command([place], run)
    assert caught.value.code == 2


def test_a_mistake_is_one_sentence_and_a_defect_keeps_its_traceback(capsys):
    def mistaken(options):
        raise InvalidInput("use fewer points")

    assert command([], mistaken) == 2
    assert capsys.readouterr().err == "error: use fewer points\n"
