"""What a run on stable velocities reports of its targets."""

import pytest
import torch

from sv_core.objective import Objective
from sv_core.targets import Path as NoisyPath
from training.data import dataset as datasets
from training.objectives.velocity import describe


def test_effective_size_is_one_near_data_and_all_at_noise(tiny):
    dataset = datasets.load(tiny.data)
    x0 = dataset.latent.to_model(dataset.gather(range(8))[0])
    objective, rows = Objective(threshold=0.0), torch.arange(8)
    for t, size, changed, place in ((0.01, 1.0, 0.0, 0), (1.0, 8.0, 1.0, 7)):
        t = torch.full((8,), t)
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        path = NoisyPath(x0, eps, objective.interpolant.x_t(x0, eps, t), t)
        refs = [(rows, x0)]
        said = describe(objective, path, refs, objective.target(path, refs))
        assert said["count"] == [8 if i == place else 0 for i in range(8)]
        assert said["effective_size"][place] == pytest.approx(size, abs=1e-4)
        assert said["changed"][place] == changed and said["changed"].count(None) == 7
    plain = Objective(threshold=1.1)
    said = describe(plain, path, refs, plain.target(path, refs))
    assert said["effective_size"][7] == 1 and said["changed"][7] == 0
