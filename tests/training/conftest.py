"""A run so small that a step takes milliseconds."""

from dataclasses import replace

import pytest
import torch

from training.config import Config, DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, RunConfig


@pytest.fixture(autouse=True)
def one_thread():
    """Sums come out the same, bit for bit, only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tmp_path) -> Config:
    return Config(
        ModelConfig(patch_size=4, hidden_size=16, depth=1, num_heads=2),
        DataConfig(batch_size=8),
        ObjectiveConfig(bank=8),
        OptimConfig(steps=40, lr=3e-3, schedule="cosine", warmup=5, ema=0.9),
        RunConfig(out=str(tmp_path / "run"), device="cpu", save_every=7, validate_every=10),
    )


@pytest.fixture
def with_run():
    """A configuration with other [run] values."""
    return lambda config, **changes: replace(config, run=replace(config.run, **changes))
