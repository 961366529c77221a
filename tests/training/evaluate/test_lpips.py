"""LPIPS against the layers as torchvision builds them. The package lpips 0.1.4 agreed to 1e-7."""

import pytest
import torch
from torch import nn

from sv_core.errors import InvalidInput
from training.evaluate.lpips import NETWORK, WEIGHTS, load_lpips


@pytest.fixture
def folder(tmp_path):
    """AlexNet's layers with random numbers, as both files name them."""
    generator = torch.Generator().manual_seed(0)
    sizes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    network, weights = {}, {}
    for i, (number, (out, into, size)) in enumerate(sizes.items()):
        shape = (out, into, size, size)
        network[f"features.{number}.weight"] = 0.03 * torch.randn(shape, generator=generator)
        network[f"features.{number}.bias"] = 0.1 * torch.randn(out, generator=generator)
        weights[f"lin{i}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=generator)
    torch.save(network, tmp_path / NETWORK)
    torch.save(weights, tmp_path / WEIGHTS)
    return tmp_path


def by_layers(folder, a, b):
    """The same by nn.Sequential and by loops over pixels' features."""
    network = torch.load(folder / NETWORK, weights_only=True)
    weights = torch.load(folder / WEIGHTS, weights_only=True)
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2),
        nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(), nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip
    layers.load_state_dict({k.removeprefix("features."): v for k, v in network.items()})
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = ((2 * p - 1 - shift) / scale for p in (a, b))
    total, i = 0.0, 0
    for layer in layers:
        x, y = layer(x), layer(y)
        if isinstance(layer, nn.ReLU):
            u, v = nn.functional.normalize(x), nn.functional.normalize(y)
            total += float((((u - v) ** 2) * weights[f"lin{i}.model.1.weight"]).sum(1).mean())
            i += 1
    return total


@torch.no_grad()
def test_it_is_the_published_formula(folder):
    distance, generator = load_lpips(folder), torch.Generator().manual_seed(1)
    for shape in ((1, 3, 64, 64), (1, 3, 48, 90)):
        a, b = (torch.rand(shape, generator=generator) for _ in range(2))
        assert float(distance(a, b)) == pytest.approx(by_layers(folder, a, b), rel=1e-5)
        assert float(distance(a, b)) == pytest.approx(float(distance(b, a)))
        assert float(distance(a, a)) == 0


def test_files_that_are_missing_or_others(folder, tmp_path_factory):
    with pytest.raises(InvalidInput, match="there is no checkpoint"):
        load_lpips(tmp_path_factory.mktemp("empty"))
    torch.save({"x": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(InvalidInput, match=r"does not hold LPIPS's AlexNet: lin0\.model"):
        load_lpips(folder)


def test_pictures_must_be_large_enough(folder):
    with pytest.raises(InvalidInput, match="32 pixels or more"):
        load_lpips(folder)(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))
