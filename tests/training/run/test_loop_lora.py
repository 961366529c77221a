"""A run with [lora]: only the additions are trained, averaged, saved and resumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput
from training import files, lora
from training.config.schema import LoraConfig, ModelConfig
from training.data import dataset as datasets
from training.networks.sit import load
from training.run.folder import RunFolder
from training.run.loop import train
from training.run.validate import validation_loss


@pytest.fixture
def base(tiny, tmp_path) -> Path:
    """A checkpoint to start from."""
    short = replace(tiny.optim, steps=3)
    run = replace(tiny.run, out=str(tmp_path / "base"))
    return train(replace(tiny, optim=short, run=run)).weights


@pytest.fixture
def adapted(tiny, base):
    """The tiny run as a LoRA on that checkpoint."""
    return replace(
        tiny,
        model=ModelConfig(checkpoint=str(base)),
        lora=LoraConfig(rank=2, targets=("*",), ranks={"qkv": 3}),
        optim=replace(tiny.optim, steps=8, lr=1e-2, schedule="constant"),
        run=replace(tiny.run, save_every=4),
    )


def test_the_file_on_the_base_is_what_the_run_validated(adapted, base):
    tensors, metadata = files.read_weights(train(adapted).weights)
    assert {k: tuple(v.shape) for k, v in tensors.items() if k.endswith("attn.qkv.lora_A.weight")} \
        == {"diffusion_model.blocks.0.attn.qkv.lora_A.weight": (3, 16)}  # fmt: skip
    assert metadata["modelspec.architecture"] == "sit/lora"
    state = RunFolder(Path(adapted.run.out)).read_state()
    assert all(".lora." in name for name in state["model"])  # nothing of the frozen base

    backbone, dataset = load(base), datasets.load(adapted.data)
    plain = validation_loss(backbone, dataset)
    lora.inject(backbone.model, rank=2, targets=["*"], ranks={"qkv": 3})
    lora.load_state_dict(backbone.model, tensors)
    changed = validation_loss(backbone, dataset)
    lines = RunFolder(Path(adapted.run.out)).metrics.read_text().splitlines()
    said = json.loads(lines[-1])["val_loss_bins"]
    assert changed.tolist() == pytest.approx(said, rel=1e-6)
    assert changed.mean() < plain.mean() - 1e-4
    lora.remove(backbone.model)
    assert torch.equal(validation_loss(backbone, dataset), plain)


def test_resuming_is_exact(adapted, tmp_path):
    whole = train(replace(adapted, run=replace(adapted.run, out=str(tmp_path / "whole"))))
    half = replace(adapted, optim=replace(adapted.optim, steps=4))
    train(half)
    resumed = train(adapted, resume=True)
    assert whole.weights.name == resumed.weights.name
    a, b = (files.read_weights(outcome.weights)[0] for outcome in (whole, resumed))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(InvalidInput, match=r"began with lora.rank = 2, this config says 4"):
        train(replace(adapted, lora=replace(adapted.lora, rank=4)), resume=True)
