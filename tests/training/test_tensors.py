"""Our own safetensors files: the library reads them, damage is noticed, and a cut is a sentence."""

import random
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save

from sv_core.errors import InvalidInput
from training import tensors
from training.files import read_weights, save_weights
from training.tensors import DTYPES, Lazy, TensorFile

FACTS = {"about": 'ü "and" \\', "k": "1"}


@pytest.fixture
def made() -> dict[str, torch.Tensor]:
    """A tensor of each dtype, an empty one, a number, and one that is not contiguous."""
    drawn = torch.Generator().manual_seed(0)
    found = {f"of {n}": (torch.rand(3, 5, generator=drawn) * 3).to(d) for n, d in DTYPES.items()}
    odd = {"empty": torch.zeros(0, 3), "number": torch.tensor(2.5)}
    return found | odd | {"turned": torch.rand(3, 4, generator=drawn).t()}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    views = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*views)


def test_the_library_reads_what_is_streamed(made, tmp_path):
    path = tmp_path / "a.safetensors"
    checksum = save_weights(path, made, FACTS)
    theirs, (ours, facts) = load_file(path), read_weights(path)
    assert facts == FACTS and len(checksum) == 32
    assert all(same(theirs[k], x) and same(ours[k], x) for k, x in made.items())
    file = TensorFile(path)
    assert all(same(file[k], x) for k, x in made.items())
    assert same(file.rows("turned")[2,], made["turned"][2]) and len(file.rows("turned")) == 4
    with pytest.raises(IndexError):
        file.rows("turned")[4,]


def test_tensors_are_aligned_and_in_the_library_s_order_where_they_are_of_one_dtype(made, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, made, FACTS)
    file = TensorFile(path)
    assert all(place.start % place.dtype.itemsize == 0 for place in file.places.values())
    alike = {name: made[name].contiguous() for name in ("turned", "number", "of F32", "empty")}
    save_weights(path, alike, {})
    bodies = [x[8 + int.from_bytes(x[:8], "little") :] for x in (path.read_bytes(), save(alike))]
    assert bodies[0] == bodies[1]


def test_every_flipped_bit_is_noticed_or_changes_no_tensor(made, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, made, FACTS)
    whole, draw, noticed = path.read_bytes(), random.Random(0), 0
    for place in draw.sample(range(8 * len(whole)), 1000):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            found, _ = read_weights(path)
        except InvalidInput:
            noticed += 1
        else:  # it was the checksum's own name
            assert all(same(found[k], x) for k, x in made.items())
    assert noticed > 950


def test_the_checksum_of_another_tool_s_copy_is_not_ours(made, tmp_path):
    """A tool that copies metadata into a file of other tensors has not damaged ours."""
    path = tmp_path / "a.safetensors"
    save_weights(path, made, FACTS)
    with_checksum = FACTS | {"checksum": TensorFile(path).checksum, "tool": "merged"}
    path.write_bytes(save({"x": torch.zeros(3)}, with_checksum))
    found, facts = read_weights(path)
    assert same(found["x"], torch.zeros(3)) and facts == FACTS | {"tool": "merged"}


def test_rows_of_a_file_that_is_damaged_or_cut_while_it_is_open(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, {"data": torch.arange(10_000.0).reshape(100, 100)}, {})
    damaged = bytearray(path.read_bytes())
    rows = TensorFile(path).rows("data")
    assert torch.equal(rows[3, 4], torch.tensor(304.0))
    path.write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(InvalidInput, match="has been cut short since it was opened"):
        rows[99,]
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InvalidInput, match="is damaged, its checksum"):
        TensorFile(path).rows("data")[0,]


def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    """Each is made when it is written and gone before the next one is made."""
    alive, most = 0, 0

    class Watched(torch.Tensor):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def make():
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return torch.zeros(1 << 18).as_subclass(Watched)

    tracemalloc.start()
    save_weights(tmp_path / "a.safetensors", Lazy({f"{i:02d}": make for i in range(40)}), {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most <= 2 and peak < 1 << 20


def test_numbers_that_no_torch_has_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    data = save({"x": torch.zeros(4, dtype=torch.uint8)}).replace(b'"U8"', b'"F4"')
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="cannot be read as a checkpoint"):
        read_weights(path)
    assert tensors.CHECKSUM == "checksum"
