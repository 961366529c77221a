"""sv_core.models.interval and SiT's average velocity: a start that changes nothing, exact JVPs."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sv_core.errors import InvalidInput
from sv_core.latent import pixels
from sv_core.meanflow import exact_derivative, mean_velocity_target
from sv_core.models import families
from sv_core.models.interval import IntervalEmbedder, embed_intervals, from_file, to_file, width
from sv_core.models.sit import SiT, SiTConfig, with_interval
from sv_core.models.sit_file import from_checkpoint, to_metadata

TINY = SiTConfig(
    input_size=8, patch_size=4, in_channels=1, hidden_size=32, depth=2, num_heads=4, num_classes=5
)
REVERSED = replace(TINY, data_time=1)
DIRECTIONS = pytest.mark.parametrize("config", [TINY, REVERSED], ids=["noise at 1", "data at 1"])


def perturbed(model, generator):
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model.eval()


def inputs(generator, dtype=torch.float32, n=4):
    x = torch.randn(n, 1, 8, 8, generator=generator, dtype=dtype)
    r, t = torch.rand(2, n, generator=generator, dtype=dtype).sort(0).values
    return x, r, t, torch.arange(n) % TINY.num_classes


@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_plain_checkpoint_becomes_a_start_that_predicts_the_same_bits(config, dtype, generator):
    plain = perturbed(SiT(config), generator).to(dtype)
    start = with_interval(plain)
    assert start.config == replace(config, interval=True) and not start.training
    x, r, t, y = inputs(generator, dtype)
    expected = plain(x, t, y)
    for average in (start(x, t, y), start(x, t, y, t), start(x, t, y, r), start(x, t, y, 0 * r)):
        assert torch.equal(average, expected)
    with torch.no_grad():  # a copy: training it leaves the checkpoint's network alone
        start.final_layer.linear.bias += 1
    assert torch.equal(plain(x, t, y), expected)
    trained = perturbed(SiT(start.config), generator).to(dtype)
    assert torch.equal(with_interval(trained)(x, t, y, r), trained(x, t, y, r))


def test_a_seed_gives_a_meanflow_network_the_weights_of_a_plain_one():
    states = []
    for interval in (False, True):
        torch.manual_seed(3)
        states.append(SiT(replace(TINY, interval=interval)).state_dict())
    plain, both = states
    assert all(torch.equal(both[name], tensor) for name, tensor in plain.items())
    assert set(both) - set(plain) == {
        f"interval_embedder.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


def test_the_interval_matters_once_trained_and_is_t_minus_r(generator):
    model = perturbed(SiT(replace(TINY, interval=True)), generator)
    x, r, t, y = inputs(generator)
    seen = []
    model.interval_embedder.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    out = model(x, t, y, r)
    assert ((out - model(x, t, y)).abs().flatten(1).amax(1) > 1e-3).all()
    assert torch.equal(model(x, t, y), model(x, t, y, t))
    angle = (t - r)[:, None] * 10000.0 ** (-torch.arange(128) / 128)
    torch.testing.assert_close(seen[0], torch.cat([angle.cos(), angle.sin()], 1))
    assert torch.equal(seen[1], torch.tensor([1.0, 0.0]).repeat_interleave(128).expand(4, -1))


def test_reversed_time_is_the_same_flow_map_told_backwards(generator):
    """Over s = 1 - t the interval from 1 - t to 1 - r is as long, and dx/ds = -dx/dt.

    Both predict the displacement x_t - x_r = (t - r) u, of one network and its mirror image.
    """
    model = perturbed(SiT(replace(TINY, interval=True)), generator)
    mirror = SiT(replace(REVERSED, interval=True)).eval()
    mirror.load_state_dict(model.state_dict())
    x, r, t, y = inputs(generator)
    s_t, s_r = 1 - t, 1 - t - (t - r)  # the same time to the network, the same length
    torch.testing.assert_close(mirror(x, t, y, r), -model(x, s_t, y, s_r), rtol=0, atol=1e-6)
    assert not torch.allclose(mirror(x, t, y, r), model(x, t, y, r), atol=0.1)


@DIRECTIONS
def test_the_derivative_equals_float64_differences(config, generator):
    model = perturbed(SiT(replace(config, interval=True)), generator).double()
    x, r, t, y = inputs(generator, torch.float64)
    dx = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def u(x, r, t):
        return model(x, t, y, r)

    exact, h = exact_derivative(u, x, r, t, dx, 1.0), 1e-5
    with torch.no_grad():
        expected = (u(x + h * dx, r, t + h) - u(x - h * dx, r, t - h)) / (2 * h)
    torch.testing.assert_close(exact, expected, rtol=1e-6, atol=1e-7)
    assert exact.norm() > 1


@DIRECTIONS
def test_the_identity_holds_in_either_direction_of_time(config, generator):
    """u + (t - r) du/dt = v, with v the derivative of the displacement (t - r) u that u says.

    The network is made blind to x, so that the derivative along the flow is that by t alone.
    """
    model = perturbed(SiT(replace(config, interval=True)), generator).double()
    with torch.no_grad():
        model.x_embedder.proj.weight.zero_()
    x, r, t, y = inputs(generator, torch.float64)

    def u(x, r, t):
        return model(x, t, y, r)

    def displacement(t):
        return (t - r)[:, None, None, None] * u(x, r, t)

    h = 1e-5
    with torch.no_grad():
        v = (displacement(t + h) - displacement(t - h)) / (2 * h)
        target = mean_velocity_target(u, x, r, t, v)
        torch.testing.assert_close(target, u(x, r, t), rtol=1e-6, atol=1e-7)


@DIRECTIONS
def test_files_keep_the_average_velocity(config, generator):
    config = replace(config, interval=True)
    model = perturbed(SiT(config), generator)
    loaded, _ = from_checkpoint(model.state_dict(), to_metadata(config, pixels(1)))
    assert loaded.config == config
    x, r, t, y = inputs(generator)
    assert torch.equal(loaded(x, t, y, r), model(x, t, y, r))


def test_shapes_tell_a_meanflow_file_and_old_descriptions_are_plain(generator):
    model = perturbed(SiT(replace(TINY, num_heads=1, interval=True)), generator)
    loaded, _ = from_checkpoint(model.state_dict())
    assert loaded.config == model.config
    plain = SiT(TINY)
    old = to_metadata(TINY, pixels(1))
    old["sit"] = old["sit"].replace(', "interval": false', "")
    assert "interval" not in old["sit"]
    assert from_checkpoint(plain.state_dict(), old)[0].config == TINY
    with pytest.raises(InvalidInput, match="interval is False, by its tensors True"):
        from_checkpoint(with_interval(plain).state_dict(), old)


def test_a_plain_network_is_not_asked_for_averages(generator):
    x, r, t, y = inputs(generator)
    with pytest.raises(InvalidInput, match="knows no average velocity"):
        SiT(TINY)(x, t, y, r)


def test_an_untrained_embedder_is_zero_and_can_leave_it(generator):
    embedder = IntervalEmbedder(8, frequencies=6)
    length = torch.rand(5, generator=generator)
    assert not embedder(length).any()
    embedder(length).square().sum().backward()
    assert not embedder.mlp[2].weight.grad.any()  # of zero: the gradient of a square vanishes too
    embedder.zero_grad()
    embedder(length).sum().backward()
    assert embedder.mlp[2].weight.grad.abs().min() > 0 and embedder.mlp[2].bias.grad.min() > 0
    waves = [f(0.5 * 10000 ** (-i / 3)) for f in (math.cos, math.sin) for i in range(3)]
    seen = []
    embedder.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    embedder(torch.tensor([0.5]))
    torch.testing.assert_close(seen[0], torch.tensor([waves]))


class Family(nn.Module):
    """A network of the host's shape: it embeds waves of its times, which it is handed second."""

    def __init__(self, family):
        super().__init__()
        self.parts = families.find(family).time_embedding
        setattr(self, self.parts, nn.Sequential(nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, 4)))

    def forward(self, x, times):
        waves = times.flatten()[:, None] * torch.arange(3)
        return getattr(self, self.parts)(waves)


