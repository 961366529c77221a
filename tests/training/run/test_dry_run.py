"""A dry run computes one step, says what would be trained, and writes nothing."""

from tests.training.toml_files import DIGITS
from training.config.load import dump
from training.finetune import main


def test_a_dry_run_writes_nothing(capsys, tmp_path):
    out = tmp_path / "run"
    small = ["model.hidden_size=16", "model.num_heads=2", "model.depth=1"]
    settings = [part for s in [f"run.out={out}", *small] for part in ("--set", s)]
    assert main([str(DIGITS), "--dry-run", *settings]) == 0
    assert "64 x 1x8x8" in capsys.readouterr().out and not out.exists()


def test_a_dry_run_shows_the_alignment(aligned, tmp_path, capsys):
    file = tmp_path / "config.toml"
    file.write_text(dump(aligned))
    assert main([str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "dropped after training" in said and "alignment" in said
    assert "8 x 1x8x8 (pixels) over 1 processes" in said


def test_a_dry_run_computes_a_loss(mean, tmp_path, capsys):
    file = tmp_path / "config.toml"
    file.write_text(dump(mean))
    assert main([str(file), "--dry-run"]) == 0
    assert "(meanflow)" in capsys.readouterr().out
