"""sv_core.models.mmdit: equal tokens, places, and files of other networks.

That it is the network that ComfyUI makes of a file: tests/training/demo/test_picture_model_host.py.
"""

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.models.mmdit import MMDiT, MMDiTConfig, from_state_dict

TINY = MMDiTConfig(hidden_size=128, depth=2, channels=3, grid=6, context=10, pooled=7)


@pytest.fixture
def model(generator):
    """A small network whose every weight matters."""
    model = MMDiT(TINY).eval().double()
    for value in model.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype) * 0.3)
    return model


def inputs(generator, height=4, width=4, tokens=3):
    sizes = ((2, 3, height, width), (2,), (2, tokens, 10), (2, 7))
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]


def test_equal_tokens_count_as_one_that_weighs_more(model, generator):
    x, t, context, pooled = inputs(generator)
    several = torch.cat([context[:, :2], context[:, 2:].expand(-1, 5, -1)], 1)
    with torch.no_grad():
        whole = model(x, t, several, pooled)
        folded = model(x, t, context, pooled, torch.tensor([1.0, 1.0, 5.0]))
        once = model(x, t, context, pooled)
    torch.testing.assert_close(folded, whole)
    assert (once - whole).abs().max() > 1e-3


def test_the_order_of_a_text_s_tokens_says_nothing_and_that_of_the_picture_s_does(model, generator):
    x, t, context, pooled = inputs(generator)
    with torch.no_grad():
        out = model(x, t, context, pooled)
        torch.testing.assert_close(model(x, t, context.flip(1), pooled), out)
        assert (model(x.roll(2, 3), t, context, pooled) - out.roll(2, 3)).abs().max() > 1e-3


def test_a_smaller_picture_takes_the_places_in_the_middle(model, generator):
    x, t, context, pooled = inputs(generator, height=8, width=4)
    grid = torch.zeros(6, 6, 128, dtype=torch.float64)
    grid[1:5, 2:4] = torch.randn(4, 2, 128, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        before = model(x, t, context, pooled)
        model.pos_embed += grid.reshape(1, 36, 128)
        inside = model(x, t, context, pooled)
        model.pos_embed += 5 * (grid == 0).reshape(1, 36, 128)
        outside = model(x, t, context, pooled)
    assert (inside - before).abs().max() > 1e-3 and torch.equal(outside, inside)
    with pytest.raises(InvalidInput, match="6 x 6 tokens, got 8 x 2"):
        model(x.new_zeros(1, 3, 16, 4), t[:1], context[:1], pooled[:1])


def test_shapes_say_the_sizes(model):
    state = model.state_dict()
    assert MMDiTConfig.from_state_dict(state) == TINY
    read = from_state_dict({name: value.half() for name, value in state.items()})
    assert read.pos_embed.dtype == torch.float32 and not read.training


@pytest.mark.parametrize("change", [{"x_embedder.proj.weight": None}, {"other": torch.ones(1)}])
def test_another_network_is_refused(model, change):
    state = {k: v for k, v in (model.state_dict() | change).items() if v is not None}
    with pytest.raises(InvalidInput, match="network"):
        from_state_dict(state)
