"""Loading an interval embedder behind a model of ComfyUI."""

import tempfile
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from tests.nodes.interval_models import (
    FAMILIES,
    MEANFLOW,
    Loader,
    average_velocity,
    embedder_for,
    interval,
    jumps,
    sample_family,
)
from tests.nodes.loaded_pack import MODEL, complaint

pytestmark = pytest.mark.inside


def test_files_are_loaded_and_refused_in_words():
    folder = Path(tempfile.mkdtemp())
    folder_paths.add_model_folder_path("loras", str(folder))
    embedder = embedder_for("SD3.5", 4)
    tensors, metadata = interval.to_file(embedder, "SD3.5")
    save_file(tensors, folder / "good.safetensors", metadata)
    save_file(tensors, folder / "silent.safetensors")
    save_file({"a": torch.zeros(2)}, folder / "other.safetensors", metadata)
    cut = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(cut[: len(cut) // 2])
    model = Loader.execute(FAMILIES["SD3.5"], "good.safetensors").args[0]
    by_hand = average_velocity.attach(FAMILIES["SD3.5"], embedder, "SD3.5")
    assert torch.equal(
        sample_family("SD3.5", jumps(2), model), sample_family("SD3.5", jumps(2), by_hand)
    )
    for file, target, words in (
        ("silent", "SD3.5", "is not an interval embedder"),
        ("other", "SD3.5", "is not an interval embedder"),
        ("cut", "SD3.5", "it is truncated or of another format"),
        ("gone", "SD3.5", "is not in ComfyUI's models/loras"),
        ("good", "Flux", "this interval embedder is for SD3.5, the model is Flux"),
    ):
        name = f"{file}.safetensors"
        said = complaint(lambda: Loader.execute(FAMILIES[target], name))  # noqa: B023
        assert words in said and name in said, said
    for other in (MODEL, MEANFLOW):
        assert "goes behind Flux, SD3.5" in complaint(
            lambda: Loader.execute(other, "good.safetensors")  # noqa: B023
        )
    wide = interval.IntervalEmbedder(48)
    words = complaint(lambda: average_velocity.attach(FAMILIES["SD3.5"], wide, "SD3.5"))
    assert "is 48 wide, the model 128" in words