def trained(generator):
    return perturbed(IntervalEmbedder(4, frequencies=6), generator)


@pytest.mark.parametrize("family", [f.name for f in families.having("time_embedding")])
@pytest.mark.parametrize("shape", [(3,), (3, 2)], ids=["a time each", "a time for every frame"])
@torch.no_grad()
def test_a_network_is_told_intervals_behind_its_time_embedding(family, shape, generator):
    network, embedder, zero = Family(family), trained(generator), IntervalEmbedder(4, 6)
    times = 1000 * torch.rand(shape, generator=generator)
    before = network(None, times)
    with embed_intervals(network, family, zero, lambda t: t / 1000):
        assert torch.equal(network(None, times), before)
    with embed_intervals(network, family, embedder, lambda t: t / 1000 - 0.1):
        inside = network(None, times)
    assert torch.equal(inside, before + embedder(times.flatten() / 1000 - 0.1))
    assert torch.equal(network(None, times), before), "something stayed"


@torch.no_grad()
def test_rows_that_the_network_adds_for_given_pictures_have_no_interval(generator):
    class Editing(Family):
        def forward(self, x, times):
            return super().forward(x, torch.cat([times, times * 0]))

    network, embedder = Editing("Qwen-Image"), trained(generator)
    times = torch.tensor([0.9, 0.4])
    before = network(None, times)
    with embed_intervals(network, "Qwen-Image", embedder, lambda t: t - 0.25):
        inside = network(None, times)
    assert torch.equal(inside, before + embedder(torch.tensor([0.65, 0.15, 0, 0])))


def test_a_network_that_fails_keeps_no_hook(generator):
    def fails(times):
        raise RuntimeError("in the middle of a call")

    network = Family("Flux")
    with pytest.raises(RuntimeError), embed_intervals(network, "Flux", trained(generator), fails):
        network(None, torch.rand(3))
    assert not network._forward_pre_hooks and not network.time_in._forward_hooks


def test_a_family_s_embedder_is_a_file_of_its_own(generator):
    embedder = trained(generator)
    tensors, metadata = to_file(embedder, "Flux")
    assert json.loads(metadata["interval_embedder"]) == {"family": "Flux", "width": 4}
    loaded, family = from_file(tensors, metadata)
    t = torch.rand(5, generator=generator)
    assert family == "Flux" and width(loaded) == 4
    assert torch.equal(loaded(t), embedder(t))


@pytest.mark.parametrize(
    "damage",
    [
        lambda s, m: (s, None),
        lambda s, m: (s, {"interval_embedder": "{"}),
        lambda s, m: (s, {"interval_embedder": "[]"}),
        lambda s, m: (s, {"interval_embedder": "{}"}),
        lambda s, m: ({}, m),
        lambda s, m: ({k: v[:2] for k, v in s.items()}, m),
        lambda s, m: (s | {"interval_embedder.mlp.0.weight": torch.zeros(3)}, m),
        lambda s, m: (s | {"lora": torch.zeros(3)}, m),
        lambda s, m: ([], m),
    ],
)
def test_other_files_are_no_embedders(damage, generator):
    with pytest.raises(InvalidInput, match="not an interval embedder, or a damaged one"):
        from_file(*damage(*to_file(trained(generator), "Flux")))
