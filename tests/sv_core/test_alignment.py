"""sv_core.alignment: invariances, gradients against closed forms, and the hook's manners."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sv_core.alignment import (
    PROJECTORS,
    ConvProjector,
    Projector,
    alignment_loss,
    capture,
    cosine_distance,
    spatial_normalize,
)
from sv_core.models.sit import SiT, SiTConfig
from sv_core.weighting import WEIGHTS


def tokens(generator, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=dtype)


def distance_by_hand(h, z):
    total = [
        sum(a @ b / (a.norm() * b.norm()) for a, b in zip(x, y, strict=True)) / len(x)
        for x, y in zip(h, z, strict=True)
    ]
    return -torch.stack(total)


def test_cosine_distance_is_the_mean_of_cosines(generator):
    h, z = tokens(generator, 3, 5, 7), tokens(generator, 3, 5, 7)
    torch.testing.assert_close(cosine_distance(h, z), distance_by_hand(h, z))
    torch.testing.assert_close(cosine_distance(h, h), torch.full((3,), -1.0, dtype=torch.float64))
    torch.testing.assert_close(cosine_distance(h, -h), torch.ones(3, dtype=torch.float64))


def test_cosine_distance_sees_angles_only(generator):
    h, z = tokens(generator, 3, 5, 7), tokens(generator, 3, 5, 7)
    lengths = tokens(generator, 3, 5, 1).exp()
    rotation, _ = torch.linalg.qr(tokens(generator, 7, 7))
    expected = cosine_distance(h, z)
    torch.testing.assert_close(cosine_distance(h * lengths, z / lengths), expected)
    torch.testing.assert_close(cosine_distance(h @ rotation, z @ rotation), expected)
    order = torch.randperm(5, generator=generator)
    torch.testing.assert_close(cosine_distance(h[:, order], z[:, order]), expected)
    assert not torch.allclose(cosine_distance(h[:, order], z), expected)


def test_cosine_distance_of_half_precision_is_float32(generator):
    h, z = tokens(generator, 3, 16, 768), tokens(generator, 3, 16, 768)
    h, z = h.bfloat16(), (h + z).bfloat16()
    distance = cosine_distance(h, z)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(
        distance.double(), distance_by_hand(h.double(), z.double()), rtol=0, atol=1e-6
    )


def test_a_token_without_direction_has_distance_0_and_a_finite_gradient():
    h = torch.zeros(1, 2, 3, requires_grad=True)
    distance = cosine_distance(h, torch.ones(1, 2, 3))
    assert distance.item() == 0
    assert torch.isfinite(torch.autograd.grad(distance.sum(), h)[0]).all()


def test_other_grids_are_refused():
    with pytest.raises(AssertionError, match=r"\(2, 16, 8\) and features \(2, 4, 8\) differ"):
        cosine_distance(torch.ones(2, 16, 8), torch.ones(2, 4, 8))


@pytest.mark.parametrize("gamma", [0.6, 1.0])
def test_official_spatial_normalisation(gamma):
    """Recorded from the official Stable Velocity code, commit 10d61e3."""
    with np.load(Path(__file__).with_name("golden_irepa.npz")) as golden:
        z, expected = (torch.from_numpy(golden[f"irepa_{key}"]) for key in ("in", gamma))
    torch.testing.assert_close(spatial_normalize(z, gamma), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_spatial_normalisation_leaves_a_share_of_the_mean(gamma, generator):
    z = 3 + 2 * tokens(generator, 4, 9, 5)
    out = spatial_normalize(z, gamma)
    torch.testing.assert_close(out.std(1), torch.ones(4, 5, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(out.mean(1), (1 - gamma) * z.mean(1) / (z.std(1) + 1e-6))
    torch.testing.assert_close(spatial_normalize(100 * z, gamma), out, rtol=1e-5, atol=1e-6)


def test_spatial_normalisation_of_a_constant_channel_is_finite():
    assert torch.isfinite(spatial_normalize(torch.full((1, 4, 2), 7.0))).all()


def test_projector_is_three_layers_2048_wide(generator):
    projector = Projector(6, 5).double()
    first, second, third = (m for m in projector if isinstance(m, nn.Linear))
    assert (first.out_features, second.out_features) == (2048, 2048)
    h = tokens(generator, 2, 9, 6)
    torch.testing.assert_close(projector(h), third(F.silu(second(F.silu(first(h))))))


def test_conv_projector_sees_the_eight_neighbours(generator):
    """The token at row 1, column 2 of a 4x4 grid reaches rows 0..2, columns 1..3, no others."""
    projector = ConvProjector(3, 5).double()
    h = tokens(generator, 1, 16, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(projector(h)[0, 1 * 4 + 2].sum(), h)
    reached = gradient[0].abs().sum(-1).view(4, 4) > 0
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0:3, 1:4] = True
    assert torch.equal(reached, expected)
    with pytest.raises(AssertionError, match="15 tokens are not a square grid"):
        projector(h[:, :15])


@pytest.mark.parametrize("kind", PROJECTORS)
def test_projectors_can_learn_a_rotation(kind, generator):
    """A rotated copy of the tokens is within reach: the loss falls to nearly -1."""
    torch.manual_seed(0)
    h = tokens(generator, 4, 16, 8, dtype=torch.float32)
    z = h @ torch.linalg.qr(tokens(generator, 8, 8, dtype=torch.float32))[0]
    projector = PROJECTORS[kind](8, 8)
    optimizer = torch.optim.Adam(projector.parameters(), lr=0.01 if kind == "conv" else 1e-3)
    for _ in range(60):
        loss = alignment_loss([(projector(h), z)], torch.ones(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < -0.98


class Residual(nn.Module):
    """A block that, as some models do, adds to its input in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x += self.linear(x.clone())
        return x


