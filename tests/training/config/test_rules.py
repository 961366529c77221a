"""What contradicts itself in a configuration, in words and before anything is read."""

from pathlib import Path

import pytest

from sv_core.errors import InvalidInput
from tests.training.toml_files import configure
from training.config.load import load


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.name=SiT-S/2", "lora.rank=4"], r"\[lora\] keeps frozen in a SiT"),
        (["comfy.checkpoint=a", "comfy.offload_blocks=3"], "offload_blocks = 3.*set it to 0"),
        (["comfy.checkpoint=a", "meanflow.derivative=difference"], "difference is too coarse"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(tmp_path: Path, overrides, words) -> None:
    path = configure(
        tmp_path / "run.toml", objective={"kind": "meanflow"}, data={"cache": "nowhere"}
    )
    with pytest.raises(InvalidInput, match=words) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    load(path, ["comfy.checkpoint=a", "lora.rank=4"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lora.rank=4"], r"there is none: set model\.checkpoint or comfy\.checkpoint"),
        (["lora.checkpoint=a.safetensors"], r"lora\.checkpoint is for a LoRA.*set lora\.rank"),
        (["lora.targets=attn"], r"lora\.targets is for a LoRA"),
        (["model.checkpoint=a", "lora.rank=4", "lora.alpha=0"], r"lora\.alpha = 0 would make"),
        (["model.checkpoint=a", "lora.rank=4", "lora.ranks={a = 1e30}"], "whole number from 0 to"),
        (["model.checkpoint=a", "lora.rank=4", "lora.ranks={a = 1.5}"], "whole number from 0 to"),
        (["objective.timestep_params={shift = -1.0}"], "shift must be a positive number, got -1"),
        (["objective.timestep_params={std = 0.0}"], "std must be a positive number"),
        (["objective.timestep_params={mean = inf}"], "mean must be a number, got inf"),
        (["run.timeout=inf"], r"run\.timeout must be at most"),
        (["run.seed=1180591620717411303424"], r"run\.seed must be at most"),
        (["optim.steps=99999999999999999999"], r"optim\.steps must be at most 1000000000,"),
        (["model.depth=1000000000"], r"model\.depth must be at most 1000"),
        (["optim.lr=1e300"], r"optim\.lr must be at most"),
        (['run.out="a\\u0000b"'], "without NUL characters"),
        ([".".join("a" * 3000) + "=1"], "--set wants key=value"),
    ],
)
def test_what_no_run_can_use_is_said_before_anything_is_read(tmp_path, overrides, words) -> None:
    path = configure(tmp_path / "run.toml", optim={"steps": 4})
    with pytest.raises(InvalidInput, match=words) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_nested_without_end_is_no_toml(tmp_path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("x = " + "[" * 100_000)
    with pytest.raises(InvalidInput, match="is not a TOML file"):
        load(path)
