"""The guide: its commands are understood, its files and keys exist, its errors are really said."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from sv_core.models.families import latents, spelled
from training import finetune, prepare
from training.config.load import load

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs/train_your_first_lora.md").read_text("utf-8")
COMMANDS = re.findall(r"^python -m training\.(\w+) (.*)$", GUIDE, re.MULTILINE)
LORA = ROOT / "training/configs/flux_lora.toml"


def cells(heading: str) -> Iterator[list[str]]:
    """The rows of the table under a heading."""
    section = GUIDE.partition(f"## {heading}")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 2, heading
    return iter(rows[1:])


@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_commands_are_understood(program, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(arguments)
    if program == "finetune":
        options = finetune.parse(words)
        config = load(options.config, options.set)
        # The cache that another command of the guide makes, or the reader's own of that name.
        made = [shlex.split(rest)[1] for name, rest in COMMANDS if name == "prepare"]
        assert config.data.cache in made
    else:
        options = prepare.parse(words)
        config = prepare.configure(options.set)
        assert options.images.is_dir() or options.images.name == "my_videos"
        assert config.vae and config.text and config.captions == "lines"
        assert config.frames % 4 == 1


def test_there_are_commands_of_both_programs():
    assert {program for program, _ in COMMANDS} == {"prepare", "finetune"}


def test_settings_named_in_passing_are_known():
    named = re.findall(r"`(?:--set )?([a-z_]+\.[a-z_]+)=([^`\s]*)`", GUIDE)
    assert len(named) >= 6
    for key, value in named:
        load(LORA, [f"{key}={value or 1}"])
    for key in re.findall(r"`((?:comfy|data|lora|optim|run)\.[a-z_]+)`", GUIDE):
        section, _, name = key.partition(".")
        assert hasattr(getattr(load(LORA), section), name), key


def test_each_family_has_its_config():
    rows = list(cells("1. What you need"))
    assert len(rows) == 5
    for _, model, _, _, family, config in rows:
        name = family.strip(" `")
        assert latents(name) and spelled(name) == name
        checkpoint = load(ROOT / "training/configs" / config.strip(" `")).comfy.checkpoint
        assert Path(checkpoint).stem in model


def constants() -> str:
    """Every text in the trainer, a {} standing for what is filled in."""
    texts = []
    for file in (ROOT / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_errors_are_said_by_the_trainer():
    known = constants()
    for said, _ in cells("10. When it stops"):
        for phrase in re.findall(r"`([^`]+)`", said):
            assert phrase in known, phrase
