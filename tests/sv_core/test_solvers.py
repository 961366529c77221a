"""sv_core.solvers against closed forms, textbook weights and their orders of convergence."""

import math
from itertools import pairwise

import pytest
import torch

from sv_core import solvers
from sv_core.schedules import shift, uniform_grid
from sv_core.solvers import SOLVERS, State, adams_weights, lagrange_weights

ALL = {**SOLVERS, "am3": solvers.adams_moulton_3}
every = pytest.mark.parametrize("name", ALL)
MEAN, STD = 0.7, 0.5


def march(step, velocity, x, ts):
    state = State(x)
    for t, r in pairwise(ts):
        state = step(state, velocity(state.x, t), t, r)
    return state.x


def gaussian_velocity(x, t):
    """Marginal velocity of data N(MEAN, STD^2): x_t ~ N((1-t) MEAN, (1-t)^2 STD^2 + t^2)."""
    variance = (1 - t) ** 2 * STD**2 + t**2
    return -MEAN + (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN)


def gaussian_error(step, steps, x):
    """Distance from the exact flow map, which keeps the standardised sample."""
    return (
        (march(step, gaussian_velocity, x, uniform_grid(steps).tolist()) - (MEAN + STD * x))
        .abs()
        .max()
    )


@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("ab2", 2), ("dpmpp_2m", 2), ("unipc", 2), ("am3", 3)]
)
def test_order_of_convergence(name, order):
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    coarse, fine = (float(gaussian_error(ALL[name], n, x)) for n in (320, 640))
    # DPM++ has steps of order 1 at both ends: it nears 2 from below.
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_higher_orders_pay_off_at_twenty_steps():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    error = {name: float(gaussian_error(step, 20, x)) for name, step in ALL.items()}
    assert error["am3"] < error["ab2"] / 4 < error["euler"] / 40
    assert error["unipc"] < error["dpmpp_2m"] < error["euler"] / 3


@every
def test_point_data_is_reached_exactly(name, generator):
    """x0 is the same for every sample, so v = (x - x0) / t is constant along each path."""
    x0 = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    for ts in ([1.0, 0.0], [1.0, 0.9, 0.31, 0.3, 0.0]):
        end = march(ALL[name], lambda y, t: (y - x0) / t, x, ts)
        torch.testing.assert_close(end, x0, rtol=0, atol=1e-13)


def test_adams_weights_on_an_even_grid_are_the_textbook_ones():
    h = -0.1
    assert adams_weights([0.5], 0.5, 0.4) == pytest.approx([h])
    assert adams_weights([0.5, 0.6], 0.5, 0.4) == pytest.approx([1.5 * h, -0.5 * h])
    corrector = adams_weights([0.4, 0.5, 0.6], 0.5, 0.4)
    assert corrector == pytest.approx([5 / 12 * h, 8 / 12 * h, -1 / 12 * h])


@pytest.mark.parametrize("degree", range(3))
def test_weights_are_exact_for_polynomials_on_uneven_nodes(degree):
    nodes, t, r = [0.31, 0.52, 0.9][: degree + 1], 0.52, 0.17
    value = sum(w * a**degree for w, a in zip(lagrange_weights(nodes, r), nodes, strict=True))
    assert value == pytest.approx(r**degree, abs=1e-13)
    integral = sum(w * a**degree for w, a in zip(adams_weights(nodes, t, r), nodes, strict=True))
    expected = (r ** (degree + 1) - t ** (degree + 1)) / (degree + 1)
    assert integral == pytest.approx(expected, abs=1e-13)


TS = shift(uniform_grid(7), 3.0).tolist()


def given(generator, steps=7):
    """A start and arbitrary velocities, one for each node."""
    x, *v = torch.randn(steps + 1, 4, generator=generator, dtype=torch.float64)
    return x, v


def run_given(step, x, velocities):
    states = [State(x)]
    for i, v in enumerate(velocities):
        states.append(step(states[-1], v, TS[i], TS[i + 1]))
    return states


def test_dpmpp_2m_is_its_published_recursion(generator):
    x, velocities = given(generator)
    states = run_given(solvers.dpmpp_2m, x, velocities)
    before = None
    for i, v in enumerate(velocities):
        data = x - TS[i] * v
        target = data
        if before is not None and TS[i + 1] > 0:
            h_last, h = math.log(TS[i - 1] / TS[i]), math.log(TS[i] / TS[i + 1])
            target = data + (data - before) / (2 * h_last / h)
        x = TS[i + 1] / TS[i] * x + (1 - TS[i + 1] / TS[i]) * target
        before = data
        torch.testing.assert_close(states[i + 1].x, x, rtol=0, atol=1e-13)


def unipc_by_the_paper(x, velocities):
    """UniPC-2, B(h) = e^h - 1, as printed: predict, evaluate, correct from the step's start."""
    predicted, data = [x], []
    for i, v in enumerate(velocities):
        t = TS[i]
        data.append(predicted[i] - t * v)
        if i > 0:
            s = TS[i - 1]
            h = math.log(s / t)
            points, differences = [1.0], [data[i] - data[i - 1]]
            if i > 1:
                points.insert(0, -math.log(TS[i - 2] / s) / h)
                differences.insert(0, (data[i - 2] - data[i - 1]) / points[0])
            b, hh = math.expm1(-h), -h
            phi = [(b / hh - 1) / b, 2 * ((b / hh - 1) / hh - 0.5) / b]
            if i > 1:
                matrix = torch.tensor([[1.0, 1.0], points], dtype=torch.float64)
                rho = torch.linalg.solve(matrix, torch.tensor(phi, dtype=torch.float64)).tolist()
            else:
                rho = [0.5]
            change = sum(w * d for w, d in zip(rho, differences, strict=True))
            x = t / s * x - b * data[i - 1] - b * change
        r = TS[i + 1]
        x_next = r / t * x + (1 - r / t) * data[i]
        if i > 0 and r > 0:
            h = math.log(t / r)
            point = -math.log(TS[i - 1] / t) / h
            x_next = x_next + (1 - r / t) * 0.5 * (data[i - 1] - data[i]) / point
        predicted.append(x_next)
    return predicted


def test_unipc_is_its_published_recursion(generator):
    x, velocities = given(generator)
    states = run_given(solvers.unipc, x, velocities)
    for state, expected in zip(states, unipc_by_the_paper(x, velocities), strict=True):
        torch.testing.assert_close(state.x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_the_step_to_zero_takes_the_data(name, generator):
    x, velocities = given(generator)
    states = run_given(ALL[name], x, velocities)
    t, data = states[-1].past[0]
    assert t == TS[-2]
    torch.testing.assert_close(states[-1].x, data, rtol=0, atol=0)


@every
def test_a_state_can_be_stepped_from_again(name, generator):
    """Snapshots are states: no step changes one."""
    x, velocities = given(generator)
    states = run_given(ALL[name], x, velocities)
    kept = [(s.x.clone(), [v.clone() for _, v in s.past]) for s in states]
    for i, v in enumerate(velocities):
        ALL[name](states[i], 3 * v, TS[i], TS[i + 1])
        again = ALL[name](states[i], v, TS[i], TS[i + 1])
        assert torch.equal(again.x, states[i + 1].x)
    for state, (x_kept, past) in zip(states, kept, strict=True):
        assert torch.equal(state.x, x_kept)
        assert all(torch.equal(v, p) for (_, v), p in zip(state.past, past, strict=True))
