"""A run so small that a step takes milliseconds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from tests.inside import COMFY
from training.caching.encode import prepare
from training.config.prepare import PrepareConfig
from training.config.schema import (
    AlignConfig,
    Config,
    DataConfig,
    MeanFlowConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RunConfig,
)
from training.data.format import (
    LATENTS,
    CacheFolder,
    FeatureSpec,
    Shard,
)
from training.run import loop

if COMFY:
    from tests.training.in_comfy import stand_ins, tiny_models  # noqa: F401


@pytest.fixture(autouse=True)
def one_thread():
    """Sums come out the same, bit for bit, only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps one precision per process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def charts():
    """Ask for it to have bins.png drawn, which takes longer than a tiny run."""


@pytest.fixture(autouse=True)
def no_charts(request, monkeypatch):
    if "charts" not in request.fixturenames:
        monkeypatch.setattr(loop, "write_bins", lambda out: None)


@pytest.fixture
def tiny(tmp_path) -> Config:
    return Config(
        model=ModelConfig(patch_size=4, hidden_size=16, depth=1, num_heads=2),
        data=DataConfig(batch_size=8),
        objective=ObjectiveConfig(bank=8),
        optim=OptimConfig(steps=40, lr=3e-3, schedule="cosine", warmup=5, ema=(0.9,)),
        run=RunConfig(out=str(tmp_path / "run"), device="cpu", save_every=7, validate_every=10),
    )


@pytest.fixture
def with_run():
    """A configuration with other [run] values."""
    return lambda config, **changes: replace(config, run=replace(config.run, **changes))


def _add_features(cache, name, dim, fingerprint="ab", patch_size=4):
    """Features of a random linear encoder of the pixels, so that there is something to learn."""
    folder = CacheFolder.open(cache)
    weight = torch.randn(patch_size**2, dim, generator=torch.Generator().manual_seed(dim))
    for number in range(len(folder.index.shards())):
        shard = folder.read(LATENTS, number)
        x = shard.data.whole().float() / 255  # (rows, views, 1, h, w)
        tokens = x.unfold(3, patch_size, patch_size).unfold(4, patch_size, patch_size)
        tokens = tokens.flatten(5).flatten(3, 4)[:, :, 0]  # (rows, views, n, p p)
        made = Shard((tokens - 0.3) @ weight, fingerprint, shard.rows, {}, {})
        folder.write(name, number, made._replace(data=made.data.half()))
    folder.update(
        features=folder.index.features | {name: FeatureSpec(fingerprint, dim, patch_size)}
    )


@pytest.fixture
def add_features():
    """The function of that name."""
    return _add_features


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Sixty digits, six of them held out."""
    from sklearn.datasets import load_digits  # which ComfyUI's Python lacks

    root = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for i in range(60):
        path = root / ("val" if i % 10 == 9 else "train") / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8)).save(path)
    return root


@pytest.fixture
def cache(pictures, tmp_path):
    """A cache of them with the features of two encoders on the tokens of patches of 4."""
    path = tmp_path / "cache"
    prepare(pictures, path, PrepareConfig(size=8, channels=1, shard=16, batch=16, workers=1))
    _add_features(path, "one", 6)
    _add_features(path, "two", 5)
    return path


@pytest.fixture
def aligned(tiny, cache) -> Config:
    """The tiny run on the cache with everything switched on: bank, two averages, two projectors."""
    return replace(
        tiny,
        data=replace(tiny.data, cache=str(cache)),
        align=AlignConfig(encoders=("one", "two"), block=1, hidden=8),
        optim=replace(tiny.optim, ema=(0.9, 0.5)),
    )


@pytest.fixture
def mean_config(tiny):
    """The tiny run with MeanFlow, half of its rows inside, and these keys of [meanflow]."""

    def make(**keys):
        objective = replace(tiny.objective, kind="meanflow")
        config = MeanFlowConfig(**{"equal": 0.5} | keys)
        return replace(tiny, objective=objective, meanflow=config)

    return make


@pytest.fixture
def mean(tiny):
    """Eight steps with everything on: a bank, an estimated beta, built-in guidance."""
    return replace(
        tiny,
        objective=replace(tiny.objective, kind="meanflow"),
        meanflow=MeanFlowConfig(
            beta="auto", velocity="stable", equal=0.5, guidance=1.5, mix=0.25, anchor=0.1
        ),
        optim=replace(tiny.optim, steps=8, schedule="constant", lr=1e-2),
        run=replace(tiny.run, save_every=4, report_every=2, validate_every=4),
    )
