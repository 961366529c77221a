"""Reading ahead: in order, not too far, and a damaged file is told from a disk that is gone."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sv_core.errors import InvalidInput, Unavailable
from training.prefetch import ahead, attempt


def test_results_come_in_order_and_no_more_are_computed_than_asked():
    begun, lock = [], threading.Lock()

    def square(n):
        with lock:
            begun.append(n)
        return n * n

    with ThreadPoolExecutor(4) as pool:
        found = ahead(pool, square, range(100), 5)
        for n in range(20):
            assert next(found) == n * n
            with lock:
                assert max(begun) <= n + 6, "it runs away from who asks"
        assert list(found) == [n * n for n in range(20, 100)]
    assert sorted(begun) == list(range(100))


def test_a_failing_task_fails_where_its_result_is_due():
    with ThreadPoolExecutor(2) as pool:
        found = ahead(pool, lambda n: 1 // (2 - n), range(5), 2)
        assert [next(found), next(found)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(found)


def raising(error: Exception):
    def read(path):
        raise error

    return read


def test_a_damaged_file_is_a_reason_and_what_can_be_read_is_read():
    path = Path("/data/a.png")
    assert attempt((path, lambda p: p.name)) == "a.png"
    for error, reason in (
        (InvalidInput(f"{path}: more than 8 bits"), "a.png: more than 8 bits"),
        (OSError("broken data stream\nand more"), "broken data stream"),
        (StopIteration(), "StopIteration"),
    ):
        assert attempt((path, raising(error))) == reason


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_is_gone_ends_the_run(number):
    with pytest.raises(Unavailable, match=r"cannot read .*a\.png.*run the same command again"):
        attempt((Path("a.png"), raising(OSError(number, "gone"))))
    with pytest.raises(MemoryError):
        attempt((Path("a.png"), raising(MemoryError())))
