"""Alignment in training: the loss is the formula, parts of a batch add up, misfits are said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sv_core.alignment import spatial_normalize
from sv_core.errors import InvalidInput
from sv_core.weighting import WEIGHTS
from training import rng
from training.config.schema import AlignConfig, RunConfig
from training.data import batches
from training.data import dataset as datasets
from training.data.cache import LatentCache
from training.engine.distributed import Processes
from training.files import read_weights
from training.networks.sit import build
from training.objectives.alignment import Alignment, build_alignment
from training.objectives.build import build_objective
from training.run.folder import RunFolder
from training.run.loop import train
from training.run.state import TrainState
from training.run.step import Learner


def learner_of(config) -> tuple[Learner, datasets.Dataset, TrainState]:
    dataset = datasets.load(config.data, config.align.encoders)
    state = TrainState(config, dataset, Processes(RunConfig(device="cpu")))
    return Learner(config, state, build_objective(config.objective, state.backbone)), dataset, state


def awaken(state: TrainState) -> None:
    """A new SiT is the zero function, whose blocks do nothing: move it off there."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in state.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("projector", ["mlp", "conv"])
@pytest.mark.parametrize("gamma", [None, 0.6])
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_the_loss_is_the_formula(aligned, weighting, projector, gamma):
    align = replace(aligned.align, weighting=weighting, projector=projector, gamma=gamma)
    config = replace(aligned, align=replace(align, split=0.6, k=9.0))
    learner, dataset, state = learner_of(config)
    awaken(state)
    batch = batches.batch(dataset, config.data, 0, 1)
    _, loss, _ = learner.compute(batch, 1, report=False)
    path = learner.objective.path(batch.x0, rng.generator(0, 1, "path"))
    options = {"split": 0.6, "k": 9.0} if weighting == "sigmoid" else {"split": 0.6}
    w = WEIGHTS[weighting](path.t, **({} if weighting == "constant" else options))
    tokens = []
    handle = state.model.blocks[0].register_forward_hook(lambda m, a, out: tokens.append(out))
    state.model(path.x_t, path.t, batch.cond)
    handle.remove()
    distance = 0
    for projector_module, z in zip(state.projectors, batch.features, strict=True):
        z = z if gamma is None else spatial_normalize(z, gamma)
        h = projector_module(tokens[0])
        distance = distance - (F.normalize(h, dim=-1) * F.normalize(z, dim=-1)).sum(-1).mean(1) / 2
    assert loss.item() == pytest.approx((0.5 * (w * distance).sum() / w.sum()).item(), abs=1e-5)


def test_where_all_of_the_gate_is_shut_there_is_neither_loss_nor_gradient(aligned):
    shut = replace(aligned.align, weighting="hard", split=1e-9)
    learner, dataset, state = learner_of(replace(aligned, align=shut))
    batch = batches.batch(dataset, aligned.data, 0, 1)
    losses, loss, _ = learner.compute(batch, 1, report=False)
    assert loss == 0 and torch.isfinite(losses).all()
    assert all(p.grad is None or not p.grad.any() for p in state.projectors.parameters())


@pytest.mark.parametrize("encoders", [(), ("one",), ("one", "two")])
def test_parts_of_a_batch_add_up(aligned, encoders):
    gradients = []
    for parts in (1, 4):
        config = replace(
            aligned,
            optim=replace(aligned.optim, accumulate=parts),
            align=replace(aligned.align, encoders=encoders),
        )
        learner, dataset, state = learner_of(config)
        awaken(state)
        losses, loss, _ = learner.compute(
            batches.batch(dataset, config.data, 0, 1), 1, report=False
        )
        gradients.append([p.grad for p in state.parameters if p.grad is not None] + [losses, loss])
    assert len(gradients[0]) > 10
    for one, four in zip(*gradients, strict=True):
        torch.testing.assert_close(one, four, rtol=1e-4, atol=1e-6)


def test_the_projectors_align_the_block_and_are_dropped(aligned):
    config = replace(
        aligned,
        data=replace(aligned.data, batch_size=32),
        objective=replace(aligned.objective, bank=32),
        align=replace(aligned.align, weighting="constant"),
        optim=replace(aligned.optim, lr=1e-2, schedule="constant"),
    )
    train(config)
    lines = (Path(config.run.out) / "metrics.jsonl").read_text().splitlines()
    align = [json.loads(line)["align"] for line in lines]
    assert sum(align[-5:]) / 5 < sum(align[:5]) / 5 - 0.1
    for decay in (None, 0.5):
        state, _ = read_weights(RunFolder(Path(config.run.out)).weights(40, decay))
        assert not [name for name in state if "projector" in name]


def test_what_does_not_fit_is_said(aligned, tiny, cache, tmp_path):
    dataset = datasets.load(aligned.data, ("one",))
    backbone = build(tiny.model, dataset, 0)
    with pytest.raises(InvalidInput, match=r"align\.block = 8, but the network has 1 blocks"):
        Alignment(AlignConfig(), backbone, (6,), 0)
    with pytest.raises(InvalidInput, match=r"has no features of three \(has: one, two\)"):
        datasets.load(aligned.data, ("three",))
    other = build(replace(tiny.model, patch_size=2), dataset, 0)
    with pytest.raises(InvalidInput, match=r"tokens of patches of 4, the network has patches of 2"):
        build_alignment(aligned.align, other, dataset, 0)
    assert build_alignment(AlignConfig(), backbone, dataset, 0) is None
    assert LatentCache(cache, ("two", "one")).feature_dims == (5, 6)
