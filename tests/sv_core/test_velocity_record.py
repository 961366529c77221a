"""The record against polynomials, which it must reproduce."""

import pytest
import torch

from sv_core.velocity_record import DATA, EXPLODING_VELOCITY, VELOCITY, VelocityRecord

SIGMAS = (1.0, 0.9, 0.75, 0.6, 0.4, 0.2)
QUANTITIES = {"velocity": VELOCITY, "data": DATA, "exploding": EXPLODING_VELOCITY}


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_an_answer_becomes_the_quantity_and_comes_back(quantity, sigma, generator):
    x, d = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    a, b = quantity.from_answer(sigma)
    c, e = quantity.to_answer(sigma)
    assert torch.allclose(c * x + e * (a * x + b * d), d, atol=1e-12)


def test_the_exploding_form_is_the_same_velocity(generator):
    """x = x0 + sigma eps is (1 + sigma) times the linear path's x at t = sigma / (1 + sigma)."""
    x, d = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    sigma = 3.0
    t = EXPLODING_VELOCITY.time(sigma)
    a, b = EXPLODING_VELOCITY.from_answer(sigma)
    p, q = VELOCITY.from_answer(t)
    assert t == 0.75
    assert torch.allclose(a * x + b * d, p * x / (1 + sigma) + q * d, atol=1e-12)


def _filled(polynomial, nodes):
    record = VelocityRecord(SIGMAS)
    for k in nodes:
        record.add(k, polynomial(torch.tensor([SIGMAS[k]], dtype=torch.float64)))
    return record


def _at(record, node):
    return record.answer(DATA, node, torch.zeros(1, dtype=torch.float64), SIGMAS[node])


def test_between_calls_it_is_a_parabola_beyond_them_a_line():
    def line(t):
        return 3 * t - 1

    def parabola(t):
        return 2 * t**2 - t + 0.5

    record = _filled(parabola, (0, 2, 5))
    for node in (3, 4):
        assert _at(record, node) == pytest.approx(float(parabola(torch.tensor(SIGMAS[node]))))
    beyond = _filled(line, (0, 2, 3))
    for node in (4, 5):
        assert _at(beyond, node) == pytest.approx(float(line(torch.tensor(SIGMAS[node]))))
    # In the first stretch there is no call before: the line through its ends.
    assert _at(_filled(line, (0, 3)), 1) == pytest.approx(float(line(torch.tensor(0.9))))
    # And before the first known node, should a sampler look there late: the line through the next.
    assert _at(_filled(line, (1, 3)), 0) == pytest.approx(float(line(torch.tensor(1.0))))


def test_what_lies_between_two_calls_is_settled():
    record = _filled(torch.sin, (0, 2, 4))
    before = [float(_at(record, k)) for k in (1, 3)]
    assert [record.is_settled(k) for k in range(6)] == [True] * 5 + [False]
    record.add(5, torch.tensor([9.0]))
    assert [float(_at(record, k)) for k in (1, 3)] == before


def test_it_keeps_what_later_answers_come_from():
    for node, kept in (
        (5, [5, 4]),
        (9, [5, 4]),
        (4, [5, 4, 3]),
        (3, [5, 4, 3, 2]),
        (0, [*range(5, -1, -1)]),
    ):
        record = _filled(torch.sin, range(6))
        before = {k: record.answer(DATA, k, torch.zeros(1), 1.0) for k in range(node, 6)}
        record.keep_for(node)
        assert record.newest(9) == kept and len(record.all()) == len(kept)
        for k, answer in before.items():
            assert torch.equal(record.answer(DATA, k, torch.zeros(1), 1.0), answer)


def test_every_value_can_be_changed():
    record = _filled(torch.sin, (0, 2, 4))
    before = record[2].clone()
    record.change(lambda value: 2 * value)
    assert torch.equal(record[2], 2 * before)


@pytest.mark.parametrize("share", (0.0, 0.4, 1.0))
def test_a_known_velocity_follows_x_by_its_share(share, generator):
    x, d, by = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    node, sigma = 2, SIGMAS[2]
    for quantity, scale in ((VELOCITY, 1.0), (EXPLODING_VELOCITY, 1 + sigma), (DATA, None)):
        record = VelocityRecord(SIGMAS)
        a, b = quantity.from_answer(sigma)
        record.add(node, a * x + b * d)
        record.shift(quantity, node, sigma, by, share)
        answer = record.answer(quantity, node, x + by, sigma)
        # The velocity alone carries by to the data as it is, converging paths do not at all.
        expected = d if scale is None else d + (1 - share) * by / scale
        assert torch.allclose(answer, expected, atol=1e-12)
