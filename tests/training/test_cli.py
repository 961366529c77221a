"""What every command says of a defect of ours, of a mistake of the user, and of Ctrl-C."""

import errno
from argparse import Namespace

import pytest
import torch

from sv_core.errors import InvalidInput, Unavailable
from sv_core.latent import pixels
from sv_core.models.sit import SiT, SiTConfig
from sv_core.models.sit_file import to_metadata
from training import cli, finetune, prepare, sample
from training.caching import codec, images
from training.config.load import dump
from training.demo import show
from training.engine import memory
from training.files import save_weights
from training.run import step
from training.sampling import batch
from training.toy import flow_matching, meanflow


def broken(*_: object, **__: object) -> None:
    """As a mistake of ours looks: a library's ValueError."""
    list(zip([1], [1, 2], strict=True))


def refused(*_: object, **__: object) -> None:
    raise InvalidInput("the weather is wrong: wait for a better one")


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


DEEP = {
    "finetune": (finetune, step.Learner, "compute"),
    "prepare": (prepare, codec.Codec, "latents"),
    "sample": (sample, batch.Studio, "_velocity"),
    "demo": (show, step.Learner, "compute"),
    "toy": (flow_matching, flow_matching, "measure"),
    "toy_meanflow": (meanflow, meanflow, "train"),
    "footprint": (memory, memory, "least_offload"),
}
"""Each command, and a place far from its edge."""
BARS = ("train:", "prepare:", "sample:", "toy_meanflow:")
every_command = pytest.mark.parametrize("name", DEEP)


@pytest.fixture
def command(tmp_path, tiny, pictures, capsys):
    """Run a command by its name on what it wants: (exit code, its lines on stderr)."""
    config = tmp_path / "tiny.toml"
    config.write_text(dump(tiny))
    sit = SiTConfig(8, 4, 1, 16, 1, 2, num_classes=3)
    save_weights(tmp_path / "sit.safetensors", SiT(sit).state_dict(), to_metadata(sit, pixels(1)))
    wanted = {
        "finetune": [config],
        "prepare": [pictures, tmp_path / "cache", "--set", "size=8", "--set", "channels=1"],
        "sample": [tmp_path / "sit.safetensors", tmp_path / "made", "--n", "2", "--steps", "2"],
        "demo": ["--train", "--out", tmp_path / "demo"],
        "toy": [tmp_path / "toy.png", "--quick"],
        "toy_meanflow": [tmp_path / "toy.png", "--quick"],
        "footprint": [],
    }

    def call(name: str, *further: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = DEEP[name][0].main([str(a) for a in (*wanted[name], *further)])
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return code, [x for x in lines if x.strip() and not x.startswith(BARS)]

    return call


@pytest.fixture
def plant(monkeypatch):
    """Replace a command's place far from its edge."""
    return lambda name, function: monkeypatch.setattr(*DEEP[name][1:], function)


@every_command
def test_a_defect_keeps_its_traceback(name, command, plant, tmp_path):
    plant(name, broken)
    code, (line, begins, *trace) = command(name)
    assert code == 1
    assert line.startswith("defect: ") and f"{cli.ISSUES} and attach " in line
    assert begins == "Traceback (most recent call last):"
    assert any("in broken" in x for x in trace)
    assert trace[-1].startswith("ValueError: zip() argument 2 is longer")
    logs = {"finetune": "run", "prepare": "cache", "sample": "made", "demo": "demo"}
    if name in logs:
        log = tmp_path / logs[name] / cli.LOG
        assert f"attach {log}" in line and log.read_text().count("in broken") == 1
    else:
        assert "attach the text below" in line
    assert ("tiny.toml" in line) == (name == "finetune")


@every_command
def test_a_mistake_of_the_user_is_one_sentence(name, command, plant):
    plant(name, refused)
    sentence = "error: the weather is wrong: wait for a better one"
    assert command(name) == (2, [sentence])
    code, lines = command(name, "--debug")
    assert code == 2 and lines[-1] == sentence
    assert lines[0].startswith("Traceback") and any("in refused" in x for x in lines)


@every_command
def test_ctrl_c_ends_a_command(name, command, plant):
    plant(name, interrupted)
    code, lines = command(name)
    assert code == 130 and len(lines) == 1 and lines[0].startswith("stopped")


@pytest.mark.parametrize("name", ["prepare", "sample"])
def test_the_log_of_a_defect_is_in_no_other_command_s_way(name, command, monkeypatch):
    with monkeypatch.context() as planted:
        planted.setattr(*DEEP[name][1:], broken)
        assert command(name)[0] == 1
    assert command(name) == (0, [])


def test_a_dry_run_writes_no_log(command, plant, tmp_path):
    plant("finetune", broken)
    assert command("finetune", "--dry-run")[0] == 1
    assert not (tmp_path / "run").exists()


def test_a_defect_before_there_is_a_configuration(command, monkeypatch):
    monkeypatch.setattr(finetune, "load", broken)
    code, lines = command("finetune")
    assert code == 1 and "attach the text below" in lines[0]


def test_of_several_processes_one_says_what_all_come_to(monkeypatch, capsys):
    def lines(e: Exception) -> tuple[int, int]:
        def run() -> int:
            raise e

        code = cli.guard(run, Namespace(debug=False))
        return code, len(capsys.readouterr().err.splitlines())

    monkeypatch.setenv("LOCAL_RANK", "1")
    assert lines(InvalidInput("no")) == (2, 0)
    assert lines(FloatingPointError("no")) == (2, 0)
    assert lines(Unavailable("this process alone has no disk")) == (2, 1)
    code, said = lines(IndexError("no"))
    assert code == 1 and said > 3
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert lines(InvalidInput("no")) == (2, 1)


def test_what_the_system_refuses(tmp_path, capsys):
    def said(e: Exception) -> tuple[int, str]:
        def run() -> int:
            raise e

        options = Namespace(debug=False, out=tmp_path / "a" / "b")
        return cli.guard(run, options, smaller=lambda: "take less"), capsys.readouterr().err

    elsewhere, full = str(tmp_path / "c"), "No space left on device"
    assert said(OSError(errno.ENOSPC, full, elsewhere)) == (
        2, f"error: cannot use {elsewhere}: {full}\n",
    )  # fmt: skip
    for named in (tmp_path / "a" / "b", tmp_path / "a"):
        assert said(FileNotFoundError(errno.ENOENT, "gone", str(named)))[0] == 2
    code, text = said(FileNotFoundError(errno.ENOENT, "gone", elsewhere))
    assert code == 1 and text.startswith("defect: ") and "gone" in text
    assert said(MemoryError()) == (2, "error: the computer's memory is full: take less\n")
    assert said(torch.OutOfMemoryError("CUDA")) == (
        2, "error: the GPU's memory is full: take less\n",
    )  # fmt: skip


def test_a_reader_that_is_broken_is_no_damaged_picture(command, monkeypatch):
    # A name of ours that is missing, as after a careless change: raised in our own lines.
    monkeypatch.delattr(images, "as_bytes")
    code, lines = command("prepare")
    assert code == 1 and lines[-1].startswith("NameError: name 'as_bytes' is not defined")