class Streams(nn.Module):
    """A block of a model with two streams: (text, image)."""

    def __init__(self):
        super().__init__()
        self.text, self.image = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, text, image):
        return self.text(text), self.image(image)


def test_capture_keeps_what_the_block_returned_not_what_became_of_it(generator):
    x = tokens(generator, 2, 3, 4, dtype=torch.float32)
    blocks = nn.Sequential(Residual(), Residual())
    with capture(blocks[0]) as kept:
        blocks(x.clone())
    (h,) = kept
    torch.testing.assert_close(h, x + blocks[0].linear(x))


def test_capture_picks_a_part_and_a_slice(generator):
    block = Streams()
    text = tokens(generator, 2, 3, 4, dtype=torch.float32)
    image = tokens(generator, 2, 5, 4, dtype=torch.float32)
    with capture(block, part=1, tokens=slice(1, None)) as kept:
        block(text, image)
    torch.testing.assert_close(kept[0], block.image(image)[:, 1:])
    with pytest.raises(TypeError, match=r"Streams returns a tuple.*`part`"), capture(block):
        block(text, image)
    assert not block._forward_hooks


def test_capture_is_over_when_the_context_is(generator):
    x = tokens(generator, 2, 3, 4, dtype=torch.float32)
    block = nn.Linear(4, 4)
    with capture(block) as kept:
        block(x)
        block(2 * x)
    block(3 * x)
    assert len(kept) == 2
    torch.testing.assert_close(kept[1], block(2 * x))
    with pytest.raises(KeyError), capture(block):
        raise KeyError
    assert not block._forward_hooks


@pytest.fixture
def sit():
    torch.manual_seed(0)
    model = SiT(SiTConfig(input_size=8, in_channels=2, hidden_size=16, depth=3, num_heads=2))
    for block in model.blocks:  # out of the zero start, where no block feeds the next
        nn.init.normal_(block.adaLN_modulation[1].weight, std=0.5)
    return model


