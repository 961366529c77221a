"""The meaning of every key: at its field, in docs/configuration.md, and by --help KEY."""

import pytest

from training import finetune, prepare
from training.config import reference
from training.config.parse import build, override
from training.config.prepare import PrepareConfig
from training.config.schema import Config

EVERY = [
    (kind, key)
    for kind in (Config, PrepareConfig)
    for section in reference.keys(kind).values()
    for key in section
]
every_key = pytest.mark.parametrize(("kind", "key"), EVERY, ids=lambda x: getattr(x, "name", ""))


@every_key
def test_a_key_says_what_it_means_in_whole_sentences(kind, key):
    assert len(key.meaning.split()) >= 3 and key.meaning.endswith(".")


@every_key
def test_a_key_has_an_example_or_choices(kind, key):
    assert key.example or ", " in key.type or key.type in ("true or false", "digits")


@every_key
def test_an_example_is_one(kind, key):
    if key.example:
        table: dict = {}
        override(table, key.example)
        assert build(kind, table) is not None


def test_the_page_is_as_generated():
    assert reference.PAGE.read_text("utf-8") == reference.page(), (
        "docs/configuration.md is not what the fields say: python -m training.config.reference"
    )


def test_the_page_has_every_key_once():
    page = reference.page()
    assert all(page.count(f"| `{key.name}` |") == 1 for _, key in EVERY) and len(EVERY) > 90


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        (finetune, "optim.lr", ["optim.lr", "learning rate", "0.0001", "--set optim.lr=0.002"]),
        (finetune, "optim", ["[optim]", "optim.lr", "optim.ema", "--set"]),
        (finetune, "comfy.guidance", ["comfy.guidance", "distilled", "1.0"]),
        (prepare, "fps", ["fps", "frames per second", "16.0"]),
    ],
)
def test_help_for_a_key_or_a_section(command, name, words, capsys):
    with pytest.raises(SystemExit) as left:
        command.main(["--help", name])
    printed = capsys.readouterr().out
    assert left.value.code == 0 and all(word in printed for word in words)


@pytest.mark.parametrize("command", [finetune, prepare])
def test_help_without_a_key_is_the_command_s_own(command, capsys):
    for option in ("-h", "--help"):
        with pytest.raises(SystemExit) as left:
            command.main([option])
        assert left.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "name", "near"),
    [
        (finetune, "lr", "optim.lr"),
        (finetune, "optim.learning_rate", "near: optim)"),
        (finetune, "optm", "near: optim"),
        (finetune, "seed", "run.seed"),
        (finetune, "xyzzy", "have: model, comfy, data"),
        (prepare, "sizes", "near: size"),
        (prepare, "", "have: layout, size"),
    ],
)
def test_an_unknown_key_is_one_sentence_with_near_names(command, name, near, capsys):
    with pytest.raises(SystemExit) as left:
        command.main(["--help", name])
    printed = capsys.readouterr()
    assert left.value.code == 2 and not printed.out
    assert printed.err.startswith(f"error: there is no key or section {name!r} (")
    assert near in printed.err and printed.err.count("\n") == 1
