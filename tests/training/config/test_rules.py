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
