"""Settings from files and the command line: bare words are text, errors name key and choices."""

import pytest

from sv_core.errors import InvalidInput
from tests.training.toml_files import DIGITS
from training.config.load import load
from training.config.parse import read_text as toml_read
from training.config.parse import toml


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


def test_every_character_comes_back_from_the_file_that_is_written():
    """Also DEL, which JSON lets stand and TOML does not."""
    text = "".join(map(chr, range(1, 0x250))) + "\u2028\U0001f600"
    assert toml_read(f"x = {toml(text)}", "it") == {"x": text}
