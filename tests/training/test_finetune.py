"""python -m training.finetune: its help, and its one sentence for what is wrong."""

import pytest

from tests.training.toml_files import DIGITS
from training.finetune import main


def test_help_shows_the_four_knobs(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert all(knob in said for knob in ("CONFIG", "--set KEY=VALUE", "--resume", "--dry-run"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.toml"], "there is no config file"),
        ([str(DIGITS), "--set", "optim.lrr=1"], "unknown config key"),
        ([str(DIGITS), "--dry-run", "--set", "model.name=SiT-S/2"], "already says the sizes"),
        ([str(DIGITS), "--dry-run", "--set", "model.patch_size=3"], "multiple of patch_size"),
        ([str(DIGITS), "--dry-run", "--set", "model.num_heads=5"], "of num_heads"),
        ([str(DIGITS), "--dry-run", "--set", "model.checkpoint=x.pt"], "already says what"),
        (
            [str(DIGITS), "--dry-run", "--set", "objective.bank=32"],
            "objective.bank is 32, less than the 64 samples of a step",
        ),
        ([str(DIGITS), "--dry-run", "--set", "optim.accumulate=5"], "use a multiple of 5"),
        ([str(DIGITS), "--dry-run", "--set", "data.cache=nothing"], "is no latent cache"),
        (
            [str(DIGITS), "--dry-run", "--set", "run.precision=fp16", "--set", "run.device=cpu"],
            "fp16 needs a GPU",
        ),
        (
            [str(DIGITS), "--dry-run", "--set", "optim.optimizer=adamw_8bit"],
            "needs the package bitsandbytes",
        ),
        (
            [str(DIGITS), "--dry-run", "--set", "objective.timestep_params.std=1"],
            "'objective.timestep_params.std' for timesteps 'uniform' (have: none)",
        ),
    ],
)
def test_the_command_fails_in_one_line(capsys, arguments, words):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out
