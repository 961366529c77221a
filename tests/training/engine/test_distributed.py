"""Two real processes over gloo: as one at the same batch, with a bank each, and when one dies."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput, Unavailable
from training.config.load import dump
from training.config.schema import RunConfig
from training.engine import distributed
from training.engine.distributed import Processes
from training.files import read_weights
from training.run.folder import RunFolder
from training.run.loop import train

ROOT = Path(__file__).resolve().parents[3]

# Trains one configuration after the other in the same two processes; DIE names a step at which the
# second process kills itself.
WORKER = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.data import batches
from training.config.load import load
from training.run.loop import train
from training.engine.distributed import Processes

end, Processes.leave = Processes.leave, lambda self: None
real, die = batches.batch, int(os.environ.get("DIE", 0))

def batch(dataset, config, seed, step, part):
    if step == die and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(dataset, config, seed, step, part)

batches.batch = batch
for job in sys.argv[1:]:
    file, resume = job.split("=")
    try:
        train(load(Path(file)), bool(resume))
    except Exception as e:
        print(type(e).__name__, e, sep=": ", file=sys.stderr)
        sys.exit(2)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(*jobs: str, **extra: str) -> list[subprocess.Popen]:
    """Two processes, as torchrun starts them."""
    common = os.environ | extra | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *jobs],
            cwd=ROOT, env=common | {"RANK": str(i), "LOCAL_RANK": str(i)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip


@pytest.fixture
def job(tmp_path):
    """Write a configuration with another folder for its run, and say how to run it."""

    def write(config, name: str, resume: bool = False) -> str:
        config = replace(config, run=replace(config.run, out=str(tmp_path / name)))
        file = tmp_path / f"{name}-{config.optim.steps}.toml"
        file.write_text(dump(config))
        return f"{file}={'resume' if resume else ''}"

    return write


def near(a: Path, b: Path, step: int) -> None:
    """Both averages are the same but for rounding."""
    for decay in (None, 0.5):
        one, other = (read_weights(RunFolder(out).weights(step, decay))[0] for out in (a, b))
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_two_processes_are_as_one_and_keep_a_bank_each(aligned, job, tmp_path):
    aligned = replace(
        aligned,
        optim=replace(aligned.optim, steps=6),
        run=replace(aligned.run, save_every=3, validate_every=3, timeout=60.0),
    )
    aligned = replace(aligned, optim=replace(aligned.optim, schedule="constant"))
    plain = replace(aligned, objective=replace(aligned.objective, kind="cfm"))
    parts = replace(plain, optim=replace(plain.optim, accumulate=2))
    spread = replace(plain, run=replace(plain.run, shard=True, recompute=True))
    half = replace(spread, optim=replace(spread.optim, steps=3))
    stable_half = replace(aligned, optim=replace(aligned.optim, steps=3))
    jobs = [
        job(parts, "copied"),
        job(spread, "spread"),
        job(half, "crossed"),
        job(plain, "crossed", True),
        job(aligned, "stable"),
        job(stable_half, "resumed"),
        job(aligned, "resumed", True),
    ]
    processes = start(*jobs)
    train(replace(plain, run=replace(plain.run, out=str(tmp_path / "one"))))
    for process in processes:
        said = process.communicate(timeout=200)[1]
        assert process.returncode == 0, said

    near(tmp_path / "one", tmp_path / "copied", 6)
    near(tmp_path / "one", tmp_path / "spread", 6)
    # A state saved by spread weights is whole: copied ones go on from it.
    near(tmp_path / "one", tmp_path / "crossed", 6)
    lines = [
        [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("one", "copied", "spread")
    ]
    for records in lines[1:]:
        for one, two in zip(lines[0], records, strict=True):
            for name in one.keys() - {"samples_per_s"}:
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name

    # A bank each, of what the process has seen; resuming restores both, bit for bit.
    for name in ("stable", "resumed"):
        other = read_weights(tmp_path / name / "bank-000006-001.safetensors")[0]
        own = RunFolder(tmp_path / name).read_state()["bank"]
        assert own["total"].sum() == other["total"].sum() == 2 * 6 * 4
        assert not torch.equal(own["items"], other["items"])
        states = RunFolder(tmp_path / name).states.steps()
        assert states == [6, 3] and len(list((tmp_path / name).glob("bank-*"))) == 2
    pairs = [
        read_weights(tmp_path / n / "bank-000006-001.safetensors")[0] for n in ("stable", "resumed")
    ]
    assert torch.equal(pairs[0]["items"], pairs[1]["items"])
    a, b = (RunFolder(tmp_path / name).read_state() for name in ("stable", "resumed"))
    assert torch.equal(a["bank"]["items"], b["bank"]["items"])
    for one, two in ((a["model"], b["model"]), *zip(a["averages"], b["averages"], strict=True)):
        assert all(torch.equal(one[name], two[name]) for name in one)
    # One process cannot go on with two banks, and says so.
    alone = replace(aligned, run=replace(aligned.run, out=str(tmp_path / "stable")))
    with pytest.raises(InvalidInput, match=r"has 2 memory banks, one per process"):
        train(alone, resume=True)


def test_a_lost_process_ends_the_others_in_one_sentence(aligned, job, tmp_path):
    config = replace(aligned, run=replace(aligned.run, save_every=2, timeout=15.0))
    one, two = start(job(config, "run"), DIE="8")
    assert two.wait(timeout=120) == -9
    said = one.communicate(timeout=60)[1]
    assert one.returncode == 2
    last = said.rstrip().splitlines()[-1]
    assert last.startswith("Unavailable: process 0 of 2 has lost the others")
    assert "--resume" in last
    step = RunFolder(tmp_path / "run").read_state()["step"]
    assert step in (4, 6)
    assert read_weights(RunFolder(tmp_path / "run").weights(step))[0]
    assert (tmp_path / "run" / f"bank-{step:06d}-001.safetensors").exists()


def test_a_batch_is_dealt_out_evenly_or_not_at_all():
    processes = Processes(RunConfig(device="cpu"))
    assert processes.share(12, 3) == slice(0, 12)
    processes.count, processes.index = 3, 2
    assert processes.share(12, 2) == slice(8, 12)
    with pytest.raises(
        InvalidInput, match=r"batch_size = 12 .*3 processes in 3 parts.*multiple of 9"
    ):
        processes.share(12, 3)


def test_processes_that_do_not_find_each_other(monkeypatch):
    def unreachable(**_: object) -> None:
        raise torch.distributed.DistNetworkError("the client socket has timed out\nand much more")

    monkeypatch.setattr(distributed, "Accelerator", unreachable)
    with pytest.raises(
        Unavailable, match=r"cannot reach the others \(the client socket has timed out"
    ):
        Processes(RunConfig(device="cpu"))
