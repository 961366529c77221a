"""The command: its words, its mistakes in one sentence, its folder."""

import json

import pytest

from tests.training.evaluate.pretended import Pretended
from tests.training.evaluate.small import info, prompt
from training.evaluate import command
from training.evaluate.command import main


class Server(Pretended):
    """With what the command asks besides."""

    def __init__(self, address=""):
        super().__init__()

    def nodes(self):
        return info()

    def system(self):
        return {"system": {"comfyui_version": "0.29.0"}, "devices": [{"name": "cpu"}]}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "Comfy", Server)
    (tmp_path / "flow.json").write_text(json.dumps(prompt()))
    (tmp_path / "words.txt").write_text("a dog\na bird\n")
    return tmp_path


ARGUMENTS = ["graph", "flow.json", "words.txt", "--seeds", "1", "2", "--out", "report"]


def test_a_report_is_written_and_nothing_beside_it(files, capsys):
    assert main(ARGUMENTS) == 0
    assert {p.name for p in files.iterdir()} == {"flow.json", "words.txt", "report"}
    report = json.loads((files / "report/report.json").read_text())
    assert report["layout"] == 1 and len(report["rows"]) == report["planned_runs"]
    assert (files / "report/index.html").read_text().startswith("<!doctype html>")
    told = capsys.readouterr().out
    assert "| Fewer Calls 1/2 | 10.0 | 20.0 | 1.00 | 22.1 |" in told


def test_the_same_words_again_do_nothing_twice_and_others_are_refused(files, capsys):
    assert main(ARGUMENTS) == 0
    before = {p: p.stat().st_mtime_ns for p in (files / "report/runs").iterdir()}
    assert main(ARGUMENTS) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "goes on where it was" in capsys.readouterr().out
    assert main([*ARGUMENTS, "--limit", "1"]) == 2
    assert "prompts differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--limit", "0"], "--limit must be at least 1"),
        (["--seeds", "1", "1"], "--seeds must be different numbers"),
        (["--layout", "geneval"], "GenEval's layout needs"),
        (["--text", "9.text"], "9.text is no NODE.INPUT"),
        (["--picture", "9"], "node 9 is not behind one of the samplers"),
        (["--rival", "Nope:x"], "no node Nope"),
        (["--lpips", "nowhere"], "there is no checkpoint"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(files, capsys, more, words):
    assert main([*ARGUMENTS, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1
    assert not (files / "report").exists()


def test_mistakes_in_words_are_the_parser_s(files, capsys):
    for more in (["--shares", "2"], ["--shares", "half"], ["--rival", "x"], ["--layout", "x"]):
        with pytest.raises(SystemExit):
            main([*ARGUMENTS, *more])
    assert "names no rival" in capsys.readouterr().err


def test_nobody_at_the_address(files, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(files)
    assert main([*ARGUMENTS, "--comfy", "127.0.0.1:9"]) == 2
    assert "no ComfyUI answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_ctrl_c_leaves_a_report_of_what_is_finished(files, capsys, monkeypatch):
    class Stopped(Server):
        def run(self, queued):
            if len(self.runs) == 12:
                raise KeyboardInterrupt
            return super().run(queued)

    monkeypatch.setattr(command, "Comfy", Stopped)
    assert main([*ARGUMENTS, "--no-rivals"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    report = json.loads((files / "report/report.json").read_text())
    assert 0 < len(report["rows"]) < report["planned_runs"]


def test_the_table_is_markdown():
    assert command.table({"summary": []}).count("\n") == 1