def sit_batch(generator):
    x = tokens(generator, 4, 2, 8, 8, dtype=torch.float32)
    t = torch.tensor([0.1, 0.3, 0.5, 0.99])
    return x, t, torch.zeros(4, dtype=torch.long), tokens(generator, 4, 16, 6, dtype=torch.float32)


def test_gradients_reach_the_projector_and_the_blocks_up_to_the_captured_one(sit, generator):
    x, t, y, z = sit_batch(generator)
    projector = Projector(16, 6, hidden=32)
    with capture(sit.blocks[1]) as kept:
        v = sit(x, t, y)
    alignment_loss([(projector(kept[0]), z)], WEIGHTS["sigmoid"](t)).backward()
    assert all(p.grad.abs().sum() > 0 for p in projector.parameters())
    for block in sit.blocks[:2]:
        assert block.mlp.fc2.weight.grad.abs().sum() > 0
    assert sit.blocks[2].mlp.fc2.weight.grad is None
    assert torch.equal(sit(x, t, y), v), "the hook must not change what the model says"


def test_gradients_are_the_derivative(sit, generator):
    """Along one direction of a block's weight, against a central difference in float64."""
    x, t, y, z = sit_batch(generator)
    sit, projector = sit.double(), Projector(16, 6, hidden=32).double()
    sit.t_embedder.omega = sit.t_embedder.omega.double()
    weight = sit.blocks[0].attn.qkv.weight
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)

    def loss():
        with capture(sit.blocks[1]) as kept:
            sit(x.double(), t.double(), y)
        return alignment_loss([(projector(kept[0]), z.double())], WEIGHTS["cosine"](t.double()))

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-5
    with torch.no_grad():
        weight.add_(direction, alpha=step)
        after = loss()
        weight.sub_(direction, alpha=2 * step)
        difference = (after - loss()) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-6, atol=1e-10)


def test_gradient_checkpointing_changes_nothing(sit, generator):
    x, t, y, z = sit_batch(generator)
    projector = ConvProjector(16, 6)
    gradients = []
    for recompute in (False, True):
        if recompute:
            for block in sit.blocks:
                forward = block.forward
                block.forward = lambda h, c, f=forward: checkpoint(f, h, c, use_reentrant=False)
        with capture(sit.blocks[1]) as kept:
            v = sit(x, t, y)
        loss = v.square().mean() + alignment_loss([(projector(kept[0]), z)], torch.ones(4))
        gradients.append(torch.autograd.grad(loss, sit.blocks[0].mlp.fc1.weight)[0])
        assert len(kept) == 1
    torch.testing.assert_close(gradients[1], gradients[0])


def test_loss_is_gated_by_the_weights(generator):
    h = tokens(generator, 4, 3, 6).requires_grad_()
    z = tokens(generator, 4, 3, 6)
    w = torch.tensor([0.0, 1.0, 3.0, 0.0], dtype=torch.float64)
    l = distance_by_hand(h.detach(), z)
    loss = alignment_loss([(h, z)], w)
    torch.testing.assert_close(loss.detach(), (l[1] + 3 * l[2]) / 4)
    (gradient,) = torch.autograd.grad(loss, h)
    assert (gradient.flatten(1).norm(dim=1) > 0).tolist() == [False, True, True, False]
    torch.testing.assert_close(alignment_loss([(h, z)], 7 * w), loss)


def test_loss_vanishes_with_its_weights(generator):
    h = tokens(generator, 4, 3, 6).requires_grad_()
    loss = alignment_loss([(h, tokens(generator, 4, 3, 6))], WEIGHTS["hard"](torch.ones(4)))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, h)[0].abs().max() == 0


def test_several_encoders_count_alike(generator):
    """Whatever their numbers of tokens and widths."""
    w = torch.rand(4, generator=generator, dtype=torch.float64)
    pairs = [(tokens(generator, 4, n, d), tokens(generator, 4, n, d)) for n, d in ((4, 6), (9, 3))]
    each = [alignment_loss([pair], w) for pair in pairs]
    torch.testing.assert_close(alignment_loss(pairs, w), sum(each) / 2)
