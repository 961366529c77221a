"""sv_core.bank against one Python deque per condition."""

from collections import deque

import pytest
import torch

from sv_core.bank import MemoryBank
from sv_core.errors import InvalidInput

KEYS, CAPACITY = 4, 5


@pytest.fixture
def bank():
    return MemoryBank(KEYS, CAPACITY, (2,))


def held(bank, key):
    return sorted(bank.refs(key)[:, 0].tolist()) if bank.count(key) else []


def test_keeps_the_newest_of_each_key_like_a_deque(bank, generator):
    model = [deque(maxlen=CAPACITY) for _ in range(KEYS)]
    serial = 0
    for _ in range(200):
        n = int(torch.randint(0, CAPACITY + 1, (1,), generator=generator))
        keys = torch.randint(KEYS, (n,), generator=generator)
        x = torch.arange(serial, serial + n).float()[:, None].expand(n, 2)
        serial += n
        bank.add(x, keys)
        for value, key in zip(x[:, 0].tolist(), keys.tolist(), strict=True):
            model[key].append(value)
        for key in range(KEYS):
            assert held(bank, key) == sorted(model[key])
            assert bank.count(key) == len(model[key])
    assert all(len(items) == CAPACITY for items in model)


def test_items_arrive_whole(bank):
    x = torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    bank.add(x, torch.tensor([1, 0, 1]))
    assert torch.equal(bank.refs(1), x[[0, 2]])
    assert torch.equal(bank.refs(0), x[[1]])


def test_a_key_without_items_says_so(bank):
    bank.add(torch.zeros(1, 2), torch.tensor([1]))
    with pytest.raises(ValueError, match="no item for condition 3 yet"):
        bank.refs(3)


def test_more_of_one_key_than_fit_is_refused_before_anything_is_stored(bank):
    bank.add(torch.ones(1, 2), torch.tensor([2]))
    with pytest.raises(InvalidInput, match=r"brings 6 items of one condition .* that holds 5"):
        bank.add(torch.zeros(7, 2), torch.tensor([2, 2, 2, 0, 2, 2, 2]))
    assert held(bank, 2) == [1.0]
    assert bank.count(0) == 0


def test_state_goes_on_where_it_was(bank, generator):
    def batch():
        return torch.randn(4, 2, generator=generator), torch.randint(
            KEYS, (4,), generator=generator
        )

    for _ in range(6):
        bank.add(*batch())
    copy = MemoryBank(KEYS, CAPACITY, (2,))
    copy.load_state_dict({k: v.clone() for k, v in bank.state_dict().items()})
    for _ in range(6):
        x, keys = batch()
        bank.add(x, keys)
        copy.add(x, keys)
    for key in range(KEYS):
        assert torch.equal(copy.refs(key), bank.refs(key))


def test_state_of_another_size_is_refused(bank):
    state = MemoryBank(KEYS, CAPACITY + 1, (2,)).state_dict()
    with pytest.raises(InvalidInput, match=r"\(4, 6, 2\), this run's is \(4, 5, 2\)"):
        bank.load_state_dict(state)
    assert bank.count(0) == 0


def test_stores_in_its_own_precision():
    bank = MemoryBank(1, 2, (3,), dtype=torch.float16)
    x = torch.tensor([[1 / 3, 2 / 3, 1.0]])
    bank.add(x, torch.tensor([0]))
    assert torch.equal(bank.refs(0), x.half())
