"""What a configuration accepts, what it says about the rest, and that a dump reads back."""

from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.models.sit import SiT, SiTConfig
from training.config.load import dump, load
from training.finetune import main

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "training" / "configs" / "digits.toml"


@pytest.fixture
def write(tmp_path):
    def to_file(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return to_file


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optim.lrr=1", r"unknown config key 'optim\.lrr' \(have: optimizer, steps"),
        (
            "optimm.lr=1",
            r"unknown config key 'optimm' \(have: model, comfy, data, objective",
        ),
        ("optim.lr=fast", r"optim\.lr must be a number, got 'fast'"),
        ("optim.steps=1.5", r"optim\.steps must be a whole number, got 1\.5"),
        ("optim.steps=true", r"optim\.steps must be a whole number"),
        ("optim.steps=0", r"optim\.steps must be at least 1, got 0"),
        ("optim.lr=nan", r"optim\.lr must be at least 0, got nan"),
        ("optim.clip=0", r"optim\.clip = 0 would erase"),
        ("optim.ema=1", r"optim\.ema must be a share"),
        ("objective.kind=magic", r"unknown objective\.kind 'magic' \(have: cfm, stablevm, m"),
        ("objective.timesteps=x", r"have: auto, uniform, logit_normal, shifted"),
        ("objective.timestep_params=3", r"objective\.timestep_params must be a table"),
        ("data.label_dropout=1.2", r"data\.label_dropout must be a share"),
        ("run.precision=fp8", r"have: fp32, bf16, fp16"),
        ("run.trackers=['x']", r"unknown run\.trackers 'x' \(have: tensorboard, wandb\)"),
        ("optim.ema=[0.9, 1.0]", r"optim\.ema must be a share"),
        ("optim.ema=[0.9, 0.9]", r"optim\.ema names 0\.9 twice"),
        ("optim.optimizer=schedule_free", r"optim\.schedule = cosine makes no sense.*constant"),
        ("align.encoders=dinov2-base", r"needs features, which only a cache has"),
        ("align.split=1", r"align\.split must be a share"),
        ("data.held_out=1", r"data\.held_out must be a share"),
        ("optim=3", r"'optim' is a section"),
        ("optim.lr.deep=3", r"'lr' is a value, not a section"),
        ("optim.lr", r"--set wants key=value"),
        ("=3", r"--set wants key=value"),
    ],
)
def test_errors_name_the_key_and_the_choices(setting, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        load(DIGITS, [setting])
    assert "\n" not in str(caught.value)


def test_files_that_are_none(write, tmp_path):
    with pytest.raises(InvalidInput, match=r"there is no config file .*missing\.toml"):
        load(tmp_path / "missing.toml")
    with pytest.raises(InvalidInput, match="is a folder"):
        load(tmp_path)
    with pytest.raises(InvalidInput, match="is not a TOML file"):
        load(write("steps 3"))


def test_settings_are_toml_and_bare_words_are_text():
    config = load(
        DIGITS,
        ["optim.lr=1", "run.out=runs/cat", "objective.timesteps='logit_normal'",
         "objective.timestep_params={mean=-0.4}", "objective.timestep_params.std=2"],
    )  # fmt: skip
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.run.out == "runs/cat"
    assert config.objective.timesteps == "logit_normal"
    assert config.objective.timestep_params == {"mean": -0.4, "std": 2.0}


def test_a_dump_reads_back_as_the_same(write):
    settings = [
        "optim.ema=[0.9, 0.99]", "run.trackers=wandb", "run.recompute=true",
        'run.out="a \\"quoted\\" \\\\ path é"', "optim.clip=inf", "optim.lr=1e-7",
        "objective.timesteps=shifted", "objective.timestep_params={shift=3}",
    ]  # fmt: skip
    config = load(DIGITS, settings)
    assert load(write(dump(config))) == config
    assert config.optim.ema == (0.9, 0.99) and config.run.trackers == ("wandb",)


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
        ([str(DIGITS), "--dry-run", "--set", "model.patch_size=3"], "do not tile"),
        ([str(DIGITS), "--dry-run", "--set", "model.num_heads=5"], "use a multiple"),
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


def test_models_by_name(write, capsys, tmp_path):
    config = str(write(f"run.out = {str(tmp_path / 'run')!r}"))
    assert main([config, "--dry-run", "--set", "model.name=SiT-Q/2"]) == 2
    assert "unknown model 'SiT-Q/2'" in capsys.readouterr().err
    assert main([config, "--dry-run"]) == 2
    assert "model.depth is missing" in capsys.readouterr().err
    small = ["--set", "model.name=SiT-S/4", "--set", "data.batch_size=2"]
    assert main([config, "--dry-run", *small]) == 0
    with torch.device("meta"):
        network = SiT(SiTConfig.named("SiT-S/4", input_size=8, in_channels=1, num_classes=10))
    size = sum(p.numel() for p in network.parameters())
    assert f"{size / 1e6:.2f} million parameters" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(capsys, tmp_path):
    out = tmp_path / "run"
    small = ["model.hidden_size=16", "model.num_heads=2", "model.depth=1"]
    settings = [part for s in [f"run.out={out}", *small] for part in ("--set", s)]
    assert main([str(DIGITS), "--dry-run", *settings]) == 0
    assert "64 x 1x8x8" in capsys.readouterr().out and not out.exists()
