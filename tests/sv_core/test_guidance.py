"""sv_core.guidance: the formula, and how often each network is called."""

import pytest
import torch

from sv_core.guidance import guided


class Calls:
    """A velocity that counts."""

    def __init__(self, value):
        self.value, self.count = torch.tensor(value), 0

    def __call__(self, x, t):
        self.count += 1
        return self.value + 0 * x


@pytest.fixture
def networks():
    return Calls([3.0, -1.0]), Calls([1.0, 1.0])


X, T = torch.zeros(2), torch.tensor(0.5)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_extrapolates_from_unconditional_to_conditional(networks, scale):
    cond, uncond = networks
    expected = (1 - scale) * uncond.value + scale * cond.value
    torch.testing.assert_close(guided(cond, uncond, scale)(X, T), expected)
    assert (cond.count, uncond.count) == (1, 1)


def test_scale_one_is_the_conditional_at_one_call(networks):
    cond, uncond = networks
    assert torch.equal(guided(cond, uncond, 1.0)(X, T), cond.value)
    assert (cond.count, uncond.count) == (1, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("t", "inside"), [(0.2, False), (0.3, True), (0.5, True), (0.85, True), (0.9, False)]
)
def test_interval_includes_its_ends_in_every_precision(networks, t, inside, dtype):
    cond, uncond = networks
    v = guided(cond, uncond, 2.0, interval=(0.3, 0.85))(X, torch.tensor(t, dtype=dtype))
    assert uncond.count == inside
    torch.testing.assert_close(v, 2 * cond.value - uncond.value if inside else cond.value)
