"""What a configuration accepts, what it says about the rest, and that a dump reads back."""

from pathlib import Path

import pytest

from sv_core.errors import InvalidInput
from training.config.load import dump, load

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "training" / "configs" / "digits.toml"


def test_files_that_are_none(write, tmp_path):
    with pytest.raises(InvalidInput, match=r"there is no config file .*missing\.toml"):
        load(tmp_path / "missing.toml")
    with pytest.raises(InvalidInput, match="is a folder"):
        load(tmp_path)
    with pytest.raises(InvalidInput, match="is not a TOML file"):
        load(write("steps 3"))


def test_a_dump_reads_back_as_the_same(write):
    settings = [
        "optim.ema=[0.9, 0.99]", "run.trackers=wandb", "run.recompute=true",
        'run.out="a \\"quoted\\" \\\\ path é"', "optim.clip=inf", "optim.lr=1e-7",
        "objective.timesteps=shifted", "objective.timestep_params={shift=3}",
    ]  # fmt: skip
    config = load(DIGITS, settings)
    assert load(write(dump(config))) == config
    assert config.optim.ema == (0.9, 0.99) and config.run.trackers == ("wandb",)
